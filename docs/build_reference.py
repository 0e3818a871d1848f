# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Write the reference of all modules from their docstrings, as web pages.

python docs/build_reference.py site
"""

import sys
from pathlib import Path

import pdoc

import svitt

ROOT = Path(svitt.__file__).parent
# The package is the root of the repository: it holds tests and tools, which are no modules of it.
MODULES = [file.stem for file in ROOT.glob("*.py") if file.stem not in ("__init__", "setup")]
PACKAGES = [f"{name}.{file.stem}" for name in ("search", "training") for file in ROOT.glob(f"{name}/*.py")]
NAMES = sorted({f"svitt.{name}".removesuffix(".__init__") for name in (*MODULES, *PACKAGES, "training.presets")})

if __name__ == "__main__":
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*NAMES, output_directory=Path(sys.argv[1]))

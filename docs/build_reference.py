# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Write the API reference of all modules, from their docstrings, as web pages.

python docs/build_reference.py site
"""

import sys
from pathlib import Path

import pdoc

import svitt

ROOT = Path(svitt.__file__).parent
# Named one by one, because the package is the root of the repository, which holds tests and tools besides modules.
FILES = [*ROOT.glob("[!_]*.py"), *ROOT.glob("evaluation/metrics/*/*.py")]
NAMES = [".".join(("svitt", *file.relative_to(ROOT).with_suffix("").parts)) for file in sorted(FILES)]
# With all modules in them.
ROOMS = [f"svitt.{room}" for room in ("conversion", "data", "evaluation", "search", "training")]


def build(folder: Path):
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*NAMES, *ROOMS, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))

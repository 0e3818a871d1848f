# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Make the folder of a Hugging Face Space that serves the page of app.py, ready to be pushed.

    python examples/make_space.py space
    hf upload user/search-videos space . --repo-type space

The folder includes the package, and the models and test clips of `make demo` if there are any. To search with a model
from the Hub, set the variable SVITT_MODEL in the settings of the Space.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

from svitt.errors import InputError, exit_on_bad_input

ROOT = Path(__file__).parent.parent
# The Space brings Gradio, in the version that its README.md asks for.
REQUIREMENTS = (
    "# Builds for a CPU; without this line, for a GPU.\n--extra-index-url https://download.pytorch.org/whl/cpu\n"
)


def copy_package(folder: Path):
    """The package as it would be installed, and a list of its requirements."""
    with tempfile.TemporaryDirectory() as target:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, ROOT]
        subprocess.run(pip, check=True)
        [package] = distributions(path=[target])
        needed = [requirement for requirement in package.requires if "extra ==" not in requirement]
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(target, "svitt"), folder / "svitt", ignore=ignored)
    (folder / "requirements.txt").write_text(REQUIREMENTS + "".join(f"{requirement}\n" for requirement in needed))


def copy_demo(demo: Path, folder: Path) -> bool:
    """Copy whatever models and test clips exist; returns whether there is a model to search with."""
    for name in ("out", "qa_out"):
        if (demo / name).is_dir():
            shutil.copytree(demo / name, folder / name, ignore=shutil.ignore_patterns("checkpoint-*", "*.parquet"))
    for video in demo.glob("data/videos/test_*.mp4"):
        (folder / "data/videos").mkdir(parents=True, exist_ok=True)
        shutil.copy2(video, folder / "data/videos")
    return (folder / "out").is_dir()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder to make")
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of `make demo` (default: %(default)s)")
    args = parser.parse_args()
    with exit_on_bad_input():
        if args.folder.exists() and any(args.folder.iterdir()):
            raise InputError(f"{args.folder}: is not empty; give a new folder.")
        args.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples/space/README.md", args.folder)
        shutil.copy(ROOT / "examples/app.py", args.folder)
        copy_package(args.folder)
        if not copy_demo(args.demo, args.folder / "demo"):
            print(f"{args.demo}: has no model; set the variable SVITT_MODEL in the settings of the Space.")
        print(f"{args.folder}: hf upload user/search-videos {args.folder} . --repo-type space")


if __name__ == "__main__":
    main()

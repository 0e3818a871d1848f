# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Copy the demo's trained models and some of its clips into a folder that is small enough to lie in the repository.

    python examples/make_tiny_folder.py demo examples/tiny

reads what `make demo` and `make demo-qa` wrote. It writes a model to search with and one to ask: their weights have 16
bits, and they hold no code, as `svitt` is installed where they are used. It adds the first clips of the splits `train`
and `test`, with captions and questions. Run tests/unit/test_docs.py afterwards: it compares what the README shows.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FILES = ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "results.json")


def copy_model(source: Path, target: Path):
    target.mkdir(parents=True)
    # Models run in the type that config.json names, float32: half as many bits are a matter of the file.
    weights = {name: weight.to(torch.float16) for name, weight in load_file(source / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", *FILES):
        write_json(target / name, without_code(json.loads((source / name).read_text())))
    if (source / "answer_list.json").exists():
        shutil.copy(source / "answer_list.json", target)
    (target / "README.md").write_text(card_without_code((source / "README.md").read_text(), target))


def card_without_code(card: str, target: Path) -> str:
    """Return a model card that names another folder, and a package instead of code in it."""
    name = re.search(r"^# (.*)$", card, re.MULTILINE)[1]
    for old, new in (
        (f"name: {name}\n", f"name: {target.name}\n"),
        (f"# {name}\n", f"# A tiny SViTT to {target.name}\n"),
        (f'"{name}"', f'"{target}"'),
        ("This needs `torch`, `transformers`, `av`, `pillow` and `numpy`.", "Install `svitt` first."),
        ("import torch\n", "import svitt  # tells transformers of its classes\nimport torch\n"),
        (", trust_remote_code=True", ""),
        ("- Data: ", "- Data: clips of colored shapes, by examples/make_demo_dataset.py, "),
    ):
        assert old in card, old
        card = card.replace(old, new)
    return card


def without_code(value):
    """Return a configuration without `auto_map`, which names files of code beside it."""
    if not isinstance(value, dict):
        return value
    return {name: without_code(one) for name, one in value.items() if name != "auto_map"}


def copy_clips(source: Path, target: Path, split: str, count: int):
    """Copy the first clips of a split, named by their captions: an even number, as twins lie side by side."""
    rows = json.loads((source / f"{split}.json").read_text())[:count]
    names = {row["video"]: f"{row['caption'].replace(' ', '_')}.mp4" for row in rows}
    questions = json.loads((source / f"{split}_questions.json").read_text())
    (target / "videos").mkdir(exist_ok=True)
    for name, new in names.items():
        shutil.copy(source / "videos" / name, target / "videos" / new)
    write_json(target / f"{split}.json", [{"video": names[row["video"]], "caption": row["caption"]} for row in rows])
    asked = [row | {"video": names[row["video"]]} for row in questions if row["video"] in names]
    write_json(target / f"{split}_questions.json", asked)


def write_json(path: Path, value):
    lines = ",\n ".join(json.dumps(row) for row in value) if isinstance(value, list) else ""
    path.write_text(f"[{lines}]\n" if lines else json.dumps(value, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder of `make demo`, with data, out and perhaps qa_out")
    parser.add_argument("folder", type=Path, help="the folder to write; what lies there is replaced")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    copy_model(args.demo / "out", args.folder / "search")
    if (args.demo / "qa_out").exists():
        copy_model(args.demo / "qa_out", args.folder / "ask")
    for split in ("train", "test"):
        copy_clips(args.demo / "data", args.folder, split, 12)
    size = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file())
    print(f"{args.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

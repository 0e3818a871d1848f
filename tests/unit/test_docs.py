# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Pages: their commands parse, their links lead somewhere, and all public names are described."""

import argparse
import importlib
import inspect
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

import svitt
import svitt.search

from ..conftest import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks/README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
MAINS = {f"run_{task}.py": f"svitt.run_{task}" for task in ("pretraining", "retrieval", "videoqa")}
MAINS["svitt"] = MAINS["svitt.cli"] = "svitt.cli"


MARK = re.compile(r"# .*\b(needs|takes)\b")  # what a download, a cluster or time is in the way of, is not run


def lines_of(page):
    """Yield the words of each line of its shell blocks, continued lines joined, and whether it is to be run."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(re.sub(r"^[A-Z_]+=\S+ ", "", line), comments=True):  # without a variable in front
                yield words, not MARK.search(line)


def is_command(words):
    """Return whether one of `MAINS` is called, perhaps by a launcher."""
    return any(Path(word).name in MAINS for word in words)


LINES = [pytest.param(*line, id=f"{page.stem}-{line[0][0]}") for page in PAGES for line in lines_of(page)]
COMMANDS = [line for line in LINES if is_command(line.values[0])]


class Parsed(Exception):
    """The command line was understood."""


@pytest.mark.parametrize(("words", "is_run"), COMMANDS)
def test_commands_are_understood(words, is_run, monkeypatch):
    """By the parser of the script itself, which is stopped there."""
    first = next(i for i, word in enumerate(words) if Path(word).name in MAINS)
    parse, depth = argparse.ArgumentParser.parse_known_args, []

    def parse_and_stop(self, *arguments, **named):
        depth.append(self)
        result = parse(self, *arguments, **named)
        depth.pop()
        if not depth and not result[1]:  # the outermost, and nothing that it does not know
            raise Parsed
        return result

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", words[first:])
    with pytest.raises(Parsed):
        importlib.import_module(MAINS[Path(words[first]).name]).main()


def test_there_are_commands_to_test():
    assert {Path(word).name for line in COMMANDS for word in line.values[0]} >= set(MAINS)


def test_all_other_lines_are_known():
    """Nothing stands in a block that is neither run (test_docs_run.py), parsed and marked, nor one of these."""
    for line in LINES:
        words, is_run = line.values
        if is_command(words):
            assert words[0] in ("svitt", "python") or not is_run, words
        elif words[0] == "python":
            assert (ROOT / words[1]).exists() and not is_run, words
        else:
            assert words[0] in ("make", "export") or words[:2] == ["pip", "install"] and not is_run, words


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), (page, target)
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if anchor else []
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in anchors, (page, target)


def test_make_targets_exist():
    lines = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for line in lines for target in line.split()}
    for page in PAGES:
        assert set(re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(), re.MULTILINE)) <= targets, page


def test_no_import_runs_up():
    """As docs/architecture.md draws it: what each room may stand on, beside the model, errors.py and distributed.py."""
    below = {"conversion": set(), "data": set(), "evaluation": {"conversion", "data"}, "search": {"conversion", "data"}}
    below |= {"training": {"conversion", "data", "evaluation"}}
    for room, allowed in below.items():
        text = "".join(file.read_text() for file in (ROOT / room).glob("*.py"))
        imported = set(re.findall(r"^\s*from \.\.(\w+)[. ]", text, re.MULTILINE))
        imported |= set(re.findall(r"^\s*from \.\. import (\w+)", text, re.MULTILINE))
        assert imported & {*below, "cli"} <= allowed, room


@pytest.mark.parametrize("module", [svitt, svitt.search], ids=lambda module: module.__name__)
def test_what_is_exported_is_described(module):
    """The classes, and the methods that they define: the reference is made of their docstrings."""
    exported = {name: getattr(module, name) for name in dir(module) if name[0] != "_"}
    ours = {name: value for name, value in exported.items() if inspect.isclass(value) and "svitt." in value.__module__}
    assert ours
    for name, value in ours.items():
        assert value.__doc__, name
        methods = {key: one for key, one in vars(value).items() if inspect.isfunction(one) and key[0] != "_"}
        inherited = {key for base in value.__mro__[1:] for key in vars(base)}  # described where they come from
        assert not [key for key, one in methods.items() if not one.__doc__ and key not in inherited], name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Error parsing type annotation")  # of what Transformers adds to configurations
def test_the_reference_is_built(tmp_path):
    pytest.importorskip("pdoc")
    runpy.run_path(str(ROOT / "docs/build_reference.py"))["build"](tmp_path)
    assert "rank_answers" in (tmp_path / "svitt/modeling_svitt.html").read_text()
    assert (tmp_path / "svitt/data/presets.html").is_file() and (tmp_path / "svitt/evaluation/retrieval.html").is_file()

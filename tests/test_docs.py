# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Pages: their commands parse, their links lead somewhere, and all public names are described."""

import argparse
import ast
import configparser
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

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks/README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
MAINS = dict(line.split(" = ") for line in SETUP["options.entry_points"]["console_scripts"].split("\n") if line)
MAINS |= {f"run_{task}.py": f"svitt.run_{task}:main" for task in ("pretraining", "retrieval", "videoqa")}


def commands_of(page):
    """Lines of its shell blocks, continued lines joined and variables filled in, that call one of `MAINS`."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        block = block.replace("\\\n", " ")
        variables = dict(re.findall(r'^(\w+)="(.*?)"$', block, re.MULTILINE))
        for line in block.splitlines():
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            words = shlex.split(line, comments=True)
            if any(Path(word).name in MAINS for word in words) and "..." not in words:
                yield words


COMMANDS = [pytest.param(words, id=f"{page.stem}-{words[0]}") for page in PAGES for words in commands_of(page)]


class Parsed(Exception):
    """The command line was understood."""


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_understood(words, monkeypatch):
    """By the parser of the script itself, which is stopped there."""
    [first] = [i for i, word in enumerate(words) if Path(word).name in MAINS]
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
    module, _, main = MAINS[Path(words[first]).name].partition(":")
    with pytest.raises(Parsed):
        getattr(importlib.import_module(module), main)()


def test_there_are_commands_to_test():
    called = {Path(word).name for parameter in COMMANDS for word in parameter.values[0]}
    assert called >= set(MAINS)


def heading_links(page):
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in heading_links(file), target


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, page


def test_no_paragraph_stands_twice():
    """Neither of two places would be kept up to date."""
    seen = {}
    for page in PAGES:
        for paragraph in re.split(r"\n\s*\n", page.read_text()):
            assert len(paragraph) < 80 or paragraph not in seen, (page.name, seen.get(paragraph), paragraph)
            seen[paragraph] = page.name


def test_each_yaml_key_of_the_original_has_its_row():
    """Its top-level keys and those inside, as the published configurations name them."""
    text = (ROOT / "docs/migration.md").read_text()
    keys = """
        data_root anno_root_pt anno_root_downstream available_corpus train_corpus train_file test_file test_types
        stop_key caption_type has_multi_vision_gt is_paragraph_retrieval dataset_name answer_list text_encoder
        text_decoder bert_config vit_type vit_zoo vit_name_or_pretrained_path token_keep_rate token_keep_strategy
        token_drop_loc sparse_local_attn sparse_random_attn attn_block_size token_drop_loc_xmodal image_res
        embed_dim num_frames reader sample_type num_frames_test sample_type_test max_txt_l max_q_len max_a_len
        batch_size batch_size_test k_test temp eos mlm_prob loss_weight itm_hard_neg opt lr opt_betas weight_decay
        max_grad_norm different_lr sched epochs min_lr_multi warmup_epochs output_dir resume pretrained_path
        evaluate eval_frame_ensemble eval_x_only eval_offload device seed log_freq dist_url distributed fp16 debug
        num_workers wandb enable entity project module_names image video itc itm mlm
    """
    rows = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("|"))
    assert not [key for key in keys.split() if not re.search(rf"\b{key}\b", rows)]


MODULES = [*ROOT.glob("*.py"), *ROOT.glob("search/*.py"), *ROOT.glob("training/**/*.py"), *ROOT.glob("metrics/*/*.py")]


@pytest.mark.parametrize("module", [svitt, svitt.search], ids=lambda module: module.__name__)
def test_what_is_exported_is_described(module):
    """The classes, and the methods that they define: the reference is made of their docstrings."""
    exported = {name: value for name, value in vars(module).items() if inspect.isclass(value) and name[0] != "_"}
    ours = {name: value for name, value in exported.items() if value.__module__.startswith("svitt.")}
    assert ours
    for name, value in ours.items():
        assert value.__doc__, name
        methods = {key: one for key, one in vars(value).items() if inspect.isfunction(one) and key[0] != "_"}
        inherited = {key for base in value.__mro__[1:] for key in vars(base)}  # described where they come from
        undescribed = [key for key, one in methods.items() if not one.__doc__ and key not in inherited]
        assert not undescribed, (name, undescribed)


def test_all_modules_are_described():
    assert not [file for file in MODULES if not ast.get_docstring(ast.parse(file.read_text()))]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Error parsing type annotation")  # of what Transformers adds to configurations
def test_the_reference_has_a_page_for_each_module(tmp_path):
    pytest.importorskip("pdoc")
    runpy.run_path(str(ROOT / "docs/build_reference.py"))["build"](tmp_path)
    pages = {str(page.relative_to(tmp_path / "svitt").with_suffix("")) for page in tmp_path.glob("svitt/**/*.html")}
    modules = {str(file.relative_to(ROOT).with_suffix("")).removesuffix("/__init__") for file in MODULES}
    assert modules - {"__init__", "setup"} <= pages
    assert "rank_answers" in (tmp_path / "svitt/modeling_svitt.html").read_text()

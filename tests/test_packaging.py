# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What is handed out: archives, what they need, and what is said about them."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
SCRIPTS = [line.split(" = ")[0] for line in SETUP["options.entry_points"]["console_scripts"].split("\n") if line]


def needs(text):
    """Requirements by name, one a line."""
    found = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def locked():
    """Version by name, and the hashes that follow each."""
    text = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^([\w.-]+)==(\S+)(.*(?:\\\n    --hash=sha256:[0-9a-f]{64}.*)+)$", text, re.MULTILINE)
    assert len(entries) == len(re.findall("^[a-z]", text, re.MULTILINE)), "each entry has hashes"
    return {canonicalize_name(name): version for name, version, _ in entries}


def test_the_lock_has_all_pins():
    pins, lock = needs((ROOT / "requirements.txt").read_text()), locked()
    assert {name for name, pin in pins.items() if not pin.specifier.contains(lock.get(name, "0"))} == {"torch"}


def test_code_that_travels_asks_for_the_same_transformers_as_the_package():
    [asked] = re.findall(r'require_version\("(.*?)"', (ROOT / "configuration_svitt.py").read_text())
    assert Requirement(asked) == needs(SETUP["options"]["install_requires"])["transformers"]


def test_importing_prints_nothing():
    """As Transformers does about arguments that neither it nor a docstring explains."""
    code = "import svitt.modeling_svitt, svitt.processing_svitt, svitt.search, svitt.training.loop"
    assert subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout == ""


def test_pins_are_what_the_package_allows():
    pins = needs((ROOT / "requirements.txt").read_text())
    all_needs = SETUP["options"]["install_requires"] + "".join(SETUP["options.extras_require"].values())
    for name, need in needs(all_needs).items():
        (pin,) = pins[name].specifier
        assert pin.operator == "==" and need.specifier.contains(pin.version), name


def test_all_imports_are_declared():
    """Of what travels and what the package holds: a dependency of a dependency may go away."""
    declared = set(needs(SETUP["options"]["install_requires"]))
    names = {"PIL": "pillow", "yaml": "pyyaml"}
    files = [
        *ROOT.glob("*.py"),
        *ROOT.glob("training/**/*.py"),
        *ROOT.glob("search/*.py"),
        *ROOT.glob("metrics/*/*.py"),
    ]
    imports = {
        match[1]
        for file in files
        for match in re.finditer(r"^\s*(?:from|import) (\w+)", file.read_text(), re.MULTILINE)
    }
    imports -= sys.stdlib_module_names | {"setuptools", "svitt"}
    # Cards of huggingface_hub need jinja2, and do not declare it.
    assert {canonicalize_name(names.get(name, name)) for name in imports} | {"jinja2"} == declared


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == SETUP["metadata"]["version"] and citation["license"] == SETUP["metadata"]["license"]
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Li", "Min", "Tripathi", "Vasconcelos"]
    assert "Copyright (c) 2023 Yi (Jerry) Li" in (ROOT / "LICENSE").read_text()
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_all_files_name_the_license():
    for file in subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split():
        header = (ROOT / file).read_text().partition("\n")[0]
        assert "Licensed under" not in header or "MIT License." in header, file


def build(source, folder):
    """Wheel and source archive of a copy of the repository, without asking a registry for the builder."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Built twice, from two copies made at other times under other umasks."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("distributions")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for copy, umask in (("first", 0o022), ("second", 0o077)):
        before = os.umask(umask)
        for file in filter(None, files):
            if not file.startswith("tests/fixtures/golden/"):  # large, and no other kind of file
                (folder / copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, folder / copy / file)
        os.umask(before)
    return folder, build(folder / "first", folder / "1"), build(folder / "second", folder / "2")


@pytest.mark.slow
def test_archives_are_the_same_to_the_byte(distributions):
    _, first, second = distributions
    assert sorted(name.rpartition(".")[2] for name in first) == ["gz", "whl"]
    assert first == second


@pytest.mark.slow
def test_the_wheel_works_elsewhere(distributions, tmp_path):
    """Installed into an environment of its own, which borrows only the dependencies of this one."""
    folder, archives, _ = distributions
    (wheel,) = (folder / "1" / name for name in archives if name.endswith(".whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "/tests/" in name or "/docs/" in name or name.endswith("setup.py")]
    assert {"training/presets/retrieval/msrvtt.yaml", "metrics/qa_accuracy/qa_accuracy.py"} <= {
        name.removeprefix("svitt/") for name in names
    }
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    # Not as a path of the environment: a .pth file there would bring an editable svitt along.
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{here}", "HF_HUB_OFFLINE": "1"}
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    code = """
import pathlib, evaluate, svitt, svitt.search, svitt.search.maps, svitt.training.loop
from svitt.data import presets
folder = pathlib.Path(svitt.__file__).parent
assert folder.parent == pathlib.Path(__import__("sys").argv[1]), folder
assert len(list(folder.glob("training/presets/*/*.yaml"))) == 12
recall = evaluate.load(str(folder / "metrics/retrieval_recall"))
print(svitt.SViTTConfig().vision_config.token_keep_rate)
"""
    result = subprocess.run([python, "-c", code, site], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(SCRIPTS) == sorted(path.name for path in (tmp_path / "venv/bin").glob("svitt-*"))
    for script in SCRIPTS:
        command = [tmp_path / "venv/bin" / script, "--help"]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert result.returncode == 0 and result.stdout.startswith(f"usage: {script}"), result.stderr

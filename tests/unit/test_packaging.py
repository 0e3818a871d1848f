# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What is handed out: the wheel, what it needs, and what is said about it."""

import configparser
import os
import re
import subprocess
import sys
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from svitt import configuration_svitt

from ..conftest import ROOT

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
NEEDED = SETUP["options"]["install_requires"]


def needs(text):
    """Requirements by name, one a line."""
    found = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_pins_are_locked_and_allowed():
    pins = needs((ROOT / "requirements.txt").read_text())
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert [name for name, pin in pins.items() if not pin.specifier.contains(locked.get(name, "0"))] == ["torch"]
    for name, need in needs(NEEDED + "".join(SETUP["options.extras_require"].values())).items():
        (pin,) = pins[name].specifier
        assert pin.operator == "==" and need.specifier.contains(pin.version), name


def test_code_that_travels_asks_for_a_transformers_that_the_package_allows():
    [asked] = re.findall(r'require_version\("(.*?)"', (ROOT / "configuration_svitt.py").read_text())
    assert set(Requirement(asked).specifier) <= set(needs(NEEDED)["transformers"].specifier)


def test_all_imports_are_declared():
    """A dependency of a dependency may go away."""
    rooms = ("conversion", "data", "evaluation", "search", "training")
    files = [*ROOT.glob("*.py"), *(file for room in rooms for file in ROOT.glob(f"{room}/**/*.py"))]
    pattern = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
    imports = {match[1] for file in files for match in pattern.finditer(file.read_text())}
    imports -= sys.stdlib_module_names | {"svitt"}
    names = {"PIL": "pillow", "yaml": "pyyaml"}
    imported, always = {canonicalize_name(names.get(name, name)) for name in imports}, set(needs(NEEDED))
    assert always <= imported <= always | set(needs(SETUP["options.extras_require"]["app"]))  # that `svitt serve` needs


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (
        citation["version"] == configuration_svitt.__version__ and citation["license"] == SETUP["metadata"]["license"]
    )


@pytest.mark.slow
def test_the_wheel_works_elsewhere(tmp_path):
    """Installed into an environment of its own, which borrows only the dependencies of this one."""
    pytest.importorskip("build")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = {name.removeprefix("svitt/") for name in zipfile.ZipFile(wheel).namelist()}
    assert {
        "search/page.html",
        "data/presets/retrieval/msrvtt.yaml",
        "evaluation/metrics/qa_accuracy/qa_accuracy.py",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "examples/", "benchmarks/"))]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    # Not as a path of the environment: a .pth file there would bring an editable svitt along.
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{here}", "HF_HUB_OFFLINE": "1"}
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    code = "import svitt.search; from svitt.data import presets; print(svitt.__file__, svitt.SViTTConfig())"
    ended = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ended.returncode == 0 and ended.stdout.startswith(str(site)), ended.stderr
    ended = subprocess.run([tmp_path / "venv/bin/svitt", "--help"], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0 and "usage: svitt" in ended.stdout, ended.stderr

# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Publishing on a small server that speaks as much of the Hub's language as that takes."""

import base64
import hashlib
import json
import os
import shlex
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import InferenceClient, ModelCard
from transformers import BertTokenizer

from svitt import SViTTForPreTraining, SViTTModel, SViTTProcessor, SViTTVideoProcessor
from svitt.errors import InputError
from svitt.training.card import write_card
from svitt.training.publish import check_hub_login, push_to_hub

from .unit.test_modeling import task_model


class Hub(ThreadingHTTPServer):
    """Knows one user; keeps the repositories made, the files committed, and large ones by their sha256 (LFS)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.role, self.repos, self.files, self.paths, self.large = "write", [], {}, [], {}


class HubHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        repository, _, name = self.path.partition("/resolve/")
        if name:  # main or a commit, then the path
            return self.answer_file(name.partition("/")[2] if repository == "/lab/svitt" else None)
        if self.path.startswith("/api/models/"):
            return self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        if self.path != "/api/whoami-v2" or self.headers["Authorization"] != "Bearer hf_right":
            return self.answer(401, {"error": "Invalid credentials."})
        token = {"accessToken": {"role": self.server.role}}
        self.answer(200, {"type": "user", "name": "ada", "orgs": [{"name": "lab"}], "auth": token})

    do_HEAD = do_GET

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.large[self.path.removeprefix("/large/")] = body
        self.answer(200, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        if self.path == "/api/repos/create":
            self.server.repos.append(json.loads(body))
            self.answer(200, {"url": f"{self.server.url}/lab/svitt"})
        elif "/preupload/" in self.path:
            files = [
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for path in (file["path"] for file in json.loads(body)["files"])
            ]
            self.answer(200, {"files": files})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                file | {"actions": {"upload": {"href": f"{self.server.url}/large/{file['oid']}"}}}
                for file in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.server.files[line["value"]["path"]] = self.server.large[line["value"]["oid"]]
            self.answer(200, {"commitUrl": f"{self.server.url}/lab/svitt/commit/{'1' * 40}", "commitOid": "1" * 40})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        else:
            self.answer(404, {"error": f"no such place: {self.path}"})

    def answer_file(self, name):
        if name not in self.server.files:
            return self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        content = self.server.files[name]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.answer(200, content, {"ETag": etag, "X-Repo-Commit": "1" * 40})

    def answer(self, status, content, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for header, value in {
            "Content-Type": "application/json",
            "Content-Length": len(body),
            **(headers or {}),
        }.items():
            self.send_header(header, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, with its user logged in."""
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # its protocol is another, and not open
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield server
    server.shutdown()
    server.server_close()


def test_login_is_checked_before_training(hub):
    assert check_hub_login("lab/svitt") == "lab/svitt"
    assert check_hub_login("svitt") == "ada/svitt"
    assert not hub.repos and not hub.paths


@pytest.mark.parametrize(
    "name, settings, sentence",
    [
        ("lab/svitt", {"token": ""}, "nobody is logged in; use hf auth login, or set HF_TOKEN."),
        (
            "svitt",
            {"token": "hf_wrong"},
            "the Hub does not accept the token; use hf auth login, or set another HF_TOKEN.",
        ),
        ("lab/svitt", {"offline": True}, "HF_HUB_OFFLINE is set."),
        ("lab/svitt", {"unreachable": True}, "the Hub cannot be reached (ConnectError)."),
        ("lab/svitt", {"role": "read"}, "the token of ada may only read; log in with one that may write."),
        ("other/svitt", {}, "ada, who is logged in, is not a member of other."),
        ("a/b/c", {}, "is no name for a repository, user/name."),
    ],
)
def test_what_is_in_the_way_is_told_in_a_sentence(hub, monkeypatch, name, settings, sentence):
    monkeypatch.setenv("HF_TOKEN", settings.get("token", "hf_right"))
    hub.role = settings.get("role", "write")
    if "offline" in settings:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    if "unreachable" in settings:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError) as raised:
        check_hub_login(name)
    option = "--hub_model_id" if sentence.startswith("is no") else "--push_to_hub to"
    assert str(raised.value) == f"{option} {name}: {sentence}"


@pytest.fixture
def folder(tmp_path):
    """What a run leaves: a model, its processor, its card; and states and reports that stay at home."""
    folder = tmp_path / "out"
    model = task_model(SViTTForPreTraining)
    tokenizer = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4})
    for place in (folder, folder / "checkpoints/step_10"):
        model.save_pretrained(place)
        SViTTProcessor(SViTTVideoProcessor(num_frames=3), tokenizer).save_pretrained(place)
    (folder / "checkpoints/step_10/optimizer.bin").write_bytes(b"large")
    for name in (
        "bad_videos.jsonl",
        "predictions_test.json",
        "scores_test.safetensors",
        "optimizer.pt",
        "config.yaml",
    ):
        (folder / name).write_text("of this machine")
    write_card(
        folder,
        "SViTT",
        "Trained.",
        settings={},
        results={"msrvtt test": {"txt_r1": 12.5}},
        datasets=["friedrichor/MSR-VTT"],
        model_id="lab/svitt",
        command=["run.py"],
    )
    return folder


CODE = {"configuration_svitt.py", "modeling_svitt.py", "processing_svitt.py"}
PROCESSOR = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
PUBLISHED = CODE | PROCESSOR | {"config.json", "model.safetensors", "README.md"}


def test_what_is_published(hub, folder):
    assert push_to_hub(folder, "lab/svitt", private=True) == f"{hub.url}/lab/svitt/commit/{'1' * 40}"
    assert [(repo["name"], repo["organization"]) for repo in hub.repos] == [("svitt", "lab")]
    assert hub.repos[0].get("private") or hub.repos[0].get("visibility") == "private"
    assert set(hub.files) == PUBLISHED
    assert all((folder / name).read_bytes() == content for name, content in hub.files.items())
    assert list(hub.large) == [hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()]


def test_the_card_passes_the_checks_of_the_hub(hub, folder):
    push_to_hub(folder, "lab/svitt")
    card = ModelCard(hub.files["README.md"].decode())
    card.validate()
    data = card.data
    assert (data.license, data.library_name, data.datasets) == ("mit", "transformers", ["friedrichor/MSR-VTT"])
    assert hasattr(InferenceClient, data.pipeline_tag.replace("-", "_")) and data.metrics == ["recall"]
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("msrvtt test", "txt_r1", 12.5)
    assert ModelCard(str(card)).data.to_dict() == data.to_dict()


FRESH_PROCESS = """
import sys, torch
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained("lab/svitt", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("lab/svitt", trust_remote_code=True)
assert "svitt" not in sys.modules and type(model).__module__.startswith("transformers_modules.lab.svitt.")
assert processor.video_processor.num_frames == 3
print(sum(parameter.double().sum().item() for parameter in model.parameters()))
"""


@pytest.mark.slow
def test_what_is_published_loads_where_only_transformers_is_known(hub, folder, tmp_path):
    push_to_hub(folder, "lab/svitt")
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": "",
    }
    command = [sys.executable, "-c", FRESH_PROCESS]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with torch.no_grad():
        expected = sum(parameter.double().sum().item() for parameter in SViTTModel.from_pretrained(folder).parameters())
    assert float(result.stdout) == pytest.approx(expected)


def test_failed_upload_says_how_to_try_again(hub, folder, monkeypatch):
    """With a command that uploads the same files, and no others."""
    with monkeypatch.context() as patch:
        patch.setattr(HubHandler, "do_POST", lambda self: self.answer(403, {"error": "You have no rights."}))
        with pytest.raises(InputError, match=r"answers 403, You have no rights\. To try again: hf upload ") as raised:
            push_to_hub(folder, "lab/svitt", private=True)
    _, _, command = str(raised.value).partition("To try again: hf ")
    hf = [sys.executable, "-m", "huggingface_hub.cli.hf", *shlex.split(command)]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    result = subprocess.run(hf, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert set(hub.files) == PUBLISHED
    assert hub.repos[0].get("private") or hub.repos[0].get("visibility") == "private"

# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Publishing on a small server that speaks as much of the Hub's language as that takes."""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub.constants
import pytest
from transformers import BertTokenizer

from svitt import SViTTForPreTraining, SViTTProcessor, SViTTVideoProcessor
from svitt.training.card import write_card
from svitt.training.processes import InputError
from svitt.training.publish import check_hub_login, push_to_hub

from .test_modeling import task_model


class Hub(ThreadingHTTPServer):
    """Knows one user; keeps the repositories made and the files committed."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.role, self.repos, self.files, self.paths = "write", [], {}, []


class HubHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/api/whoami-v2" or self.headers["Authorization"] != "Bearer hf_right":
            return self.answer(401, {"error": "Invalid credentials."})
        token = {"accessToken": {"role": self.server.role}}
        self.answer(200, {"type": "user", "name": "ada", "orgs": [{"name": "lab"}], "auth": token})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        if self.path == "/api/repos/create":
            self.server.repos.append(json.loads(body))
            self.answer(200, {"url": f"{self.server.url}/lab/svitt"})
        elif "/preupload/" in self.path:
            files = [{"path": file["path"]} for file in json.loads(body)["files"]]
            self.answer(200, {"files": [file | {"uploadMode": "regular", "shouldIgnore": False} for file in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(200, {"commitUrl": f"{self.server.url}/lab/svitt/commit/{'1' * 40}", "commitOid": "1" * 40})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        else:
            self.answer(404, {"error": f"no such place: {self.path}"})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
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


def test_what_is_published(hub, tmp_path):
    folder = tmp_path / "out"
    model = task_model(SViTTForPreTraining)
    tokenizer = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4})
    for place in (folder, folder / "checkpoints/step_10"):
        model.save_pretrained(place)
        SViTTProcessor(SViTTVideoProcessor(num_frames=3), tokenizer).save_pretrained(place)
    (folder / "checkpoints/step_10/optimizer.bin").write_bytes(b"large")
    for name in ("bad_videos.jsonl", "scores_test.safetensors", "optimizer.pt", "config.yaml"):
        (folder / name).write_text("of this machine")
    write_card(folder, "SViTT", "Trained.", settings={}, results={}, model_id="lab/svitt", command=["run.py"])

    assert push_to_hub(folder, "lab/svitt", private=True) == f"{hub.url}/lab/svitt/commit/{'1' * 40}"
    assert [(repo["name"], repo["organization"]) for repo in hub.repos] == [("svitt", "lab")]
    assert hub.repos[0].get("private") or hub.repos[0].get("visibility") == "private"
    code = {"configuration_svitt.py", "modeling_svitt.py", "picture_order.py", "processing_svitt.py"}
    weights = {"config.json", "model.safetensors"}
    processor = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(hub.files) == code | weights | processor | {"README.md"}
    assert all((folder / name).read_bytes() == content for name, content in hub.files.items())


def test_failed_upload_says_how_to_try_again(hub, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(HubHandler, "do_POST", lambda self: self.answer(403, {"error": "You have no rights."}))
    with pytest.raises(InputError, match=r"answers 403, You have no rights\. To try again: hf upload lab/svitt "):
        push_to_hub(tmp_path, "lab/svitt")

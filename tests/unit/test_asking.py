# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Asking an index again and again, from a terminal, a pipe or over HTTP, and what is told about it."""

import io
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from svitt.cli import main
from svitt.search import SViTTIndex

SENTENCE = "a red circle hops and then a blue square hops"
OTHER = "a green circle slides"


@pytest.fixture(scope="module")
def index(demo, tmp_path_factory):
    """Eight videos."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "videos").mkdir()
    for path in sorted((demo / "data/videos").glob("val_*")):
        shutil.copy2(path, folder / "videos")
    index = SViTTIndex.create(folder / "index", str(demo / "model"))
    index.add([folder / "videos"])
    return index


@pytest.fixture
def search(index, capsys, monkeypatch):
    """Runs `svitt search`: the exit code, and what it writes."""

    def run(*words, lines: bytes = b"", folder=index.folder):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        with pytest.raises(SystemExit) as end:
            main(["search", *map(str, [folder] if folder else []), *map(str, words)])
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_lines_of_the_input_are_answered_one_by_one(index, search):
    lines = f"{SENTENCE}\n\nlike 2\nzzz\n{OTHER}\nlike 9\n".encode() + b"\xff\n"
    code, out, err = search("--json", "--top_k", 3, "--locate", lines=lines)
    first, like, unknown, other, missing, broken = map(json.loads, out.splitlines())
    assert code == 0 and unknown == missing == broken == []
    assert [hit["video"] for hit in first] == [hit.video for hit in index.search(SENTENCE, top_k=3)]
    assert all(hit["start"] <= hit["best_time"] <= hit["end"] for hit in first)
    expected = index.search(like=index.search(SENTENCE, top_k=3)[1], top_k=3)
    assert [hit["video"] for hit in like] == [hit.video for hit in expected]
    assert [hit["video"] for hit in other] == [hit.video for hit in index.search(OTHER, top_k=3)]
    assert "The model knows no word of 'zzz'" in err and "There is no hit 9; the last answer has 3." in err
    code, out, err = search("--top_k", 1, lines=f"{SENTENCE}\n{OTHER}".encode())
    assert code == 0 and out.count("similarity") == 2 and len(out.splitlines()) == 4


@pytest.mark.slow
def test_an_answer_comes_before_the_next_question(index):
    command = [sys.executable, "-m", "svitt.cli", "search", index.folder, "--json"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        for sentence in (SENTENCE, OTHER):
            process.stdin.write(sentence + "\n")
            process.stdin.flush()
            assert len(json.loads(process.stdout.readline())) == 8
        process.stdout.close()  # as `head` does
        process.stdin.write(f"{SENTENCE}\n" * 3)
        process.stdin.close()
        assert process.wait(60) == 0 and "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_a_terminal_is_asked_and_remembers(index):
    """Arrow up brings the last sentence back."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "svitt.cli", "search", index.folder, "--top_k", "1"]
    environment = os.environ | {"TERM": "xterm"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        shown = b""

        def wait_for(words: bytes):
            nonlocal shown
            while words not in shown:
                shown += os.read(ours, 4096)
            shown = shown.partition(words)[2]

        wait_for(b"> ")
        os.write(ours, SENTENCE.encode() + b"\n")
        wait_for(b"similarity")
        wait_for(b"> ")
        os.write(ours, b"\x1b[A")
        wait_for(SENTENCE.encode())
        os.write(ours, b"\n")
        wait_for(b"similarity")
        wait_for(b"> ")
        os.write(ours, b"\x04")
        assert process.wait(60) == 0
    os.close(ours)


def test_a_word_is_an_index_if_it_names_one(index, search, tmp_path, monkeypatch):
    monkeypatch.chdir(index.folder.parent)
    code, out, _ = search("--json", lines=SENTENCE.encode(), folder="index")
    assert code == 0 and len(json.loads(out)) == 8
    for words in (["videos"], ["no index here"]):  # are sentences
        code, _, err = search(*words, folder=None)
        assert code == 2 and "svitt_index: there is no such index" in err
    code, _, err = search("a dog", folder=tmp_path / "nowhere")
    assert code == 2 and "nowhere: there is no such index" in err


def test_options_of_a_search(index, search, tmp_path):
    code, out, _ = search(SENTENCE, "--min_similarity", 2)
    assert (code, out) == (0, "nothing found\n")
    assert search(SENTENCE, "--min_similarity", 2, "--json")[:2] == (0, "[]\n")
    name = sorted(index.videos())[3]
    code, out, _ = search(SENTENCE, "--json", "--where", f"video = '{name}'")
    assert [hit["video"] for hit in json.loads(out)] == [name]
    code, out, _ = search("--image", name, "--json", "--top_k", 1)
    assert json.loads(out)[0]["video"] == name
    for words, sentence in (
        (["--min_similarity", "x"], "--min_similarity: invalid float value: 'x'"),
        (["--min_similarity", "nan"], "--min_similarity must be"),
        (["--where", "nothing = 1"], "--where must be"),
        (["--top_k", "0"], "--top_k must be at least 1, got 0"),
    ):
        for more in ({"lines": SENTENCE.encode()}, {}):
            code, out, err = search(*([] if more else [SENTENCE]), *words, **more)
            assert code == 2 and not out and sentence in err.splitlines()[-1], err
    photo = tmp_path / "photo.jpg"
    photo.write_text("none")
    code, _, err = search("--image", photo)
    assert code == 2 and "photo.jpg: not a video file" in err


def test_hits_are_exported(index, search, tmp_path):
    code, out, _ = search(SENTENCE, "--top_k", 2, "--export", tmp_path / "clips")
    files = [line for line in out.splitlines() if line.endswith(".mp4") and "clips" in line]
    hits = index.search(SENTENCE, top_k=2)
    names = [f"0{rank}_{os.path.basename(hit.video)[:-4]}_0m00s.mp4" for rank, hit in enumerate(hits, 1)]
    assert code == 0 and files == [str(tmp_path / "clips" / name) for name in names] and all(map(os.path.isfile, files))
    code, out, _ = search(SENTENCE, "--top_k", 1, "--export", tmp_path / "clips", "--json")
    assert json.loads(out)[0]["file"] == files[0]
    (tmp_path / "file").touch()
    code, _, err = search(SENTENCE, "--export", tmp_path / "file")
    assert code == 2 and "file: cannot be written" in err


def test_a_hit_that_is_gone_is_told_and_the_others_are_exported(demo, search, tmp_path):
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"))
    for number in (0, 1):
        shutil.copy2(demo / f"data/videos/val_{number:05}.mp4", tmp_path)
    index.add(sorted(tmp_path.glob("*.mp4")))
    (tmp_path / "val_00000.mp4").unlink()
    code, out, err = search(SENTENCE, "--export", tmp_path / "clips", "--json", folder=index.folder)
    assert code == 0 and [bool(hit["file"]) for hit in json.loads(out)] == [True, False]
    assert "not exported: " in err and "val_00000.mp4: cannot be opened (No such file" in err


def test_an_empty_index_says_how_to_fill_it(demo, search, tmp_path):
    SViTTIndex.create(tmp_path / "empty", str(demo / "model"))
    for words in ([], ["a dog"]):
        code, _, err = search(*words, folder=tmp_path / "empty")
        assert code == 2 and "empty: holds no spans yet; svitt index adds some." in err


# ---- Over HTTP


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped(index):
    command = [sys.executable, "-m", "svitt.cli", "serve", index.folder, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().partition("/search")[0]
        assert address.startswith("http://127.0.0.1:") and urllib.request.urlopen(f"{address}/health").status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and "Traceback" not in process.stderr.read()


@pytest.fixture(scope="module")
def server(index):
    """Asks a server: the status and the JSON."""
    pytest.importorskip("fastapi", reason="svitt serve needs FastAPI: pip install -e .[app]")
    from svitt.search.serve import serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    threading.Thread(target=serve, args=(index, "127.0.0.1", port), daemon=True).start()

    def get(path, **parameters):
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(parameters)}"
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    for _ in range(100):
        with suppress(urllib.error.URLError):
            get("/health")
            break
        time.sleep(0.1)
    return get


def test_the_server_answers_as_the_index_does(index, server):
    status, health = server("/health")
    assert status == 200 and health["status"] == "ok"
    status, hits = server("/search", q=SENTENCE, top_k=3, locate=True)
    expected = index.search(SENTENCE, top_k=3, locate=True)
    assert status == 200 and [hit["video"] for hit in hits] == [hit.video for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    assert [hit["best_time"] for hit in hits] == [hit.best_time for hit in expected]
    status, alike = server("/search", like=hits[1]["video"], start=hits[1]["start"], top_k=1)
    assert status == 200 and alike[0]["video"] == index.search(like=expected[1], top_k=1)[0].video
    assert server("/search", q=SENTENCE, min_similarity=2) == (200, [])
    name = hits[2]["video"]
    assert [hit["video"] for hit in server("/search", q=SENTENCE, where=f"video = '{name}'")[1]] == [name]


def test_several_queries_at_once_are_answered_right(index, server):
    sentences = [SENTENCE, OTHER, "a red circle", "zzz"]
    expected = {one: server("/search", q=one, top_k=2) for one in sentences}
    assert expected["zzz"][0] == 400
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: server("/search", q=one, top_k=2), sentences * 8))
    assert answers == [expected[one] for one in sentences * 8]


def test_bad_parameters_are_a_sentence(server):
    for parameters, code, words in (
        ({}, 400, "give one of them"),
        ({"q": "a", "like": "b"}, 400, "give one of them"),
        ({"q": "zzz"}, 400, "The model knows no word of 'zzz'"),
        ({"q": SENTENCE, "top_k": 0}, 400, "`top_k` must be at least 1, got 0"),
        ({"q": SENTENCE, "top_k": "x"}, 422, "top_k: input should be a valid integer"),
        ({"q": SENTENCE, "min_similarity": "nan"}, 400, "`min_similarity` must be"),
        ({"q": SENTENCE, "where": "nothing = 1"}, 400, "`where` must be"),
        ({"like": "a.mp4", "start": "nan"}, 400, "`start` must be at least 0, got nan"),
        ({"like": "/etc/passwd"}, 400, "has no span of /etc/passwd"),
    ):
        status, told = server("/search", **parameters)
        assert status == code and words in told["detail"], told
    assert server("/etc/passwd")[0] == server("/search/../../etc/passwd")[0] == 404


def test_a_taken_port_is_a_sentence(index, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(SystemExit) as end:
            main(["serve", str(index.folder), "--port", str(taken.getsockname()[1])])
    assert end.value.code == 2 and "cannot be listened on (Address already in use)" in capsys.readouterr().err


def test_without_fastapi_serving_is_a_sentence(index, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "svitt.search.serve", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["serve", str(index.folder)])
    assert end.value.code == 2 and "svitt serve needs fastapi" in capsys.readouterr().err

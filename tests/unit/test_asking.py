# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Asking an index again and again, from a terminal or a pipe, and what is told about it."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys

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
        assert process.wait(60) == 141 and "Traceback" not in process.stderr.read()


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
    assert search(SENTENCE, "--min_similarity", "-inf", "--json")[:2] == search(SENTENCE, "--json")[:2]
    code, out, _ = search(SENTENCE, "--json", "--min_similarity", f"{index.search(SENTENCE)[1].similarity:e}")
    found = [hit["similarity"] for hit in json.loads(out)]
    assert code == 0 and 0 < len(found) < 8 and -1 < min(found) < 0  # which argparse alone would take for an option
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

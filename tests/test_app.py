# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""examples/app.py in a real browser: what visitors upload, find, play, ask and are told; and the folder of a Space."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import SpaceCard

from svitt import SViTTForVideoQuestionAnswering, SViTTModel, SViTTProcessor
from svitt.errors import InputError
from svitt.evaluation.answering import save_answer_list
from svitt.processing_svitt import read_video
from svitt.search import SViTTIndex
from svitt.search.cli import clock
from svitt.search.clips import cut, read_clips, video_at

gradio = pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e .[app]")
playwright = pytest.importorskip("playwright.sync_api", reason="the test of the page needs playwright")

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SENTENCE = "a red circle hops and then a blue square hops"
QUESTION, ANSWERS = "what color hops first?", ["red", "blue", "green"]
PATIENCE = 60_000  # milliseconds

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; Debian's package has it")


@pytest.fixture(scope="module")
def home(demo, tmp_path_factory, write_video):
    """A folder as after `make demo`, with three clips; beside it, uploads: a long video, and a file that is none."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "demo/data/videos").mkdir(parents=True)
    for path in sorted((demo / "data/videos").glob("test_*"))[:3]:
        shutil.copy2(path, folder / "demo/data/videos")
    shutil.copytree(demo / "model", folder / "demo/out")
    torch.manual_seed(0)
    config = SViTTModel.from_pretrained(demo / "model").config
    SViTTForVideoQuestionAnswering(config).save_pretrained(folder / "demo/qa_out")
    SViTTProcessor.from_pretrained(demo / "model").save_pretrained(folder / "demo/qa_out")
    save_answer_list(ANSWERS, folder / "demo/qa_out")
    (folder / "uploads").mkdir()
    write_video(folder / "uploads/long.mp4", "libx264", options={"g": "12"}, num_frames=625)
    (folder / "uploads/broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def expected(home):
    """The page's hits, but for the folders of uploads; and hits by similarity alone."""
    index = SViTTIndex.create(home / "index", str(home / "demo/out"))
    index.add([home / "demo/data/videos", home / "uploads/long.mp4"])
    return index.search(SENTENCE, top_k=6), index.search(SENTENCE, top_k=6, rerank=False)


@pytest.fixture(scope="module")
def server(home):
    """The address of the page, started with no arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with open(home / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "examples/app.py"], cwd=home, env=env, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 300
        while f"127.0.0.1:{port}" not in (home / "log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
    assert "Traceback" not in (home / "log").read_text()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens pages, each of a visitor of their own, on which no script may fail and that ask no other host."""
    visitors, errors = [], []

    def visit(url):
        page = browser.new_context().new_page()
        visitors.append(page)
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(error))
        page.on("request", lambda request: errors.append(request.url) if "//127.0.0.1" not in request.url else None)
        page.goto(url)
        return page

    yield visit
    for page in visitors:
        page.context.close()
    assert [error for error in errors if not str(error).startswith(("data:", "blob:"))] == []


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def press(page, name):
    page.get_by_role("button", name=name, exact=True).first.click()


def upload(page, *paths):
    tab(page, "Videos")
    page.locator("input[type=file]:visible, [role=tabpanel]:visible input[type=file]").first.set_input_files(paths)
    for path in paths:
        page.get_by_role("tabpanel").get_by_text(path.suffix).nth(len(paths) - 1).wait_for()
    press(page, "Index the uploads")


def search(page, sentence):
    tab(page, "Search")
    page.get_by_placeholder("Describe what the clip shows").fill(sentence)
    press(page, "Search")


def captions(page, number):
    page.locator(".hit").nth(number - 1).wait_for()
    page.wait_for_function("number => document.querySelectorAll('.hit').length == number", arg=number)
    return [re.sub(r"\s+", " ", hit.locator(".prose").first.inner_text()) for hit in page.locator(".hit").all()]


def is_told(page, sentence):
    page.get_by_test_id("toast-body").filter(has_text=sentence).first.wait_for()


# ---- What a visitor does


@needs_browser
@pytest.mark.slow
def test_upload_search_play_and_ask(home, server, visit, expected):
    page = visit(server)
    page.evaluate(
        """() => {window.seen = ''; new MutationObserver(() => {
            document.querySelectorAll('.progress-text, .progress-level').forEach(e => {window.seen += e.innerText})
        }).observe(document.body, {subtree: true, childList: true, characterData: true})}"""
    )
    upload(page, home / "uploads/long.mp4", home / "uploads/broken.mp4")
    is_told(page, "broken.mp4: cannot be read")
    page.get_by_text(
        "videos: 1 added, 0 updated, 0 removed, 0 unchanged, 1 bad; 4 clips encoded, 7 in the index"
    ).wait_for()
    page.get_by_text("4 videos, 7 clips to search").wait_for()
    page.get_by_role("gridcell", name="broken.mp4").first.wait_for()
    assert str(home) not in page.content()  # names only, of files that others cannot reach
    assert "encoding" in page.evaluate("window.seen")

    hits, by_similarity = expected
    search(page, SENTENCE)
    found = captions(page, len(hits))
    ranks_before = {(hit.video, hit.start): rank for rank, hit in enumerate(by_similarity, start=1)}
    for rank, (caption, hit) in enumerate(zip(found, hits, strict=True), start=1):
        times = f"{clock(hit.start)[2:]} – {clock(hit.end)[2:]}"
        assert caption.startswith(f"{rank}. {Path(hit.video).name} {times} match score {hit.score:.2f}, rank ")
        if before := ranks_before.get((hit.video, hit.start)):  # other clips of the long video may overlap a better one
            assert caption.endswith(f"rank {before}" if before == rank else f"rank {before} → {rank}")
    starts = []
    for card, hit in zip(page.locator(".hit").all(), hits, strict=True):
        player = card.locator("video")
        assert player.get_attribute("src").endswith(f"/{Path(hit.video).name}")
        page.wait_for_function("video => video.readyState > 1", arg=player.element_handle())
        starts.append(player.evaluate("video => video.currentTime"))
    assert starts == pytest.approx([hit.start for hit in hits], abs=0.1) and max(starts) >= 5
    late = page.locator(".hit video").nth(starts.index(max(starts)))
    late.evaluate("video => {video.muted = true; return video.play()}")
    page.wait_for_function(f"video => video.currentTime > {max(starts)} + 0.2", arg=late.element_handle())

    press(page, "What it sees")
    page.locator("#maps video").wait_for()
    page.wait_for_function("() => document.querySelector('#maps video').readyState > 1")
    page.wait_for_function("() => document.querySelector('#maps img').naturalWidth > 500")

    press(page, "Ask about it")
    page.get_by_label("Question").fill(QUESTION)
    press(page, "Ask")
    model, processor = (
        c.from_pretrained(home / "demo/qa_out") for c in (SViTTForVideoQuestionAnswering, SViTTProcessor)
    )
    clip = hits[0]
    frames = load().frames_between(clip.video, clip.start, clip.end, processor.video_processor.num_frames)
    inputs = processor(videos=[frames], text=[QUESTION], return_tensors="pt")
    with torch.no_grad():
        answer_ids = processor.encode_answers(ANSWERS)["input_ids"]
        ranked, probabilities = model.eval().rank_answers(**inputs, answer_ids=answer_ids, k=3)
    page.get_by_test_id("label-output-value").filter(has_text=ANSWERS[ranked[0, 0]]).wait_for()
    page.get_by_text(f"{100 * probabilities[0, 0]:.0f}%").first.wait_for()
    page.get_by_label("Answers to choose from").fill("square, ")
    press(page, "Ask")
    page.get_by_test_id("label-output-value").filter(has_text="square").wait_for()


@needs_browser
@pytest.mark.slow
def test_what_is_wrong_is_told_in_a_sentence(home, server, visit):
    page = visit(server)
    search(page, "  ")
    is_told(page, "The query is empty; describe what a video shows")
    search(page, "x" * 1001)
    is_told(page, "The query has 1,001 characters")
    tab(page, "Videos")
    press(page, "Index the uploads")
    is_told(page, "There are no uploads yet")
    page.get_by_label("or a folder on this machine").fill("/nowhere")
    press(page, "Index the folder")
    is_told(page, "/nowhere: there is no such file or folder.")
    tab(page, "Ask")
    press(page, "Ask")
    is_told(page, "There is no video yet")
    page.locator("[role=tabpanel]:visible input[type=file]").set_input_files(home / "uploads/broken.mp4")
    page.locator("[role=tabpanel]:visible video").wait_for(state="attached")
    press(page, "Ask")
    is_told(page, "The question is empty")
    page.get_by_label("Question").fill(QUESTION)
    press(page, "Ask")
    is_told(page, "broken.mp4: ")


@needs_browser
@pytest.mark.slow
def test_visitors_from_elsewhere_have_an_index_of_their_own_and_no_folders(home, visit, tmp_path, monkeypatch):
    app = load()
    monkeypatch.setattr(app, "MAX_UPLOADS", 1)
    index = SViTTIndex.create(tmp_path / "index", str(home / "demo/out"))
    index.add([home / "demo/data/videos"])
    (tmp_path / "scratch").mkdir()
    page = app.build_page(index, None, str(tmp_path / "scratch"), is_private=False, examples=False)
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        one, other = visit(url), visit(url)
        upload(one, home / "uploads/long.mp4")
        one.get_by_text("4 videos, 7 clips to search").wait_for()
        search(other, SENTENCE)
        assert not any("long.mp4" in caption for caption in captions(other, 3))
        search(one, SENTENCE)
        assert any("long.mp4" in caption for caption in captions(one, 5))
        assert len(index) == 3 and len(list((tmp_path / "scratch").iterdir())) == 2
        upload(one, home / "uploads/broken.mp4")
        is_told(one, "Each visitor may upload 1 videos in all; these would make 2.")
        assert one.get_by_role("button", name="Index the folder").count() == 0
        tab(one, "Ask")
        one.get_by_text("There is no model to answer questions. Train one with make demo-qa").wait_for()
        one.close()
        deadline = time.monotonic() + 30
        while len(list((tmp_path / "scratch").iterdir())) > 1 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(list((tmp_path / "scratch").iterdir())) == 1
    finally:
        page.close()


# ---- Without a browser


def test_frames_of_a_part_are_those_that_the_index_takes(home):
    path, app = str(home / "uploads/long.mp4"), load()
    processor = SViTTProcessor.from_pretrained(home / "demo/out").video_processor
    for clip in cut(625, 25.0, 10.0, 5.0):
        frames = app.frames_between(path, clip.start, clip.end, 4)
        assert torch.equal(read_clips(video_at(path), [clip], processor)[0], processor.read_clip(frames)[0])
    assert np.array_equal(app.frames_between(path, 0, None, 4), read_video(path, lambda _: [77, 233, 389, 546])[0])
    with pytest.raises(InputError, match="no frames between 00:30.0 and 00:25.0"):
        app.frames_between(path, 30, None, 4)


def load(name="app"):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_answers_are_the_models_own_or_those_given(home):
    answerer, video = load().Answerer(str(home / "demo/qa_out")), str(next((home / "demo/data/videos").iterdir()))
    assert set(answerer(video, QUESTION)) == set(answerer.answers) == set(ANSWERS)
    assert answerer(video, QUESTION, "square, square,") == {"square": pytest.approx(1)}
    with pytest.raises(InputError, match="no video yet"):
        answerer(None, QUESTION)


def test_without_a_model_a_sentence_says_how_to_get_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    with pytest.raises(SystemExit, match="2"):
        load().main()
    message = "app.py: demo/out: there is no model; run `make demo` to train one, or give --model.\n"
    assert capsys.readouterr().err == message


def test_a_port_that_is_taken_is_told_in_a_sentence(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["app.py", "--port", port])
        with pytest.raises(SystemExit, match="2"):
            load().main()
    message = f"app.py: --port {port}: the page cannot listen there (Address already in use); give another.\n"
    assert capsys.readouterr().err == message


@pytest.mark.slow
def test_space_is_ready_to_be_pushed(home, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "space"
    monkeypatch.setattr(sys, "argv", ["make_space.py", str(folder), "--demo", str(home / "demo")])
    load("make_space").main()
    metadata = SpaceCard.load(folder / "README.md").data
    assert metadata.license == "mit" and metadata.sdk == "gradio" and (folder / metadata.app_file).is_file()
    assert f"gradio=={metadata.sdk_version}\n" in (ROOT / "requirements.txt").read_text()
    assert len(metadata.short_description) <= 60  # beyond which the Hub refuses it
    assert "lancedb>=0.40\n" in (folder / "requirements.txt").read_text()
    assert {path.name for path in (folder / "demo").iterdir()} == {"out", "qa_out", "data"}
    assert not [path for path in folder.rglob("*") if path.is_file() and str(ROOT).encode() in path.read_bytes()]
    code = "import sys; sys.path.insert(0, '.'); import app, svitt; print(svitt.__file__, app.parse_args().model)"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{folder}/svitt/__init__.py") and done.stdout.endswith(" demo/out\n")
    with pytest.raises(SystemExit, match="2"):
        load("make_space").main()
    assert "is not empty" in capsys.readouterr().err

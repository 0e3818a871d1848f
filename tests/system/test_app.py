# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""examples/app.py in a real browser: a visitor adds videos, searches, plays and asks."""

import os
import runpy
import shutil
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from svitt import SViTTForVideoQuestionAnswering, SViTTModel, SViTTProcessor
from svitt.processing_svitt import read_video
from svitt.search import SViTTIndex

from ..conftest import ROOT
from ..streams import FILMS, write_film

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e .[app]")
playwright = pytest.importorskip("playwright.sync_api", reason="the test of the page needs playwright")
expect = playwright.expect
CHROMIUM = shutil.which("chromium")
PHOTO = "input[type=file][accept*=image]"


@pytest.fixture
def app():
    return runpy.run_path(str(ROOT / "examples/app.py"))


@pytest.fixture
def qa_model(demo, tmp_path):
    torch.manual_seed(0)
    model = SViTTForVideoQuestionAnswering(SViTTModel.from_pretrained(demo / "model").config)
    model.save_pretrained(tmp_path / "qa")
    SViTTProcessor.from_pretrained(demo / "model").save_pretrained(tmp_path / "qa")
    (tmp_path / "qa/answer_list.json").write_text('["red", "blue", "green"]')
    return str(tmp_path / "qa")


@contextmanager
def visitor(page):
    """Opens a page in a browser; `ffmpeg` cannot be found by then."""
    environment = {**os.environ}
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    with playwright.sync_playwright() as driver, pytest.MonkeyPatch.context() as patch:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], env=environment)
        patch.setenv("PATH", "/nowhere")
        assert shutil.which("ffmpeg") is shutil.which("ffprobe") is None
        visitor = browser.new_page()
        visitor.set_default_timeout(60_000)
        visitor.goto(url)
        try:
            yield visitor
        finally:
            page.close()


def search(visitor, sentence):
    visitor.get_by_placeholder("Describe what the clip shows").fill(sentence)
    visitor.get_by_role("button", name="Search", exact=True).click()


def press(visitor, name):
    """Presses the row of a video; returns what the player says when it has played some of it."""
    before = visitor.locator("video").first.get_attribute("src")
    visitor.get_by_role("gridcell").filter(has_text=name).locator("visible=true").first.click()
    visitor.wait_for_function(
        "src => document.querySelector('video')?.src != src && document.querySelector('video').readyState > 1",
        arg=before,
    )
    return visitor.evaluate("""async () => {
        const video = document.querySelector('video'), start = video.currentTime
        video.muted = true
        await video.play().catch(() => {})  // a photo is over at once
        await new Promise(resolve => setTimeout(resolve, 500))
        return {start, error: video.error, duration: video.duration, width: video.videoWidth,
                height: video.videoHeight, plays: video.currentTime > start}
    }""")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; Debian's package has it")
def test_add_search_play_and_ask(demo, app, qa_model, tmp_path):
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"))
    (tmp_path / "videos").mkdir()
    for path in sorted((demo / "data/videos").glob("test_*"))[:3]:
        shutil.copy2(path, tmp_path / "videos")
    shutil.copy2(tmp_path / "videos/test_00000.mp4", tmp_path / "videos/copy.mp4")
    (tmp_path / "videos/broken.mp4").write_bytes(b"no video")
    with visitor(app["build_page"](index, qa_model, is_private=True)) as page:
        page.get_by_role("tab", name="Videos").click()
        page.get_by_label("or a folder on this machine").fill(str(tmp_path / "videos"))
        page.get_by_role("button", name="Submit").locator("visible=true").click()
        page.get_by_text("4 videos added; 4 clips to search").wait_for()
        page.get_by_text("broken.mp4").first.wait_for()
        page.get_by_role("tab", name="Search").click()
        search(page, "a red circle hops")
        page.wait_for_function("() => document.querySelector('video')?.readyState > 1")
        cells = page.get_by_role("gridcell").locator("visible=true")
        expect(cells.filter(has_text="mp4")).to_have_count(3)  # a copy has no row of its own
        played = press(page, Path(index.search("a red circle hops")[1].video).name)
        assert played["plays"] and played["error"] is None and played["duration"] == pytest.approx(3, abs=0.1)
        page.get_by_label("Ask about the clip").fill("what color hops first?")
        page.get_by_role("button", name="Ask").click()
        page.get_by_test_id("label-output-value").wait_for()

        page.get_by_text("Filter, or search by a photo").click()
        page.get_by_label("Condition in SQL").fill("video LIKE '%test_00001%'")
        search(page, "a red circle hops")
        expect(cells.filter(has_text="mp4")).to_have_text(["test_00001.mp4"])
        page.get_by_label("Condition in SQL").fill("nothing = 1")
        search(page, "a red circle hops")
        page.get_by_text("`where` must be a condition").first.wait_for()
        page.get_by_label("Condition in SQL").fill("")
        page.get_by_label("number input for Similarity of at least").fill("1")
        search(page, "a red circle hops")
        page.get_by_text("nothing found").wait_for()
        assert page.locator("video").count() == 0
        page.get_by_label("number input for Similarity of at least").fill("-1")

        frames, _ = read_video(tmp_path / "videos/test_00002.mp4")
        Image.fromarray(frames[0]).save(tmp_path / "photo.jpg")
        page.locator(PHOTO).set_input_files(tmp_path / "photo.jpg")
        hits = index.search(video=tmp_path / "photo.jpg")
        expect(cells.first).to_have_text(Path(hits[0].video).name)
        press(page, Path(hits[1].video).name)
        page.get_by_role("button", name="More like this").click()
        expect(cells.first).to_have_text(Path(index.search(like=hits[1])[0].video).name)
    assert not list(Path(tempfile.gettempdir()).glob("svitt_clip_*"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; Debian's package has it")
def test_hits_of_all_kinds_of_files_play(demo, app, tmp_path):
    """From the frame that fits best on; of long ones, the span alone."""
    for name, how in FILMS.items():
        write_film(tmp_path / name.replace("film", name[5:]), **how, seconds=14)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(demo / "data/videos/test_00000.mp4", "packed.mp4")
    Image.new("RGB", (80, 60), "red").save(tmp_path / "photo.png")
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"))
    assert not index.add([tmp_path]).bad
    hits = index.search("a red circle hops", locate=True, top_k=9)
    durations = {Path(hit.video.rpartition("::")[2]).name: hit.end - hit.start for hit in hits}
    assert len(durations) == 7
    with visitor(app["build_page"](index, None, is_private=False)) as page:
        search(page, "a red circle hops")
        page.wait_for_function("() => document.querySelector('video')?.readyState > 1")
        for hit in reversed(hits):
            name = Path(hit.video.rpartition("::")[2]).name
            played = press(page, name)
            assert played["error"] is None and played["width"] and (played["plays"] or name == "photo.png"), (
                name,
                played,
            )
            assert played["duration"] == pytest.approx(max(hit.end - hit.start, 1), abs=0.1), name
            assert played["start"] == pytest.approx(hit.best_time - hit.start, abs=0.3), name
            assert name != "mts.mts" or (played["width"], played["height"]) == (240, 136)
        page.get_by_text("Filter, or search by a photo").click()
        page.get_by_label("Condition in SQL").wait_for()
        assert page.locator(PHOTO).count() == 0
    assert not list(Path(tempfile.gettempdir()).glob("svitt_clip_*"))

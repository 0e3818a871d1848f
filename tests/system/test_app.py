# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""examples/app.py in a real browser: a visitor adds videos, searches, plays and asks."""

import runpy
import shutil

import pytest
import torch

from svitt import SViTTForVideoQuestionAnswering, SViTTModel, SViTTProcessor
from svitt.search import SViTTIndex

from ..conftest import ROOT

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e .[app]")
playwright = pytest.importorskip("playwright.sync_api", reason="the test of the page needs playwright")
CHROMIUM = shutil.which("chromium")


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


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; Debian's package has it")
def test_add_search_play_and_ask(demo, app, qa_model, tmp_path):
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"))
    (tmp_path / "videos").mkdir()
    for path in sorted((demo / "data/videos").glob("test_*"))[:3]:
        shutil.copy2(path, tmp_path / "videos")
    (tmp_path / "videos/broken.mp4").write_bytes(b"no video")
    page = app["build_page"](index, qa_model, is_private=True)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        with playwright.sync_playwright() as driver:
            visitor = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
            visitor.set_default_timeout(60_000)
            visitor.goto(url)
            visitor.get_by_role("tab", name="Videos").click()
            visitor.get_by_label("or a folder on this machine").fill(str(tmp_path / "videos"))
            visitor.get_by_role("button", name="Submit").locator("visible=true").click()
            visitor.get_by_text("3 videos added; 3 clips to search").wait_for()
            visitor.get_by_text("broken.mp4").first.wait_for()
            visitor.get_by_role("tab", name="Search").click()
            visitor.get_by_placeholder("Describe what the clip shows").fill("a red circle hops")
            visitor.get_by_role("button", name="Search").click()
            visitor.wait_for_function("() => document.querySelector('video')?.readyState > 1")
            rows = visitor.get_by_role("gridcell").filter(has_text="test_0000").locator("visible=true")
            first = visitor.locator("video").first.get_attribute("src")
            rows.nth(1).click()
            visitor.wait_for_function("first => document.querySelector('video')?.src != first", arg=first)
            visitor.get_by_label("Ask about the clip").fill("what color hops first?")
            visitor.get_by_role("button", name="Ask").click()
            visitor.get_by_test_id("label-output-value").wait_for()
    finally:
        page.close()

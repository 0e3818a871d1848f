# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The page of `svitt serve` in a real browser: on a desk and a phone, by keyboard alone, by two visitors."""

import re
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from svitt import SViTTForVideoQuestionAnswering, SViTTModel, SViTTProcessor
from svitt.processing_svitt import read_video
from svitt.search import SViTTIndex

from ..streams import FILMS, write_film
from ..unit.test_serve import serving

playwright = pytest.importorskip("playwright.sync_api", reason="the test of the page needs playwright")
expect = playwright.expect
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; Debian's package has it"),
]
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
SENTENCE = "a red circle moves right and then up"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def visit(browser, monkeypatch):
    """Opens the page of a server for a visitor; what goes wrong in a script fails the test."""
    monkeypatch.setenv("PATH", "/nowhere")  # no `ffmpeg` can be found
    contexts, errors = [], []

    def open_page(server, path="/", **how):
        contexts.append(browser.new_context(**how))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.address + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture(scope="module")
def index(demo, tmp_path_factory):
    """Twelve videos of an untrained model, and a copy, whose estimates of matches would all be the same word."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "videos").mkdir()
    for path in sorted((demo / "data/videos").glob("test_*"))[:12]:
        shutil.copy2(path, folder / "videos")
    shutil.copy2(folder / "videos/test_00000.mp4", folder / "videos/copy.mp4")
    index = SViTTIndex.create(folder / "index", str(demo / "model"))
    index.add([folder / "videos"])
    return index


@pytest.fixture
def server(index, qa_model):
    with serving(index.folder, qa_model=qa_model) as server:
        yield server


@pytest.fixture
def qa_model(demo, tmp_path):
    torch.manual_seed(0)
    model = SViTTForVideoQuestionAnswering(SViTTModel.from_pretrained(demo / "model").config)
    model.save_pretrained(tmp_path / "qa")
    SViTTProcessor.from_pretrained(demo / "model").save_pretrained(tmp_path / "qa")
    (tmp_path / "qa/answer_list.json").write_text('["red", "blue", "green"]')
    return str(tmp_path / "qa")


def search(page, sentence):
    page.get_by_placeholder("Describe what the video shows").fill(sentence)
    page.get_by_role("button", name="Search", exact=True).click()


def cards(page):
    return page.locator(".card:visible")


def played(page):
    """Returns what the player says when it has played some of it."""
    page.wait_for_function("() => document.querySelector('video').readyState > 1")
    return page.evaluate("""async () => {
        const video = document.querySelector('video')
        video.muted = true
        await video.play().catch(() => {})  // a photo is over at once
        await new Promise(resolve => setTimeout(resolve, 300))
        return {src: video.getAttribute('src'), error: video.error, duration: video.duration, time: video.currentTime,
                width: video.videoWidth}
    }""")


@contextmanager
def slowly(monkeypatch):
    """Lets videos be encoded one by one, each when `release` is called."""
    steps, encode = threading.Semaphore(0), SViTTIndex._rows

    def rows(index, *args):
        assert steps.acquire(timeout=60)
        return encode(index, *args)

    monkeypatch.setattr(SViTTIndex, "_rows", rows)
    yield steps
    steps.release(1000)


def test_search_play_ask_and_go_back(index, server, visit):
    page = visit(server)
    expect(page.get_by_text("13 videos, 13 spans to search.")).to_be_visible()
    expect(page.get_by_text("words, and nothing else: a, and, blue")).to_be_visible()
    expect(cards(page)).to_have_count(13)
    page.get_by_role("button", name="a red circle moves right").click()
    expect(page.locator("#status")).to_contain_text("hit")
    assert "q=a+red+circle+moves+right" in page.url
    search(page, SENTENCE)
    hits = index.search(SENTENCE, top_k=24, locate=True)
    expect(page.locator(".card")).to_have_count(12)  # a copy has no card of its own
    if page.locator("#misfits").is_visible():
        page.locator("#misfits summary").click()
    first = cards(page).filter(has_text=Path(hits[0].video).name)
    expect(page.get_by_text("+ a copy")).to_be_visible()
    first.click()
    state = played(page)
    assert (
        state["src"].startswith("/video/") and state["error"] is None and state["duration"] == pytest.approx(3, abs=0.1)
    )
    assert state["src"].endswith(f"#t={hits[0].best_time:.2f},{hits[0].end:.2f}")
    assert state["time"] > hits[0].best_time
    page.get_by_text("Numbers").click()
    expect(page.get_by_text(f"file: {hits[0].video}")).to_be_visible()
    page.get_by_text("What the model looks at").click()
    page.wait_for_function("() => document.querySelector('#patches').naturalWidth > 500")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("Type a question first.")).to_be_visible()
    page.get_by_label("Question about this part").fill("a red dog hops first")
    page.keyboard.press("Enter")
    expect(page.locator("#answers li")).to_have_count(3)
    expect(page.get_by_text("The model does not know: dog, first.")).to_be_visible()
    expect(page.locator("#answers")).to_contain_text("It knows 19 words, and nothing else")
    page.get_by_text("Answers to choose from").click()
    page.get_by_label("Answers to choose from, with commas between").fill("zebra, red")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The model knows no word of 'zebra'")).to_be_visible()
    page.get_by_role("button", name="More like this").click()
    expect(page.locator("#status")).to_contain_text("Most alike first.")
    alike = index.search(like=hits[0])
    expect(cards(page).first).to_contain_text(Path(alike[0].video).name)
    page.reload()
    expect(cards(page).first).to_contain_text(Path(alike[0].video).name)
    page.go_back()
    expect(page.locator("#q")).to_have_value(SENTENCE)
    expect(page.locator(".card")).to_have_count(12)
    page.go_back()
    expect(page.locator("#q")).to_have_value("a red circle moves right")
    page.go_back()
    expect(page.get_by_text("13 videos, 13 spans to search.")).to_be_visible()


def test_refused_queries_leave_no_stale_hits(server, visit):
    page = visit(server, "/?q=a+red+circle")
    expect(page.locator(".card")).to_have_count(12)
    for sentence, told in (
        ("zzz", "The model knows no word of 'zzz'"),
        ("a dog", "Of 'a dog' the model knows only a: words that describe nothing"),
    ):
        search(page, sentence)
        expect(page.get_by_role("alert").filter(has_text=told)).to_be_visible()
        expect(page.locator(".card")).to_have_count(0)
    search(page, "  ")
    expect(page.locator("#status")).to_have_text("Type what the video shows.")
    expect(page.locator("#error")).to_be_hidden()
    search(page, "a red dog")
    expect(page.locator("#status")).to_contain_text("The model does not know: dog.")
    expect(page.locator("#status")).not_to_contain_text("open a hit")
    search(page, "a red circle?")
    expect(page.locator("#status")).to_contain_text("to ask a question, open a hit.")


def test_a_visitor_may_be_faster_than_the_server(server, visit, monkeypatch):
    """What is typed stays, and the first screen comes no more when a search is on."""
    go, about = threading.Event(), server.library.about
    monkeypatch.setattr(server.library, "about", lambda: go.wait(60) and about())
    page = visit(server)
    page.get_by_text("Filters and more").click()
    page.get_by_label("File or folder whose name has").fill("00001")
    page.locator("#q").fill(SENTENCE)
    go.set()
    expect(cards(page)).to_have_count(13)
    expect(page.get_by_label("File or folder whose name has")).to_have_value("00001")
    expect(page.locator("#q")).to_have_value(SENTENCE)
    go.clear()
    page.goto(server.address)
    search(page, SENTENCE)
    expect(page.locator(".card")).to_have_count(12)
    go.set()
    page.wait_for_timeout(1000)
    expect(page.locator(".card")).to_have_count(12)
    expect(page.locator("#first")).to_be_hidden()


def test_filters_and_a_photo(index, server, visit, tmp_path):
    page = visit(server)
    page.get_by_text("Filters and more").click()
    page.get_by_label("File or folder whose name has").fill("00001")
    search(page, SENTENCE)
    expect(page.locator(".card")).to_have_count(1)
    page.reload()
    expect(page.locator(".card")).to_have_count(1)
    expect(page.get_by_label("File or folder whose name has")).to_have_value("00001")
    page.get_by_label("File or folder whose name has").fill("")
    page.get_by_label("Condition in SQL").fill("nothing = 1")
    search(page, SENTENCE)
    expect(page.get_by_role("alert").filter(has_text="`where` must be a condition")).to_be_visible()
    page.get_by_label("Condition in SQL").fill("video LIKE '%test_0000%'")
    search(page, SENTENCE)
    expect(page.locator(".card")).to_have_count(10)
    page.get_by_label("Condition in SQL").fill("video = 'none'")
    search(page, SENTENCE)
    expect(page.locator("#status")).to_have_text("Nothing found.")
    frames, _ = read_video(sorted(index.videos())[3])
    Image.fromarray(frames[0]).save(tmp_path / "photo.png")
    page.get_by_label("Search by a photo or video").set_input_files(tmp_path / "photo.png")
    expect(page.locator("#status")).to_contain_text("Most like photo.png first.")
    expect(cards(page).first).to_contain_text(Path(index.search(video=tmp_path / "photo.png")[0].video).name)


def test_the_keyboard_is_enough(server, visit):
    page = visit(server)
    expect(cards(page)).to_have_count(13)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("a red circle/")
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(12)
    if page.locator("#misfits").is_visible():
        page.locator("#misfits summary").press("Enter")
    page.keyboard.press("/")
    focused = "document.activeElement.getAttribute('aria-label')"
    labels = [card.get_attribute("aria-label") for card in cards(page).all()]
    columns = page.evaluate("""() => {
        const tops = [...document.querySelectorAll('.card')].filter(one => one.offsetParent)
        return tops.filter(one => one.getBoundingClientRect().top === tops[0].getBoundingClientRect().top).length
    }""")
    for key, place in (("Down", 0), ("Right", 1), ("Down", 1 + columns), ("Left", columns), ("Up", 0)):
        page.keyboard.press(f"Arrow{key}")
        assert page.evaluate(focused) == labels[place], key
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert played(page)["error"] is None
    page.keyboard.press("Escape")
    expect(page.locator("#player")).to_be_hidden()
    assert page.evaluate(focused) == labels[0] and page.locator("video").get_attribute("src") is None
    page.keyboard.press("ArrowUp")
    expect(page.locator("#q")).to_be_focused()


def test_long_films_of_all_kinds_play_from_their_moments(demo, visit, tmp_path):
    """A timeline shows their other hits; what the browser cannot play is written anew."""
    for name, how in FILMS.items():
        write_film(tmp_path / name.replace("film", name[5:]), **how, seconds=20)
    Image.new("RGB", (80, 60), "red").save(tmp_path / "photo.png")
    for name, codec in (("own.webm", "libvpx-vp9"), ("own.mp4", "libx264")):
        write_film(tmp_path / name, codec=codec, sound=None, seconds=20)
    damaged = write_film(tmp_path / "damaged.mp4", "libx264", seconds=5)
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"), stride_seconds=10)
    assert not index.add([tmp_path]).bad
    damaged.write_bytes(b"\0" * damaged.stat().st_size)
    with serving(index.folder, is_private=False) as server:
        page = visit(server, "/?q=a+red+circle+moves+right")
        page.locator(".card").first.wait_for(state="attached")
        if page.locator("#misfits").is_visible():
            page.locator("#misfits summary").click()
        if page.locator("#hits-more").is_visible():
            page.locator("#hits-more").click()
        expect(page.locator(".card")).to_have_count(16)
        hits = index.search("a red circle moves right", top_k=24, locate=True)
        for name in ("own.webm", "own.mp4", "avi.avi", "mkv.mkv", "wmv.wmv", "mts.mts", "mov.mov", "photo.png"):
            of_video = [hit for hit in hits if Path(hit.video).name == name]
            assert len(of_video) == (1 if name == "photo.png" else 2), name
            cards(page).filter(has_text=name).first.click()
            state, hit = played(page), of_video[0]
            assert state["error"] is None and state["width"], name
            is_whole = name.startswith("own")
            assert state["src"].startswith("/video/" if is_whole else "/clip/"), name
            begin, end = (time - (0 if is_whole else hit.start) for time in (hit.best_time, hit.end))
            assert state["src"].endswith(f"#t={begin:.2f}" + f",{end:.2f}" * (end > begin)), name
            if name != "photo.png":
                other = page.get_by_role("group", name="Hits in this video").locator("[aria-current=false]")
                expect(other).to_have_count(1)
                other.click()
                expect(page.locator("#times [aria-current=true]")).to_have_count(1)
                page.wait_for_function(
                    "time => Math.abs(document.querySelector('video').currentTime - time) < 1.5",
                    arg=of_video[1].best_time - (0 if is_whole else of_video[1].start),
                )
            page.keyboard.press("Escape")
        cards(page).filter(has_text="damaged.mp4").first.click()
        expect(page.locator("#player-error")).to_have_text("This video cannot be read, or has gone.")
        page.keyboard.press("Escape")
        page.get_by_text("Filters and more").click()
        assert (
            page.locator("input[type=file]:visible").count() == page.get_by_label("Condition in SQL").count() - 1 == 0
        )
        assert str(tmp_path) not in page.content()


def test_indexing_is_seen_after_a_reload_and_by_another_visitor(demo, visit, tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    for path in sorted((demo / "data/videos").glob("test_*"))[:9]:
        shutil.copy2(path, tmp_path / "videos")
    (tmp_path / "videos/<b>broken.mp4").write_bytes(b"no video")
    (tmp_path / "videos/empty.avi").touch()
    with serving(tmp_path / "index", str(demo / "model")) as server, slowly(monkeypatch) as steps:
        page = visit(server)
        expect(page.get_by_text("No videos yet")).to_be_visible()
        page.get_by_role("button", name="Index").click()
        expect(page.get_by_text("Name a folder, or choose files first.")).to_be_visible()
        expect(page.locator("#error")).to_be_hidden()
        page.get_by_label("A folder on this machine").fill(str(tmp_path / "videos"))
        page.keyboard.press("Enter")
        steps.release(1)
        expect(page.locator("#job-told")).to_contain_text(re.compile(r"\d of 11 videos done, \d spans new; now"))
        page.reload()
        expect(page.locator("#job-told")).to_contain_text("of 11 videos done")
        expect(page.locator("#job-bar")).to_be_visible()
        other = visit(server, "/?q=a+red+circle")
        expect(other.locator("#job-told")).to_contain_text("of 11 videos done")
        expect(other.locator(".card").first).to_be_attached()  # of those that are done
        other.locator("#adding summary").click()
        other.get_by_label("A folder on this machine").fill("/tmp")
        other.keyboard.press("Enter")
        expect(other.locator("#add-error")).to_have_text("Indexing is going on already; wait for its end.")
        steps.release(1000)
        for visitor in (page, other):
            expect(visitor.locator("#job-told")).to_contain_text("Videos: 9 added")
            visitor.get_by_text("2 files cannot be read").click()
            expect(visitor.locator("#job-bad li")).to_have_count(2)
            expect(visitor.get_by_text("<b>broken.mp4: not a video file")).to_be_visible()
        expect(page.get_by_text("9 videos, 9 spans to search.")).to_be_visible()
        search(other, SENTENCE)
        expect(other.locator(".card")).to_have_count(9)


def test_files_are_uploaded_and_indexed_in_one_go(demo, visit, tmp_path):
    """Those with a bad name are named; the others are taken."""
    videos, bad = sorted((demo / "data/videos").glob("test_*"))[:2], demo / "data/test.json"
    with serving(tmp_path / "index", str(demo / "model")) as server:
        page = visit(server)
        page.get_by_label("or files to upload").set_input_files([bad])
        page.get_by_role("button", name="Index").click()
        expect(page.locator("#add-error")).to_have_text("test.json: is no video or photo by its name.")
        page.get_by_label("or files to upload").set_input_files([videos[0], bad, videos[1]])
        page.get_by_role("button", name="Index").click()
        expect(page.get_by_text("2 videos, 2 spans to search.")).to_be_visible()
        expect(page.locator("#add-error")).to_have_text("test.json: is no video or photo by its name.")
        search(page, SENTENCE)
        expect(page.locator(".card")).to_have_count(2)


def test_a_hit_pauses_at_its_end_and_then_plays_on(demo, visit, tmp_path):
    write_film(tmp_path / "film.mp4", "libx264", seconds=12)
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"), clip_seconds=3, stride_seconds=3)
    index.add([tmp_path])
    [hit] = [hit for hit in index.search(SENTENCE, locate=True) if hit.start == 3]
    has_paused = "() => document.querySelector('video').currentTime > 1 && document.querySelector('video').paused"
    with serving(index.folder) as server:
        page = visit(server, f"/?q={SENTENCE}&where=start+%3D+3")
        page.locator(".card").wait_for(state="attached")
        if page.locator("#misfits").is_visible():
            page.locator("#misfits summary").click()
        cards(page).click()
        assert hit.best_time < played(page)["time"] < hit.end
        page.wait_for_function(has_paused)
        ended = page.evaluate("document.querySelector('video').currentTime")
        assert hit.end <= ended < hit.end + 0.5
        assert played(page)["time"] > ended
        page.goto(server.address)  # there, a card is the whole video
        cards(page).click()
        played(page)
        page.wait_for_function("() => document.querySelector('video').currentTime > 4")


def test_a_phone_and_the_dark(server, visit):
    page = visit(server, "/?q=a+red+circle", color_scheme="dark", **PHONE)
    page.locator(".card").first.wait_for(state="attached")
    if page.locator("#misfits").is_visible():
        page.locator("#misfits summary").click()
    expect(cards(page)).to_have_count(12)
    boxes = [card.bounding_box() for card in cards(page).all()]
    assert len({box["x"] for box in boxes}) == 1 and all(box["height"] < 160 and box["width"] > 340 for box in boxes)
    assert page.get_by_role("button", name="Search", exact=True).bounding_box()["height"] < 50
    page.evaluate(
        "document.querySelectorAll('.card .name').forEach(name => name.textContent = 'a_long_name_'.repeat(9))"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(16, 19, 25)"
    cards(page).first.tap()
    assert played(page)["error"] is None
    box = page.locator("#player").bounding_box()
    assert box["x"] >= 0 and box["width"] <= 390
    page.get_by_role("button", name="Close").tap()
    expect(page.locator("#player")).to_be_hidden()

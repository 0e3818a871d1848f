# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""`svitt serve` over HTTP: what programs and the page ask, and what strangers may not; the page: test_page.py."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from PIL import Image

from svitt import SViTTConfig
from svitt.cli import main
from svitt.errors import InputError
from svitt.search import SViTTIndex

from ..streams import FILMS, write_film

pytest.importorskip("fastapi", reason="svitt serve needs FastAPI: pip install -e .[app]")
import uvicorn

from svitt.search import playing
from svitt.search import serve as serve_module
from svitt.search.index import Progress
from svitt.search.library import Job, Library, model_name, notes_on, word_of
from svitt.search.serve import PAGE, build_app, is_loopback

SENTENCE = "a red circle hops and then a blue square hops"
OTHER = "a green circle slides"


@pytest.fixture(scope="module")
def index(demo, tmp_path_factory):
    """Eight videos, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "videos/holiday (1)").mkdir(parents=True)
    for path in sorted((demo / "data/videos").glob("val_*")):
        shutil.copy2(path, folder / "videos")
    shutil.move(folder / "videos/val_00000.mp4", folder / "videos/holiday (1)")
    index = SViTTIndex.create(folder / "index", str(demo / "model"))
    index.add([folder / "videos"])
    return index


class Server:
    """Asks a server: the status and the JSON, or the bytes."""

    def __init__(self, port):
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path, data=None, headers=None, **parameters):
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        data = json.dumps(data).encode() if isinstance(data, dict) else data
        headers = {"Content-Type": "application/json"} | (headers or {})
        request = urllib.request.Request(f"{self.address}{path}{query}", data, headers)
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.headers, content = answer.headers, answer.read()
        return answer.status, json.loads(content) if "json" in self.headers["Content-Type"] else content

    def wait(self):
        """Returns what is told when indexing has ended."""
        for _ in range(600):
            if not (job := self.ask("/page/job")[1])["is_running"]:
                return job
            time.sleep(0.1)
        raise TimeoutError


@contextmanager
def serving(*args, **how):
    library = Library(*args, **how)
    server = uvicorn.Server(uvicorn.Config(build_app(library), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            asked = Server(listener.getsockname()[1])
            asked.library = library
            yield asked
        finally:
            server.should_exit = True
            thread.join(60)
    assert not Path(library.scratch.name).exists()


@pytest.fixture(scope="module")
def server(index):
    with serving(index.folder) as server:
        yield server


@pytest.fixture(scope="module")
def public(index):
    """As with --host 0.0.0.0."""
    with serving(index.folder, is_private=False) as server:
        yield server


# ---- For other programs


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped(index):
    command = [sys.executable, "-m", "svitt.cli", "serve", index.folder, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:") and urllib.request.urlopen(f"{address}health").status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and "Traceback" not in process.stderr.read()


def test_the_server_answers_as_the_index_does(index, server):
    status, health = server.ask("/health")
    assert status == 200 and health == {"status": "ok", "model": index.settings["model"]}
    status, hits = server.ask("/search", q=SENTENCE, top_k=3, locate=True)
    expected = index.search(SENTENCE, top_k=3, locate=True)
    assert status == 200 and [hit["video"] for hit in hits] == [hit.video for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    assert [hit["best_time"] for hit in hits] == [hit.best_time for hit in expected]
    for like in (hits[1]["video"], hits[1]["id"]):
        status, alike = server.ask("/search", like=like, start=hits[1]["start"], top_k=1)
        assert status == 200 and alike[0]["video"] == index.search(like=expected[1], top_k=1)[0].video
    assert server.ask("/search", q=SENTENCE, min_similarity=2) == (200, [])
    name = hits[2]["video"]
    assert [hit["video"] for hit in server.ask("/search", q=SENTENCE, where=f"video = '{name}'")[1]] == [name]


def test_several_queries_at_once_are_answered_right(server):
    sentences = [SENTENCE, OTHER, "a red circle", "zzz"]
    expected = {one: server.ask("/search", q=one, top_k=2) for one in sentences}
    assert expected["zzz"][0] == 400
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: Server(server.address[-5:]).ask("/search", q=one, top_k=2), sentences * 8))
    assert answers == [expected[one] for one in sentences * 8]


def test_bad_parameters_are_a_sentence(server):
    for parameters, code, words in (
        ({}, 400, "give one of them"),
        ({"q": "a", "like": "b"}, 400, "give one of them"),
        ({"q": "zzz"}, 400, "The model knows no word of 'zzz'"),
        ({"q": "a dog"}, 400, "the model knows only a: words that describe nothing"),
        ({"q": SENTENCE, "top_k": 0}, 400, "`top_k` must be at least 1, got 0"),
        ({"q": SENTENCE, "top_k": "x"}, 422, "top_k: input should be a valid integer"),
        ({"q": SENTENCE, "min_similarity": "nan"}, 400, "`min_similarity` must be"),
        ({"q": SENTENCE, "where": "nothing = 1"}, 400, "`where` must be"),
        ({"like": "a.mp4", "start": "nan"}, 400, "`start` must be at least 0, got nan"),
        ({"like": "/etc/passwd"}, 400, "has no span of /etc/passwd"),
    ):
        status, told = server.ask("/search", **parameters)
        assert status == code and words in told["detail"], told


def test_a_taken_port_is_a_sentence(index, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as end:
        main(["serve", str(index.folder), "--port", str(taken.getsockname()[1])])
    assert end.value.code == 2 and "cannot be listened on (Address already in use)" in capsys.readouterr().err


def test_without_fastapi_serving_is_a_sentence(index, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "svitt.search.serve", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["serve", str(index.folder)])
    assert end.value.code == 2 and "needs fastapi; in the clone, `pip install -e '.[app]'`" in capsys.readouterr().err


# ---- What the page asks


def test_the_page_is_one_file_that_loads_nothing_from_elsewhere(server):
    status, page = server.ask("/")
    assert (
        status == 200
        and page == PAGE.read_bytes()
        and "default-src 'self'" in server.headers["content-security-policy"]
    )
    page = page.decode()
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3\.org)", page
    )
    assert server.ask("/docs")[0] == server.ask("/redoc")[0] == 404  # FastAPI's load scripts from elsewhere
    assert "/search" in server.ask("/openapi.json")[1]["paths"]


def test_what_is_indexed_is_told(index, server):
    about = server.ask("/page/about")[1]
    assert (about["num_videos"], about["num_spans"], about["model"]) == (8, 8, "model")
    told = " ".join(about["notes"])
    assert "Nothing" not in told and "words, and nothing else: a, and, blue" in told and "4 frames of a span" in told
    assert about["examples"][0] == "a red circle moves right"
    videos = server.ask("/page/videos", offset=3)[1]
    assert [one["video"] for one in videos] == sorted(index.videos())[3:] and videos[0]["duration"] == 3
    assert server.ask("/page/videos", offset=99) == (200, [])
    picture = server.ask(f"/poster/{videos[0]['id']}", time=99)[1]
    assert Image.open(io.BytesIO(picture)).size == (64, 64)
    assert server.ask(f"/poster/{videos[0]['id']}", time="nan")[0] == 400
    sheet = server.ask(f"/patches/{videos[0]['id']}", q="a red circle")[1]
    assert Image.open(io.BytesIO(sheet)).width > 500


def test_what_a_model_was_trained_on_is_told_as_far_as_it_is_known(index, tmp_path):
    model, tokenizer = index.model, index.processor.tokenizer
    assert "trained on" not in " ".join(notes_on(str(tmp_path), model, tokenizer))
    (tmp_path / "README.md").write_text("---\nlanguage: en\n---\n## Training\n\n- Data: msrvtt, train.json\n")
    assert notes_on(str(tmp_path), model, tokenizer)[0] == "It was trained on msrvtt, train.json."
    (tmp_path / "README.md").write_text("---\ndatasets: [coco, vqa]\n---\nA model.\n")
    assert notes_on(str(tmp_path), model, tokenizer)[0] == "It was trained on coco, vqa."
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    assert notes_on(str(tmp_path), model, tokenizer)[0].startswith("It knows 19 words")
    default = tmp_path / "svitt/blip-itm-base-coco/8_frames_layout_1"
    blip = SimpleNamespace(config=SViTTConfig(vision_config={"frame_wise": True, "num_frames": 8}))
    many = SimpleNamespace(get_vocab=lambda: dict.fromkeys(map(str, range(300))), all_special_tokens=[])
    assert model_name(str(default)) == "Salesforce/blip-itm-base-coco" and model_name(str(tmp_path)) == tmp_path.name
    assert notes_on(str(default), blip, many) == [
        "It was trained on pictures and their captions.",
        "It sees frames one by one: it knows neither motion nor what comes first.",
        "It sees 8 frames of a span, and hears nothing.",
    ]
    assert notes_on("nobody/nothing", blip, many)[0].startswith("Nothing tells what it was trained on")


def test_words_for_matches():
    assert [word_of(score) for score in (None, -1.5, -1.4, -0.4, -0.3, 9)] == [
        None,
        "none",
        "weak",
        "weak",
        "good",
        "good",
    ]
    assert word_of(9, is_half_read=True) == "weak" and word_of(-9, is_half_read=True) == "none"


def test_words_that_are_not_known_are_told_and_no_hit_is_good(server):
    found = server.ask("/page/search", q="a red dog and a circle", top_k=8)[1]
    assert found["unknown"] == ["dog"] and "good" not in {hit["word"] for hit in found["hits"]}
    assert server.ask("/page/search", q="a red circle")[1]["unknown"] == []


@pytest.mark.parametrize(
    "name, expected", [("HOLIDAY (1)", 1), ("val_0000", 8), ("val_00003", 1), ("l.v", 0), ("o'x", 0)]
)
def test_names_filter(server, name, expected):
    assert len(server.ask("/search", q=SENTENCE, name=name)[1]) == expected
    both = server.ask("/search", q=SENTENCE, name=name, where="start < 0 OR start >= 0")[1]
    assert len(both) == expected


def test_files_that_browsers_play_come_in_parts(index, server):
    [hit] = server.ask("/search", q=SENTENCE, name="val_00003")[1]
    plays = server.ask(f"/page/play/{hit['id']}")[1]
    assert plays == {"src": f"/video/{hit['id']}?start=0.0", "begins": 0}
    content = Path(hit["video"]).read_bytes()
    assert server.ask(plays["src"]) == (200, content)
    assert server.headers["Content-Type"] == "video/mp4" and server.headers["Accept-Ranges"] == "bytes"
    assert server.ask(plays["src"], headers={"Range": "bytes=10-19"}) == (206, content[10:20])
    assert server.headers["Content-Range"] == f"bytes 10-19/{len(content)}"
    assert server.ask(plays["src"], headers={"Range": f"bytes={len(content) + 5}-"})[0] == 416


def test_other_files_are_written_anew(demo, tmp_path, write_video):
    (tmp_path / "videos").mkdir()
    names = ["film.avi", "film.mkv", "film.mov"]
    for name in names:
        write_film(tmp_path / "videos" / name, **FILMS[name], seconds=2)
    write_video(tmp_path / "videos/ten.mp4", "libx264", "yuv420p10le", {}, {})
    write_video(tmp_path / "videos/vp9.webm", "libvpx-vp9", "yuv420p", {}, {"cpu-used": "8"})
    with tarfile.open(tmp_path / "videos/shard.tar", "w") as tar:
        tar.add(demo / "data/videos/test_00000.mp4", "packed.mp4")
    Image.new("RGB", (80, 60), "red").save(tmp_path / "videos/photo.png")
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"))
    assert not index.add([tmp_path / "videos"]).bad
    with serving(index.folder) as server:
        for one in server.ask("/page/videos")[1]:
            plays = server.ask(f"/page/play/{one['id']}", start=one["start"])[1]
            assert plays["src"].startswith("/video/" if one["name"] == "vp9.webm" else "/clip/"), one
            if plays["src"].startswith("/clip/"):
                assert server.ask(f"/video/{one['id']}")[0] == 404
                with av.open(io.BytesIO(server.ask(plays["src"])[1])) as clip:
                    assert clip.streams.video[0].codec_context.name == "h264"
            assert server.ask(f"/poster/{one['id']}")[0] == server.ask(f"/patches/{one['id']}")[0] == 200
        assert len([*Path(server.library.scratch.name).glob("clips/*/*.mp4")]) == 6


def test_clips_are_kept_within_bounds(server, monkeypatch):
    videos = server.ask("/page/videos")[1]
    hits = [server.library.hit_of(one["id"], 0.0) for one in videos]
    monkeypatch.setattr(playing, "MAX_BYTES", 1)
    monkeypatch.setattr(playing, "MIN_CLIPS", 2)
    paths = [server.library.clip(hit) for hit in hits[:4]]
    assert [path.exists() for path in paths] == [False, False, True, True]


# ---- What strangers may not


def test_no_file_is_served_that_the_index_does_not_hold(demo, tmp_path, server):
    for path in ("/etc/passwd", "/video/../../etc/passwd", "/video/%2Fetc%2Fpasswd", "/clip/0123456789abcdef01"):
        assert server.ask(path)[0] == 404, path
    for name in ("kept", "gone"):
        shutil.copy2(demo / "data/videos/test_00000.mp4", tmp_path / f"{name}.mp4")
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"))
    index.add([tmp_path / "kept.mp4", tmp_path / "gone.mp4"])
    with serving(index.folder) as asked:
        [gone, _] = asked.ask("/page/videos")[1]
        assert asked.ask(f"/video/{gone['id']}")[0] == 200
        assert asked.ask(f"/video/{gone['id']}", start=1)[0] == 404
        index.remove([gone["video"]])
        for path in ("video", "clip", "poster", "patches", "page/play"):
            status, told = asked.ask(f"/{path}/{gone['id']}")
            assert status == 404 and "not in the index any more" in told["detail"]


def test_other_sites_are_refused_on_this_machine(server):
    port = server.address.rpartition(":")[2]
    strangers = "evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "192.168.1.5", "[::1", "localhost@a.b"
    for host in strangers:
        assert server.ask("/page/about", headers={"Host": host})[0] == 403, host
        assert server.ask("/search", q=SENTENCE, headers={"Host": host})[0] == 403
    for host in ("localhost", f"localhost:{port}", f"[::1]:{port}"):
        assert server.ask("/page/about", headers={"Host": host})[0] == 200, host
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        for path, data in (
            ("/page/index", {"folder": "/tmp"}),
            ("/page/upload?name=a.mp4", b"x"),
            ("/page/like?name=a.png", b"x"),
        ):
            status, told = server.ask(path, data, {"Origin": origin, "Content-Type": "text/plain"})
            assert status == 403 and "may change nothing" in told["detail"]
    assert server.ask("/page/index", {"folder": "/nowhere"}, {"Origin": server.address})[0] == 200
    assert "/nowhere: there is no such file or folder" in server.wait()["error"]
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "LOCALHOST", "0.0.0.0", "::", "a.b")] == [True] * 3 + [
        False
    ] * 3


def test_open_to_others_no_path_is_told_and_nothing_taken(index, public, demo):
    folder, model = str(index.folder.parent), str(demo)
    hits = public.ask("/page/search", q=SENTENCE, locate=True)[1]["hits"]
    assert all(hit["video"] == hit["name"] and "/" not in hit["video"] for hit in hits)
    answers = [public.ask(path)[1] for path in ("/page/about", "/page/videos", "/health", "/page/search?q=zzz")]
    answers += [public.ask("/search", like=index.folder), public.ask("/search", like=hits[0]["id"], start=7), hits]
    assert folder not in json.dumps(answers) and model not in json.dumps(answers)
    assert public.ask("/search", q=SENTENCE, where="video LIKE '/%'")[0] == 400
    assert len(public.ask("/search", q=SENTENCE, name="holiday")[1]) == 0  # of a folder
    assert len(public.ask("/search", q=SENTENCE, name="val_00000")[1]) == 1
    name = sorted(index.videos())[-1]
    assert public.ask("/search", like=name)[0] == 404 and public.ask("/search", like=hits[0]["id"])[0] == 200
    photo = ("/page/like?name=a.png", b"x")
    for path, data in (
        ("/page/index", {"folder": folder}),
        ("/page/upload?name=a.mp4", b"x"),
        photo,
        ("/page/job", None),
    ):
        status, told = public.ask(path, data)
        assert status == 403 and "takes no files" in told["detail"]
    assert public.ask("/page/about", headers={"Host": "my-server.example"})[0] == 200
    for number in ("top_k", "shortlist"):
        assert f"`{number}` must be from 1 to 200" in public.ask("/search", q=SENTENCE, **{number: 201})[1]["detail"]
    assert public.ask(f"/video/{hits[0]['id']}")[0] == 200
    status, told = public.ask(f"/page/ask/{hits[0]['id']}", {"question": "what " * 1000, "options": []})
    assert status == 422 and "question: string should have at most 1000 characters" in told["detail"]


# ---- Adding videos


def test_an_index_is_made_from_the_page(demo, tmp_path):
    (tmp_path / "videos").mkdir()
    shutil.copy2(demo / "data/videos/test_00000.mp4", tmp_path / "videos")
    (tmp_path / "videos/broken.mp4").write_bytes(b"no video")
    with serving(tmp_path / "index", str(demo / "model")) as server:
        about = server.ask("/page/about")[1]
        assert about["num_videos"] == 0 and about["model"] is None and server.ask("/page/videos")[1] == []
        assert server.ask("/search", q=SENTENCE) == (400, {"detail": "There are no videos yet."})
        assert server.ask("/page/job") == (200, {"is_running": False})
        assert server.ask("/page/index", {"folder": str(tmp_path / "videos")})[1]["is_running"]
        told = server.wait()
        assert told["told"].startswith("Videos: 1 added") and "error" not in told
        assert len(told["bad"]) == 1 and "broken.mp4: not a video file" in told["bad"][0]
        assert len(server.ask("/search", q=SENTENCE)[1]) == 1
    with serving(tmp_path / "index") as server:
        assert server.ask("/page/about")[1]["num_videos"] == 1
    with pytest.raises(InputError, match="videos: holds other things, such as broken.mp4"):
        Library(tmp_path / "videos")
    (tmp_path / "empty").mkdir()
    assert Library(tmp_path / "empty").index is None


def test_uploads_are_kept_beside_the_index(demo, tmp_path, monkeypatch):
    content = (demo / "data/videos/test_00001.mp4").read_bytes()
    with serving(tmp_path / "index", str(demo / "model")) as server:
        for name in ("../../a clip.mp4", "..\\b.MP4", "<img src=x>.mp4"):
            assert server.ask("/page/upload", content, name=name)[0] == 200
        assert server.ask("/page/upload", content, name="../../a clip.mp4") == (200, {"name": "a clip.mp4"})
        for name in ("a.txt", "", ".mp4", "a/b"):
            status, told = server.ask("/page/upload", content, name=name)
            assert status == 400 and "is no video or photo by its name" in told["detail"]
        monkeypatch.setattr(serve_module, "MAX_UPLOAD_BYTES", 100)
        assert "is larger than" in server.ask("/page/upload", content, name="large.mp4")[1]["detail"]
        uploads = tmp_path / "index_uploads"
        assert sorted(path.name for path in uploads.glob("*/*")) == ["_img src_x_.mp4", "a clip.mp4", "b.MP4"]
        assert not [*Path(server.library.scratch.name).iterdir()]
        server.ask("/page/index", {"folder": ""})
        assert server.wait()["told"].startswith("Videos: 3 added")
        [hit] = server.ask("/search", q=SENTENCE)[1]
        assert len(hit["copies"]) == 2


def test_photos_are_searched_by(index, server, tmp_path):
    name = sorted(index.videos())[2]
    found = server.ask("/page/like", Path(name).read_bytes(), name="mine.mp4", top_k=3)[1]
    assert found["hits"][0]["video"] == name and found["hits"][0]["word"] is None and found["unknown"] == []
    status, told = server.ask("/page/like", b"none", name="photo.jpg")
    assert status == 400 and "photo.jpg: not a video file" in told["detail"]
    assert server.ask("/page/like", b"none", name="photo.txt")[0] == 400


def test_one_job_at_a_time_which_can_be_stopped():
    job, go = Job(), threading.Event()
    job.start("videos", lambda tell: go.wait(60) and {"told": "done"})
    with pytest.raises(InputError, match="going on already"):
        job.start("others", lambda tell: {})
    assert job.state == {"is_running": True, "what": "videos", "bad": []}
    go.set()
    job.thread.join(60)
    assert job.state["told"] == "done" and not job.state["is_running"]

    def work(tell):
        while True:
            tell(Progress(1, 2, 3, "/a/b.mp4", {"/a/c.mp4": "is bad"}))

    job.start("videos", work)
    while job.state.get("num_done") != 1:
        time.sleep(0.01)
    assert job.state["video"] == "b.mp4" and job.state["bad"] == ["/a/c.mp4: is bad"]
    job.stop()
    assert not job.thread.is_alive() and "has been stopped" in job.state["error"]
    job.is_stopping = False
    job.start("videos", lambda tell: 1 / 0)
    job.thread.join(60)
    assert "ZeroDivisionError" in job.state["error"]


def test_search_goes_on_while_videos_are_added(demo, tmp_path, monkeypatch):
    """And the counts grow: what is done can be found."""
    videos = sorted((demo / "data/videos").glob("train_*"))
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"))
    index.add(videos[:1])
    waits, steps = threading.Semaphore(0), []
    tell = Job.tell
    monkeypatch.setattr(
        Job, "tell", lambda job, progress: (tell(job, progress), steps.append(progress), waits.acquire(timeout=60))
    )
    with serving(index.folder) as server:
        server.ask("/page/index", {"folder": str(demo / "data/videos")})
        counts = []
        for _ in range(3):
            waits.release()
            with suppress(TimeoutError):
                while len(steps) <= len(counts) + 1:
                    time.sleep(0.01)
            counts.append(server.ask("/page/about")[1]["num_videos"])
            assert server.ask("/search", q=SENTENCE, top_k=1)[0] == 200
        assert counts[0] < counts[1] < counts[2] and server.ask("/page/job")[1]["num_done"] >= 4
        waits.release(100)
        assert "37 added" in server.wait()["told"] and server.ask("/page/about")[1]["num_videos"] == 38


def test_an_index_that_another_command_makes_is_found(demo, tmp_path):
    with serving(tmp_path / "index", str(demo / "model")) as server:
        assert server.ask("/page/about")[1]["num_videos"] == 0
        index = SViTTIndex.create(tmp_path / "index", str(demo / "model"))
        assert server.ask("/health")[1]["model"] is None
        index.add([demo / "data/videos/test_00000.mp4"])
        assert server.ask("/page/about")[1]["num_videos"] == 1
        shutil.rmtree(tmp_path / "index")
        for path in ("/page/about", "/page/videos", f"/search?q={OTHER.replace(' ', '+')}"):
            status, told = server.ask(path)
            assert status == 400 and "index: its table spans.lance cannot be read" in told["detail"]
        assert server.ask("/health")[0] == 200


def test_pictures_of_a_file_that_is_replaced_are_new(demo, tmp_path, write_video):
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"))
    with serving(index.folder) as server:
        found = []
        for size in ((64, 48), (128, 96)):
            index.add([write_video(tmp_path / "clip.avi", "mpeg4", "yuv420p", {}, {}, size=size)])
            [one] = server.ask("/page/videos")[1]
            clip, poster = (server.ask(f"/{path}/{one['id']}")[1] for path in ("clip", "poster"))
            with av.open(io.BytesIO(clip)) as video:
                assert (video.streams.video[0].width, Image.open(io.BytesIO(poster)).width) == (size[0], size[0])
            found.append(one["id"])
        assert found[0] != found[1] and server.ask(f"/clip/{found[0]}") == (200, clip)


def test_names_that_are_no_text_are_told(demo, tmp_path):
    (tmp_path / os.fsdecode(b"bad\xff.mp4")).write_bytes(b"no video")
    shutil.copy2(demo / "data/videos/test_00000.mp4", tmp_path)
    with serving(tmp_path / "index", str(demo / "model")) as server:
        server.ask("/page/index", {"folder": str(tmp_path)})
        told = server.wait()
        assert told["told"].startswith("Videos: 1 added") and "bad\udcff.mp4: cannot be opened" in told["bad"][0]
        server.ask("/page/index", {"folder": "~nobody_of_this_name/videos"})
        assert "~nobody_of_this_name/videos: there is no such file" in server.wait()["error"]


def test_health_is_told_however_many_queries_wait(server):
    with server.library.lock, ThreadPoolExecutor(50) as pool:
        waiting = [pool.submit(Server.ask, server, "/search", q=SENTENCE) for _ in range(50)]
        time.sleep(1)
        try:
            for path in ("/health", "/page/job"):
                with urllib.request.urlopen(f"{server.address}{path}", timeout=10) as answer:
                    assert answer.status == 200
            assert not any(one.done() for one in waiting)
        finally:
            server.library.lock.release()
            waiting = [one.result() for one in waiting]
            server.library.lock.acquire()


def test_a_visitor_who_leaves_in_mid_upload_leaves_nothing(server, capfd):
    address = "127.0.0.1", int(server.address.rpartition(":")[2])
    with socket.create_connection(address) as visitor:
        head = f"POST /page/upload?name=a.mp4 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**20}\r\n\r\n"
        visitor.sendall(head.encode() + b"x" * 1000)
        time.sleep(0.5)
    time.sleep(0.5)
    assert server.ask("/health")[0] == 200 and "Traceback" not in capfd.readouterr().err
    assert not [*Path(server.library.scratch.name).glob("tmp*")]

# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What else is a video: a span of one, a folder or a list of images, a URL."""

import http.server
import math
import sys
import threading

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svitt import processing_svitt
from svitt.processing_svitt import SViTTVideoProcessor, VideoDecodeError, read_video, sample_frame_indices

from ..streams import STREAMS, X264

AS_IS = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_sample_frames": False}


def frames_of(video, **settings):
    """What the processor makes of a video, untouched, (T, H, W, 3)."""
    [clip] = SViTTVideoProcessor(**AS_IS | settings)(video)["pixel_values"]
    return clip.permute(0, 2, 3, 1).numpy()


# ---- Spans


@pytest.fixture(scope="module")
def streams(tmp_path_factory, write_video):
    """Frames of varying length, and those of [`STREAMS`] that may differ: B-frames, open groups, no packet a frame."""
    folder = tmp_path_factory.mktemp("streams")
    times = np.cumsum(np.random.default_rng(0).integers(20, 400, 40)).tolist()
    paths = [
        write_video(folder / name, "libx264", options=X264, num_frames=40, times=times)
        for name in ("varying.mp4", "varying.mkv")
    ]
    names = ("b_frames.mp4", "open_gop.ts", "mpeg2.ts", "mpeg4.avi", "intra_refresh.mp4")
    return paths + [write_video(folder / name, *STREAMS[name], num_frames=40) for name in names if name in STREAMS]


def all_frames(path):
    """The frames, when each is shown, in seconds after the first, and the end of the last, all by decoding."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        times = np.array([float(frame.pts * container.streams.video[0].time_base) for frame in frames])
    times -= times[0]
    last = times[-1] / (len(times) - 1)  # as long as the others, on average
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), times, times[-1] + last


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 6), start=st.floats(0, 0.95), length=st.floats(0.001, 0.5), in_memory=st.booleans())
def test_a_span_has_the_frames_shown_during_it(streams, which, start, length, in_memory):
    path = streams[which % len(streams)]
    frames, times, duration = all_frames(path)
    start, end = start * duration, (start + length) * duration
    ends = np.append(times[1:], duration)
    wanted = np.flatnonzero((times < end - 1e-6) & (ends > start + 1e-6))
    if end - duration > duration - start:
        with pytest.raises(VideoDecodeError, match="lies for the most part after the end of the video"):
            read_video({"path": path, "start": start, "end": end})
        return
    with pytest.MonkeyPatch.context() as patch:
        if not in_memory:
            patch.setattr(processing_svitt, "MAX_HELD_BYTES_OF_INDEXED", 0)
        picks = []

        def pick(metadata):
            picks[:] = sample_frame_indices(3, metadata.total_num_frames)
            return picks

        some, metadata = read_video({"path": path, "start": start, "end": end}, pick)
    assert metadata.total_num_frames == len(wanted) and metadata.frames_indices == picks
    np.testing.assert_array_equal(some, frames[wanted[picks]])
    np.testing.assert_allclose(metadata.frame_times, times[wanted], atol=1e-6)
    assert metadata.duration == pytest.approx(min(end, duration) - start, rel=0.03)
    assert (metadata.height, metadata.width) == (48, 64)


def test_spans_join_to_the_whole_and_one_may_be_shorter_than_a_frame(streams):
    frames, times, duration = all_frames(streams[0])
    cuts = [0, *times[[7, 8, 20]], duration]
    parts = [read_video({"path": streams[0], "start": a, "end": b})[0] for a, b in zip(cuts, cuts[1:], strict=False)]
    np.testing.assert_array_equal(np.concatenate(parts), frames)
    assert times[8] + 0.015 < times[9]
    for start, length in ((times[8], 1e-9), (times[8] + 0.01, 1e-7), (times[8] + 0.01, 0.004)):
        one, metadata = read_video({"path": streams[0], "start": start, "end": start + length})
        np.testing.assert_array_equal(one, frames[[8]])
        assert metadata.frame_times == pytest.approx(times[[8]])


def test_only_the_packets_near_a_span_are_decoded(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "long.mp4", "libx264", options=X264, num_frames=300)
    monkeypatch.setattr(processing_svitt, "_decode_everything", None)
    assert len(read_video({"path": path, "start": 8, "end": 8.4})[0]) == 10


def test_spans_are_a_batch_and_what_is_not_said_is_the_beginning_or_the_end(videos):
    path, reference = videos["end.mp4"], read_video(videos["end.mp4"])[0]
    for span, first, last in (
        ({"start": 0.2}, 5, 24),
        ({"end": 0.4}, 0, 10),
        ({"start": np.float32(0.2), "end": 0.4}, 5, 10),
        ({"start": None, "end": None}, 0, 24),
        ({"start": 0.0}, 0, 24),
        ({"start": 0.5, "end": 1.3}, 12, 24),  # published spans end a little late
        ({"start": "0.2", "end": "0.4"}, 5, 10),
    ):
        for video in {"path": str(path)}, {"path": "x", "bytes": path.read_bytes()}:
            np.testing.assert_array_equal(frames_of(video | span), reference[first:last])
    processor = SViTTVideoProcessor(size=16)
    batch = [{"path": path, "start": 0.2, "end": 0.6}, path, {"path": path, "start": 0.6}]
    found = processor(batch, return_tensors="pt", return_metadata=True)
    assert [one.total_num_frames for one in found["video_metadata"]] == [10, 24, 9]
    assert torch.equal(found["pixel_values"][0], processor(reference[5:15], return_tensors="pt")["pixel_values"][0])
    assert torch.equal(processor.read_clip(batch[0]), processor.read_clip(reference[5:15]))


@pytest.mark.parametrize(
    "start, end, message",
    [
        (70, 80, "its span from 70 to 80 s begins after the end of the video, at 0.96 s; annotations in milliseconds "),
        (0.96, None, "its span from 0.96 s on begins after the end of the video, at 0.96 s"),
        (0, 2000, "its span from 0 to 2000 s lies for the most part after the end of the video, at 0.96 s; "),
        (3, 3, "its span from 3 to 3 s is none: it must begin at 0 or later, and end after that"),
        (3, 2.5, "its span from 3 to 2.5 s is none"),
        (-1, 2, "its span from -1 to 2 s is none"),
        (None, 0, "its span from 0 to 0 s is none"),
        (math.nan, 2, "its span from nan to 2 s is none"),
        (0, math.nan, "its span from 0 to nan s is none"),
        (math.inf, None, "its span from inf s on is none"),
        ("00:01", 2, "`start` and `end` must be seconds, got '00:01' and 2"),
        ([1], 2, "`start` and `end` must be seconds"),
        (10**400, None, "`start` and `end` must be seconds"),
    ],
)
def test_a_span_that_is_not_there_is_one_sentence(videos, start, end, message):
    with pytest.raises(VideoDecodeError) as error:
        SViTTVideoProcessor()({"path": videos["end.mp4"], "start": start, "end": end})
    assert str(error.value).startswith(f"{videos['end.mp4']}: {message}") and str(error.value).endswith(".")


def test_indices_of_a_span_are_checked_within_it(videos):
    for picked in ([-1], [10]):
        with pytest.raises(ValueError, match=r"`pick` must return indices from 0 to 9, got"):
            read_video({"path": videos["end.mp4"], "start": 0.2, "end": 0.6}, lambda metadata, picked=picked: picked)


# ---- Folders and lists of images

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 30, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Twelve frames from number 1 on, without zeros in front."""
    (tmp_path / "clip").mkdir()
    for number, pixels in enumerate(PIXELS, 1):
        Image.fromarray(pixels).save(tmp_path / f"clip/img_{number}.png")
    return tmp_path / "clip"


def test_a_folder_of_numbered_images_is_a_video(folder, monkeypatch):
    for name in (".img_0.png", "Thumbs.db", "info.json", "img_13.txt"):
        (folder / name).write_bytes(b"no picture")
    (folder / "img_2.png").rename(folder / "img_0002.PNG")
    frames, metadata = read_video(folder)
    np.testing.assert_array_equal(frames, PIXELS)
    assert (metadata.total_num_frames, metadata.fps, metadata.frame_times) == (12, None, None)
    assert (metadata.height, metadata.width) == (20, 30)
    opened, open_image = [], processing_svitt._open_image
    monkeypatch.setattr(processing_svitt, "_open_image", lambda path: opened.append(path) or open_image(path))
    frames, _ = read_video(str(folder), lambda metadata: [9, 1, 1], short_side=10)
    assert len(opened) == 3 and frames.shape == (3, 10, 15, 3)
    averages = PIXELS[[9, 1, 1]].reshape(3, 10, 2, 15, 2, 3).mean((2, 4))
    assert np.abs(averages - frames).max() <= 1
    means, metadata = read_video(folder, shrink=lambda frame: frame.mean(axis=(0, 1)))
    assert means.shape == (12, 3) and metadata.height is None


def test_seconds_of_a_folder_are_known_from_its_frame_rate(folder):
    with pytest.raises(VideoDecodeError, match="without a frame rate; a folder of images has one if `fps` is given"):
        read_video({"path": folder, "start": 1, "end": 2})
    video = {"path": folder, "fps": 4, "start": 1, "end": 2}
    frames, metadata = read_video(video)
    np.testing.assert_array_equal(frames, PIXELS[4:8])
    assert metadata.frame_times.tolist() == [1, 1.25, 1.5, 1.75]
    np.testing.assert_array_equal(frames_of({"path": folder, "start": 0, "end": None}), PIXELS)
    told = {"video_metadata": [{"total_num_frames": 12, "fps": 4}], "sampling": "fps2", "do_sample_frames": True}
    np.testing.assert_array_equal(frames_of(folder, **told), PIXELS[1::2])
    for fps in (0, -1, "fast", math.nan):
        with pytest.raises(VideoDecodeError, match="clip: `fps` must be a positive number, got"):
            read_video(video | {"fps": fps})


def test_what_a_folder_may_not_be(folder, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    with pytest.raises(VideoDecodeError, match="whose names differ in numbers; this one holds no images"):
        read_video(tmp_path / "videos")
    Image.fromarray(PIXELS[0, :9]).save(folder / "img_11.png")
    frames, _ = read_video(folder)
    assert frames.shape[1:] == (20, 30, 3)  # as the first
    (folder / "img_3.png").write_bytes((folder / "img_3.png").read_bytes()[:400])
    with pytest.raises(VideoDecodeError, match=r"clip: .*img_3.png: cannot be read as an image \(.*truncated.*\)\.$"):
        read_video(folder)
    (folder / "flow_1.png").write_bytes((folder / "img_1.png").read_bytes())
    with pytest.raises(VideoDecodeError, match="clip: .*; this one holds images as flow_1 and img_1"):
        read_video(folder)


def test_images_are_turned_upright_and_not_darkened(tmp_path):
    exif = Image.Exif()
    for orientation in (1, 3, 6, 8):
        exif[0x0112] = orientation  # as a video of one frame, and as one of a folder
        path = tmp_path / f"{orientation}/1.png"
        path.parent.mkdir()
        Image.fromarray(PIXELS[0]).save(path, exif=exif)
        np.testing.assert_array_equal(read_video(path)[0], read_video(path.parent)[0])
    (tmp_path / "deep").mkdir()
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(tmp_path / "deep/1.png")
    with pytest.raises(VideoDecodeError, match="deep: holds an image of more than 8 bits"):
        read_video(tmp_path / "deep")


def test_a_list_of_paths_to_images_is_a_clip_as_a_list_of_images(folder, videos):
    paths = [folder / f"img_{number}.png" for number in (1, 2, 3, 10)]
    images = [Image.open(path) for path in paths]
    expected = PIXELS[[0, 1, 2, 9]]
    for clip in (paths, list(map(str, paths)), tuple(paths), images, [images[0], *paths[1:]], [paths]):
        np.testing.assert_array_equal(frames_of(clip), expected)
    processor = SViTTVideoProcessor(size=16)
    batch = processor([paths, images, folder, videos["end.mp4"]], return_tensors="pt")["pixel_values"]
    assert batch.shape == (4, 4, 3, 16, 16) and torch.equal(batch[0], batch[1])
    assert len(processor([paths[0], videos["end.mp4"]])["pixel_values"]) == 2  # a photo and a video
    assert len(processor([[paths[0]], [paths[1]]])["pixel_values"]) == 2
    with pytest.raises(VideoDecodeError, match=r"`videos\[0\]`: .*img_99.png: cannot be opened \(No such file"):
        processor([paths[0], folder / "img_99.png"])


# ---- URLs


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/old/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/old"))
            self.end_headers()
        elif self.path.startswith("/secret"):
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def web(videos):
    """The address of a server of [`videos`]."""

    def handler(*args):
        return Handler(*args, directory=videos["end.mp4"].parent)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url_is_downloaded(web, videos, tmp_path, folder):
    reference = read_video(videos["end.mp4"])[0]
    for url in ("/end.mp4", "/end.mp4?token=a%20b&x=.jpg", "/old/end.mp4"):
        np.testing.assert_array_equal(read_video(web + url)[0], reference)
    np.testing.assert_array_equal(frames_of({"path": f"{web}/end.mp4", "start": 0.2, "end": 0.4}), reference[5:10])
    (tmp_path / "a b%.mp4").write_bytes(videos["end.mp4"].read_bytes())
    np.testing.assert_array_equal(read_video((tmp_path / "a b%.mp4").as_uri())[0], reference)
    np.testing.assert_array_equal(read_video(folder.as_uri())[0], PIXELS)
    np.testing.assert_array_equal(frames_of([(folder / "img_3.png").as_uri()]), PIXELS[[2]])
    stored = {"path": "http://127.0.0.1:1/none.mp4", "bytes": videos["end.mp4"].read_bytes()}
    np.testing.assert_array_equal(read_video(stored)[0], reference)


def test_a_url_that_gives_no_video_is_one_sentence(web, monkeypatch):
    for url, words in {
        f"{web}/none.mp4": "cannot be downloaded (it is not there)",
        f"{web}/secret.mp4": "cannot be downloaded (403",
        f"{web}/": "not a video file",
        "http://127.0.0.1:1/a.mp4": "cannot be downloaded (Cannot connect to host 127.0.0.1:1",
        "http://no.such.host.invalid/a.mp4": "cannot be downloaded (Cannot connect to host no.such.host.invalid",
        "nothing://a.mp4": "cannot be downloaded (Protocol not known: nothing",
        "file:///none/a%20b.mp4": "cannot be opened (No such file or directory)",
    }.items():
        with pytest.raises(VideoDecodeError) as error:
            SViTTVideoProcessor()(url)
        message = str(error.value)
        assert message.startswith(f"{url}: {words}") and message.endswith(".") and "\n" not in message
    with pytest.raises(
        VideoDecodeError, match=r"`videos\[0\]`: .*/none.jpg: cannot be downloaded \(it is not there\)\.$"
    ):
        SViTTVideoProcessor()([f"{web}/none.jpg"])
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        VideoDecodeError, match=r"s3://a/b.mp4: needs one more package \(Install s3fs to access S3\)\.$"
    ):
        read_video("s3://a/b.mp4")


def test_a_video_in_an_object_store(server, bucket, videos):
    server[1].put_file(str(videos["end.mp4"]), f"{bucket}/end.mp4")
    np.testing.assert_array_equal(read_video(f"{bucket}/end.mp4")[0], read_video(videos["end.mp4"])[0])
    with pytest.raises(VideoDecodeError, match="none.mp4: cannot be downloaded .it is not there"):
        read_video(f"{bucket}/none.mp4")

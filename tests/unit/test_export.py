# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""A hit as a file: the frames of its span and their sound, as a player shows them, whatever the video is."""

import tarfile
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
from PIL import Image

from svitt.errors import InputError
from svitt.processing_svitt import VideoDecodeError, frames_during, read_video, times_of
from svitt.search import Hit
from svitt.search.export import export
from svitt.search.places import canonical

from ..conftest import ROOT
from ..streams import FADE, FILMS, STREAMS, write_film

# FFmpeg guesses the times of frames of a program stream, and of AVI with B-frames: after seeking, one may differ.
GUESSED = ("mpeg1.mpg", "no_times.avi")


def test_the_frames_of_the_span_are_written(tmp_path, write_video):
    for name, (codec, pixel_format, container, options) in STREAMS.items():
        try:
            path = write_video(tmp_path / name, codec, pixel_format, container, options, num_frames=60)
        except (av.FFmpegError, ValueError):
            continue  # this build of FFmpeg has no such encoder
        frames, metadata = read_video(path)
        times = times_of(metadata)
        duration = float(times[-1]) + 1 / (metadata.fps or len(frames))
        for start, end in ((0.0, duration), (0.8, 1.6), (1.3, duration)):
            written, _ = read_video(export(Hit(str(path), start, end, 1.0), tmp_path / "clips"))
            first, last = frames_during(times, start, end)
            assert abs(len(written) - (last - max(first, 0))) <= (name in GUESSED), (name, start)
            if name not in GUESSED:
                error = written.mean(axis=(1, 2, 3)) - frames[max(first, 0) : last].mean(axis=(1, 2, 3))
                assert np.abs(error).max() < 3, (name, start)  # a frame is 3 levels lighter than the one before


@pytest.mark.parametrize("name", FILMS)
def test_a_film_is_cut_with_its_sound_and_its_shape(tmp_path, name):
    path = write_film(tmp_path / name, **FILMS[name])
    clip = export(Hit(str(path), 31.0, 35.0, 1.0), tmp_path, rank=3)
    assert clip.name == "03_film_0m31s.mp4" and sorted(tmp_path.iterdir()) == sorted([clip, path])
    assert clip.read_bytes().index(b"moov") < clip.read_bytes().index(b"mdat")  # plays before all of it has come
    with av.open(clip) as container:
        video, sound = container.streams
        assert (video.codec_context.name, video.codec_context.pix_fmt, video.frames) == ("h264", "yuv420p", 100)
        assert (video.width, video.height) == ((240, 136) if name == "film.mts" else (64, 48))
        assert sound.codec_context.name == "aac" and container.duration / 1e6 == pytest.approx(4, abs=0.05)
        loudness, grey = np.zeros(5), np.zeros(4)
        for frame in container.decode(video, sound):
            if isinstance(frame, av.VideoFrame):
                grey[int(frame.time)] += frame.to_ndarray(format="rgb24").mean() / 25
            else:
                loudness[int(frame.time + 0.1)] = max(loudness[int(frame.time + 0.1)], np.abs(frame.to_ndarray()).max())
    assert grey == pytest.approx([FADE * second for second in range(31, 35)], abs=2)
    assert (loudness[[0, 2]] > 0.2).all() and not clip.with_name(".incomplete").exists()


def test_only_the_span_is_decoded(tmp_path):
    path = write_film(tmp_path / "film.mp4", "libx264", "aac", options={"g": "50"})
    before = export(Hit(str(path), 31.0, 35.0, 1.0), tmp_path / "clips").read_bytes()
    with av.open(path) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    with path.open("r+b") as file:
        for position, size in places[50:700]:  # up to the keyframe of second 28
            file.seek(position)
            file.write(bytes(size))
    assert export(Hit(str(path), 31.0, 35.0, 1.0), tmp_path / "clips").read_bytes() == before
    with pytest.raises(VideoDecodeError, match="film.mp4: damaged"):
        read_video(path)
    late = export(Hit(str(path), 27.0, 30.0, 1.0), tmp_path / "clips")  # of damaged files, what is left is shown
    assert read_video(late)[0][-1].mean() == pytest.approx(FADE * 29, abs=3)


def test_what_is_turned_interlaced_odd_or_large_is_written_as_it_is_shown(tmp_path, write_video):
    for name, options, size in (
        ("turned.mp4", {"rotation": 90}, (48, 64)),
        ("odd.mp4", {"pixel_format": "yuv444p", "size": (67, 51)}, (68, 52)),
        ("interlaced.mp4", {"options": {"x264-params": "tff=1"}}, (64, 48)),
        ("large.mp4", {"size": (1280, 960)}, (320, 240)),
    ):
        path = write_video(tmp_path / name, **{"codec": "libx264"} | options)
        frames, _ = read_video(export(Hit(str(path), 0.0, 0.96, 1.0), tmp_path / "clips", short_side=240))
        assert frames.shape == (24, *size[::-1], 3), name
        if name == "turned.mp4":
            np.testing.assert_allclose(frames[:, 2:10, 2:8], read_video(path)[0][:, 2:10, 2:8], atol=40)


def test_frames_of_two_sizes_are_scaled_to_the_first(tmp_path, write_video):
    parts = [write_video(tmp_path / f"{side}.ts", "libx264", size=(side, side * 3 // 4)) for side in (64, 96)]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    shown, _ = read_video(tmp_path / "joined.ts")
    written, _ = read_video(export(Hit(str(tmp_path / "joined.ts"), 0.0, 10.0, 1.0), tmp_path / "clips"))
    assert shown.shape == (48, 48, 64, 3) and written.shape[1:] == (48, 64, 3) and len(written) >= 47
    assert np.abs(written[-1].mean((0, 1)) - shown[-1].mean((0, 1))).max() < 5


def test_a_photo_is_shown_for_a_second(tmp_path):
    Image.new("RGB", (33, 21), (200, 100, 0)).save(tmp_path / "photo.jpg")
    for end in (0.0, 0.04):
        clip = export(Hit(str(tmp_path / "photo.jpg"), 0.0, end, 1.0), tmp_path)
        with av.open(clip) as container:
            assert clip.name == "photo_0m00s.mp4" and container.duration == 1_000_000 and not container.streams.audio


def test_what_lies_in_a_shard_or_a_store_is_written_like_a_file(tmp_path, videos):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(videos["clip.mkv"], "a/clip.mkv")
    store = fsspec.filesystem("memory")
    store.put_file(videos["clip.mkv"], "/bucket/clip.mkv")
    store.put_file(tmp_path / "shard.tar", "/bucket/shard.tar")
    stored = [canonical("memory://bucket/clip.mkv"), canonical("memory://bucket/shard.tar") + "::a/clip.mkv"]
    names = [str(videos["clip.mkv"]), f"{tmp_path}/shard.tar::a/clip.mkv", *stored]
    clips = [export(Hit(name, 0.2, 0.6, 1.0), tmp_path / str(number)) for number, name in enumerate(names)]
    assert {clip.name for clip in clips} == {"clip_0m00s.mp4"} and len({clip.read_bytes() for clip in clips}) == 1
    for name in (f"{tmp_path}/shard.tar::b.mkv", f"{tmp_path}/gone.tar::a/clip.mkv", "memory://bucket/gone.mkv"):
        with pytest.raises(VideoDecodeError, match="cannot be opened"):
            export(Hit(name, 0.0, 1.0, 1.0), tmp_path)


def test_what_cannot_be_read_or_written_is_a_sentence_and_leaves_nothing(tmp_path, videos):
    whole = Path(videos["end.mp4"]).read_bytes()
    head, _, pictures = Path(videos["start.mp4"]).read_bytes().partition(b"mdat")
    for name, content, words in (
        ("gone.mp4", None, "gone.mp4: cannot be opened"),
        ("text.mp4", b"no video", "text.mp4: not a video file"),
        ("cut.mp4", whole[: len(whole) // 2], "cut.mp4: an MP4 or MOV without its index"),
        ("zero.mp4", head + b"mdat" + bytes(len(pictures)), "zero.mp4: no frame can be decoded"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoDecodeError, match=words):
            export(Hit(str(tmp_path / name), 0.0, 1.0, 1.0), tmp_path / "clips")
    assert not list((tmp_path / "clips").iterdir())
    with pytest.raises(InputError, match="text.mp4: cannot be written"):
        export(Hit(str(videos["end.mp4"]), 0.0, 1.0, 1.0), tmp_path / "text.mp4")


def test_a_full_disk_is_a_sentence(small_disk, tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4", "libx264", num_frames=60, size=(640, 480))
    with pytest.raises(InputError, match="cannot be written"):
        export(Hit(str(path), 0.0, 2.4, 1.0), small_disk(100))


def test_one_place_encodes_videos():
    files = [file for room in ("data", "search", "evaluation", "training") for file in (ROOT / room).glob("*.py")]
    assert [file.name for file in files if "add_stream(" in file.read_text()] == ["mp4.py"]

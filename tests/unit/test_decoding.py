# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Exactly the frames of decoding everything, whatever the codec and container; one sentence for what is broken."""

import io
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svitt import processing_svitt
from svitt.processing_svitt import SViTTVideoProcessor, VideoDecodeError, read_video

X264 = {"g": "12", "bf": "3"}
X265 = {"g": "12", "preset": "veryfast"}
QUIET = "log-level=none"
# name → codec, pixel format, options of the container and of the codec, and whether decoding starts at keyframes
STREAMS = {
    "b_frames.mp4": ("libx264", "yuv420p", {}, X264, True),
    "b_pyramid.mov": ("libx264", "yuv420p", {}, {"g": "24", "bf": "7", "x264-params": "b-pyramid=normal:ref=6"}, True),
    "open_gop.mp4": ("libx264", "yuv420p", {}, X264 | {"x264-params": "open-gop=1"}, True),
    "open_gop.mkv": ("libx264", "yuv420p", {}, X264 | {"x264-params": "open-gop=1"}, True),
    "open_gop.ts": ("libx264", "yuv420p", {}, X264 | {"x264-params": "open-gop=1"}, True),
    "intra_refresh.mp4": ("libx264", "yuv420p", {}, {"g": "12", "x264-params": "intra-refresh=1"}, None),
    "interlaced.mp4": ("libx264", "yuv420p", {}, {"g": "12", "x264-params": "tff=1"}, False),
    "no_times.avi": ("libx264", "yuv420p", {}, X264, False),
    "raw.h264": ("libx264", "yuv420p", {}, X264, False),
    "10_bit.mp4": ("libx264", "yuv420p10le", {}, X264, True),
    "gray.mp4": ("libx264", "gray", {}, X264, True),
    "yuv444.mp4": ("libx264", "yuv444p", {}, X264, True),
    "hevc.mp4": ("libx265", "yuv420p", {}, X265 | {"x265-params": f"{QUIET}:open-gop=0"}, True),
    "hevc_open_gop.mkv": ("libx265", "yuv420p", {}, {"x265-params": f"{QUIET}:open-gop=1:keyint=12"}, True),
    "hevc_layers.mp4": ("libx265", "yuv420p", {}, X265 | {"x265-params": f"{QUIET}:temporal-layers=3:bframes=7"}, True),
    "hevc_10_bit.mkv": ("libx265", "yuv420p10le", {}, X265 | {"x265-params": QUIET}, True),
    "vp8_hidden.webm": ("libvpx", "yuv420p", {}, {"g": "24", "auto-alt-ref": "1", "lag-in-frames": "16"}, True),
    "vp9_hidden.webm": ("libvpx-vp9", "yuv420p", {}, {"g": "12", "cpu-used": "6", "lag-in-frames": "16"}, True),
    "vp9_alpha.webm": ("libvpx-vp9", "yuva420p", {}, {"deadline": "realtime", "cpu-used": "8", "g": "12"}, True),
    "av1.mp4": ("libsvtav1", "yuv420p", {}, {"preset": "12", "g": "12", "svtav1-params": "lookahead=0"}, True),
    "mpeg4.mp4": ("mpeg4", "yuv420p", {}, {"g": "12", "bf": "2", "b": "2M"}, True),
    "mpeg4.avi": ("mpeg4", "yuv420p", {}, {"g": "12", "b": "2M"}, True),
    "mpeg4_b.avi": ("mpeg4", "yuv420p", {}, {"g": "12", "bf": "2"}, False),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {}, {"g": "12", "bf": "2"}, True),
    "mpeg1.mpg": ("mpeg1video", "yuv420p", {}, {"g": "12", "bf": "2"}, None),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}, {}, True),
    "alpha.mov": ("qtrle", "argb", {}, {"g": "12"}, False),
    "prores.mov": ("prores_ks", "yuv422p10le", {}, {}, True),
    "lossless.mkv": ("ffv1", "yuv420p", {}, {"g": "12"}, False),
    "animation.gif": ("gif", "rgb8", {}, {}, True),
    "animation.apng": ("apng", "rgb24", {}, {}, False),
}


@pytest.fixture(scope="module")
def streams(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("streams")
    return {name: write_video(folder / name, *stream[:4], num_frames=40) for name, stream in STREAMS.items()}


@pytest.fixture(scope="module")
def references(streams, decode_all):
    return {name: decode_all(path) for name, path in streams.items()}


@pytest.fixture
def spans(monkeypatch):
    """Counts reads that started at keyframes and gave all frames, and reads of whole files."""
    counts = {"spans": 0, "everything": 0}
    decode_spans = processing_svitt._FrameDecoder._decode_spans
    decode_everything = processing_svitt._FrameDecoder._decode_everything

    def count_spans(self, wanted):
        frames = decode_spans(self, wanted)
        counts["spans"] += len(frames) == len(wanted)
        return frames

    def count_everything(self, wanted):
        counts["everything"] += 1
        return decode_everything(self, wanted)

    monkeypatch.setattr(processing_svitt._FrameDecoder, "_decode_spans", count_spans)
    monkeypatch.setattr(processing_svitt._FrameDecoder, "_decode_everything", count_everything)
    return counts


@pytest.mark.parametrize("mode", ["small", "large", "too large to be held"])
@pytest.mark.parametrize("name", STREAMS)
def test_any_frame_of_any_stream(streams, references, spans, monkeypatch, name, mode):
    if mode != "small":
        monkeypatch.setattr(processing_svitt, "MAX_HELD_BYTES_OF_INDEXED", 0)
    if mode == "too large to be held":
        monkeypatch.setattr(processing_svitt, "MAX_HELD_BYTES", 0)
    path, reference = streams[name], references[name]
    assert len(reference) == 40
    for index in range(40):
        frames, metadata = read_video(path, lambda metadata, index=index: [index])
        assert metadata.total_num_frames == 40
        np.testing.assert_array_equal(frames, reference[[index]])
    starts_at_keyframes = STREAMS[name][4]
    if mode != "too large to be held" and starts_at_keyframes is not None:
        assert spans == ({"spans": 40, "everything": 0} if starts_at_keyframes else {"spans": 0, "everything": 40})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(STREAMS)), wanted=st.lists(st.integers(0, 39), min_size=1, max_size=12))
def test_any_frames_in_any_order(streams, references, name, wanted):
    frames, metadata = read_video(streams[name], lambda metadata: wanted)
    np.testing.assert_array_equal(frames, references[name][wanted])
    assert metadata.frames_indices == wanted


@pytest.mark.parametrize("num_threads", [0, 2, 3])
@pytest.mark.parametrize("name", ["b_frames.mp4", "hevc.mp4", "av1.mp4", "vp9_hidden.webm"])
def test_threads_change_nothing(streams, references, name, num_threads):
    wanted = [0, 13, 30, 39]
    frames, _ = read_video(streams[name], lambda metadata: wanted, num_threads=num_threads)
    np.testing.assert_array_equal(frames, references[name][wanted])


@pytest.mark.parametrize("name", ["varying.mp4", "varying.mkv"])
def test_variable_frame_rate(tmp_path, write_video, decode_all, file_size, name):
    times = np.cumsum(np.random.default_rng(0).integers(20, 120, 40)).tolist()
    path = write_video(tmp_path / name, "libx264", options=X264, num_frames=40, times=times)
    wanted = [7, 8, 22, 39]
    frames, metadata = read_video(path, lambda metadata: wanted)
    np.testing.assert_array_equal(frames, decode_all(path)[wanted])
    seconds = (times[-1] - times[0]) / 1000
    assert metadata.fps == pytest.approx(39 / seconds, rel=0.02)
    assert metadata.duration == pytest.approx(seconds * 40 / 39, rel=0.02)


def remux(target, packets, template):
    """Writes (packet, shift of its times) to a file as FFmpeg does: each is decoded after the last."""
    last = None
    with av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(template)
        for packet, shift in packets:
            packet.dts = packet.dts + shift if last is None else max(packet.dts + shift, last + 1)
            packet.pts = max(packet.pts + shift, packet.dts)
            packet.stream, last = stream, packet.dts
            container.mux(packet)


def packets_of(path, skipped_keys=0):
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    return packets[keys[skipped_keys] :]


def assert_frames_of_decode_all(path, reference, indices):
    for index in indices:
        frames, metadata = read_video(path, lambda metadata, index=index: [min(index, metadata.total_num_frames - 1)])
        assert metadata.total_num_frames == len(reference)
        np.testing.assert_array_equal(frames, reference[[index]])


@pytest.fixture(params=["small", "large"])
def file_size(request, monkeypatch):
    if request.param == "large":
        monkeypatch.setattr(processing_svitt, "MAX_HELD_BYTES_OF_INDEXED", 0)
    return request.param


@pytest.mark.parametrize("name", ["b_frames.mp4", "mpeg4.mp4", "open_gop.mp4"])
def test_times_of_decoding_are_not_those_of_showing(tmp_path, streams, decode_all, file_size, name):
    """A file made of an AVI, which has no others, says that frames are shown in the order of their packets."""
    packets = packets_of(streams[name])
    for packet in packets:
        packet.pts = packet.dts
    with av.open(str(streams[name])) as container:
        remux(tmp_path / name, ((packet, 0) for packet in packets), container.streams.video[0])
    assert_frames_of_decode_all(tmp_path / name, decode_all(tmp_path / name), range(0, 38, 3))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_files_joined_without_encoding(tmp_path, write_video, decode_all, file_size, monkeypatch, codec):
    """The first pictures of the middle part lean on others that were cut away, and its times run into the first's."""
    params = {"libx264": {"x264-params": "open-gop=1"}, "libx265": {"x265-params": f"{QUIET}:open-gop=1:keyint=12"}}
    part = write_video(tmp_path / "part.mp4", codec, options=X264 | params[codec], num_frames=60)
    packets, length = [], 0
    with av.open(str(part)) as container:
        for skipped_keys in (0, 1, 0):
            added = packets_of(part, skipped_keys)
            shift = length - added[0].pts
            packets += [(packet, shift) for packet in added]
            length += max(packet.pts + packet.duration for packet in added) - added[0].pts
        remux(tmp_path / "joined.mp4", packets, container.streams.video[0])
    reference = decode_all(tmp_path / "joined.mp4")
    assert_frames_of_decode_all(tmp_path / "joined.mp4", reference, [*range(0, len(reference), 9), len(reference) - 1])

    is_surprise = len(reference) < len(packets)
    assert is_surprise == (codec == "libx264")
    passes = []
    decode_packets = processing_svitt._FrameDecoder._decode_all_packets
    counted = lambda self: passes.append(1) or decode_packets(self)  # noqa: E731
    monkeypatch.setattr(processing_svitt._FrameDecoder, "_decode_all_packets", counted)
    for max_held, expected in ((2**26, 1), (48 * 64 * (len(reference) - 1), 1 + is_surprise)):
        monkeypatch.setattr(processing_svitt, "MAX_HELD_PIXELS", max_held)
        passes.clear()
        frames, _ = read_video(tmp_path / "joined.mp4", lambda metadata: [metadata.total_num_frames - 1])
        np.testing.assert_array_equal(frames, reference[-1:])
        assert len(passes) == expected


def test_edit_list_hides_frames(tmp_path, write_video, decode_all, file_size):
    """A cut without re-encoding keeps the frames before it for decoding and tells players not to show them."""
    whole = write_video(tmp_path / "whole.mp4", "libx264", options={"g": "30"}, num_frames=60)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(17 / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    reference = decode_all(tmp_path / "cut.mp4")
    np.testing.assert_array_equal(reference[0], decode_all(whole)[17])
    for index in (0, 5, 12, 13, 14, 42):
        frames, metadata = read_video(tmp_path / "cut.mp4", lambda metadata, index=index: [index])
        assert metadata.total_num_frames == len(reference) == 43 and metadata.fps == 25
        np.testing.assert_array_equal(frames, reference[[index]])


SAMPLE_TABLE = [b"moov", b"trak", b"mdia", b"minf", b"stbl"]


def boxes(content, start=0, end=None):
    while start < (len(content) if end is None else end):
        size, kind = int.from_bytes(content[start : start + 4], "big"), content[start + 4 : start + 8]
        yield kind, start, start + size
        start += size


def find_box(content, *path):
    start, end = 0, len(content)
    for wanted in path:
        start, end = next((at + 8, stop) for kind, at, stop in boxes(content, start, end) if kind == wanted)
    return content[start:end]


def rebuild(content, replaced, start=0, end=None):
    """An MP4 with other content in some of its boxes."""
    result = b""
    for kind, at, stop in boxes(content, start, end):
        body = content[at + 8 : stop]
        if kind in SAMPLE_TABLE:
            body = rebuild(content, replaced, at + 8, stop)
        body = replaced.get(kind, body)
        result += (len(body) + 8).to_bytes(4, "big") + kind + body
    return result


def test_parameters_change_within_a_file(tmp_path, write_video, decode_all, file_size):
    """Two descriptions of samples, as editors write them: a decoder that starts in the second part needs the second."""
    parts = [
        write_video(tmp_path / f"{coder}.mp4", "libx264", options={"g": "12", "bf": "0", "coder": coder}, num_frames=40)
        for coder in ("ac", "vlc")
    ]
    packets = [packets_of(part) for part in parts]
    shift = max(packet.pts + packet.duration for packet in packets[0])
    with av.open(str(parts[0])) as container:
        shifted = [(packet, 0) for packet in packets[0]] + [(packet, shift) for packet in packets[1]]
        remux(tmp_path / "joined.mp4", shifted, container.streams.video[0])
    content = (tmp_path / "joined.mp4").read_bytes()
    [offset] = np.frombuffer(find_box(content, *SAMPLE_TABLE, b"stco")[8:], ">u4")  # all samples in one chunk
    sizes = np.frombuffer(find_box(content, *SAMPLE_TABLE, b"stsz")[12:], ">u4")
    offsets = offset + np.concatenate([[0], np.cumsum(sizes)[:-1]])
    descriptions = b"".join(find_box(part.read_bytes(), *SAMPLE_TABLE, b"stsd")[8:] for part in parts)
    tables = {  # one sample a chunk, those of the second part by the second description
        b"stsd": np.array([0, 2], ">u4").tobytes() + descriptions,
        b"stsc": np.array([0, 2, 1, 1, 1, len(packets[0]) + 1, 1, 2], ">u4").tobytes(),
        b"stco": np.array([0, len(offsets), *offsets], ">u4").tobytes(),
    }
    (tmp_path / "joined.mp4").write_bytes(rebuild(content, tables))
    reference = decode_all(tmp_path / "joined.mp4")
    np.testing.assert_array_equal(reference, np.concatenate([decode_all(part) for part in parts]))
    assert_frames_of_decode_all(tmp_path / "joined.mp4", reference, range(0, 80, 7))
    np.testing.assert_array_equal(read_video(tmp_path / "joined.mp4", lambda metadata: [3, 70])[0], reference[[3, 70]])


def test_odd_size_and_one_frame(tmp_path, write_video, decode_all):
    path = write_video(tmp_path / "odd.mp4", "libx264", "yuv444p", size=(97, 65), num_frames=1)
    frames, metadata = read_video(path, lambda metadata: [0, 0])
    np.testing.assert_array_equal(frames, decode_all(path)[[0, 0]])
    assert (metadata.height, metadata.width, metadata.total_num_frames) == (65, 97, 1)


@pytest.mark.parametrize("rotation", [0, 90])
def test_scaling_while_decoding(tmp_path, write_video, rotation):
    path = write_video(tmp_path / "end.mp4", size=(128, 96), rotation=rotation)
    whole, _ = read_video(path)
    half, metadata = read_video(path, short_side=48)
    assert half.shape == ((24, 48, 64, 3) if rotation == 0 else (24, 64, 48, 3))
    assert (metadata.height, metadata.width) == half.shape[1:3]
    averages = whole.reshape(24, half.shape[1], 2, half.shape[2], 2, 3).mean((2, 4))
    assert np.abs(averages - half).mean() < 2  # "area" is the average; the chroma is coarser
    np.testing.assert_array_equal(read_video(path, short_side=96)[0], whole)
    np.testing.assert_array_equal(read_video(path, short_side=1000)[0], whole)


@pytest.mark.parametrize(
    "name", ["end.mp4", "start.mp4", "fragments.mp4", "clip.mkv", "clip.webm", "clip.avi", "clip.gif"]
)
def test_frames_equal_those_of_decoding_everything(videos, decode_all, name):
    reference = decode_all(videos[name])
    frames, metadata = read_video(videos[name])
    np.testing.assert_array_equal(frames, reference)
    assert metadata.total_num_frames == 24 and (metadata.height, metadata.width) == (48, 64)
    assert metadata.fps == 25 and metadata.duration == 24 / 25

    wanted = [20, 3, 3, 11]
    frames, metadata = read_video(videos[name], lambda metadata: wanted)
    np.testing.assert_array_equal(frames, reference[wanted])
    assert metadata.frames_indices == wanted


def test_every_kind_of_source_gives_the_same_frames(videos, decode_all):
    path = videos["start.mp4"]
    content = path.read_bytes()
    reference = decode_all(path)
    with open(path, "rb") as file:
        sources = [str(path), path, content, bytearray(content), io.BytesIO(content), file]
        sources += [{"bytes": content, "path": None}, {"bytes": None, "path": str(path)}]
        for source in sources:
            np.testing.assert_array_equal(read_video(source)[0], reference)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_metadata_is_applied(tmp_path, write_video, decode_all, degrees):
    path = write_video(tmp_path / "end.mp4", num_frames=3, rotation=degrees)
    frames, metadata = read_video(path)
    np.testing.assert_array_equal(frames, np.rot90(decode_all(path), k=degrees // 90, axes=(1, 2)))
    assert (metadata.height, metadata.width) == ((64, 48) if degrees != 180 else (48, 64))
    # Display rotation is counted against the clock, so at 90 degrees the upper left corner goes to the lower left.
    corner = {90: (-5, 5), 180: (-5, -5), 270: (5, -5)}[degrees]
    assert frames[0][corner][0] > 180 and frames[0][corner][1] < 60


def test_image_file_is_a_video_of_one_frame(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    frames, metadata = read_video(tmp_path / "image.png")
    np.testing.assert_array_equal(frames, image[None])
    assert metadata.total_num_frames == 1


def broken(tmp_path, kind, videos):
    path = tmp_path / f"{kind}.mp4"
    name, _, share = kind.partition("@")
    if share:
        content = videos[name].read_bytes()
        path.write_bytes(content[: int(len(content) * float(share))])
    elif kind == "text":
        path.write_text("this is not a video\n" * 100)
    elif kind == "playlist":  # FFmpeg would read the other file
        path.write_text(f"ffconcat version 1.0\nfile {videos['end.mp4'].name}\n")
        (tmp_path / "end.mp4").write_bytes(videos["end.mp4"].read_bytes())
    elif kind == "audio":
        write_audio(path)
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    return path


def write_audio(path, cover=None):
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=44100)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 16, 16, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 44100), np.int16), format="s16", layout="stereo")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if cover:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
            container.mux(picture.encode())


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("missing", "cannot be opened (No such file or directory)"),
        ("folder", "cannot be opened (Is a directory)"),
        ("empty", "the file is empty"),
        ("text", "not a video file"),
        ("playlist", "not a video file"),
        ("audio", "has no video stream, what it holds is: audio"),
        ("end.mp4@0.5", "without its index, it was cut off"),
        ("end.mp4@0.95", "cut off"),
        ("start.mp4@0.5", "cut off, it has"),
        ("start.mp4@0.99", "cut off, it has"),
        ("fragments.mp4@0.7", "cut off"),
        ("clip.mkv@0.6", "cut off, it has"),
        ("clip.webm@0.9", "cut off, it has"),
        ("clip.avi@0.7", "cut off"),
    ],
)
def test_broken_file_is_one_sentence_that_names_it(tmp_path, videos, kind, reason):
    path = broken(tmp_path, kind, videos)
    with pytest.raises(VideoDecodeError) as error:
        SViTTVideoProcessor(size=32)([str(videos["clip.mkv"]), str(path)], return_tensors="pt")
    message = str(error.value)
    assert message.startswith(f"{path}: ") and reason in message
    assert message.endswith(".") and "\n" not in message

    if path.is_file():
        with pytest.raises(VideoDecodeError, match="^dataset/7.mp4: "):
            read_video({"bytes": path.read_bytes(), "path": "dataset/7.mp4"})


def test_damaged_file_is_an_error(tmp_path, videos):
    content = bytearray(videos["start.mp4"].read_bytes())
    content[-600:-300] = bytes(300)
    (tmp_path / "damaged.mp4").write_bytes(content)
    with pytest.raises(VideoDecodeError, match=r"damaged.mp4: damaged or cut off, FFmpeg says"):
        read_video(tmp_path / "damaged.mp4")


def test_cover_picture_is_no_video(tmp_path):
    write_audio(tmp_path / "song.mp3", cover=True)
    with av.open(str(tmp_path / "song.mp3")) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(VideoDecodeError, match="song.mp3: has no video stream"):
        read_video(tmp_path / "song.mp3")


def test_limits(videos):
    with pytest.raises(VideoDecodeError, match="end.mp4: frames of 64x48 are above the limit of 3071 pixels"):
        read_video(videos["end.mp4"], max_frame_pixels=64 * 48 - 1)
    assert len(read_video(videos["end.mp4"], max_frame_pixels=64 * 48)[0]) == 24
    with pytest.raises(VideoDecodeError, match="end.mp4: has more frames than the limit of 23"):
        read_video(videos["end.mp4"], max_frames=23)
    with pytest.raises(VideoDecodeError, match="end.mp4: 1000000 frames of 64x48 take 9.2 GB, the limit is 4.3 GB"):
        read_video(videos["end.mp4"], lambda metadata: [0] * 1_000_000)


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv", "table.mp4"])
def test_times_of_frames_are_those_of_the_file(tmp_path, write_video, monkeypatch, name):
    """A tenth of a second between 20 frames, then a second. A file's own table lacks those of the last two."""
    times = [100 * i for i in range(20)] + [2000 + 1000 * i for i in range(10)]
    path = write_video(tmp_path / name, "libx264", options=X264, num_frames=30, times=times)
    if name.startswith("table"):
        monkeypatch.setattr(processing_svitt, "MAX_HELD_BYTES_OF_INDEXED", 0)
    _, metadata = read_video(path, lambda metadata: [0])
    known = 28 if name.startswith("table") else 30
    np.testing.assert_allclose(metadata.frame_times[:known], np.array(times[:known]) / 1000, atol=1e-9)
    assert metadata.frame_times.shape == (30,) and (np.diff(metadata.frame_times) > 0).all()
    assert "frame_times" not in dict(metadata)


def test_nothing_is_asked_of_a_file_that_was_closed(tmp_path, write_video):
    """PyAV then reads memory that was given back, which glibc overwrites here, and anything may be in elsewhere."""
    paths = [write_video(tmp_path / name, "libx264", options=X264, num_frames=26) for name in ("a.mp4", "a.mkv")]
    code = """
import sys
from svitt.processing_svitt import read_video
for path in sys.argv[1:]:
    print(read_video(path, lambda metadata: [0])[1].frame_times[-1])
"""
    environment = os.environ | {"MALLOC_PERTURB_": "165"}
    command = [sys.executable, "-c", code, *map(str, paths)]
    seconds = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()
    assert seconds == ["1.0", "1.0"]


def test_extensions_are_not_believed(tmp_path, videos, decode_all):
    """FFmpeg would read text as pictures of a terminal, if the name says so."""
    for name in ("notes.txt", "art.ans", "readme.nfo", "raw.h261", "a.raw", "a.%03d.png"):
        (tmp_path / name).write_text("this is not a video\n" * 100)
        with pytest.raises(VideoDecodeError, match="not a video file"):
            read_video(tmp_path / name)
        (tmp_path / name).write_bytes(videos["end.mp4"].read_bytes())
        assert len(read_video(tmp_path / name)[0]) == 24


def test_tags_need_not_be_utf8(tmp_path, write_video, decode_all):
    path = write_video(tmp_path / "tag.mkv", "mpeg4")
    reference = decode_all(path)
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"Lav\xe9"))
    np.testing.assert_array_equal(read_video(path)[0], reference)


def test_pipes_and_impossible_names_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoDecodeError, match=r"pipe.mp4: cannot be opened \(not a regular file\)"):
        read_video(tmp_path / "pipe.mp4")
    with pytest.raises(VideoDecodeError, match="cannot be opened .*null"):
        read_video("a\0b.mp4")


def test_arguments_are_checked(videos):
    for picked in ([24], [-1], [0, 99]):
        with pytest.raises(ValueError, match=rf"`pick` must return indices from 0 to 23, got \[.*{picked[-1]}\]"):
            read_video(videos["end.mp4"], lambda metadata, picked=picked: picked)
    for arguments in ({"short_side": 0}, {"num_threads": -1}):
        with pytest.raises(ValueError, match="`short_side` must be at least 1 and `num_threads` 0"):
            read_video(videos["end.mp4"], **arguments)

# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Exactly the frames of decoding everything, whatever the codec and container."""

import io

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svitt import processing_svitt
from svitt.processing_svitt import VideoDecodeError, read_video

from ..streams import STREAMS, X264, remux


@pytest.fixture(scope="module")
def streams(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("streams")
    return {name: write_video(folder / name, *how, num_frames=40) for name, how in STREAMS.items()}


@pytest.fixture(scope="module")
def references(streams, decode_all):
    return {name: decode_all(path) for name, path in streams.items()}


@pytest.fixture(params=["packets in memory", "packets read again"])
def file_size(request, monkeypatch):
    if request.param == "packets read again":
        monkeypatch.setattr(processing_svitt, "MAX_HELD_BYTES", 0)
        monkeypatch.setattr(processing_svitt, "MAX_HELD_BYTES_OF_INDEXED", 0)


def assert_frames_of_decode_all(path, reference, indices):
    for index in indices:
        frames, metadata = read_video(path, lambda metadata, index=index: [min(index, metadata.total_num_frames - 1)])
        assert metadata.total_num_frames == len(reference)
        np.testing.assert_array_equal(frames, reference[[index]])


@pytest.mark.parametrize("file_size", ["packets read again"], indirect=True)  # in memory: see the contract suite
@pytest.mark.parametrize("name", STREAMS)
def test_any_frame_of_any_stream(streams, references, file_size, name):
    assert_frames_of_decode_all(streams[name], references[name], range(40))
    np.testing.assert_array_equal(read_video(streams[name])[0], references[name])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(STREAMS)), wanted=st.lists(st.integers(0, 39), min_size=1, max_size=12))
def test_any_frames_in_any_order(streams, references, name, wanted):
    frames, metadata = read_video(streams[name], lambda metadata: wanted)
    np.testing.assert_array_equal(frames, references[name][wanted])
    assert metadata.frames_indices == wanted


@pytest.mark.parametrize("name", ["varying.mp4", "varying.mkv"])
def test_variable_frame_rate(tmp_path, write_video, decode_all, file_size, name):
    times = np.cumsum(np.random.default_rng(0).integers(20, 120, 40))
    path = write_video(tmp_path / name, "libx264", options=X264, num_frames=40, times=times.tolist())
    wanted = [7, 8, 22, 39]
    frames, metadata = read_video(path, lambda metadata: wanted)
    np.testing.assert_array_equal(frames, decode_all(path)[wanted])
    np.testing.assert_allclose(metadata.frame_times, (times - times[0]) / 1000, atol=1e-9)
    assert metadata.fps == pytest.approx(39 / metadata.frame_times[-1], rel=0.02)
    assert metadata.duration == pytest.approx(40 / metadata.fps)
    assert "frame_times" not in dict(metadata)


@pytest.mark.parametrize("name", ["b_frames.mp4", "mpeg4.mp4", "open_gop.mp4"])
def test_times_of_decoding_are_not_those_of_showing(tmp_path, streams, decode_all, file_size, name):
    """A file made of an AVI, which has no others, says that frames are shown in the order of their packets."""
    remux(streams[name], tmp_path / name, lambda packet: (packet.dts, packet.dts))
    assert_frames_of_decode_all(tmp_path / name, decode_all(tmp_path / name), range(0, 38, 3))


def test_edit_list_hides_frames(tmp_path, write_video, decode_all, file_size):
    """A cut without re-encoding keeps the frames before it for decoding and tells players not to show them."""
    whole = write_video(tmp_path / "whole.mp4", "libx264", options={"g": "30"}, num_frames=60)

    def shift(packet):
        step = round(17 / 25 / packet.time_base)
        return packet.pts - step, packet.dts - step

    remux(whole, tmp_path / "cut.mp4", shift)
    reference = decode_all(tmp_path / "cut.mp4")
    assert len(reference) == 43
    np.testing.assert_array_equal(reference[0], decode_all(whole)[17])
    assert_frames_of_decode_all(tmp_path / "cut.mp4", reference, (0, 5, 12, 13, 14, 42))


def tags_later(content, milliseconds):
    """The tags of an FLV file, which begins with 13 bytes of header, to be shown later."""
    tags, place = b"", 13
    while place < len(content):
        size, time = (int.from_bytes(content[at : at + 3]) for at in (place + 1, place + 4))
        tags += content[place : place + 4] + (time + milliseconds).to_bytes(3) + content[place + 7 : place + size + 15]
        place += size + 15
    return tags


def test_parameters_change_within_a_file(tmp_path, write_video, decode_all, file_size):
    """A decoder that starts in the second part needs the parameters of the second."""
    parts = [
        write_video(tmp_path / f"{coder}.flv", "libx264", options={"g": "12", "bf": "0", "coder": coder}, num_frames=40)
        for coder in ("ac", "vlc")
    ]
    first, second = (part.read_bytes() for part in parts)
    (tmp_path / "joined.flv").write_bytes(first + tags_later(second, 1600))
    reference = decode_all(tmp_path / "joined.flv")
    np.testing.assert_array_equal(reference, np.concatenate([decode_all(part) for part in parts]))
    assert_frames_of_decode_all(tmp_path / "joined.flv", reference, range(0, 80, 7))
    np.testing.assert_array_equal(read_video(tmp_path / "joined.flv", lambda metadata: [3, 70])[0], reference[[3, 70]])


def test_a_file_may_hold_fewer_frames_than_packets(tmp_path, streams, decode_all):
    """Cut at a keyframe, the pictures that are shown before it lean on others that are gone, and are dropped."""
    packets = []

    def from_second_keyframe(packet):
        packets.append(packet)
        return None if len(packets) < 11 else (packet.pts, packet.dts)

    remux(streams["mpeg2.ts"], tmp_path / "cut.mkv", from_second_keyframe)
    reference = decode_all(tmp_path / "cut.mkv")
    assert len(reference) == 28 and len(packets) - 10 == 30
    assert_frames_of_decode_all(tmp_path / "cut.mkv", reference, range(28))


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_gop.mkv", "open_gop.ts", "mpeg4.avi", "mpeg1.mpg"])
def test_sound_changes_nothing(tmp_path, streams, references, file_size, name):
    with av.open(str(streams[name])) as source, av.open(str(tmp_path / name), "w") as target:
        sound, picture = target.add_stream("mp2", rate=48000), target.add_stream_from_template(source.streams.video[0])
        frames = [av.AudioFrame(format="s16", layout="stereo", samples=1152) for _ in range(67)]  # 1.6 s, as the video
        for i, frame in enumerate(frames):
            frame.rate, frame.pts = 48000, 1152 * i
        packets = [packet for frame in [*frames, None] for packet in sound.encode(frame)]
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = picture
                packets.append(packet)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            target.mux(packet)
    assert_frames_of_decode_all(tmp_path / name, references[name], range(0, 40, 3))


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


@pytest.mark.parametrize("name", ["start.mp4", "fragments.mp4"])
def test_frames_equal_those_of_decoding_everything(videos, decode_all, name):
    frames, metadata = read_video(videos[name])
    np.testing.assert_array_equal(frames, decode_all(videos[name]))
    assert metadata.total_num_frames == 24 and (metadata.height, metadata.width) == (48, 64)
    assert metadata.fps == 25 and metadata.duration == 24 / 25


def test_file_objects_are_sources(videos, decode_all):
    reference, content = decode_all(videos["start.mp4"]), videos["start.mp4"].read_bytes()
    with open(videos["start.mp4"], "rb") as file:
        for source in (file, io.BytesIO(content), bytearray(content)):
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


def test_extensions_are_not_believed(tmp_path, videos, decode_all):
    """FFmpeg would read text as pictures of a terminal, if the name says so."""
    with pytest.raises(VideoDecodeError, match="cannot be opened .*null"):
        read_video("a\0b.mp4")
    for name in ("notes.txt", "art.ans", "readme.nfo", "raw.h261", "a.raw", "a.%03d.png", "clip.avi"):
        (tmp_path / name).write_text("this is not a video\n" * 100)
        with pytest.raises(VideoDecodeError, match="not a video file"):
            read_video(tmp_path / name)
        (tmp_path / name).write_bytes(videos["clip.webm"].read_bytes())
        np.testing.assert_array_equal(read_video(tmp_path / name)[0], decode_all(videos["clip.webm"]))


def test_tags_need_not_be_utf8(tmp_path, write_video, decode_all):
    path = write_video(tmp_path / "tag.mkv", "mpeg4")
    reference = decode_all(path)
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"Lav\xe9"))
    np.testing.assert_array_equal(read_video(path)[0], reference)


def test_arguments_are_checked(videos):
    for picked in ([24], [-1], [0, 99]):
        with pytest.raises(ValueError, match=rf"`pick` must return indices from 0 to 23, got \[.*{picked[-1]}\]"):
            read_video(videos["end.mp4"], lambda metadata, picked=picked: picked)
    with pytest.raises(ValueError, match="`short_side` must be at least 1"):
        read_video(videos["end.mp4"], short_side=0)

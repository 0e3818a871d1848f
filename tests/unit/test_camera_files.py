# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What cameras, phones and crashes make of a file: HDR, pixels that are not square, several videos, damage."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from svitt import SViTTVideoProcessor
from svitt.processing_svitt import VideoDecodeError, _open_stream, _packets, read_video

from ..streams import X264, join_videos, remux, write_film, write_hdr


@pytest.fixture(scope="module")
def two(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("two")
    return write_video(folder / "small.mp4", "libx264"), write_video(folder / "large.mp4", "libx264", size=(96, 72))


# ---- Which video of a file


@pytest.mark.parametrize("name", ["two.mp4", "two.mov", "two.mkv"])
@pytest.mark.parametrize("default", [0, 1, None])
def test_of_several_videos_the_default_one_is_read(tmp_path, two, decode_all, name, default):
    frames, _ = read_video(join_videos(tmp_path / name, two, default))
    np.testing.assert_array_equal(frames, decode_all(two[default or 0]))


def test_a_cover_before_the_video_is_passed_over(tmp_path, write_video, two, decode_all):
    cover = write_video(tmp_path / "cover.mp4", "mjpeg", "yuvj420p", num_frames=1)
    frames, metadata = read_video(join_videos(tmp_path / "film.mp4", [cover, two[1]], cover=0))
    np.testing.assert_array_equal(frames, decode_all(two[1]))
    assert metadata.total_num_frames == 24


def test_a_photo_in_tiles_is_not_one_of_its_tiles(tmp_path, two):
    """Those of iPhones have 48, and none that is to be shown."""
    path = join_videos(tmp_path / "photo.mp4", two)
    content = path.read_bytes().replace(b"ftypisom", b"ftypheic").replace(b"tkhd\0\0\0\3", b"tkhd\0\0\0\0")
    path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match="photo.mp4: a photo in tiles, which cannot be joined"):
        read_video(path)


def test_a_track_of_timecode_changes_nothing(tmp_path, two, decode_all):
    path = join_videos(tmp_path / "camera.mov", two[:1], timecode="10:59:59:00")
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "data"]
    np.testing.assert_array_equal(read_video(path)[0], decode_all(two[0]))


# ---- Pixels that are not square


@pytest.mark.parametrize("aspect, width", [(Fraction(4, 3), 240), (Fraction(8, 9), 160), (Fraction(1), 180)])
@pytest.mark.parametrize("name", ["wide.mp4", "wide.mkv", "wide.ts"])
def test_frames_are_as_wide_as_a_player_shows_them(tmp_path, decode_all, name, aspect, width):
    path = write_film(tmp_path / name, "libx264", size=(180, 136), seconds=1, aspect=aspect)
    stored = decode_all(path)
    np.testing.assert_array_equal(read_video(path)[0], stored)
    shown, metadata = read_video(path, square_pixels=True)
    assert shown.shape == (25, 136, width, 3) and metadata.width == width
    assert np.abs(shown.mean((1, 2)) - stored.mean((1, 2))).max() < 1
    assert read_video(path, square_pixels=True, short_side=68)[0].shape == (25, 68, width // 2, 3)
    processor = SViTTVideoProcessor(do_resize=False, do_normalize=False, do_rescale=False)
    assert processor(path, return_tensors="pt").pixel_values.shape[-1] == 180
    assert processor(path, return_tensors="pt", square_pixels=True).pixel_values.shape[-1] == width


def test_frames_are_widened_before_they_are_turned(tmp_path, write_video):
    path = write_video(tmp_path / "end.mp4", rotation=90)

    def widen(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        stream.set_display_rotation(90)

    remux(path, tmp_path / "wide.mp4", change=widen)
    assert read_video(tmp_path / "wide.mp4", square_pixels=True)[0].shape == (24, 128, 48, 3)


# ---- High dynamic range: numbers of FFmpeg 9.0.2, its `zscale` and `tonemap=hable:desat=0`

SHOWN = {
    "PQ": (16, [37, 152, 201, 255], [(177, 0, 0), (0, 207, 1), (0, 0, 243), (251, 134, 86)]),
    "HLG": (18, [52, 124, 149, 255], [(148, 0, 10), (0, 154, 0), (0, 38, 182), (190, 128, 104)]),
}


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("transfer", SHOWN)
def test_hdr_is_shown_as_ffmpeg_does(tmp_path, transfer, full_range):
    number, greys, colours = SHOWN[transfer]
    path = write_hdr(tmp_path / "phone.mkv", number, full_range)
    expected = np.array([(grey,) * 3 for grey in greys] + colours)
    frames, _ = read_video(path)
    assert frames.shape == (1, 8, 64, 3) and frames.dtype == np.uint8
    np.testing.assert_allclose(frames[0, 4, 4::8], expected, atol=2)
    np.testing.assert_allclose(read_video(path, short_side=4)[0][0, 2, 2::4], expected, atol=2)


# ---- Damaged and cut off


def cut(source, target, share):
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


SHARES = {"start.mp4": 0.6, "fragments.mp4": 0.6, "clip.mkv": 0.6, "clip.webm": 0.6, "clip.avi": 0.85}


@pytest.mark.parametrize("name", SHARES)
def test_what_is_left_of_a_recording_can_be_used(tmp_path, videos, decode_all, name):
    path, whole = cut(videos[name], tmp_path / name, SHARES[name]), decode_all(videos[name])
    with pytest.raises(VideoDecodeError, match="cut off"):
        read_video(path)
    frames, metadata = read_video(path, damaged="use")
    assert 5 < len(frames) < 24 and metadata.total_num_frames == len(frames)
    np.testing.assert_array_equal(frames, whole[: len(frames)])
    assert "cut off" in metadata.damage and f": {len(frames)} " in metadata.damage
    assert "damage" not in dict(metadata)
    picked, _ = read_video(path, lambda metadata: [metadata.total_num_frames - 1], damaged="use")
    np.testing.assert_array_equal(picked, frames[-1:])
    assert SViTTVideoProcessor(damaged="use")(path, return_tensors="pt").pixel_values.shape[1] == 4


def test_a_hole_costs_the_frames_it_touches(tmp_path, videos, decode_all):
    content = bytearray(videos["start.mp4"].read_bytes())
    content[-600:-300] = bytes(300)
    (tmp_path / "hole.mp4").write_bytes(content)
    with pytest.raises(VideoDecodeError, match="damaged"):
        read_video(tmp_path / "hole.mp4")
    frames, metadata = read_video(tmp_path / "hole.mp4", damaged="use")
    assert 12 <= len(frames) < 24 and metadata.damage.endswith(f": {len(frames)} of 24 frames can be decoded.")
    np.testing.assert_array_equal(frames[:10], decode_all(videos["start.mp4"])[:10])


def test_whole_files_are_the_same_either_way(videos):
    for path in videos.values():
        frames, metadata = read_video(path, damaged="use")
        np.testing.assert_array_equal(frames, read_video(path)[0])
        assert metadata.damage is None


def test_a_file_without_a_frame_is_refused_either_way(tmp_path, videos):
    for name, share, words in [("end.mp4", 0.5, "without its index"), ("fragments.mp4", 0.08, "no frame")]:
        with pytest.raises(VideoDecodeError, match=words):
            read_video(cut(videos[name], tmp_path / name, share), damaged="use")
    with pytest.raises(ValueError, match="`damaged` must be 'refuse' or 'use', got 'ignore'"):
        read_video(videos["end.mp4"], damaged="ignore")


def test_old_demuxers_end_with_minus_one(two):
    """That of NSV; FFmpeg takes it for an error, EPERM."""
    with _open_stream(str(two[0])) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]

    def demux(_):
        yield from packets
        raise av.error.PermissionError(1, "Operation not permitted")

    assert list(_packets(SimpleNamespace(demux=demux), stream)) == packets


# ---- Frames without a container, whose times FFmpeg guesses


@pytest.mark.parametrize("name", ["cut.m1v", "cut.m2v"])
@pytest.mark.parametrize("first, last", [(0, 3), (1, 5)])
def test_raw_frames_from_one_keyframe_to_the_half_of_another(tmp_path, write_video, decode_all, name, first, last):
    """Half a frame is made up from the one before; the first pictures behind a keyframe may lean on those before it."""
    codec = {"cut.m1v": "mpeg1video", "cut.m2v": "mpeg2video"}[name]
    path = write_video(tmp_path / name.replace("cut", "whole"), codec, options={"g": "6", "bf": "2"}, num_frames=40)
    with av.open(str(path)) as container:
        packets = [(bytes(packet), packet.is_keyframe) for packet in container.demux(video=0)]
    keys = [number for number, (_, is_key) in enumerate(packets) if is_key]
    content = b"".join(content for content, _ in packets[keys[first] : keys[last] + 1])
    (tmp_path / name).write_bytes(content[:-300])
    reference = decode_all(tmp_path / name)
    for index in range(len(reference)):
        frames, metadata = read_video(tmp_path / name, lambda metadata, index=index: [index])
        assert metadata.total_num_frames == len(reference)
        np.testing.assert_array_equal(frames, reference[[index]])


# ---- Frames of two sizes, interlaced, of a broadcast that is joined in the middle


def test_frames_of_two_sizes_are_scaled_to_the_first(tmp_path, write_video, decode_all):
    parts = [
        write_video(tmp_path / f"{side}.ts", "libx264", options=X264, size=(side, side * 3 // 4)) for side in (64, 96)
    ]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, metadata = read_video(tmp_path / "joined.ts")
    assert frames.shape == (48, 48, 64, 3) and metadata.width == 64
    np.testing.assert_array_equal(frames[:24], decode_all(parts[0]))
    averages = decode_all(parts[1]).mean((1, 2))
    assert np.abs(frames[24:].mean((1, 2)) - averages).max() < 3
    late, _ = read_video(tmp_path / "joined.ts", lambda metadata: [40])
    np.testing.assert_array_equal(late, frames[[40]])


@pytest.mark.parametrize("name", ["dvd.vob", "tape.mxf", "tv.ts", "camera.mts"])
def test_interlaced_recordings(tmp_path, write_video, decode_all, name):
    codec = "libx264" if name == "camera.mts" else "mpeg2video"
    options = {"flags": "+ilme+ildct", "g": "12", "bf": "2"} if codec == "mpeg2video" else {"x264-params": "tff=1"}
    path, whole = tmp_path / name, write_video(tmp_path / "whole.mkv", codec, options=options, num_frames=40)
    remux(whole, path, container={"camera.mts": "mpegts"}.get(name))
    reference = decode_all(path)
    for index in range(0, len(reference), 3):
        frames, metadata = read_video(path, lambda metadata, index=index: [index])
        assert metadata.total_num_frames == len(reference)
        np.testing.assert_array_equal(frames, reference[[index]])


@pytest.mark.parametrize("name", ["tv.ts", "camera.mts"])
def test_a_recording_that_begins_between_keyframes(tmp_path, write_video, decode_all, name):
    """Its first frames cannot be decoded."""
    options = X264 | {"x264-params": "open-gop=1"} if name == "camera.mts" else {"g": "12", "bf": "2"}
    codec = "libx264" if name == "camera.mts" else "mpeg2video"
    path = write_video(tmp_path / "whole.ts", codec, options=options, num_frames=60)
    content = path.read_bytes()
    (tmp_path / name).write_bytes(content[len(content) // 3 // 188 * 188 :])
    reference = decode_all(tmp_path / name)
    assert 20 < len(reference) < 60
    for index in range(0, len(reference), 4):
        frames, metadata = read_video(tmp_path / name, lambda metadata, index=index: [index])
        assert metadata.total_num_frames == len(reference)
        np.testing.assert_array_equal(frames, reference[[index]])

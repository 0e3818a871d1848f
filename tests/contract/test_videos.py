# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Frames are those of decoding everything, whatever the codec and container; a damaged video is named."""

import numpy as np
import pytest

from ..streams import STREAMS, X264
from .surface import SViTTVideoProcessor, frames_at


@pytest.mark.parametrize("name", STREAMS)
def test_any_frame_of_any_stream(name, tmp_path, write_video, decode_all):
    path = write_video(tmp_path / name, *STREAMS[name], num_frames=40)
    reference = decode_all(path)
    assert len(reference) == 40
    for index in range(40):
        frames, total = frames_at(path, [index])
        assert total == 40
        np.testing.assert_array_equal(frames, reference[[index]])
    wanted = [38, 3, 3, 17, 0, 39]
    np.testing.assert_array_equal(frames_at(path, wanted)[0], reference[wanted])


def test_any_frame_of_a_variable_frame_rate(tmp_path, write_video, decode_all):
    times = np.cumsum(np.random.default_rng(0).integers(20, 120, 40)).tolist()
    path = write_video(tmp_path / "varying.mp4", "libx264", options=X264, num_frames=40, times=times)
    wanted = [7, 8, 22, 39]
    np.testing.assert_array_equal(frames_at(path, wanted)[0], decode_all(path)[wanted])


def test_a_rotated_video_is_turned(tmp_path, write_video):
    path = write_video(tmp_path / "turned.mp4", "libx264", options=X264, rotation=90)
    frames, _ = frames_at(path, [0])
    assert frames.shape == (1, 64, 48, 3)


def test_sources_of_all_kinds_give_the_same_pixels(videos):
    path = videos["start.mp4"]
    processor = SViTTVideoProcessor(num_frames=4, size={"height": 32, "width": 32})
    sources = [path, str(path), path.read_bytes(), {"path": None, "bytes": path.read_bytes()}, {"path": str(path)}]
    clips = [processor([source], return_tensors="pt")["pixel_values"] for source in sources]
    assert clips[0].shape == (1, 4, 3, 32, 32)
    for clip in clips[1:]:
        np.testing.assert_array_equal(clip, clips[0])


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "text": lambda content: b"not a video" * 50,
    "zeroed": lambda content: content[:40] + bytes(len(content) - 40),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_video_is_named(damage, tmp_path, videos):
    path = tmp_path / "damaged.mp4"
    path.write_bytes(DAMAGES[damage](videos["end.mp4"].read_bytes()))
    with pytest.raises(ValueError, match=r"damaged\.mp4") as raised:
        frames_at(path, [0])
    assert "\n" not in str(raised.value)

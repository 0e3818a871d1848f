# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Counts of pictures in H.264 and HEVC: those the encoder wrote, and whether they rise with the times."""

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svitt.picture_order import PictureCount, PictureCounter, counts_follow_times


def read_counts(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        counter = PictureCounter(stream.codec_context.name, stream.codec_context.extradata)
        keys = np.array([i for i, packet in enumerate(packets) if packet.is_keyframe])
        ranks = np.array([packet.pts for packet in packets]).argsort().argsort()
        return keys, [counter(packets[key]) for key in keys], ranks


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts"])  # with lengths, with start codes
@pytest.mark.parametrize(
    "pixel_format, options",
    [
        ("yuv420p", {}),
        ("yuv444p", {}),
        ("yuv420p10le", {}),
        ("yuv420p", {"profile": "baseline"}),
        ("yuv420p", {"x264-params": "open-gop=1:cqm=jvt:keyint=12:scenecut=0"}),  # with scaling matrices
        ("yuv444p", {"x264-params": "open-gop=1:cqm=jvt:keyint=12:scenecut=0"}),
        ("yuv420p", {"x264-params": "open-gop=1:fake-interlaced=1:keyint=12:scenecut=0"}),
    ],
)
def test_h264(tmp_path, write_video, name, pixel_format, options):
    path = write_video(tmp_path / name, "libx264", pixel_format, {}, {"g": "12", "bf": "2"} | options, num_frames=60)
    keys, counts, ranks = read_counts(path)
    assert len(keys) >= 5 and counts_follow_times(keys, counts, ranks)
    is_open = "open-gop" in options.get("x264-params", "")
    for key, count in zip(keys, counts, strict=True):
        assert count.restarts == (key == 0 or not is_open)
        if is_open:  # x264 counts fields, from the only restart on
            assert count.low_bits == 2 * ranks[key] % 2**count.num_bits


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts"])
@pytest.mark.parametrize(
    "params", ["open-gop=0", "open-gop=1", "open-gop=1:temporal-layers=3:bframes=7", "open-gop=1:slices=2"]
)
def test_hevc(tmp_path, write_video, name, params):
    options = {"preset": "veryfast", "x265-params": f"log-level=none:keyint=10:scenecut=0:{params}"}
    path = write_video(tmp_path / name, "libx265", "yuv420p", {}, options, num_frames=45, size=(96, 96))
    keys, counts, ranks = read_counts(path)
    assert len(keys) >= 5 and counts_follow_times(keys, counts, ranks)
    for key, count in zip(keys, counts, strict=True):
        assert count.restarts == (key == 0 or "open-gop=0" in params)
        assert count.low_bits == (0 if count.restarts else ranks[key])


def test_other_codecs_restart_at_each_keyframe(videos):
    keys, counts, ranks = read_counts(videos["clip.webm"])
    assert counts == [PictureCount(0, 0, True)] * len(keys) and counts_follow_times(keys, counts, ranks)


def test_a_jump_is_seen():
    keys, ranks = np.array([0, 12, 24]), np.arange(36)
    restart = PictureCount(0, 4, True)
    for low_bits, expected in [((8, 0), True), ((12, 8), True), ((8, 2), False), ((12, 0), False), ((9, 2), False)]:
        counts = [restart, *(PictureCount(bits, 4, False) for bits in low_bits)]
        assert counts_follow_times(keys, counts, ranks) == expected, low_bits
    assert counts_follow_times(keys, [restart] * 3, ranks)
    assert not counts_follow_times(keys, [restart, None, restart], ranks)


@given(codec=st.sampled_from(["h264", "hevc"]), extradata=st.binary(max_size=80), packet=st.binary(max_size=80))
def test_damaged_headers_are_no_count(codec, extradata, packet):
    count = PictureCounter(codec, extradata)(packet)
    assert count is None or isinstance(count, PictureCount)

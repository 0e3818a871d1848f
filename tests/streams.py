# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Codecs and containers that reading is tested with: name → codec, pixel format, options of both; films with sound."""

import struct
from fractions import Fraction

import av
import numpy as np

X264 = {"g": "12", "bf": "3"}
X265 = {"g": "12", "preset": "veryfast"}
QUIET = "log-level=none"
STREAMS = {
    "b_frames.mp4": ("libx264", "yuv420p", {}, X264),
    "b_pyramid.mov": ("libx264", "yuv420p", {}, {"g": "24", "bf": "7", "x264-params": "b-pyramid=normal:ref=6"}),
    "open_gop.mp4": ("libx264", "yuv420p", {}, X264 | {"x264-params": "open-gop=1"}),
    "open_gop.mkv": ("libx264", "yuv420p", {}, X264 | {"x264-params": "open-gop=1"}),
    "open_gop.ts": ("libx264", "yuv420p", {}, X264 | {"x264-params": "open-gop=1"}),
    "intra_refresh.mp4": ("libx264", "yuv420p", {}, {"g": "12", "x264-params": "intra-refresh=1"}),
    "interlaced.mp4": ("libx264", "yuv420p", {}, {"g": "12", "x264-params": "tff=1"}),
    "no_times.avi": ("libx264", "yuv420p", {}, X264),
    "raw.h264": ("libx264", "yuv420p", {}, X264),
    "10_bit.mp4": ("libx264", "yuv420p10le", {}, X264),
    "gray.mp4": ("libx264", "gray", {}, X264),
    "yuv444.mp4": ("libx264", "yuv444p", {}, X264),
    "hevc.mp4": ("libx265", "yuv420p", {}, X265 | {"x265-params": f"{QUIET}:open-gop=0"}),
    "hevc_open_gop.mkv": ("libx265", "yuv420p", {}, {"x265-params": f"{QUIET}:open-gop=1:keyint=12"}),
    "hevc_layers.mp4": ("libx265", "yuv420p", {}, X265 | {"x265-params": f"{QUIET}:temporal-layers=3:bframes=7"}),
    "hevc_10_bit.mkv": ("libx265", "yuv420p10le", {}, X265 | {"x265-params": QUIET}),
    "vp8_hidden.webm": ("libvpx", "yuv420p", {}, {"g": "24", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9_hidden.webm": ("libvpx-vp9", "yuv420p", {}, {"g": "12", "cpu-used": "6", "lag-in-frames": "16"}),
    "vp9_alpha.webm": ("libvpx-vp9", "yuva420p", {}, {"deadline": "realtime", "cpu-used": "8", "g": "12"}),
    "av1.mp4": ("libsvtav1", "yuv420p", {}, {"preset": "12", "g": "12", "svtav1-params": "lookahead=0"}),
    "mpeg4.mp4": ("mpeg4", "yuv420p", {}, {"g": "12", "bf": "2", "b": "2M"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {}, {"g": "12", "b": "2M"}),
    "mpeg4_b.avi": ("mpeg4", "yuv420p", {}, {"g": "12", "bf": "2"}),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {}, {"g": "12", "bf": "2"}),
    "mpeg1.mpg": ("mpeg1video", "yuv420p", {}, {"g": "12", "bf": "2"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}, {}),
    "alpha.mov": ("qtrle", "argb", {}, {"g": "12"}),
    "prores.mov": ("prores_ks", "yuv422p10le", {}, {}),
    "lossless.mkv": ("ffv1", "yuv420p", {}, {"g": "12"}),
    "animation.gif": ("gif", "rgb8", {}, {}),
    "animation.apng": ("apng", "rgb24", {}, {}),
}

FADE = 4  # levels of grey that a second of a film is lighter than the one before
FILMS = {  # arguments of `write_film`
    "film.avi": {"codec": "mpeg4", "sound": "libmp3lame", "options": {"g": "250"}},
    "film.mkv": {"codec": "libvpx-vp9", "sound": "ac3", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "film.wmv": {"codec": "wmv2", "sound": "wmav2"},
    "film.mts": {
        "codec": "libx264",
        "sound": "ac3",
        "container": "mpegts",
        "size": (180, 136),
        "aspect": Fraction(4, 3),
    },
    "film.mov": {"codec": "libx265", "sound": "pcm_s16le", "options": {"x265-params": f"{QUIET}:keyint=100"}},
}


def write_film(path, codec, sound=None, size=(64, 48), seconds=40, aspect=None, options=None, container=None):
    """A video that grows lighter from second to second, and sounds in every other one."""
    with av.open(str(path), "w", container) as output:
        video = output.add_stream(codec, 25, options or {})
        video.width, video.height = size
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        heard = output.add_stream(sound, 48000, layout="stereo", bit_rate=96000) if sound else None
        for second in range(seconds):
            for number in range(25 * second, 25 * second + 25):
                frame = av.VideoFrame.from_ndarray(np.full((*size[::-1], 3), FADE * second, np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                output.mux(video.encode(frame))
            if sound:
                wave = 9000 * np.sin(np.arange(48000) / 5) * (second % 2)
                frame = av.AudioFrame.from_ndarray(wave.astype(np.int16).repeat(2)[None], format="s16", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = 48000, 48000 * second, Fraction(1, 48000)
                output.mux(heard.encode(frame))
        for stream in output.streams:
            output.mux(stream.encode())
    return path


HDR_PATCHES = np.array(  # signal of red, green and blue
    [(0.2,) * 3, (0.5,) * 3, (0.6,) * 3, (1.0,) * 3, (0.5, 0.1, 0.1), (0.1, 0.6, 0.1), (0.2, 0.2, 0.7), (0.7, 0.6, 0.5)]
)


def write_hdr(path, transfer, full_range=False):
    """A frame of BT.2020 with squares of 8 x 8 pixels, each of one of `HDR_PATCHES`, without loss."""
    red, _, blue = HDR_PATCHES.T
    luma = HDR_PATCHES @ (0.2627, 0.678, 0.0593)
    planes = np.stack([luma, (blue - luma) / 1.8814 + 0.5, (red - luma) / 1.4746 + 0.5])
    if not full_range:
        planes = (planes * [[219], [224], [224]] + 16) / 255
    planes = np.rint(planes * (65535 if full_range else 255 * 256)).astype(np.uint16)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 8 * len(HDR_PATCHES), 8, "yuv444p16le"
        codec = stream.codec_context
        codec.color_trc, codec.color_primaries, codec.colorspace = transfer, 9, 9
        codec.color_range = 2 if full_range else 1
        pixels = planes.T.repeat(8, axis=0)[None].repeat(8, axis=0)
        frame = av.VideoFrame.from_ndarray(pixels, format="yuv444p16le")
        output.mux([*stream.encode(frame), *stream.encode()])
    return path


def remux(source, target, times=lambda packet: (packet.pts, packet.dts), change=None, container=None, options=None):
    """Copy the packets of a video, perhaps to other times, those without any left out, or into a changed stream."""
    with av.open(str(source)) as opened, av.open(str(target), "w", container, options=options) as output:
        stream = output.add_stream_from_template(opened.streams.video[0])
        if change:
            change(stream)
        for packet in opened.demux(video=0):
            if packet.size and (moved := times(packet)):
                (packet.pts, packet.dts), packet.stream = moved, stream
                output.mux(packet)


def write_huge_picture(path):
    """A GIF of 4 gigapixels, as its header says."""
    screen = struct.pack("<6sHHBBB", b"GIF89a", 65535, 65535, 0, 0, 0)
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    path.write_bytes(screen + image + b"\x02\x02\x4c\x01\x00\x3b")


def join_videos(path, sources, default=None, cover=None, timecode=None):
    """One file of all packets of several, each as a stream of its own; the number `default` of them is to be shown."""
    kind = av.stream.Disposition
    with av.open(str(path), "w") as output:
        streams, packets = [], []
        for number, source in enumerate(sources):
            with av.open(str(source)) as container:
                stream = output.add_stream_from_template(container.streams.video[0])
                stream.disposition = kind.attached_pic if number == cover else kind(int(number == default))
                stream.metadata.update({"timecode": timecode} if timecode else {})
                streams.append(stream)
                packets += [(number, packet) for packet in container.demux(video=0) if packet.size]
        for number, packet in sorted(packets, key=lambda one: (one[1].dts or 0) * one[1].time_base):
            packet.stream = streams[number]
            output.mux(packet)
    return path

# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Codecs and containers that reading frames is tested with: name → codec, pixel format, options of both."""

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

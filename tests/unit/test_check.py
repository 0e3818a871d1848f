# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""`svitt check` finds every bad video and row, and survives decoders that crash or hang."""

import json
import os
import time
import wave

import av
import pytest

from svitt.data.check import check_video, check_videos, in_workers
from svitt.data.files import files_below
from svitt.errors import InputError
from svitt.processing_svitt import VideoDecodeError

from ..streams import write_huge_picture


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_video):
    """Two good videos of 24 frames, and one of each kind of bad ones."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "sub").mkdir()
    good = write_video(folder / "good.mp4", "libx264", options={"g": "12"}).read_bytes()
    (folder / "sub" / "good.mp4").write_bytes(good)
    write_video(folder / "short.mp4", "libx264", num_frames=3)
    (folder / "cut.mp4").write_bytes(good[: len(good) // 2])
    (folder / "empty.webm").touch()
    (folder / "text.avi").write_text("not a video")
    with wave.open(str(folder / "song.mp4"), "wb") as song:
        song.setnchannels(1), song.setsampwidth(2), song.setframerate(8000), song.writeframes(bytes(16000))
    write_huge_picture(folder / "huge.gif")
    (folder / "._good.mp4").write_text("hidden")
    (folder / "notes.txt").write_text("no video either")
    return folder


BAD_CLIPS = {"cut.mp4": "cut off", "empty.webm": "empty", "text.avi": "not a video", "song.mp4": "audio"}
BAD_CLIPS |= {"huge.gif": "limit", "short.mp4": "it has 3 of 4 frames"}


def check(report, **options):
    """The number of faults, and the lines of the report."""
    count = check_videos(report=str(report), num_workers=1, **options)
    return count, [json.loads(line) for line in report.read_text().splitlines()]


@pytest.mark.parametrize("full", [False, True])
def test_a_folder(clips, tmp_path, capsys, full):
    count, lines = check(tmp_path / "bad.jsonl", video_dir=str(clips), full=full)
    assert count == len(lines) == len(BAD_CLIPS) and "8 videos checked, 6 problems found" in capsys.readouterr().out
    for line in lines:
        assert line["error"].startswith(f"{line['video']}: ") and line["where"] == str(clips)
        assert BAD_CLIPS[os.path.basename(line["video"])] in line["error"] and set(line) == {"video", "error", "where"}


def test_all_frames_are_decoded_only_if_asked(tmp_path, write_video):
    path = write_video(tmp_path / "damaged.mp4", "libx264", options={"g": "12", "bf": "0"})
    with av.open(str(path)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
    content = bytearray(path.read_bytes())
    content[last.pos : last.pos + last.size] = b"\xff" * last.size
    path.write_bytes(content)
    assert check_video(str(path), num_frames=4, full=False) > 0
    with pytest.raises(VideoDecodeError, match="damaged.mp4"):
        check_video(str(path), num_frames=4, full=True)


ROWS = {  # in order; those that are bad with words of the sentence
    "good": ({"video": "good.mp4", "caption": ["a", "b"]}, None),
    "gone": ({"video": "gone.mp4", "caption": "c"}, "gone.mp4: "),
    "one of two": ({"video": ["sub/good.mp4", "cut.mp4"], "caption": "d"}, "cut off"),
    "again": ({"video": "cut.mp4", "caption": "e"}, None),  # reported once
    "no video": ({"caption": "f"}, "`video` is missing"),
    "no caption": ({"video": "short.mp4"}, "`caption` is missing"),
    "no text": ({"video": "good.mp4", "caption": 7}, "`caption` must be"),
    "no row": ("good.mp4", "must be an object"),
    "outside": ({"video": "../good.mp4", "caption": "g"}, "must be a path below"),
}


def test_all_rows_of_annotations(clips, tmp_path):
    file = tmp_path / "train.json"
    file.write_text(json.dumps([row for row, _ in ROWS.values()]))
    questions = tmp_path / "b.jsonl"
    rows = [{"video": "good.mp4", "question": "what?", "answer": "cat", "question_id": n % 2} for n in range(3)]
    questions.write_text("\n".join(map(json.dumps, rows)))
    files = {"video_dir": str(clips), "annotation_file": [str(file), str(questions)]}
    count, lines = check(tmp_path / "bad.jsonl", num_frames=3, **files)
    found = {line["where"]: line["error"] for line in lines}
    expected = {f"{file}, row {n}": word for n, (_, word) in enumerate(ROWS.values(), start=1) if word}
    expected |= {f"{questions}, row 3": "already used in row 1"}
    assert found.keys() == expected.keys() and count == len(lines) == len(expected)
    assert all(word in found[where] for where, word in expected.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"video_dir": "nowhere"}, "nowhere: .*o such"),
        ({"video_dir": "."}, ".: holds no video"),
        ({"annotation_file": ["none.csv"]}, "none.csv: there is no such file"),
        ({}, "`video_dir` is missing: say what to check"),
        ({"video_dir": ".", "num_frames": 0}, "`num_frames` must be at least 1"),
        ({"video_dir": "clips", "num_workers": 0}, "`num_workers` must be at least 1"),
        ({"video_dir": "clips", "report": "."}, r"\.: cannot be written"),
    ],
)
def test_wrong_arguments(clips, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").symlink_to(clips / "sub")
    if options.get("video_dir") == ".":
        (tmp_path / "clips").unlink()
    with pytest.raises(InputError, match=message):
        check_videos(**options)


def test_folders_are_followed_through_links_once_each(tmp_path):
    for name in ("clips/a", "clips/b", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "one.mp4").touch()
    for link, target in (("clips/b/other", "../../elsewhere"), ("clips/again", "a"), ("clips/b/up", "../..")):
        (tmp_path / link).symlink_to(target)
    found = [os.path.realpath(path) for path in files_below(str(tmp_path / "clips"))]
    assert sorted(found) == [str(tmp_path / name / "one.mp4") for name in ("clips/a", "clips/b", "elsewhere")]


CRASH, HANG, RAISE = "import os; os.abort()", "import time; time.sleep(600)", "raise ValueError('x')"


def test_workers_survive_crashes_and_hangs():
    start = time.monotonic()
    items = ["pass", CRASH, "pass", HANG, RAISE, "import os; os._exit(3)", *["pass"] * 20]
    results = list(in_workers(exec, items, "testing", num_workers=2, timeout=5.0))
    assert time.monotonic() - start < 300 and len(results) == len(items)
    assert all((result is None) == (item == "pass") for item, result in zip(items, results, strict=True))
    errors = {item: result for item, result in zip(items, results, strict=True)}
    assert "crashed" in str(errors[CRASH]) and "crashed (exit code 3)" in str(errors["import os; os._exit(3)"])
    assert "took longer than 5 s" in str(errors[HANG]) and "failed (ValueError: x)" in str(errors[RAISE])
    assert all(isinstance(errors[item], VideoDecodeError) for item in (CRASH, HANG, RAISE))

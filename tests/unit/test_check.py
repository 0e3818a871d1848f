# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""svitt-check-videos finds every problem, survives crashes and hangs, and goes on after an interruption."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import wave
from contextlib import suppress
from pathlib import Path

import av
import pytest

from svitt.data import check as check_videos
from svitt.data.check import CheckArguments, check_dataset, check_video
from svitt.data.presets import PresetArguments
from svitt.data.workers import WorkerFailure, map_in_workers
from svitt.errors import InputError


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_video):
    """One good video of 24 frames, and one of each kind of bad ones."""
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
    huge = (
        struct.pack("<6sHHBBB", b"GIF89a", 65535, 65535, 0, 0, 0)
        + b"\x2c"
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    )
    (folder / "huge.gif").write_bytes(huge + b"\x02\x02\x4c\x01\x00\x3b")
    (folder / "._good.mp4").write_text("hidden")
    (folder / "notes.txt").write_text("no video either")
    return folder


BAD_CLIPS = {
    "cut.mp4": ("unreadable", "cut off"),
    "empty.webm": ("unreadable", "the file is empty"),
    "text.avi": ("unreadable", "not a video file"),
    "song.mp4": ("no_video_stream", "what it holds is: audio"),
    "huge.gif": ("above_limits", "above the limit"),
    "short.mp4": ("too_short", "it has 3 of 4 frames"),
}


def check(folder, report, **options):
    """The exit code and the lines of the report."""
    options = {"video_dir": str(folder), "report": str(report), "num_workers": 2} | options
    dataset = PresetArguments(
        **{key: options.pop(key) for key in ("dataset", "dataset_file", "data_dir") if key in options}
    )
    code = check_dataset(CheckArguments(**options), dataset)
    return code, [json.loads(line) for line in Path(report).read_text().splitlines()]


def write_json(path, content):
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("full", [False, True])
def test_folder(clips, tmp_path, capsys, full):
    code, lines = check(clips, tmp_path / "bad.jsonl", full=full)
    assert code == 1
    assert {os.path.relpath(line["video"], clips): line["problem"] for line in lines} == {
        name: problem for name, (problem, _) in BAD_CLIPS.items()
    }
    for line in lines:
        name = os.path.basename(line["video"])
        assert line["error"].startswith(f"{line['video']}: ") and BAD_CLIPS[name][1] in line["error"]
        assert set(line) == {"video", "problem", "error"}
    printed = capsys.readouterr().out
    assert "8 videos checked" in printed and f"{24 + 24 + 3} frames" in printed and "0:00:02 hours" in printed
    assert printed.count(" 3\n") == 1 and "unreadable                      3" in printed
    assert os.listdir(tmp_path) == ["bad.jsonl"]


def test_clean_folder_and_another_number_of_frames(clips, tmp_path):
    assert check(clips / "sub", tmp_path / "bad.jsonl") == (0, [])
    code, [line] = check(clips / "sub", tmp_path / "bad.jsonl", num_frames=25)
    assert (code, line["problem"]) == (1, "too_short") and "24 of 25 frames" in line["error"]


def test_all_frames_are_decoded_only_if_asked(tmp_path, write_video):
    path = write_video(tmp_path / "damaged.mp4", "libx264", options={"g": "12", "bf": "0"})
    with av.open(str(path)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
    content = bytearray(path.read_bytes())
    content[last.pos : last.pos + last.size] = b"\xff" * last.size
    path.write_bytes(content)
    assert check_video(str(path), num_frames=4, full=False) == {"frames": 24, "seconds": pytest.approx(0.96)}
    assert check_video(str(path), num_frames=4, full=True)["problem"] == "unreadable"


ROWS = [
    {"video": "good.mp4", "caption": "a"},
    {"video": "good.mp4", "caption": ["b", "c"]},
    {"video": "GOOD.MP4", "caption": "d"},
    {"video": "good.webm", "caption": "e"},
    {"video": "gone.mp4", "caption": "f"},
    {"video": ["sub/good.mp4", "cut.mp4"], "caption": "g"},
    {"video": "cut.mp4", "caption": "h"},
    {"caption": "i"},
    {"video": "short.mp4"},
    {"video": "good.mp4", "caption": 7},
    {"video": "good.mp4", "caption": " "},
    {"video": {"path": "good.mp4"}, "caption": "j"},
    "good.mp4",
    {"video": "../good.mp4", "caption": "k"},
    {"id": 1, "video": "good.mp4", "caption": "l"},
    {"id": 1, "video": "good.mp4", "caption": "m"},
    {"video": "good.mp4", "question": "what?", "answer": []},
    {"video": "good.mp4", "caption": ["n", "o"], "answer": 2},
]
FAULTS = {  # by row: what is reported, and words of the sentence
    3: ("mismatched_annotation", "no such file, but"),
    4: ("mismatched_annotation", "no such file, but"),
    5: ("missing", "no such file"),
    6: ("unreadable", "cut off"),
    8: ("mismatched_annotation", "`video` is missing"),
    9: ("mismatched_annotation", "`caption` is missing"),
    10: ("mismatched_annotation", "`caption` must be a string or a list of strings, none blank, got 7"),
    11: ("mismatched_annotation", "got ' '"),
    12: ("mismatched_annotation", "`video` must be"),
    13: ("mismatched_annotation", "must be an object"),
    14: ("mismatched_annotation", "must be a path below"),
    16: ("mismatched_annotation", "`id` 1 was already used in row 15"),
    17: ("mismatched_annotation", "`answer` must be"),
    18: ("mismatched_annotation", "`answer` must be from 0 to 1, got 2"),
}


def test_annotations(clips, tmp_path, capsys):
    file = write_json(tmp_path / "train.json", ROWS)
    code, lines = check(clips, tmp_path / "bad.jsonl", annotation_file=[file], num_frames=3)
    assert code == 1
    assert {line["row"]: line["problem"] for line in lines} == {row: problem for row, (problem, _) in FAULTS.items()}
    assert len(lines) == len(FAULTS)  # the cut video, named in two rows, is reported once
    for line in lines:
        assert FAULTS[line["row"]][1] in line["error"] and line["annotation_file"] == file
    named = {line["row"]: line["video"] and os.path.relpath(line["video"], clips) for line in lines}
    assert (named[3], named[5], named[6], named[8], named[9]) == ("GOOD.MP4", "gone.mp4", "cut.mp4", None, "short.mp4")
    printed = capsys.readouterr().out
    assert "4 videos checked" in printed and "unused                          4" in printed


def test_several_annotations_in_other_formats(clips, tmp_path):
    captions = tmp_path / "a.csv"
    captions.write_text("video,caption\ngood.mp4,a cat\nsong.mp4,a dog\n")
    questions = tmp_path / "b.jsonl"
    rows = [{"video": "song.mp4", "question": "what?", "answer": "cat", "question_id": n % 2} for n in range(3)]
    questions.write_text("\n".join(map(json.dumps, rows)))
    code, lines = check(clips, tmp_path / "bad.jsonl", annotation_file=[str(captions), str(questions)])
    found = {(line["problem"], line["annotation_file"], line["row"]) for line in lines}
    assert found == {("no_video_stream", str(captions), 2), ("mismatched_annotation", str(questions), 3)}


def test_dataset_file_and_preset(clips, tmp_path, capsys):
    shutil.copytree(clips, tmp_path / "clips")
    write_json(tmp_path / "train.json", [{"clip": "good.mp4", "text": "a"}, {"clip": "song.mp4", "text": "b"}])
    (tmp_path / "mine.yaml").write_text(
        "splits:\n"
        "  train: {annotation: train.json, videos: clips, columns: {video: clip, caption: text}}\n"
        "  shards: {shards: 'packed/*.tar'}\n"
        "  test: {annotation: test.json, videos: clips}\n"
    )
    options = {"video_dir": None, "dataset_file": str(tmp_path / "mine.yaml")}
    code, lines = check(None, tmp_path / "bad.jsonl", **options)
    assert {(line["problem"], line["video"] and os.path.basename(line["video"])) for line in lines} == {
        ("no_video_stream", "song.mp4"),
        ("missing", None),
    }
    assert "split shards: not checked" in capsys.readouterr().out
    with pytest.raises(InputError, match="msrvt: there is no such dataset"):
        check(None, tmp_path / "bad.jsonl", video_dir=None, dataset="msrvt")
    options = {"video_dir": None, "dataset": "msrvtt_qa", "data_dir": str(tmp_path)}
    with pytest.raises(InputError, match="msrvtt_videos: there is no such folder of videos"):
        check(None, tmp_path / "bad.jsonl", **options)
    (tmp_path / "msrvtt_videos").mkdir()
    code, lines = check(None, tmp_path / "bad.jsonl", **options)
    assert {line["problem"] for line in lines} == {"missing"} and "msrvtt_qa_train.json" in lines[0]["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"video_dir": "nowhere"}, "nowhere: there is no such folder of videos"),
        ({"video_dir": "."}, ".: holds no video"),
        ({"video_dir": None}, "Say what to check"),
        ({"annotation_file": ["none.json"]}, "none.json: there is no such annotation file"),
        ({"annotation_file": ["bad.json"]}, "bad.json: not a JSON file"),
        ({"annotation_file": ["[].json"]}, "must hold at least one annotation"),
        ({"num_frames": 0}, "--num_frames 0: must be at least 1"),
        ({"num_workers": 0}, "--num_workers 0: must be at least 1"),
        ({"timeout": 0.0}, "--timeout 0: must be at least 0.001"),
        ({"report": "no/such/folder/report"}, "--report no/such/folder/report: cannot be written"),
    ],
)
def test_wrong_arguments(clips, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("[{")
    Path("[].json").write_text("[]")
    options = {"video_dir": str(clips / "sub"), "report": "bad.jsonl"} | options
    with pytest.raises(InputError) as raised:
        check_dataset(CheckArguments(**options), PresetArguments())
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_folders_are_followed_through_links_once_each(tmp_path, monkeypatch):
    for name in ("clips/a", "clips/b", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "one.mp4").touch()
    for link, target in (("clips/b/other", "../../elsewhere"), ("clips/again", "a"), ("elsewhere/up", "..")):
        (tmp_path / link).symlink_to(target)
    names = ["a/one.mp4", "b/one.mp4", "b/other/one.mp4"]
    assert check_videos.videos_below([tmp_path / "clips"]) == [str(tmp_path / "clips" / name) for name in names]
    monkeypatch.setattr(os, "walk", lambda folder, onerror: onerror(PermissionError(13, "Permission denied", folder)))
    with pytest.raises(InputError, match="clips: cannot be listed \\(Permission denied\\)"):
        check_videos.videos_below([tmp_path / "clips"])


def test_interrupted_scan_goes_on(clips, tmp_path, monkeypatch):
    folder, report = tmp_path / "clips", tmp_path / "bad.jsonl"
    shutil.copytree(clips, folder)
    _, expected = check(folder, tmp_path / "expected.jsonl")
    all_videos, read = set(check_videos.videos_below([folder])), []

    def map_some(function, videos, num_workers, timeout):
        for video in videos:
            if len(read) == limit:
                raise KeyboardInterrupt
            read.append(video)
            yield video, function(video)

    monkeypatch.setattr(check_videos, "map_in_workers", map_some)
    limit = 5
    with pytest.raises(KeyboardInterrupt):
        check(folder, report)
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert len(lines) == 4  # `expected` is in the order in which workers were ready
    assert sorted(lines, key=str) == sorted([line for line in expected if line["video"] in read], key=str)
    with Path(f"{report}.unfinished").open("a") as file:
        file.write('{"video": "')  # as if killed while writing

    mended, known = read[0], set(read[1:])
    shutil.copy(folder / "good.mp4", mended)
    read, limit = [], 100
    _, lines = check(folder, report)
    assert set(read) == all_videos - known and len(read) == len(set(read))
    assert sorted(lines, key=str) == sorted([line for line in expected if line["video"] != mended], key=str)
    assert not Path(f"{report}.unfinished").exists()


def test_other_settings_read_all_again(clips, tmp_path):
    unfinished = tmp_path / "bad.jsonl.unfinished"
    known = {"video": str(clips / "sub/good.mp4"), "settings": {"num_frames": 4, "full": False}}
    known |= {"file": check_videos.file_state(known["video"]), "result": {"problem": "unreadable", "error": "known"}}
    unfinished.write_text(json.dumps(known) + "\n")
    assert check(clips / "sub", tmp_path / "bad.jsonl")[0] == 1
    unfinished.write_text(json.dumps(known) + "\n")
    assert check(clips / "sub", tmp_path / "bad.jsonl", full=True)[0] == 0


CRASH, HANG, RAISE = "import os; os.abort()", "import time; time.sleep(60)", "raise ValueError('x')"


def test_workers_survive_crashes_and_hangs():
    items = ["pass", CRASH, "pass", HANG, RAISE, "import os; os._exit(3)", *["pass"] * 20]
    start = time.monotonic()
    results = list(map_in_workers(exec, items, num_workers=2, timeout=2.0))
    assert time.monotonic() - start < 30
    assert sorted(item for item, _ in results) == sorted(items)
    outcomes = {item: result for item, result in results}
    assert outcomes["pass"] is None
    assert isinstance(outcomes[CRASH], WorkerFailure) and str(outcomes[CRASH]) == "crashed (Aborted)"
    assert str(outcomes["import os; os._exit(3)"]) == "crashed (exit code 3)"
    assert isinstance(outcomes[HANG], WorkerFailure) and str(outcomes[HANG]) == "took longer than 2 s"
    assert isinstance(outcomes[RAISE], ValueError)


def test_items_are_taken_when_a_worker_is_free():
    taken = []
    results = map_in_workers(exec, (taken.append(n) or "pass" for n in range(100)), num_workers=2)
    next(results)
    assert len(taken) == 3  # two at first, and one for the first that was done
    results.close()


def test_crashes_and_hangs_are_reported(clips, tmp_path, monkeypatch):
    def failing(function, videos, num_workers, timeout):
        for number, video in enumerate(videos):
            failures = {0: WorkerFailure("crashed (Segmentation fault)"), 1: WorkerFailure("took longer than 60 s")}
            yield video, failures.get(number) or function(video)

    shutil.copytree(clips / "sub", tmp_path / "clips")
    for name in "ab":
        shutil.copy(clips / "good.mp4", tmp_path / f"clips/{name}.mp4")
    monkeypatch.setattr(check_videos, "map_in_workers", failing)
    code, lines = check(tmp_path / "clips", tmp_path / "bad.jsonl")
    assert code == 1
    assert [line["error"].rpartition(": ")[2] for line in lines] == [
        "the decoder crashed (Segmentation fault).",
        "the decoder took longer than 60 s.",
    ]
    assert {line["problem"] for line in lines} == {"unreadable"}


def test_result_of_a_video(clips):
    found = check_video(str(clips / "good.mp4"), num_frames=4, full=False)
    assert found == {"frames": 24, "seconds": pytest.approx(0.96)}


@pytest.mark.parametrize("video_dir, code", [("sub", 0), (".", 1), ("nowhere", 2)])
def test_exit_codes(clips, tmp_path, monkeypatch, capsys, video_dir, code):
    monkeypatch.chdir(clips)
    report = str(tmp_path / "bad.jsonl")
    monkeypatch.setattr(sys, "argv", ["svitt-check-videos", "--video_dir", video_dir, "--report", report])
    with pytest.raises(SystemExit) as exited:
        check_videos.main()
    assert exited.value.code == code
    error = "svitt-check-videos: nowhere: there is no such folder of videos.\n" if code == 2 else ""
    assert capsys.readouterr().err == error


def test_ctrl_c_leaves_a_valid_report(tmp_path, write_video):
    (tmp_path / "videos").mkdir()
    video = write_video(tmp_path / "videos/00000.mp4", "libx264", num_frames=2)
    for number in range(1, 10000):
        os.link(video, tmp_path / f"videos/{number:05d}.mp4")
    report = tmp_path / "bad.jsonl"
    command = [sys.executable, "-c", "from svitt.data.check import main; main()"]
    command += ["--video_dir", str(tmp_path / "videos"), "--report", str(report), "--num_workers", "2"]

    def listen():  # what a shell starts in the background is deaf to Ctrl-C, and so is all that this starts
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True, "preexec_fn": listen}
    process = subprocess.Popen(command, **options)
    deadline = time.monotonic() + 60
    while not report.exists() or report.stat().st_size == 0:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # the terminal sends it to all
    try:
        error = process.communicate(timeout=60)[1]  # at its end when all that could write to it have ended
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, error
    assert error == "Interrupted: the same command goes on with the videos that are left.\n"
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert 0 < len(lines) < 10000 and {line["problem"] for line in lines} == {"too_short"}

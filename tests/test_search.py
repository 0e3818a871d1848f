# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""svitt-search: what is indexed, found and said; indexers that are killed or come in twos."""

import copy
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from svitt import (
    SViTTForVideoQuestionAnswering,
    SViTTForVideoTextRetrieval,
    SViTTModel,
    SViTTProcessor,
    SViTTVideoProcessor,
)
from svitt.errors import InputError
from svitt.processing_svitt import VideoDecodeError, read_video
from svitt.search import SViTTIndex, cli
from svitt.search import clips as clips_module
from svitt.search.checks import check_query
from svitt.search.clips import Clip, ClipPlans, Video, cut, find_videos, video_at
from svitt.search.folder import locked
from svitt.search.index import fingerprint_of, load, remove_videos, without_overlaps
from svitt.search.table import ClipTable

ROOT = Path(__file__).parent.parent
SENTENCE = "a red circle hops and then a blue square hops"


@pytest.fixture
def videos(demo, tmp_path):
    """A folder with the eight clips of the split `val`."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in sorted((demo / "data/videos").glob("val_*")):
        shutil.copy2(path, folder)
    return folder


@pytest.fixture
def index(demo, tmp_path):
    return SViTTIndex.create(tmp_path / "index", str(demo / "model"))


def rows_of(index):
    table = index.table.table
    table.checkout_latest()
    rows = table.search().limit(100_000).to_list()
    return {(row["video"], row["number"]): np.array(row["embedding"]) for row in rows}


def assert_same_rows(index, expected):
    actual = rows_of(index)
    assert actual.keys() == expected.keys()
    for key, embedding in expected.items():
        np.testing.assert_allclose(actual[key], embedding, atol=1e-5)


def read_middle_frames(demo, paths):
    processor = SViTTProcessor.from_pretrained(demo / "model")
    return processor, processor(videos=[str(path) for path in paths], return_tensors="pt")["pixel_values"]


# ---- Clips


@settings(deadline=None)
@given(st.integers(1, 5000), st.sampled_from([None, 1.0, 24.0, 29.97]), st.floats(5, 20), st.floats(0.25, 1))
def test_clips_cover_a_video_and_overlap(num_frames, fps, clip_seconds, share):
    clips = cut(num_frames, fps, clip_seconds, clip_seconds * share)
    assert clips[0].start == 0 and clips[0].first == 0 and clips[-1].last == num_frames
    assert [clip.number for clip in clips] == list(range(len(clips))) == list(range(clips[0].num_clips))
    for before, after in zip(clips[:-1], clips[1:], strict=True):
        assert before.start < after.start <= before.end + 1e-6 and after.first <= before.last
        assert after.start - before.start <= clip_seconds * share + 1e-6
    for clip in clips:
        assert 0 <= clip.first < clip.last <= num_frames
        assert clip.end - clip.start <= clip_seconds + 1e-6


@pytest.mark.parametrize(("num_frames", "fps", "clip_seconds"), [(1019, 25.0, 6.740120951041053), (24, 1e-6, 10.0)])
def test_clips_are_as_many_as_frames_at_most(num_frames, fps, clip_seconds):
    """Of the first video, clip and rest are less than the whole, by rounding; the other claims to last for months."""
    clips = cut(num_frames, fps, clip_seconds, clip_seconds / 2)
    assert len(clips) == (12 if fps > 1 else 24) and clips[-1].last == num_frames
    assert [clip.first for clip in clips] == sorted({clip.first for clip in clips})


def test_clips_of_a_minute():
    clips = cut(240, 10.0, 10.0, 8.0)
    assert [(clip.start, clip.end) for clip in clips] == [(0, 10), (8, 18), (14, 24)]
    assert clips[1] == Clip(1, 3, 8.0, 18.0, 80, 180)
    assert cut(7, None, 10.0, 5.0) == [Clip(0, 1, 0.0, 0.0, 0, 7)]


def test_clips_of_a_variable_frame_rate(tmp_path, write_video):
    """Ten seconds of 10 frames each, then a frame every two seconds; in the other, nothing moves for a minute."""
    times = [100 * i for i in range(100)] + [10_000 + 2000 * i for i in range(15)]
    path = write_video(tmp_path / "variable.mp4", "libx264", num_frames=115, times=times)
    [clips] = ClipPlans([video_at(str(path))], 10.0, 5.0)
    assert [(clip.first, clip.last) for clip in clips] == [
        (0, 100), (50, 103), (100, 105), (102, 108), (105, 110), (107, 113), (109, 115)
    ]  # fmt: skip
    starts = [0, 5, 10, 15, 20, 25, 38 + 1 / 3 - 10]
    np.testing.assert_allclose([clip.start for clip in clips], starts, atol=0.1)
    assert all(clip.end == pytest.approx(clip.start + 10) for clip in clips)

    clips = cut(4, 0.05, 10.0, 5.0, np.array([0.0, 0.1, 0.2, 60.0]))
    assert clips == [Clip(0, 2, 0.0, 10.0, 0, 3), Clip(1, 2, 60.0, 70.0, 3, 4)]


def test_overlapping_hits_of_a_video_are_one():
    parts = [("a", 5, 15), ("a", 0, 10), ("b", 0, 10), ("a", 15, 25)]
    rows = [{"video": video, "start": start, "end": end} for video, start, end in parts]
    assert without_overlaps(rows) == [rows[0], rows[2], rows[3]]


# ---- What is found


def test_shortlist_is_exact_and_ranked_by_the_models_own_score(demo, videos, index):
    index.add([videos])
    paths = sorted(videos.iterdir())
    model = SViTTModel.from_pretrained(demo / "model").eval()
    processor, pixels = read_middle_frames(demo, paths)
    words = processor(text=[SENTENCE], return_tensors="pt")
    with torch.no_grad():
        outputs = model(pixel_values=pixels, **words)
        cosines = (outputs.video_embeds @ outputs.text_embeds.T)[:, 0]
        scores = torch.stack([model.match(clip[None], **words)[0] for clip in pixels])

    hits = index.search(SENTENCE, top_k=8, rerank=False)
    assert [hit.video for hit in hits] == [str(paths[i]) for i in cosines.argsort(descending=True)]
    assert [hit.similarity for hit in hits] == pytest.approx(sorted(cosines.tolist(), reverse=True), abs=1e-5)
    assert {hit.score for hit in hits} == {None}

    hits = index.search(SENTENCE, top_k=3, shortlist=5)
    shortlist = cosines.topk(5).indices
    best = shortlist[scores[shortlist].argsort(descending=True)][:3]
    assert [hit.video for hit in hits] == [str(paths[i]) for i in best]
    assert [hit.score for hit in hits] == pytest.approx(scores[best].tolist(), abs=1e-4)


def test_the_docs_search_the_same_table_with_lancedb_alone(videos, index, tmp_path, capsys):
    index.add([videos])
    shutil.copytree(index.folder / "clips.lance", tmp_path / "store/clips.lance")
    (code,) = re.findall(r"```python\n(import lancedb.*?)```", (ROOT / "docs/search.md").read_text(), re.DOTALL)
    exec(code.replace("s3://bucket/my_index", str(tmp_path / "store")).replace("a dog catches a frisbee", SENTENCE))
    hits = index.search(SENTENCE, top_k=5, rerank=False)
    for line, hit in zip(capsys.readouterr().out.splitlines(), hits, strict=True):
        video, *numbers = line.rsplit(" ", 3)
        assert video == hit.video
        assert list(map(float, numbers)) == pytest.approx([hit.start, hit.end, hit.similarity], abs=1e-5)


def test_a_video_finds_itself(videos, index):
    index.add([videos])
    for path in sorted(videos.iterdir())[:3]:
        hits = index.search(video=path, top_k=2)
        assert hits[0].video == str(path) and hits[0].similarity == pytest.approx(1, abs=1e-5)
        assert hits[1].similarity < 1


def test_a_part_of_a_long_video_is_found_with_its_time(demo, videos, tmp_path):
    """Eight clips of 3 s, one after the other: each is the best hit for itself."""
    parts = sorted(videos.iterdir())
    long = tmp_path / "long.mp4"
    with av.open(long, "w") as output:
        stream = output.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width = stream.height = 64
        for part in parts:
            with av.open(part) as container:
                for frame in container.decode(video=0):
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))))
        output.mux(stream.encode())
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"), clip_seconds=3, stride_seconds=1.5)
    assert index.add([long]).num_clips == len(index) == 15
    for number, part in enumerate(parts):
        [hit, *others] = index.search(video=part, top_k=3)
        assert (hit.video, hit.start, hit.end) == (str(long), 3 * number, 3 * number + 3)
        assert all(other.end <= hit.start or other.start >= hit.end for other in others)


def test_hits_whose_video_is_gone_or_has_changed_come_last_with_a_note(videos, index):
    index.add([videos])
    gone, changed, *rest = (hit.video for hit in index.search(SENTENCE, top_k=8))
    os.unlink(gone)
    os.utime(changed)
    hits = index.search(SENTENCE, top_k=8)
    assert {hit.video for hit in index.search(SENTENCE, top_k=8, rerank=False) if hit.note} == {gone, changed}
    assert [hit.video for hit in hits[:6]] == rest and {hit.video for hit in hits[6:]} == {gone, changed}
    assert {(hit.score, hit.note) for hit in hits[6:]} == {(None, "the video has gone or changed since it was indexed")}


def test_a_shortlist_is_full_although_clips_overlap(demo, videos, tmp_path, monkeypatch):
    """Of each video, 9 clips, of which 3 do not overlap. Each video is read once."""
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"), clip_seconds=1, stride_seconds=0.25)
    assert index.add([videos]).num_clips == 72
    read = []
    monkeypatch.setattr(clips_module, "read_video", lambda path, pick: read.append(path) or read_video(path, pick))
    hits = index.search(SENTENCE, top_k=12, shortlist=4)
    assert len(hits) == 12 and None not in {hit.score for hit in hits}
    assert sorted(read) == sorted({hit.video for hit in hits})
    for hit in hits:
        others = [other for other in hits if other.video == hit.video and other is not hit]
        assert all(other.end <= hit.start or other.start >= hit.end for other in others)
    assert 8 < len(index.search(SENTENCE, top_k=72, rerank=False)) <= 24


def test_an_ann_index_finds_what_exact_search_finds(tmp_path, monkeypatch):
    """Clusters of embeddings; also rows that were added after it was built, or removed."""
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(50, 64))
    vectors = np.repeat(centers, 100, axis=0) + 0.1 * generator.normal(size=(5000, 64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    clips = [(Video(str(number), ""), Clip(0, 1, 0.0, 1.0, 0, 1)) for number in range(5000)]
    table = ClipTable.create(tmp_path, 64)
    monkeypatch.setattr("svitt.search.table.MIN_ROWS_OF_ANN", 4000)
    for start, end in ((0, 3000), (3000, 4000), (4000, 5000)):
        table.add_clips(clips[start:end], vectors[start:end])
        table.finish()
        assert len(table.table.list_indices()) == int(end >= 4000)
    for number in range(0, 5000, 250):
        found = [int(row["video"]) for row in table.nearest(vectors[number], 10)]
        exact = np.argsort(-vectors @ vectors[number])[:10]
        assert len(set(found) & set(exact)) >= 9 and found[0] == number
    table.remove(["250"])
    assert len(table) == 4999 and table.nearest(vectors[250], 1)[0]["video"] != "250"


# ---- What is indexed


def test_an_index_is_kept_up_to_date(demo, videos, index):
    first = index.add([videos], batch_size=3, num_workers=1)
    assert len(first.added) == len(index) == first.num_clips == 8
    before = rows_of(index)
    paths = sorted(videos.iterdir())
    assert index.add([videos]).unchanged == [str(path) for path in paths]
    assert_same_rows(index, before)

    paths[0].unlink()
    shutil.copy(paths[2], paths[1])
    shutil.copy(demo / "data/videos/test_00000.mp4", videos / "new.mp4")
    (videos / "bad.mp4").write_bytes(b"no video")
    report = index.add([videos])
    assert (report.removed, report.updated) == ([str(paths[0])], [str(paths[1])])
    assert report.added == [str(videos / "new.mp4")] and list(report.bad) == [str(videos / "bad.mp4")]
    after = rows_of(index)
    assert len(after) == 8
    np.testing.assert_allclose(after[str(paths[1]), 0], before[str(paths[2]), 0], atol=1e-5)
    [line] = map(json.loads, (index.folder / "bad_videos.jsonl").read_text().splitlines())
    assert line["video"] == str(videos / "bad.mp4") and "bad.mp4" in line["error"]

    assert index.remove([paths[3], videos / "new.mp4"]) == [str(videos / "new.mp4"), str(paths[3])]
    assert len(index) == 6
    shutil.copy(paths[2], videos / "bad.mp4")
    report = index.add([videos])
    assert sorted(report.added) == sorted([str(videos / "bad.mp4"), str(videos / "new.mp4"), str(paths[3])])
    assert (index.folder / "bad_videos.jsonl").read_text() == ""


def test_a_bad_video_is_tried_again_and_listed_at_once(videos, index, monkeypatch):
    bad = sorted(videos.iterdir())[0]

    def fail(path, pick):
        if path == str(bad):
            raise VideoDecodeError(f"{path}: cannot be opened (Input/output error).")
        return read_video(path, pick)

    with monkeypatch.context() as patches:
        patches.setattr(clips_module, "read_video", fail)
        patches.setattr(SViTTIndex, "_finish", lambda *args: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            index.add([videos])
    with open(index.bad_videos.path, "a") as file:
        file.write('{"video": "half a li')
    assert index.bad_videos.read() == {str(bad): f"{bad}: cannot be opened (Input/output error)."}
    report = index.add([videos])
    assert report.added == [str(bad)] and not report.bad and index.bad_videos.read() == {}


def test_what_cannot_be_listed_or_named_is_bad_and_the_rest_goes_on(videos, index, tmp_path, monkeypatch):
    paths = sorted(videos.iterdir())
    for number, name in enumerate(("locked", "linked")):
        (videos / name).mkdir()
        paths[number].rename(videos / name / "a.mp4")
    (videos / "linked").rename(tmp_path / "elsewhere")
    (videos / "link").symlink_to(tmp_path / "elsewhere")
    (videos / "up").symlink_to(tmp_path)
    (videos / "locked/loop").symlink_to(videos)
    assert len(index.add([videos]).added) == 8 and str(videos / "link/a.mp4") in index.videos()

    (videos / "dangling.mp4").symlink_to("gone.mp4")
    shutil.copy(paths[2], os.fsencode(videos) + b"/lat\xe9.mp4")
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = index.add([videos])
    assert (
        report.bad
        == index.bad_videos.read()
        == {
            str(videos / "locked"): f"{videos}/locked: cannot be listed (Permission denied).",
            str(videos / "dangling.mp4"): f"{videos}/dangling.mp4: cannot be opened (No such file or directory).",
            f"{videos}/lat\\xe9.mp4": f"{videos}/lat\\xe9.mp4: its name is no UTF-8; rename it.",
        }
    )
    assert (len(report.unchanged), report.removed, len(index)) == (7, [], 8)


def test_a_video_with_an_apostrophe_and_one_of_another_folder(videos, index, tmp_path):
    strange = videos / 'it\'s "a" film; -- ünï.mp4'
    paths = sorted(videos.iterdir())
    paths[0].rename(strange)
    other = tmp_path / "videos2"
    other.mkdir()
    paths[1].rename(other / "a.mp4")
    index.add([videos, other])
    strange.unlink()
    assert index.add([videos]).removed == [str(strange)]
    assert len(index) == 7 and str(other / "a.mp4") in index.videos()


def test_shards(videos, index, tmp_path):
    index.add([videos])
    expected = {key[0].rpartition("/")[2]: embedding for key, embedding in rows_of(index).items()}
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        for path in sorted(videos.iterdir()):
            tar.add(path, path.name)
    other = SViTTIndex.create(tmp_path / "other", index.settings["model"])
    other.add([shard])
    rows = {key[0].rpartition("::")[2]: embedding for key, embedding in rows_of(other).items()}
    assert rows.keys() == expected.keys()
    for name, embedding in expected.items():
        np.testing.assert_allclose(rows[name], embedding, atol=1e-5)
    (tmp_path / "folder").mkdir()
    shard.rename(tmp_path / "folder/shard.tar")
    (tmp_path / "folder/broken.tar").write_text("no shard")
    shutil.copy(videos / "val_00000.mp4", tmp_path / "folder")
    report = other.add([tmp_path / "folder"])
    assert len(report.added) == 9 and [*report.bad] == [str(tmp_path / "folder/broken.tar")]
    [error] = report.bad.values()
    assert error.endswith("folder/broken.tar: cannot be read as a tar shard (truncated header).")
    assert len(other.remove([shard, tmp_path / "folder/val_00000.mp4"])) == 9
    plain, packed = (one.search(SENTENCE, top_k=4) for one in (index, other))
    assert [hit.score for hit in packed] == pytest.approx([hit.score for hit in plain], abs=1e-4)


# ---- Processes


def command(*args, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", "svitt.search.cli", *map(str, args)]


@pytest.mark.slow
def test_two_processes_make_the_index_of_one(demo, videos, index, tmp_path):
    index.add([videos])
    (videos / "bad.mp4").write_bytes(b"no video")
    other = tmp_path / "other"
    options = ("--model", demo / "model", "--index", other, "--batch_size", "2")
    done = subprocess.run(command("index", videos, *options, processes=2), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "videos: 8 added, 0 updated, 0 removed, 0 unchanged, 1 bad; 8 clips encoded, 8 in the index" in done.stdout
    assert_same_rows(SViTTIndex.open(other), rows_of(index))


@pytest.mark.slow
def test_an_indexer_that_is_killed_loses_the_batch_in_its_hand(demo, tmp_path):
    videos = demo / "data/videos"
    whole = SViTTIndex.create(tmp_path / "whole", str(demo / "model"))
    whole.add([videos])
    folder, rng, before = tmp_path / "killed", random.Random(0), 0
    SViTTIndex.create(folder, str(demo / "model"))
    options = ("--model", demo / "model", "--index", folder, "--batch_size", "1")
    for _ in range(2):
        process = subprocess.Popen(command("index", videos, *options), cwd=ROOT, stderr=subprocess.DEVNULL)
        seen = SViTTIndex.open(folder)
        while len(seen) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        rows = rows_of(seen)  # readable at once, and what is there stays
        assert len(rows) > before or len(rows) == len(whole)
        assert all(np.allclose(embedding, rows_of(whole)[key], atol=1e-5) for key, embedding in rows.items())
        before = len(rows)
    report = seen.add([videos])
    assert report.num_clips == len(whole) - before and len(report.unchanged) == before
    assert_same_rows(seen, rows_of(whole))


def test_a_second_indexer_is_refused(videos, index):
    other = SViTTIndex.open(index.folder)
    index.add(sorted(videos.iterdir())[:2])
    with locked(index.folder), pytest.raises(InputError, match="another process is indexing into it"):
        other.add([videos])
    assert len(other.search(SENTENCE, top_k=5)) == 2
    assert len(other.add([videos]).added) == 6


# ---- Sentences


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "The query is empty"),
        (" \n", "The query is empty"),
        ("red " * 2500, "The query has 10,000 characters, at most 1,000 are taken"),
        ("собака ловит тарелку", "The query 'собака ловит тарелку' has CYRILLIC letters, .* has learned .* in LATIN"),
        ("!!!", "The query '!!!' has no word"),
        ("zebra", "The model knows no word of the query 'zebra'"),
    ],
)
def test_queries_that_say_nothing(videos, index, query, message):
    index.add(sorted(videos.iterdir())[:1])
    with pytest.raises(InputError, match=message):
        index.search(query)


@pytest.fixture(scope="module")
def real_words():
    """A processor with a vocabulary like BERT's: thousands of English words, and single letters of other scripts."""
    syllables = ["ba", "do", "fi", "gu", "ke", "la", "mo", "nu", "pi", "ro", "sa", "te", "vi", "wu", "ze"]
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "dog",
        "plate",
        "a",
        *map("".join, product(syllables, repeat=3)),
    ]
    letters = "абвгдежзиклмнопрстуфхцчшыья" + "ᄀᄂᄃᄅᄆᄇᄉᄋ자ᅢᅯᅳᅵᆫᆯ" + "一人中大日月木水"
    words += [start + letter for letter in letters for start in ("", "##")]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    return SViTTProcessor(SViTTVideoProcessor(num_frames=3), tokenizer)


@pytest.mark.parametrize(
    ("query", "script"),
    [("собака ловит тарелку", "CYRILLIC"), ("一大木", "CJK"), ("개가 원반을", "HANGUL"), ("a собака", "CYRILLIC")],
)
def test_other_scripts_are_refused_although_their_letters_are_known(real_words, query, script):
    known = real_words.tokenizer(query, add_special_tokens=False)["input_ids"]
    assert real_words.tokenizer.unk_token_id not in known[:3]
    with pytest.raises(InputError, match=f"has {script} letters, but the model has learned from texts in LATIN."):
        check_query(real_words, query)


def test_what_a_model_does_not_read_of_a_query_is_told(real_words, caplog):
    check_query(real_words, "A dog, a Plate; 2 dogs: a а")
    assert [record.getMessage() for record in caplog.records] == [
        "The model does not know these words of the query: 2, dogs."
    ]
    caplog.clear()
    check_query(real_words, "a dog " * 16)
    assert [record.getMessage() for record in caplog.records] == [
        "The query is too long, the model reads only its beginning: " + "a dog " * 15 + "a"
    ]
    caplog.clear()
    check_query(real_words, "a dog " * 15)
    assert not caplog.records


def test_a_fingerprint_is_of_what_changes_embeddings_alone(demo, monkeypatch):
    model, processor = load(str(demo / "model"), None)
    fingerprint = fingerprint_of(model, processor)

    monkeypatch.setattr("transformers.configuration_utils.__version__", "6.0.0")
    model.config.text_config.hidden_dropout_prob = 0.3
    model.config.loss_weight = {"itc": 2.0}
    processor.video_processor.flip_prob = 0.1
    with torch.no_grad():
        model.itm_head.weight += 1
    processor(text=["a red circle"])
    assert fingerprint_of(model, processor) == fingerprint

    def differs(change):
        changed = copy.deepcopy((model, processor))
        change(*changed)
        return fingerprint_of(*changed) != fingerprint

    assert differs(lambda model, processor: model.config.vision_config.update({"token_keep_rate": 0.5}))
    assert differs(lambda model, processor: setattr(processor.video_processor, "image_mean", [0.4, 0.5, 0.5]))
    assert differs(lambda model, processor: setattr(processor, "add_sep", True))
    assert differs(lambda model, processor: processor.tokenizer.init_kwargs.update(max_length=16))
    assert differs(lambda model, processor: processor.tokenizer.add_tokens(["frisbee"]))
    assert differs(lambda model, processor: model.text_proj.bias.data.add_(1e-3))


def test_models_and_folders_that_do_not_fit(demo, videos, index, tmp_path):
    model = SViTTForVideoTextRetrieval.from_pretrained(demo / "model")
    processor = SViTTProcessor.from_pretrained(demo / "model")
    with torch.no_grad():
        model.vision_proj.weight[0, 0] += 1e-3
    for folder, kind in (("other", model), ("qa", SViTTForVideoQuestionAnswering(model.config))):
        kind.save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
    shutil.copytree(demo / "model", tmp_path / "moved")

    SViTTIndex.open(index.folder, str(tmp_path / "moved"))
    with pytest.raises(InputError, match="was made by another model than .*other"):
        SViTTIndex.open(index.folder, str(tmp_path / "other"))
    with pytest.raises(InputError, match="was made by another model than .*other"):
        SViTTIndex.create(index.folder, str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"is an index with another num_frames \(4\)"):
        SViTTIndex.create(index.folder, str(demo / "model"), num_frames=8)
    with pytest.raises(InputError, match="--model: is needed to make an index, and .*new is none yet"):
        SViTTIndex.create(tmp_path / "new")
    with pytest.raises(InputError, match="is an index with another clip_seconds"):
        SViTTIndex.create(index.folder, str(demo / "model"), clip_seconds=20)
    with pytest.raises(InputError, match="qa: is a SViTTForVideoQuestionAnswering, but this takes one of SViTTModel"):
        SViTTIndex.create(tmp_path / "new", str(tmp_path / "qa"))
    with pytest.raises(InputError, match="nowhere: is no index"):
        SViTTIndex.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="--stride_seconds 0: must be above 0"):
        SViTTIndex.create(tmp_path / "new", str(demo / "model"), stride_seconds=0)
    with pytest.raises(InputError, match="nowhere: there is no such file or folder"):
        index.add([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="moved: holds no video"):
        index.add([tmp_path / "moved"])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="^--index .*file: is a file; name a folder.$"):
        SViTTIndex.create(tmp_path / "file", str(demo / "model"))
    with pytest.raises(InputError, match="^The name of the query video is empty; name a file.$"):
        index.search(video="")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch_size", "0"), "--batch_size 0: must be at least 1."),
        (("--num_workers", "-1"), "--num_workers -1: must be at least 0."),
        (("--num_frames", "0"), "--num_frames 0: must be at least 1."),
        (("--clip_seconds", "inf"), "--clip_seconds inf: must be above 0, and finite."),
        (("--clip_seconds", "nan"), "--clip_seconds nan: must be above 0, and finite."),
        (("--stride_seconds", "nan"), "--stride_seconds nan: must be above 0 and at most --clip_seconds, 10."),
    ],
)
def test_numbers_out_of_bounds_make_no_folder(demo, videos, tmp_path, run, options, message):
    new = tmp_path / "new"
    code, told = run("index", videos, "--model", demo / "model", "--index", new, *options)
    assert code == 2 and told == f"svitt-search: {message}\n"
    assert not new.exists()


def test_an_index_that_is_there_knows_its_settings(demo, videos, tmp_path):
    first = SViTTIndex.create(tmp_path / "index", str(demo / "model"), clip_seconds=2, stride_seconds=1, num_frames=2)
    assert first.add([videos]).num_clips == 16
    again = SViTTIndex.create(tmp_path / "index")
    assert again.settings == first.settings and len(again.add([videos]).unchanged) == 8


def test_removing_needs_no_model_and_says_what_it_does_not_find(demo, videos, tmp_path, run):
    shutil.copytree(demo / "model", tmp_path / "model")
    index = SViTTIndex.create(tmp_path / "index", str(tmp_path / "model"))
    (videos / "bad.mp4").write_bytes(b"no video")
    index.add([videos])
    shutil.rmtree(tmp_path / "model")
    for paths, message in (
        ([""], "A path is empty; name a video, a folder or a tar shard."),
        ([videos, "typo.mp4"], f"typo.mp4: is no video of the index {index.folder}, and no folder or shard of some."),
    ):
        code, told = run("remove", index.folder, *paths)
        assert code == 2 and told.endswith(f"{message}\n") and len(index) == 8
    assert remove_videos(index.folder, [videos / "bad.mp4"]) == [str(videos / "bad.mp4")]
    assert index.bad_videos.read() == {} and len(index.remove([videos])) == 8 and len(index) == 0
    with pytest.raises(InputError, match="A path is empty"):
        index.add([""])


def test_videos_that_have_all_gone_stay_until_they_are_removed(videos, index):
    index.add([videos])
    for path in videos.iterdir():
        path.unlink()
    hint = f"; svitt-search remove INDEX {videos} takes out what the index has of it."
    with pytest.raises(InputError, match=f"^{videos}: holds no video{hint}$"):
        index.add([videos])
    videos.rmdir()
    with pytest.raises(InputError, match=f"^{videos}: there is no such file or folder{hint}$"):
        index.add([videos])
    assert len(index) == 8 and len(index.remove([videos])) == 8


@pytest.mark.parametrize("content", ["{}", "[]", '{"model": "model", "num_frames": 4}', "{"])
def test_damaged_settings_are_a_sentence(demo, videos, index, content):
    (index.folder / "index.json").write_text(content)
    for call in (lambda: SViTTIndex.open(index.folder), lambda: SViTTIndex.create(index.folder, str(demo / "model"))):
        with pytest.raises(InputError, match="is damaged, it must have model, fingerprint|is no index, it has no"):
            call()


def test_a_damaged_table_is_a_sentence(videos, index):
    index.add([videos])
    sentence = f"^{index.folder}: its table clips.lance cannot be read or written .*; if it is damaged, index the .*"
    for path in (index.folder / "clips.lance/data").iterdir():
        path.write_bytes(b"junk")
    fresh = SViTTIndex(index.folder, index.settings, index.model, index.processor)
    for call in (lambda: fresh.search(SENTENCE), lambda: fresh.add([videos]), lambda: fresh.remove([videos])):
        with pytest.raises(InputError, match=sentence):
            call()
    shutil.rmtree(index.folder / "clips.lance")
    with pytest.raises(InputError, match=sentence):
        SViTTIndex.open(index.folder)


def test_an_index_that_cannot_be_written_is_a_sentence(videos, index, monkeypatch):
    index.add([videos])

    def refuse(lock, timeout):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    for call in (index.add, index.remove):
        with pytest.raises(InputError, match=rf"^{index.folder}: cannot be written \(Permission denied\).$"):
            call([videos])


@pytest.fixture
def run(monkeypatch, capsys):
    """Call `svitt-search` with what ends it; returns the exit code and what it says on stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["svitt-search", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return run


def test_command_line(demo, videos, tmp_path, monkeypatch, capsys):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["svitt-search", *map(str, args)])
        cli.main()
        return capsys.readouterr().out

    folder = tmp_path / "index"
    monkeypatch.chdir(demo)
    printed = run("index", videos, "--model", "model", "--index", folder)
    monkeypatch.chdir(tmp_path)
    assert printed == ("videos: 8 added, 0 updated, 0 removed, 0 unchanged, 0 bad; 8 clips encoded, 8 in the index\n")
    hits = json.loads(run("query", folder, SENTENCE, "--top_k", "3", "--json"))
    lines = run("query", folder, SENTENCE, "--top_k", "3").splitlines()
    assert lines[0].split() == ["score", "similarity", "from", "to", "video"] and len(lines) == 4
    for rank, (hit, line) in enumerate(zip(hits, lines[1:], strict=True), start=1):
        score, similarity = f"{hit['score']:.2f}", f"{hit['similarity']:.3f}"
        assert line.split() == [str(rank), score, similarity, "0:00:00.0", "0:00:03.0", hit["video"]]
    picture = tmp_path / "maps.png"
    assert "patches" in run("explain", hits[0]["video"], "--model", demo / "model", "--output", picture)
    assert picture.is_file()
    assert run("remove", folder, hits[0]["video"]) == "1 videos removed\n"
    for query, message in (("", "The query is empty"), (SENTENCE, f"{folder}: holds no clips yet")):
        with pytest.raises(SystemExit) as ended:
            run("query", folder, query)
        assert ended.value.code == 2 and f"svitt-search: {message}" in capsys.readouterr().err
        if not query:
            assert run("remove", folder, videos) == "7 videos removed\n"


def test_clock():
    assert [cli.clock(seconds) for seconds in (0, 59.96, 3725.44)] == ["0:00:00.0", "0:01:00.0", "1:02:05.4"]


def test_videos_are_found_once(videos):
    paths = sorted(videos.iterdir())
    found, bad = find_videos([videos, paths[0]])
    assert [video.name for video in found] == [str(path) for path in paths] and bad == {}

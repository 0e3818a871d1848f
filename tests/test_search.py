# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""svitt-search: what is indexed, found and said; indexers that are killed or come in twos."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svitt import SViTTForVideoQuestionAnswering, SViTTForVideoTextRetrieval, SViTTModel, SViTTProcessor
from svitt.search import SViTTIndex, cli
from svitt.search.clips import Clip, Video, cut, find_videos
from svitt.search.index import Hit, without_overlaps
from svitt.search.table import ClipTable
from svitt.training.processes import InputError

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


def test_overlapping_hits_of_a_video_are_one():
    hits = [Hit("a", 5, 15, 0.9), Hit("a", 0, 10, 0.8), Hit("b", 0, 10, 0.7), Hit("a", 15, 25, 0.6)]
    assert without_overlaps(hits) == [hits[0], hits[2], hits[3]]


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
    assert [hit.video for hit in hits[:6]] == rest and {hit.video for hit in hits[6:]} == {gone, changed}
    assert {(hit.score, hit.note) for hit in hits[6:]} == {(None, "the video has gone or changed since it was indexed")}


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
    with index._locked(), pytest.raises(InputError, match="another process is indexing into it"):
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
        ("собака ловит тарелку", "The model knows no word of the query 'собака"),
        ("!!!", "The model knows no word of the query"),
    ],
)
def test_queries_that_say_nothing(videos, index, query, message):
    index.add(sorted(videos.iterdir())[:1])
    with pytest.raises(InputError, match=message):
        index.search(query)


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
    with pytest.raises(InputError, match="is an index with another model"):
        SViTTIndex.create(index.folder, str(tmp_path / "other"))
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
    assert not (tmp_path / "new").exists()


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
        run("remove", folder, videos)


def test_clock():
    assert [cli.clock(seconds) for seconds in (0, 59.96, 3725.44)] == ["0:00:00.0", "0:01:00.0", "1:02:05.4"]


def test_videos_are_found_once(videos):
    paths = sorted(videos.iterdir())
    assert [video.name for video in find_videos([videos, paths[0]])] == [str(path) for path in paths]

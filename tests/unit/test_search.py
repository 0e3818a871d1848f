# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Search: what is indexed, what is found, and what is said about it."""

import errno
import json
import os
import re
import shutil
import tarfile
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svitt import SViTTForVideoQuestionAnswering, SViTTForVideoTextRetrieval, SViTTModel, SViTTProcessor
from svitt.errors import InputError
from svitt.processing_svitt import read_video
from svitt.search import Hit, SViTTIndex
from svitt.search import index as index_module
from svitt.search.export import export
from svitt.search.folder import locked, remove_videos
from svitt.search.hits import hits_table
from svitt.search.library import Library
from svitt.search.spans import Span, cut
from svitt.search.table import COLUMNS, SpanTable

ROOT = Path(__file__).parents[2]
SENTENCE = "a red circle hops and then a blue square hops"


@pytest.fixture
def index(demo, tmp_path):
    return SViTTIndex.create(tmp_path / "index", str(demo / "model"))


def rows_of(index):
    rows = index.table.table.search().limit(100_000).to_list()
    return {(row["video"], row["number"]): np.array(row["embedding"]) for row in rows}


# ---- Spans


def video_of(num_frames, fps, times=None):
    return SimpleNamespace(total_num_frames=num_frames, fps=fps, frame_times=times)


@settings(deadline=None)
@given(st.integers(1, 5000), st.sampled_from([None, 1.0, 24.0, 29.97]), st.floats(5, 20), st.floats(0.25, 1))
def test_spans_cover_a_video_and_overlap(num_frames, fps, seconds, share):
    spans = cut(video_of(num_frames, fps), seconds, seconds * share)
    assert spans[0].start == 0 and spans[0].first == 0 and spans[-1].last == num_frames
    assert [span.number for span in spans] == list(range(len(spans))) == list(range(spans[0].num_spans))
    for before, after in zip(spans[:-1], spans[1:], strict=True):
        assert before.start < after.start <= before.end + 1e-6 and after.first <= before.last
        assert after.start - before.start <= seconds * share + 1e-6
    for span in spans:
        assert 0 <= span.first < span.last <= num_frames
        assert span.end - span.start <= seconds + 1e-6


def test_spans_by_hand():
    spans = cut(video_of(240, 10.0), 10.0, 8.0)
    assert [(span.start, span.end) for span in spans] == [(0, 10), (8, 18), (14, 24)]
    assert spans[1] == Span(1, 3, 8.0, 18.0, 80, 180)
    assert cut(video_of(7, None), 10.0, 5.0) == [Span(0, 1, 0.0, 0.0, 0, 7)]
    still = video_of(4, 0.05, np.array([0.0, 0.1, 0.2, 60.0]))
    assert cut(still, 10.0, 5.0) == [Span(0, 2, 0.0, 10.0, 0, 3), Span(1, 2, 60.0, 70.0, 3, 4)]
    # By rounding, span and rest are less than the whole; a video that claims to last for months has few frames.
    assert len(cut(video_of(1019, 25.0), 6.740120951041053, 6.740120951041053 / 2)) == 12
    assert [span.first for span in cut(video_of(24, 1e-6), 10.0, 5.0)] == list(range(24))


def test_spans_of_a_variable_frame_rate():
    """Ten seconds of 10 frames each, then a frame every two seconds."""
    times = np.array([i / 10 for i in range(100)] + [10 + 2 * i for i in range(15)])
    spans = cut(video_of(115, 115 / 38.34, times), 10.0, 5.0)
    assert [(span.first, span.last) for span in spans] == [
        (0, 100), (50, 103), (100, 105), (102, 108), (105, 110), (107, 113), (109, 115)
    ]  # fmt: skip
    starts = [0, 5, 10, 15, 20, 25, 38 + 1 / 3 - 10]
    np.testing.assert_allclose([span.start for span in spans], starts, atol=0.1)
    assert all(span.end == pytest.approx(span.start + 10) for span in spans)


# ---- What is found


@pytest.mark.parametrize(("tokens", "tolerance"), [("none", 1e-4), ("float16", 1e-3), ("int8", 1e-2)])
def test_shortlist_is_exact_and_ranked_by_the_models_own_score(demo, val_videos, tmp_path, tokens, tolerance):
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"), tokens=tokens)
    index.add([val_videos])
    paths = [str(path) for path in sorted(val_videos.iterdir())]
    model, processor = SViTTModel.from_pretrained(demo / "model").eval(), SViTTProcessor.from_pretrained(demo / "model")
    pixels = processor(videos=paths, return_tensors="pt")["pixel_values"]
    words = processor(text=[SENTENCE], return_tensors="pt")
    with torch.no_grad():
        outputs = model(pixel_values=pixels, **words)
        cosines = (outputs.video_embeds @ outputs.text_embeds.T)[:, 0]
        scores = torch.stack([model.match(clip[None], **words)[0] for clip in pixels])

    hits = index.search(SENTENCE, top_k=8, rerank=False)
    assert [hit.video for hit in hits] == [paths[i] for i in cosines.argsort(descending=True)]
    assert [hit.similarity for hit in hits] == pytest.approx(sorted(cosines.tolist(), reverse=True), abs=1e-5)
    assert {hit.score for hit in hits} == {None}

    hits = index.search(SENTENCE, top_k=3, shortlist=5)
    shortlist = cosines.topk(5).indices
    best = shortlist[scores[shortlist].argsort(descending=True)][:3]
    assert [hit.video for hit in hits] == [paths[i] for i in best]
    assert [hit.score for hit in hits] == pytest.approx(scores[best].tolist(), abs=tolerance)


def test_the_docs_search_the_same_table_with_lancedb_alone(val_videos, index, tmp_path, capsys):
    index.add([val_videos])
    shutil.copytree(index.folder / "spans.lance", tmp_path / "store/spans.lance")
    (code,) = re.findall(r"```python\n(import lancedb.*?)```", (ROOT / "docs/search.md").read_text(), re.DOTALL)
    exec(code.replace("s3://bucket/my_index", str(tmp_path / "store")).replace("a dog catches a frisbee", SENTENCE))
    hits = index.search(SENTENCE, top_k=5, rerank=False)
    for line, hit in zip(capsys.readouterr().out.splitlines(), hits, strict=True):
        video, *numbers = line.rsplit(" ", 3)
        assert video == hit.video
        assert list(map(float, numbers)) == pytest.approx([hit.start, hit.end, hit.similarity], abs=1e-5)


def test_a_part_of_a_long_video_is_found_with_its_time(demo, val_videos, tmp_path):
    """Eight clips of 3 s, one after the other: each is the best hit for itself."""
    parts = sorted(val_videos.iterdir())
    long = tmp_path / "long.mp4"
    with av.open(long, "w") as output:
        stream = output.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width = stream.height = 64
        for part in parts:
            with av.open(part) as container:
                for frame in container.decode(video=0):
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))))
        output.mux(stream.encode())
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"), clip_seconds=3)  # one each 1.5
    assert index.add([long]).num_spans == len(index) == 15
    for number, part in enumerate(parts):
        [hit, *others] = index.search(video=part, top_k=3)
        assert (hit.video, hit.start, hit.end) == (str(long), 3 * number, 3 * number + 3)
        assert all(other.end <= hit.start or other.start >= hit.end for other in others)


def test_hits_whose_video_is_gone_or_has_changed_come_last_with_a_note(val_videos, index):
    index.add([val_videos])
    gone, changed, *rest = (hit.video for hit in index.search(SENTENCE, top_k=8))
    os.unlink(gone)
    os.utime(changed)
    hits = index.search(SENTENCE, top_k=8)
    assert [hit.video for hit in hits[:6]] == rest and {hit.video for hit in hits[6:]} == {gone, changed}
    assert {hit.score for hit in hits[6:]} == {None} and all("gone or changed" in hit.note for hit in hits[6:])


def test_many_hits_are_found_in_time_that_grows_as_their_number(demo, tmp_path):
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"), tokens="none")
    row = dict.fromkeys(COLUMNS, 0) | {"shard": "", "embedding": np.ones(index.model.config.embed_dim, np.float32)}
    rows = [row | {"video": f"{i}.mp4", "version": str(i), "start": 0.0, "end": 9.0} for i in range(20_000)]
    index.table.add(rows)
    start = time.process_time()
    assert len(index.search(SENTENCE, top_k=20_000, rerank=False)) == 20_000
    assert time.process_time() - start < 5


def test_a_shortlist_is_full_although_spans_overlap(demo, val_videos, tmp_path):
    """Of each video, 9 spans, of which 3 do not overlap."""
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"), clip_seconds=1, stride_seconds=0.25)
    assert index.add([val_videos]).num_spans == 72
    hits = index.search(SENTENCE, top_k=12, shortlist=4)
    assert len(hits) == 12 and None not in {hit.score for hit in hits}
    for hit in hits:
        others = [other for other in hits if other.video == hit.video and other is not hit]
        assert all(other.end <= hit.start or other.start >= hit.end for other in others)
    assert 8 < len(index.search(SENTENCE, top_k=72, rerank=False)) <= 24


def test_many_spans_are_committed_in_few_larger_batches(demo, val_videos, tmp_path, monkeypatch):
    """Each commit lists all before it: what lists of many small ones take grows with their square."""
    how = {"clip_seconds": 1, "stride_seconds": 0.25}
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"), **how)
    monkeypatch.setattr("svitt.search.index.UNCOMMITTED", 1 / 4)
    sizes, add = [], index.table.add
    monkeypatch.setattr(index.table, "add", lambda rows: sizes.append(len(rows)) or add(rows))
    assert index.add([val_videos], batch_size=2).num_spans == sum(sizes) == len(index) == 72
    assert sizes[:4] == [2, 2, 2, 4] and len(sizes) < 15 and max(sizes[:-1]) == sizes[-2] <= 20
    assert sum(index.videos().values()) == len(rows_of(index)) == 72
    monkeypatch.setattr("svitt.search.index.MAX_UNCOMMITTED_BYTES", 0)
    other = SViTTIndex.create(tmp_path / "other", str(demo / "model"), **how)
    monkeypatch.setattr(other.table, "add", lambda rows: sizes.append(-len(rows)))
    other.add([val_videos], batch_size=6)
    assert set(sizes[-12:]) == {-6}


def test_removing_gives_disk_back_once_no_search_can_need_it(index, val_videos, monkeypatch):
    index.add([val_videos], batch_size=1)
    monkeypatch.setattr("svitt.search.table.KEPT", timedelta(0))
    files = list(index.folder.glob("spans.lance/data/*"))
    remove_videos(index.folder, sorted(val_videos.iterdir())[:6])
    assert not any(file.exists() for file in files)
    assert len(index) == 2 and len(index.search(SENTENCE)) == 2


def test_an_ann_index_finds_what_exact_search_finds(tmp_path, monkeypatch):
    """Clusters of embeddings; also rows that were added after it was built, or removed."""
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(50, 64))
    vectors = np.repeat(centers, 100, axis=0) + 0.1 * generator.normal(size=(5000, 64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    row = dict(zip(COLUMNS, ("", "", "", 0, 0, 0, 1, 0.0, 1.0, 0, 1), strict=True))
    table = SpanTable.create(tmp_path, 64)
    monkeypatch.setattr("svitt.search.table.MIN_ROWS_OF_ANN", 4000)
    for start, end in ((0, 3000), (3000, 4000), (4000, 5000)):
        table.add([row | {"video": str(i), "embedding": vectors[i]} for i in range(start, end)])
        table.finish()
        assert len(table.table.list_indices()) == int(end >= 4000)
    for number in range(0, 5000, 250):
        found = [int(row["video"]) for row in table.nearest(vectors[number], 10)]
        exact = np.argsort(-vectors @ vectors[number])[:10]
        assert len(set(found) & set(exact)) >= 9 and found[0] == number
        assert [row["similarity"] for row in table.nearest(vectors[number], 10)] == pytest.approx(
            [vectors[number] @ vectors[i] for i in found], abs=1e-6
        )
    [row] = table.nearest(vectors[250], 3, "video = '4711'")  # in another cluster
    assert row["video"] == "4711" and row["similarity"] == pytest.approx(vectors[250] @ vectors[4711], abs=1e-6)
    table.remove(["250"])
    assert len(table) == 4999 and table.nearest(vectors[250], 1)[0]["video"] != "250"


def test_an_ann_index_of_embeddings_that_cannot_be_packed_and_are_not_of_length_1(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(2000, 12)).astype(np.float32)
    row = dict(zip(COLUMNS, ("", "", "", 0, 0, 0, 1, 0.0, 1.0, 0, 1), strict=True))
    table = SpanTable.create(tmp_path, 12)
    monkeypatch.setattr("svitt.search.table.MIN_ROWS_OF_ANN", 1000)
    table.add([row | {"start": float(i), "embedding": vectors[i]} for i in range(2000)])
    table.finish()
    for query in vectors[:5]:
        assert table.nearest(query, 1)[0]["start"] == np.argmax(vectors @ query)


def test_words_that_a_model_does_not_know_are_told(val_videos, index, caplog):
    index.add(sorted(val_videos.iterdir())[:1])
    assert len(index.search("a red zebra")) == 1
    assert "words of the query: zebra" in caplog.text
    for query in (" \n", "!!!", "собака ловит тарелку"):
        with pytest.raises(InputError, match="The model knows no word of"):
            index.search(query)


# ---- What is indexed


def test_an_index_is_kept_up_to_date(demo, val_videos, index):
    (val_videos / "bad.mp4").write_bytes(b"no video")
    first = index.add([val_videos], batch_size=3, num_workers=1)
    assert len(first.added) == len(index) == first.num_spans == 8 and list(first.bad) == [str(val_videos / "bad.mp4")]
    [line] = map(json.loads, (index.folder / "bad_videos.jsonl").read_text().splitlines())
    assert line["video"] == str(val_videos / "bad.mp4") and "bad.mp4" in line["error"]
    before, paths = rows_of(index), sorted(val_videos.glob("val_*"))
    assert sorted(index.add([val_videos]).unchanged) == [str(path) for path in paths]
    assert rows_of(index).keys() == before.keys()

    strange = val_videos / 'it\'s "a" film; -- ünï.mp4'
    paths[0].unlink()
    shutil.copy(paths[2], paths[1])
    shutil.copy(demo / "data/videos/test_00000.mp4", strange)
    report = index.add([val_videos])
    assert (report.removed, report.updated, report.added) == (
        [str(paths[0])], [str(paths[1])], [str(strange)]
    )  # fmt: skip
    after = rows_of(index)
    assert len(after) == 8
    np.testing.assert_allclose(after[str(paths[1]), 0], before[str(paths[2]), 0], atol=1e-5)

    assert index.remove([paths[3], strange]) == [str(strange), str(paths[3])]
    assert len(index) == 6
    shutil.copy(paths[2], val_videos / "bad.mp4")
    report = index.add([val_videos, val_videos / "bad.mp4"])
    assert sorted(report.added) == sorted([str(val_videos / "bad.mp4"), str(strange), str(paths[3])])
    assert not report.bad and not (index.folder / "bad_videos.jsonl").exists()


def test_what_is_left_of_damaged_videos_is_indexed_if_that_is_wanted(demo, tmp_path, write_video):
    content = write_video(tmp_path / "whole.mkv", "libx264", options={"g": "4", "bf": "0"}).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "whole.mkv").unlink()
    report = SViTTIndex.create(tmp_path / "strict", demo / "model").add([tmp_path / "cut.mkv"])
    assert list(report.bad) == [str(tmp_path / "cut.mkv")] and not report.damaged
    index = SViTTIndex.create(tmp_path / "index", demo / "model", damaged="use")
    report = index.add([tmp_path / "cut.mkv"])
    [line] = map(json.loads, (index.folder / "bad_videos.jsonl").read_text().splitlines())
    assert len(index) == 1 and not report.bad and "frames can be decoded" in line["error"]
    with pytest.raises(InputError, match="is an index with damaged use"):
        SViTTIndex.create(tmp_path / "index", damaged="refuse")
    [hit] = index.search("a red circle")
    written, _ = read_video(export(hit, tmp_path / "clips"))
    np.testing.assert_allclose(written.mean((1, 2, 3)), read_video(hit.video, damaged="use")[0].mean((1, 2, 3)), atol=3)
    library = Library(index.folder, qa_model=str(ROOT / "examples/tiny/ask"))
    assert library.ask(hit, "what color is it first?", [])["answers"] and library.patches(hit, "a red circle")


def test_what_cannot_be_listed_or_named_is_bad_and_the_rest_is_indexed(val_videos, index, monkeypatch):
    paths = sorted(val_videos.iterdir())
    (val_videos / "locked").mkdir()
    paths[0].rename(val_videos / "locked/a.mp4")
    assert len(index.add([val_videos]).added) == 8
    (val_videos / "dangling.mp4").symlink_to("gone.mp4")
    shutil.copy(paths[2], os.fsencode(val_videos) + b"/lat\xe9.mp4")
    scandir = os.scandir

    def refuse(path):
        if not isinstance(path, int) and os.path.basename(path) == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = index.add([val_videos])
    reasons = {os.path.basename(name): error for name, error in report.bad.items()}
    assert sorted(map(ascii, reasons)) == ["'dangling.mp4'", "'lat\\udce9.mp4'", "'locked'"]
    assert "Permission denied" in reasons["locked"] and "No such file" in reasons["dangling.mp4"]
    assert (len(report.unchanged), report.removed, len(index)) == (7, [], 8)


def test_a_folder_whose_name_begins_alike_is_left_alone(val_videos, index, tmp_path):
    first, second, *_ = sorted(val_videos.iterdir())
    (tmp_path / "videos2").mkdir()
    second.rename(tmp_path / "videos2/a.mp4")
    index.add([val_videos, tmp_path / "videos2"])
    first.unlink()
    assert index.add([val_videos]).removed == [str(first)]
    assert len(index) == 7 and str(tmp_path / "videos2/a.mp4") in index.videos()


def test_shards(val_videos, index, tmp_path):
    index.add([val_videos])
    expected = {key[0].rpartition("/")[2]: embedding for key, embedding in rows_of(index).items()}
    (tmp_path / "folder").mkdir()
    shard = tmp_path / "folder/shard.tar"
    with tarfile.open(shard, "w") as tar:
        for path in sorted(val_videos.iterdir()):
            tar.add(path, path.name)
        second = tar.getmembers()[1].offset
    other = SViTTIndex.create(tmp_path / "other", index.settings["model"])
    other.add([shard])
    rows = {key[0].rpartition("::")[2]: embedding for key, embedding in rows_of(other).items()}
    assert rows.keys() == expected.keys()
    for name, embedding in expected.items():
        np.testing.assert_allclose(rows[name], embedding, atol=1e-5)
    plain, packed = (one.search(SENTENCE, top_k=4) for one in (index, other))
    assert [hit.score for hit in packed] == pytest.approx([hit.score for hit in plain], abs=1e-4)
    (tmp_path / "folder/broken.tar").write_text("no shard")
    (tmp_path / "folder/header.tar").write_bytes(shard.read_bytes()[:second] + b"!" + shard.read_bytes()[second + 1 :])
    with tarfile.open(tmp_path / "folder/names.tar", "w", encoding="latin-1", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(path, "\xe9.mp4")
    report = other.add([tmp_path / "folder"])
    assert len(report.unchanged) == 8 and report.added == [f"{tmp_path}/folder/names.tar::\\xe9.mp4"]
    assert [*report.bad] == [f"{tmp_path}/folder/broken.tar", f"{tmp_path}/folder/header.tar"]
    assert len(other.remove([shard])) == 8


def test_a_second_indexer_is_refused(val_videos, index):
    other = SViTTIndex.open(index.folder)
    index.add(sorted(val_videos.iterdir())[:2])
    with locked(index.folder), pytest.raises(InputError, match="another process is indexing into it"):
        other.add([val_videos])
    assert len(other.search(SENTENCE, top_k=5)) == 2
    assert len(other.add([val_videos]).added) == 6


def test_of_two_that_make_an_index_the_second_takes_the_settings_of_the_first(demo, tmp_path, monkeypatch):
    model, load = str(demo / "model"), index_module.load_for_use

    def load_slowly(*args):
        monkeypatch.setattr(index_module, "load_for_use", load)
        SViTTIndex.create(folder, model, clip_seconds=8)
        return load(*args)

    for folder, chosen in ((tmp_path / "a", {}), (tmp_path / "b", {"clip_seconds": 6})):
        monkeypatch.setattr(index_module, "load_for_use", load_slowly)
        with pytest.raises(InputError, match="is an index with clip_seconds 8") if chosen else nullcontext():
            assert SViTTIndex.create(folder, model, **chosen).settings["clip_seconds"] == 8


def test_an_index_belongs_to_the_files_of_a_model(demo, val_videos, index, tmp_path):
    index.add([val_videos])
    shutil.copytree(demo / "model", tmp_path / "moved")
    assert len(SViTTIndex.open(index.folder, str(tmp_path / "moved"))) == 8
    model = SViTTForVideoTextRetrieval.from_pretrained(demo / "model")
    with torch.no_grad():
        model.vision_proj.weight[0, 0] += 1e-3
    model.save_pretrained(tmp_path / "moved")
    for call in (SViTTIndex.open, SViTTIndex.create):
        with pytest.raises(InputError, match="was made by another model than .*moved"):
            call(index.folder, str(tmp_path / "moved"))


def test_an_index_that_is_there_knows_its_settings(demo, val_videos, tmp_path):
    first = SViTTIndex.create(tmp_path / "index", str(demo / "model"), clip_seconds=2, stride_seconds=1, num_frames=2)
    assert first.add([val_videos]).num_spans == 16
    again = SViTTIndex.create(tmp_path / "index")
    assert again.settings == first.settings and len(again.add([val_videos]).unchanged) == 8
    for option, value in (("num_frames", 8), ("clip_seconds", 20)):
        with pytest.raises(InputError, match=f"is an index with {option} 2"):
            SViTTIndex.create(tmp_path / "index", str(demo / "model"), **{option: value})


def test_removing_needs_no_model(demo, val_videos, tmp_path):
    shutil.copytree(demo / "model", tmp_path / "model")
    index = SViTTIndex.create(tmp_path / "index", str(tmp_path / "model"))
    index.add([val_videos])
    shutil.rmtree(tmp_path / "model")
    for path in val_videos.iterdir():
        path.unlink()
    # Perhaps a disk is not mounted.
    for path, words in (
        (val_videos, "videos: holds no video"),
        ("nowhere", "nowhere: there is no such file or folder"),
    ):
        with pytest.raises(InputError, match=words):
            index.add([path])
    with pytest.raises(InputError, match="typo.mp4: is no video of the index"):
        remove_videos(index.folder, [val_videos, "typo.mp4"])
    assert len(index) == 8 and len(remove_videos(index.folder, str(val_videos))) == 8 and len(index) == 0


def test_a_single_path_needs_no_list(val_videos, index):
    first, *_ = sorted(val_videos.iterdir())
    assert index.add(str(first)).added == [str(first)] and len(index.add(val_videos).added) == 7
    assert index.remove(str(first)) == [str(first)]


FAULTS = [
    ({"clip_seconds": float("nan")}, "`clip_seconds`"),
    ({"clip_seconds": 0}, "`clip_seconds`"),
    ({"stride_seconds": 11}, "`stride_seconds`"),
    ({"num_frames": 0}, "`num_frames`"),
    ({"num_frames": 4, "frames_per_span": 6}, "`frames_per_span` must be a multiple of the 4 frames"),
    ({"frames_per_span": 0}, "`frames_per_span` must be at least 1"),
    ({"tokens": "int4"}, "`tokens` must be one of int8, float16, none"),
    ({"tokens_per_span": 1}, "`tokens_per_span` must be at least 2"),
    ({"model_name_or_path": "./nowhere"}, "nowhere: there is no such folder"),
    ({"model_name_or_path": "qa"}, "SViTTForVideoQuestionAnswering, but a SViTT"),
    ({"folder": "file"}, "file: cannot be written"),
]


@pytest.mark.parametrize(("options", "words"), FAULTS)
def test_wrong_settings_make_no_index(demo, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    if "qa" in options.values():
        model = SViTTForVideoTextRetrieval.from_pretrained(demo / "model")
        SViTTForVideoQuestionAnswering(model.config).save_pretrained("qa")
        SViTTProcessor.from_pretrained(demo / "model").save_pretrained("qa")
    with pytest.raises(InputError, match=words):
        SViTTIndex.create(**{"folder": "new", "model_name_or_path": str(demo / "model")} | options)
    assert not Path("new").exists()


def test_wrong_requests_are_a_sentence(val_videos, index, tmp_path):
    index.add([val_videos])
    (tmp_path / "empty").mkdir()
    (index.folder / "index.lock").unlink(missing_ok=True)
    (index.folder / "index.lock").mkdir()  # as in a folder that cannot be written
    for call, words in (
        (lambda: index.add([val_videos]), f"{index.folder}: cannot be written"),
        (lambda: index.remove([val_videos]), f"{index.folder}: cannot be written"),
        (lambda: index.add([val_videos], batch_size=0), "`batch_size` must be at least 1, got 0"),
        (lambda: index.add([""]), "A path is empty"),
        (lambda: index.search(SENTENCE, top_k=0), "`top_k` must be at least 1"),
        (lambda: index.search(SENTENCE, min_similarity=float("nan")), "`min_similarity` must be a finite number"),
        (lambda: index.search(video="x.mp4", locate=True), "Only a sentence"),
        (lambda: index.search(), "give one of them"),
        (lambda: SViTTIndex.open(tmp_path / "empty"), "empty: is no index, .* `svitt index` makes one"),
    ):
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.parametrize("content", ["[]", '{"model": "model", "num_frames": 4}', "{", None])
def test_a_damaged_index_is_a_sentence(demo, val_videos, index, content):
    index.add([val_videos])
    if content is None:
        shutil.rmtree(index.folder / "spans.lance")
    else:
        (index.folder / "index.json").write_text(content)
    for call in (lambda: SViTTIndex.open(index.folder), lambda: SViTTIndex.create(index.folder, str(demo / "model"))):
        with pytest.raises(InputError, match=f"{index.folder}: .*(damaged|no index)"):
            call()


def test_times_of_hits_are_rounded_to_tenths_and_notes_are_shown():
    _, first, second = hits_table(
        [Hit("a.mp4", 0, 59.96, 0.5, 1), Hit("b.mp4", 60, 3725.44, 0.25, None, "gone")]
    ).splitlines()
    assert first.split()[3:] == ["0:00:00.0", "0:01:00.0", "a.mp4"]
    assert second.split()[2:] == ["0:01:00.0", "1:02:05.4", "b.mp4", "(gone)"]

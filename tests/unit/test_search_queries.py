# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What can be asked of an index: a floor, a condition, more like a hit, photos; and copies, which are one hit."""

import os
import shutil

import av
import pytest
from PIL import Image

from svitt.errors import InputError
from svitt.search import Hit, SViTTIndex

SENTENCE = "a red circle hops and then a blue square hops"


@pytest.fixture(scope="module")
def index(demo, tmp_path_factory):
    """An index of six clips in `a`, of copies of three of them in `b`, and of spans of 1 s every half second."""
    root = tmp_path_factory.mktemp("queries")
    for folder in "ab":
        (root / folder).mkdir()
    for number, path in enumerate(sorted((demo / "data/videos").glob("val_*"))[:6]):
        shutil.copy(path, root / "a")
        if number < 3:
            shutil.copy(path, root / "b" / f"copy_{number}.mp4")
    shutil.copy(root / "b/copy_0.mp4", root / "b/another.mp4")
    index = SViTTIndex.create(root / "index", str(demo / "model"), clip_seconds=1, stride_seconds=0.5)
    index.add([root / "a", root / "b"])
    return index


def root_of(index):
    return index.folder.parent


def test_copies_of_a_file_are_one_hit(index):
    for options in ({"rerank": False}, {}):
        hits = index.search(SENTENCE, top_k=50, **options)
        contents = {}
        for hit in hits:
            names = [hit.video, *hit.copies]
            assert len({open(name, "rb").read() for name in names}) == 1
            contents.setdefault(open(hit.video, "rb").read(), []).append((hit.start, hit.end, len(names)))
        assert len(contents) == 6
        assert sorted(max(number for _, _, number in spans) for spans in contents.values()) == [1, 1, 1, 2, 2, 3]
        for spans in contents.values():  # none overlaps another of the same content
            assert all(one[1] <= other[0] for one, other in zip(sorted(spans), sorted(spans)[1:], strict=False))


def test_a_model_says_whether_a_search_re_ranks(index, monkeypatch):
    monkeypatch.setattr(index.model.config, "rerank", False)
    fused, alone = index.search(SENTENCE, rerank=True), index.search(SENTENCE)
    assert [hit.similarity for hit in alone] == sorted((hit.similarity for hit in alone), reverse=True)
    assert all(hit.score is None for hit in alone) and all(hit.score is not None for hit in fused)


def test_a_floor_leaves_out_what_is_less_similar(index):
    hits = index.search(SENTENCE, top_k=50, rerank=False)
    floor = hits[3].similarity
    assert [hit.video for hit in index.search(SENTENCE, top_k=50, rerank=False, min_similarity=floor)] == [
        hit.video for hit in hits[:4]
    ]
    assert all(hit.similarity >= floor for hit in index.search(SENTENCE, top_k=50, min_similarity=floor))
    assert index.search(SENTENCE, min_similarity=2) == []


def test_a_condition_filters_by_folder_time_and_length(index):
    folder = root_of(index) / "b"
    hits = index.search(SENTENCE, top_k=50, where=f"video LIKE '{folder}/%' AND start >= 1")
    assert hits and all(os.path.dirname(hit.video) == str(folder) and hit.start >= 1 for hit in hits)
    assert index.search(SENTENCE, where="end - start > 5") == []


def test_more_hits_than_there_can_be_are_all(index):
    assert len(index.search(SENTENCE, top_k=10**14)) == len(index.search(SENTENCE, top_k=50))


@pytest.mark.parametrize("where", ["nosuch > 4", "((", "video", "start = 'x' AND", "", "cast(video as int) > 1"])
def test_a_condition_that_is_none_is_a_sentence(index, where):
    with pytest.raises(InputError, match="`where`.*video, start, end"):
        index.search(SENTENCE, where=where)


def test_more_like_a_hit_is_what_its_span_is_most_similar_to(index):
    first, second, *_ = index.search(SENTENCE, top_k=6)
    like = index.search(like=second, top_k=3)
    every = index.search(like=second, top_k=50)
    assert like == every[:3] and every == sorted(every, key=lambda hit: -hit.similarity)
    for hit in every:  # not the span itself, but others of its video
        is_other = hit.start >= second.end or hit.end <= second.start
        assert is_other or second.video not in (hit.video, *hit.copies)
    assert any(second.video in (hit.video, *hit.copies) for hit in every)
    with pytest.raises(InputError, match="nowhere.mp4"):
        index.search(like=Hit("nowhere.mp4", 0, 1, 0.5))
    for query in ({}, {"text": SENTENCE, "like": first}, {"video": first.video, "like": first}):
        with pytest.raises(InputError, match="one of them"):
            index.search(**query)


def test_a_photo_is_a_query(index, tmp_path):
    for video in sorted((root_of(index) / "a").iterdir())[:2]:
        with av.open(video) as container:
            frame = next(container.decode(video=0)).to_image()
        frame.resize((128, 128), Image.Resampling.NEAREST).save(tmp_path / "photo.png")
        hits = index.search(video=tmp_path / "photo.png", top_k=6)
        assert hits[0].similarity > 0.5 and hits == sorted(hits, key=lambda hit: -hit.similarity)

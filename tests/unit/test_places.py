# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Folders as they are, and object stores: videos and indexes in a real S3 server, moto's, in its own process."""

import os
import shutil
import tarfile
import time
import urllib.request

import fsspec
import numpy as np
import pytest
from PIL import Image

from svitt.cli import main
from svitt.data.files import is_video
from svitt.errors import InputError
from svitt.search import IndexReport, SViTTIndex
from svitt.search.index import summary
from svitt.search.places import mark_of
from svitt.search.spans import find_sources

SENTENCE = "a red circle hops and then a blue square hops"


def clips(demo, count):
    return sorted((demo / "data/videos").glob("val_*"))[:count]


# ---- Folders


def test_a_folder_as_it_is(demo, tmp_path, write_video):
    """Films of cameras, discs and the web, photos, and what else lies about."""
    names = ["a.ts", "b.MTS", "c.m2ts", "d.mxf", "e.vob", "f.ogv", "g.3gp", "h.flv", "i.wmv"]
    codecs = {"d.mxf": "mpeg2video", "e.vob": "mpeg2video", "f.ogv": "libvpx", "h.flv": "flv", "i.wmv": "wmv2"}
    (tmp_path / "videos").mkdir()
    for name in names:
        write_video(tmp_path / "videos" / name, codecs.get(name, "libx264"), num_frames=8)
    for name in ("j.jpg", "k.PNG", "l.webp", "m.bmp", "n.tiff", "o.avif", "._j.jpg"):
        Image.fromarray(np.full((48, 64, 3), 200, np.uint8)).save(tmp_path / "videos" / name)
    for name in ("1.txt", "2.TXT", "3.srt", "README", "film"):
        (tmp_path / "videos" / name).write_text("words")
    index = SViTTIndex.create(tmp_path / "videos/index", str(demo / "model"))
    report = index.add([tmp_path / "videos"])
    assert not report.bad and len(report.added) == len(index) == 15
    assert report.skipped == {".txt": 2, ".srt": 1, "without extension": 2, "hidden": 1}
    assert summary(report, 15).endswith("; passed over: 2 .txt, 2 without extension, 1 hidden, 1 .srt")
    hits = {os.path.basename(hit.video): hit for hit in index.search(SENTENCE, top_k=15)}
    assert (hits["j.jpg"].start, hits["j.jpg"].end) == (0, 0) and hits["a.ts"].end > 0
    assert None not in {hit.score for hit in hits.values()}
    assert all(map(is_video, names)) and not is_video("j.jpg")  # a dataset of videos has no photos

    shutil.copy(clips(demo, 1)[0], tmp_path / "videos/film")
    assert index.add([tmp_path / "videos/film"]).added == [str(tmp_path / "videos/film")]


def test_what_is_passed_over_is_counted_in_shards_and_said_where_nothing_is_left(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.txt", "b.json", "c.mp4", ".d.mp4"):
            tar.add(tmp_path / "a.txt", name)
    sources, bad, skipped = find_sources([str(tmp_path)])
    assert list(sources) == [f"{tmp_path}/a.tar::c.mp4"] and not bad
    assert skipped == {".txt": 2, ".json": 1, "hidden": 1}
    (tmp_path / "a.tar").unlink()
    with pytest.raises(InputError, match="holds no video; passed over: 1 .txt"):
        find_sources([str(tmp_path)])
    many = IndexReport(skipped={f".{number}": number for number in range(1, 13)})
    assert summary(many, 0).endswith("3 .3, 3 others")


# ---- Object stores


def test_videos_and_index_in_a_store(demo, server, bucket, tmp_path):
    files, paths = server[1], clips(demo, 4)
    for path in paths[:3]:
        files.put_file(str(path), f"{bucket}/videos/{path.name}")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(paths[3], "three.mp4")
    files.put_file(str(tmp_path / "a.tar"), f"{bucket}/videos/deep/a.tar")
    files.pipe_file(f"{bucket}/videos/bad.mp4", b"no video")
    files.pipe_file(f"{bucket}/videos/notes.txt", b"words")
    files.pipe_file(f"{bucket}/videos/bad.tar", b"no shard")
    names = [*(f"{bucket}/videos/{path.name}" for path in paths[:3]), f"{bucket}/videos/deep/a.tar::three.mp4"]
    near = SViTTIndex.create(tmp_path / "near", str(demo / "model"))
    near.add(paths)

    far = SViTTIndex.create(f"{bucket}/index", str(demo / "model"))
    report = far.add([f"{bucket}/videos/"], batch_size=3)
    assert sorted(report.added) == sorted(names) and far.folder == f"{bucket}/index"
    reasons = {"bad.mp4": "not a video file", "bad.tar": "truncated header"}
    assert all(reasons[name.rpartition("/")[2]] in report.bad[name] for name in report.bad) and len(report.bad) == 2
    assert report.skipped == {".txt": 1}
    assert "bad.mp4" in files.cat_file(f"{bucket}/index/bad_videos.jsonl").decode()
    hits, expected = far.search(SENTENCE), near.search(SENTENCE)
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    assert {hit.video for hit in hits} == set(names)

    # Another machine, with nothing but the URL.
    again = SViTTIndex.open(f"{bucket}/index", str(demo / "model"))
    files.rm([f"{bucket}/videos/bad.mp4", f"{bucket}/videos/bad.tar"])
    report = again.add([f"{bucket}/videos"])
    assert len(report.unchanged) == 4 and report.num_spans == 0
    assert not files.exists(f"{bucket}/index/bad_videos.jsonl")
    files.rm_file(names[0])
    files.put_file(str(paths[3]), names[1])
    assert {hit.video for hit in far.search(SENTENCE)} == set(names)  # tokens are kept: nothing is read again
    report = again.add([f"{bucket}/videos"])
    assert (report.removed, report.updated, len(again)) == ([names[0]], [names[1]], 3)
    assert again.remove([f"{bucket}/videos/deep"]) == [names[3]]
    assert sorted(again.videos()) == names[1:3] == sorted(far.videos())


def test_a_search_asks_no_store_about_its_hits(demo, server, bucket, tmp_path, monkeypatch):
    for path in clips(demo, 3):
        server[1].put_file(str(path), f"{bucket}/{path.name}")
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"))
    assert len(index.add([bucket]).added) == 3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    type(server[1]).clear_instance_cache()
    hits = index.search(SENTENCE, rerank=False)
    assert len(hits) == 3 and {hit.note for hit in hits} == {None}


def test_a_store_of_another_kind(demo, tmp_path):
    """The memory of this process."""
    files, [path] = fsspec.filesystem("memory"), clips(demo, 1)
    files.put_file(str(path), "/svitt/videos/a.mp4")
    index = SViTTIndex.create(tmp_path / "index", str(demo / "model"), tokens="none")
    assert index.add(["memory://svitt/videos"]).added == ["memory:///svitt/videos/a.mp4"]
    assert index.search(SENTENCE)[0].score is not None
    time.sleep(0.01)
    files.put_file(str(path), "/svitt/videos/a.mp4")
    assert "not as it was" in index.search(SENTENCE)[0].note
    assert len(index.add(["memory://svitt/videos"]).updated) == 1
    assert len(index.remove(["memory://svitt"])) == 1


def test_versions_are_those_of_what_is_there():
    assert mark_of({"size": 5, "ETag": '"abc"', "LastModified": 1}) == "5 abc"
    assert mark_of({"size": 5, "ETag": None, "mtime": 2.5}) == "5 2.5"
    assert mark_of({"size": 5}) == "5 "


def test_the_command_line(demo, server, bucket, capsys):
    for path in clips(demo, 2):
        server[1].put_file(str(path), f"{bucket}/{path.name}")
    run(["index", bucket, "--index", f"{bucket}/index", "--model", str(demo / "model")])
    assert "2 added" in capsys.readouterr().out
    run(["index", bucket, "--index", f"{bucket}/index"])
    assert "2 unchanged, 0 bad; 0 spans encoded, 2 in the index\n" in capsys.readouterr().out  # its own files unsaid
    run(["search", f"{bucket}/index", SENTENCE])
    assert f"{bucket}/{clips(demo, 1)[0].name}" in capsys.readouterr().out
    run(["remove", f"{bucket}/index", bucket])
    assert "2 videos removed" in capsys.readouterr().out


def run(arguments, code=0):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert (end.value.code or 0) == code


def test_faults_of_stores_are_a_sentence(demo, server, bucket, tmp_path, capsys):
    url, files = server
    files.put_file(str(clips(demo, 1)[0]), f"{bucket}/videos/a.mp4")
    model = ["--model", str(demo / "model")]
    run(["index", f"{bucket}/videos", "--index", f"{bucket}/index", *model])
    here = ["--index", str(tmp_path / "index"), *model]

    def assert_says(words, *commands):
        for command in commands:
            capsys.readouterr()
            run(command, 2)
            *_, line = capsys.readouterr().err.strip().splitlines()
            assert words in line, line

    assert_says("there is no such file or folder", ["index", "s3://no-bucket", *here], ["index", f"{bucket}/no", *here])
    assert_says("is no index", ["search", "s3://no-bucket/index", SENTENCE], ["remove", f"{bucket}/no", "s3://x"])
    assert_says("not exist", ["index", f"{bucket}/videos", "--index", "s3://no-bucket/index", *model])
    assert_says("not known", ["index", "nowhere://bucket", *here])
    assert_says("gcsfs", ["index", "gs://bucket", *here], ["search", "gs://bucket/index", SENTENCE])
    everything = (
        ["index", f"{bucket}/videos", *here],
        ["index", f"{bucket}/videos", "--index", f"{bucket}/index", *model],
        ["index", f"{bucket}/videos", "--index", f"{bucket}/new", *model],
        ["search", f"{bucket}/index", SENTENCE],
        ["remove", f"{bucket}/index", f"{bucket}/videos"],
    )
    with urllib.request.urlopen(permit(url, b"0")):
        assert_says("the store cannot be reached, or refuses", *everything)
    with urllib.request.urlopen(permit(url, b"inf")):
        run(everything[0])


def permit(url, number_of_calls):
    """A request that lets moto take so many calls without rights to make them."""
    headers = {"Content-Type": "application/octet-stream"}
    return urllib.request.Request(f"{url}/moto-api/reset-auth", number_of_calls, headers)

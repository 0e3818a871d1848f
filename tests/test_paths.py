# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Names in annotations and shards cannot lead out of the folder of videos, unless the command line allows it."""

import io
import json
import os
import tarfile

import pytest
from transformers import HfArgumentParser

from svitt.data.annotations import load_captions, load_choices, load_questions
from svitt.data.check import CheckArguments, check_dataset
from svitt.data.presets import DatasetArguments, Preset, PresetArguments, load_preset, use_preset
from svitt.data.shards import PackArguments, pack
from svitt.data.streaming import load_stream
from svitt.errors import InputError

ROWS = {
    load_captions: {"caption": "x"},
    load_questions: {"question": "x?", "answer": "y"},
    load_choices: {"caption": ["x", "y"], "answer": 0},
}


@pytest.fixture
def folders(tmp_path, videos):
    """`videos` with links in and out, and a `private` folder beside it."""
    private, inside = tmp_path / "private", tmp_path / "videos"
    for folder in (private, inside / "sub"):
        folder.mkdir(parents=True)
        (folder / "clip.mp4").write_bytes(videos["end.mp4"].read_bytes())
    links = {"out.mp4": private / "clip.mp4", "relative.mp4": "../private/clip.mp4", "folder": private}
    links |= {"chain.mp4": "out.mp4", "in.mp4": "sub/clip.mp4", "subfolder": "sub"}
    for name, target in links.items():
        (inside / name).symlink_to(target)
    return tmp_path


def annotation(folder, video: str, row: dict):
    file = folder / "rows.json"
    file.write_text(json.dumps([{"video": "sub/clip.mp4"} | row, {"video": video} | row]))
    return file


@pytest.mark.parametrize("load", ROWS)
@pytest.mark.parametrize("missing_videos", ["error", "allow"])
@pytest.mark.parametrize(
    "name, fault",
    {
        "{folder}/private/clip.mp4": "must be a path below {folder}/videos",
        "../private/clip.mp4": "must be a path below {folder}/videos",
        "sub/../../private/clip.mp4": "must be a path below {folder}/videos",
        "/etc/passwd": "must be a path below {folder}/videos",
        "out.mp4": "is a link out of {folder}/videos, to {folder}/private/clip.mp4",
        "relative.mp4": "is a link out of {folder}/videos, to {folder}/private/clip.mp4",
        "chain.mp4": "is a link out of {folder}/videos, to {folder}/private/clip.mp4",
        "folder/clip.mp4": "is a link out of {folder}/videos, to {folder}/private",
    }.items(),
)
def test_names_that_lead_outside_are_refused_unless_allowed(name, fault, missing_videos, load, folders):
    name, fault = name.format(folder=folders), fault.format(folder=folders)
    file, video_dir = annotation(folders, name, ROWS[load]), folders / "videos"
    with pytest.raises(InputError) as error:
        load(file, video_dir, missing_videos=missing_videos)
    assert str(error.value) == f"{file}, row 2: `video` {name!r} {fault}; --allow_outside takes it."
    rows = load(file, video_dir, missing_videos=missing_videos, allow_outside=True)
    assert rows["video"][1]["path"] == os.path.join(video_dir, name)


@pytest.mark.parametrize("name", ["sub/clip.mp4", "in.mp4", "subfolder/clip.mp4", "./sub/clip.mp4", "sub//clip.mp4"])
def test_links_within_the_folder_are_taken(name, folders):
    assert len(load_captions(annotation(folders, name, {"caption": "x"}), folders / "videos")) == 2


def test_the_folder_itself_may_be_anywhere_and_a_link(folders):
    (folders / "link").symlink_to("videos/sub")
    file = annotation(folders, "clip.mp4", {"caption": "x"})
    file.write_text(file.read_text().replace("sub/", ""))
    assert len(load_captions(file, folders / "link")) == 2


def test_a_folder_of_metadata_is_no_way_out(folders):
    (folders / "videos/metadata.jsonl").write_text('{"file_name": "out.mp4", "text": "x"}\n')
    with pytest.raises(InputError, match="row 1: `file_name` 'out.mp4' is a link out of"):
        load_captions(folders / "videos")
    (folders / "videos/metadata.jsonl").write_text('{"file_name": "../private/clip.mp4", "text": "x"}\n')
    with pytest.raises(InputError, match="row 1: `file_name` '../private/clip.mp4' must be a path below"):
        load_captions(folders / "videos")


def test_templates_are_no_way_out(folders):
    file = annotation(folders, "x", {"caption": "x", "page": "../private"})
    with pytest.raises(InputError, match=r"row 1: .* '../private/clip.mp4' must be a path below"):
        load_captions(file, folders / "videos", columns={"video": "{page}/clip.mp4"})


def test_the_command_line_allows_it_but_what_comes_with_the_data_cannot(folders):
    file = annotation(folders, "out.mp4", {"caption": "x"})
    arguments = {"test_file": str(file), "video_dir": str(folders / "videos")}
    with pytest.raises(InputError, match="--allow_outside"):
        DatasetArguments(**arguments).splits(Preset("none"), "captions")["test"].load()
    splits = DatasetArguments(**arguments, allow_outside=True).splits(Preset("none"), "captions")
    assert len(splits["test"].load()) == 2

    dataset = folders / "dataset.yaml"
    dataset.write_text("splits: {test: {annotation: rows.json, videos: videos}}\nsettings: {allow_outside: true}\n")
    with pytest.raises(InputError, match="there is no setting `allow_outside`"):
        use_preset(HfArgumentParser(DatasetArguments), "retrieval", ["--dataset_file", str(dataset)])
    dataset.write_text("splits: {test: {annotation: rows.json, videos: videos, allow_outside: true}}\n")
    with pytest.raises(InputError, match="there is no key `allow_outside`"):
        load_preset("retrieval", dataset)


def test_checking_and_packing(folders, capsys):
    file = annotation(folders, "out.mp4", {"caption": "x"})
    options = {"annotation_file": [str(file)], "video_dir": str(folders / "videos"), "num_workers": 1}
    report = folders / "report.jsonl"
    for allow_outside in (False, True):
        code = check_dataset(
            CheckArguments(**options, report=str(report)), PresetArguments(allow_outside=allow_outside)
        )
        problems = [json.loads(line) for line in report.read_text().splitlines()]
        assert code == len(problems) == (not allow_outside)
    options["output_dir"] = str(folders / "packed")
    with pytest.raises(InputError, match="row 2: `video` 'out.mp4' is a link out of .*; --allow_outside takes it."):
        pack(PackArguments(**options))
    assert not (folders / "packed").exists()
    annotation(folders, str(folders / "private/clip.mp4"), {"caption": "x"})
    pack(PackArguments(**options, allow_outside=True))
    [shard] = (folders / "packed").glob("*.tar")
    with tarfile.open(shard) as tar:
        names = [json.load(tar.extractfile(name))["video"] for name in tar.getnames() if name.endswith("json")]
    assert names == ["sub/clip.mp4", "clip.mp4"]  # no path of this machine


# ---------------------------------------------------------------------------------------------------------------------
# Shards
# ---------------------------------------------------------------------------------------------------------------------


def shard(path, *members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize("field", ["mp4", "video"])
def test_a_sample_cannot_point_into_another_file(field, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    place = {"shard": str(secret), "offset": 0, "size": 6, "bytes": None, "path": "x.mp4"}
    path = shard(tmp_path / "x.tar", ("a.json", json.dumps({field: place, "caption": "x"}).encode()))
    with pytest.raises(InputError, match=f"x.tar, row 1: `{field}` must be an embedded file"):
        list(load_stream(path))


def test_names_and_links_of_members_are_never_opened(tmp_path, monkeypatch):
    (tmp_path / "private.mp4").write_bytes(b"secret")
    monkeypatch.chdir(tmp_path)
    names = ("../../etc/a", "/etc/b")
    members = [(f"{name}.{kind}", data) for name in names for kind, data in (("mp4", b"video"), ("txt", b"x"))]
    rows = list(load_stream(shard(tmp_path / "x.tar", *members), buffer_size=1))
    assert [row["video"]["bytes"] for row in rows] == [b"video", b"video"]
    path = shard(tmp_path / "y.tar", ("a.mp4", str(tmp_path / "private.mp4")), ("a.txt", b"x"))
    with pytest.raises(InputError, match="y.tar, row 1: must have one video or image, but it has none"):
        list(load_stream(path))

# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Files damaged in every way give frames or one sentence: no crash, no hang, no leak, no wrong frame. `make test-long`
has more."""

import gc
import multiprocessing
import os
import re
import struct
import time
import wave
import zlib
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from svitt.data.workers import WorkerFailure, _Worker
from svitt.processing_svitt import MAX_FRAME_PIXELS, VideoDecodeError, read_video, sample_frame_indices

SENTENCES = re.compile(
    r"cannot be opened|the file is empty|without its index|not a video file|has no video stream|cut off|above the limit"
    r"|more frames than the limit|damaged|no frame can be decoded|must have one size|take .* GB, the limit"
)


def cut(content, rng, others):
    return content[: rng.integers(1, len(content))]


def cut_off_last_bytes(content, rng, others):
    return content[: -rng.integers(1, min(len(content), 100))]


def flip_bits(content, rng, others):
    damaged = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(0, len(damaged), rng.choice([1, 5, 50, 500]))
    damaged[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    return damaged.tobytes()


def flip_bits_of_header(content, rng, others):
    return flip_bits(content[:1024], rng, others) + content[1024:]


def flip_bits_of_index(content, rng, others):
    start = max(content.find(b"moov"), content.find(b"idx1"), 0)
    return content[:start] + flip_bits(content[start : start + 1500], rng, others) + content[start + 1500 :]


def overwrite(content, rng, others):
    start = rng.integers(0, len(content))
    length = rng.integers(1, len(content) - start + 1)
    filler = bytes(length) if rng.random() < 0.5 else rng.bytes(length)
    return content[:start] + filler + content[start + length :]


def remove_middle(content, rng, others):
    start, end = sorted(rng.integers(0, len(content), 2))
    return content[:start] + content[end:]


def header_only(content, rng, others):
    return content[: rng.integers(8, 200)]


def header_of_another(content, rng, others):
    other = others[rng.integers(len(others))]
    size = rng.integers(16, 600)
    return other[:size] + content[size:]


def joined(content, rng, others):
    return content[: rng.integers(1, len(content))] + others[rng.integers(len(others))]


def noise(content, rng, others):
    return rng.bytes(rng.integers(1, 5000))


def claim_large_sizes(content, rng, others):
    """The frame size in an MP4's sample description becomes another, and so does that in the header of a GIF."""
    width, height = rng.integers(1, 65536, 2).tolist()
    if content.startswith(b"GIF"):
        return content[:6] + struct.pack("<HH", width, height) + content[10:]
    start = max(content.find(b"avc1", content.find(b"stsd")), 0) + 28
    return content[:start] + struct.pack(">HH", width, height) + content[start + 4 :]


def swap_ranges(content, rng, others):
    size = rng.integers(1, 1 + len(content) // 3)
    first = rng.integers(0, len(content) - 2 * size)
    second = rng.integers(first + size, len(content) - size)
    parts = content[second : second + size], content[first + size : second], content[first : first + size]
    return content[:first] + b"".join(parts) + content[second + size :]


def repeat_range(content, rng, others):
    start, end = sorted(rng.integers(0, len(content), 2))
    return content[:end] + content[start:end] + content[end:]


def extreme(old: int, size: int, rng) -> bytes:
    """Another value of a field of `size` bytes: near the old one, at the ends of its range, or any."""
    values = [0, 1, old + 1, old - 1, 2 * old, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, rng.integers(2**32)]
    return (int(values[rng.integers(len(values))]) % 2 ** (8 * size)).to_bytes(size, "big")


def with_field(content, place: int, size: int, rng) -> bytes:
    old = int.from_bytes(content[place : place + size], "big")
    return content[:place] + extreme(old, size, rng)[: len(content) - place] + content[place + size :]


NESTING_BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"mfra"}


def boxes_of(content, start: int = 0, end: int | None = None) -> list[tuple[bytes, int, int]]:
    """Type, start and size of the boxes of an MP4, those in others too; none in another container."""
    found, end = [], len(content) if end is None else end
    while start + 8 <= end:
        size, kind = int.from_bytes(content[start : start + 4], "big"), content[start + 4 : start + 8]
        if not 8 <= size <= end - start:
            break
        found.append((kind, start, size))
        if kind in NESTING_BOXES:
            found += boxes_of(content, start + 8, start + size)
        start += size
    return found


def places_of(content, *marks: bytes) -> list[int]:
    return [match.start() for match in re.finditer(b"|".join(map(re.escape, marks)), content)]


def edit_structure(content, rng, others):
    """A field of a box, an element, a chunk or a block becomes another: a size, a time, a place, a count."""
    tables = [box for box in boxes_of(content) if box[0] not in NESTING_BOXES | {b"mdat", b"free", b"udta"}]
    if tables:
        _, start, size = tables[rng.integers(len(tables))]
        return with_field(content, int(start + 8 + 4 * rng.integers(max(1, (size - 8) // 4))), 4, rng)
    # Matroska's segment, cluster, times, block group, simple block, block, cues; AVI's lists, chunks and index.
    elements = [b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\xe7", b"\xa0", b"\xa3", b"\xa1", b"\x1c\x53\xbb\x6b"]
    marks = {b"\x1a\x45": elements, b"RI": [b"LIST", b"00dc", b"idx1", b"strh", b"strf", b"avih"]}
    places = places_of(content, *marks.get(content[:2], [b"\x21\xf9", b"\x2c", b"\x21\xff"])) or [0]
    return with_field(content, int(rng.choice(places) + rng.integers(1, 24)), int(rng.choice([1, 2, 4])), rng)


def edit_box_header(content, rng, others):
    """A box gets another size or type, is left out, or comes twice."""
    boxes = boxes_of(content)
    if not boxes:
        return edit_structure(content, rng, others)
    _, start, size = boxes[rng.integers(len(boxes))]
    how, box = rng.integers(4), content[start : start + size]
    if how == 0:
        return with_field(content, start, 4, rng)
    kinds = [b"free", b"mdat", b"moov", b"stco", b"co64", rng.bytes(4)]
    box = {1: box[:4] + kinds[rng.integers(len(kinds))] + box[8:], 2: b"", 3: box + box}[int(how)]
    return content[:start] + box + content[start + size :]


def edit_packet(content, rng, others):
    """A NAL unit of H.264 gets another type, length or first bytes; of other codecs, some bytes in the middle do."""
    data = [(start, size) for kind, start, size in boxes_of(content) if kind == b"mdat"]
    units = []
    for start, size in data:
        place = start + 8
        while place + 5 <= start + size:
            units.append(place)
            place += 4 + int.from_bytes(content[place : place + 4], "big")
    places = units or range(len(content) // 4, len(content))
    place = int(places[rng.integers(len(places))])
    return with_field(content, place + int(rng.choice([0, 4, 5, 6, 7])), int(rng.choice([1, 4])), rng)


DAMAGES = [
    cut, cut_off_last_bytes, flip_bits, flip_bits_of_header, flip_bits_of_index, overwrite, remove_middle, header_only,
    header_of_another, joined, noise, claim_large_sizes, swap_ranges, repeat_range, edit_structure, edit_box_header,
    edit_packet,
]  # fmt: skip


def read(path: Path):
    """What happened, and for how many seconds."""
    start = time.monotonic()
    try:
        frames, metadata = read_video(path, lambda metadata: sample_frame_indices(4, metadata.total_num_frames))
        assert frames.dtype == np.uint8 and frames.shape == (4, metadata.height, metadata.width, 3)
        outcome = "frames"
    except VideoDecodeError as error:
        outcome = str(error)
        assert outcome.startswith(f"{path}: ") and outcome.endswith(".") and "\n" not in outcome
        outcome = SENTENCES.search(outcome.removeprefix(f"{path}: ")).group()
    return outcome, time.monotonic() - start


def read_damaged_files(folder, contents, count) -> Counter:
    rng, names, outcomes = np.random.default_rng(0), sorted(contents), Counter()
    for number in range(count):
        damage, name = DAMAGES[number % len(DAMAGES)], names[number // len(DAMAGES) % len(names)]
        suffix = Path(names[rng.integers(len(names))] if rng.random() < 0.2 else name).suffix  # a wrong one at times
        path = folder / f"{number}_{damage.__name__}{suffix}"
        path.write_bytes(damage(contents[name], rng, list(contents.values())))
        outcome, seconds = read(path)
        assert seconds < 10, path.name
        outcomes[outcome] += 1
        path.unlink()
    return outcomes


@pytest.fixture(scope="module")
def contents(videos):
    return {name: path.read_bytes() for name, path in videos.items()}


def test_damaged_files(tmp_path, contents):
    outcomes = read_damaged_files(tmp_path, contents, 420)
    assert {"frames", "cut off", "without its index", "not a video file", "damaged"} <= set(outcomes)


class Reader:
    """A process that reads damaged files, and another in its place when one crashes or hangs."""

    def __init__(self, good_case: tuple[str, str]):
        self.good_case, self.worker, self.results = good_case, None, []

    def read(self, case: tuple[str, str]) -> dict | Exception:
        if self.worker is None:
            import fuzz_videos

            self.worker = _Worker(multiprocessing.get_context("spawn"), fuzz_videos.check)
            assert self.receive(self.good_case, timeout=300)["equal"]  # starting takes a while
        result = self.receive(case, timeout=60)
        if isinstance(result, WorkerFailure):
            self.stop()
        self.results.append(result)
        return result

    def receive(self, case: tuple[str, str], timeout: float) -> dict | Exception:
        self.worker.send(case, timeout)
        is_ready = wait([self.worker.connection], timeout)
        return self.worker.receive() if is_ready else WorkerFailure(f"took longer than {timeout:g} s")

    def stop(self):
        if self.worker is not None:
            self.worker.stop()
        self.worker = None


@pytest.fixture
def digests(monkeypatch, videos):
    """Of the streams of whole videos."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import fuzz_videos

    return {name: fuzz_videos.decode_in_order(str(path))[1] for name, path in videos.items()}


@pytest.fixture
def reader(videos, digests):
    reader = Reader((str(videos["end.mp4"]), digests["end.mp4"]))
    yield reader
    reader.stop()


# Most damage that keeps a file readable is done to its tables.
KINDS = st.sampled_from([edit_structure] * 6 + [edit_packet, edit_box_header] * 2 + DAMAGES)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "num_cases", [pytest.param(300, marks=pytest.mark.slow), pytest.param(20000, marks=pytest.mark.long)]
)
def test_damaged_files_give_frames_of_their_own_or_one_sentence(tmp_path, contents, reader, digests, num_cases):
    """No crash, hang or leak; and where the damage left the packets alone, frames are those of decoding in order."""
    outcomes = Counter()
    without = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

    @settings(max_examples=num_cases, derandomize=True, phases=[Phase.generate], **without)  # seeds do not shrink
    @given(st.sampled_from(sorted(contents)), st.lists(KINDS, min_size=1, max_size=3), st.integers(0, 2**32 - 1))
    def check(name, damages, seed):
        rng, content = np.random.default_rng(seed), contents[name]
        for damage in damages:
            content = damage(content, rng, list(contents.values())) if len(content) > 100 else content
        path = tmp_path / name
        path.write_bytes(content)
        result = reader.read((str(path), digests[name]))
        assert isinstance(result, dict), result
        assert result["seconds"] < 20
        if "error" in result:
            outcome = result["error"]
            assert outcome.startswith(f"{path}: ") and outcome.endswith(".") and "\n" not in outcome
            outcomes[SENTENCES.search(outcome.removeprefix(f"{path}: ")).group()] += 1
        else:
            stream = "of the undamaged packets" if result["is_intact"] else "of a damaged stream"
            order = {True: "as in order", False: "not as in order", None: "though decoding in order fails"}
            outcomes[f"frames {stream}, {order[result['equal']]}"] += 1
            assert result["equal"] or not result["is_intact"], "a wrong frame was taken for a right one"

    check()
    descriptors = {result["descriptors"] for result in reader.results[20:]}
    memory = [result["rss"] for result in reader.results]
    growth, seconds = memory[-1] - memory[len(memory) // 5], [result["seconds"] for result in reader.results]
    print(f"{len(memory)} cases, {np.mean(seconds) * 1000:.1f} ms each, at most {max(seconds):.2f} s,")
    print(f"memory {growth / 2**20:+.1f} MB, descriptors {descriptors}: {outcomes.most_common()}")
    assert outcomes["frames of the undamaged packets, as in order"] > num_cases / 20
    assert len(descriptors) == 1 and growth < 50 * 2**20


def test_a_time_that_a_fragment_gets_wrong_moves_no_frame(tmp_path, contents, digests):
    """Each offset from the time of decoding to that of showing, in turn, becomes that of a frame shown too soon."""
    import fuzz_videos

    content, results = contents["fragments.mp4"], []
    runs = [(start, size) for kind, start, size in boxes_of(content) if kind == b"trun"]
    for start, size in runs:
        for place in range(start + 24, start + size - 3, 8):  # pairs of size and offset, after the first's flags
            path = tmp_path / "edited.mp4"
            path.write_bytes(content[: place + 4] + (1).to_bytes(4, "big") + content[place + 8 :])
            results.append(fuzz_videos.check((str(path), digests["fragments.mp4"])))
    assert sum(result["is_intact"] for result in results) > 20 and all(result["equal"] for result in results)


def open_many(folder, contents, count) -> tuple[list[int], list[int]]:
    """Numbers of open descriptors and of resident bytes, ten times while files of all kinds are read."""
    rng, names, descriptors, memory = np.random.default_rng(1), sorted(contents), [], []
    path = folder / "video"
    for number in range(count):
        content = contents[names[number % len(names)]]
        path.write_bytes(content if number % 2 else DAMAGES[number % len(DAMAGES)](content, rng, [content]))
        read(path)
        if number % (count // 10) == count // 10 - 1:
            gc.collect()
            descriptors.append(len(os.listdir("/proc/self/fd")))
            memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return descriptors, memory


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.long)])
def test_nothing_leaks(tmp_path, contents, count):
    descriptors, memory = open_many(tmp_path, contents, count)
    print(descriptors, [size // 2**20 for size in memory])
    assert len(set(descriptors)) == 1
    assert memory[-1] - memory[2] < 20 * 2**20


def png(width, height):
    """A picture of nothing but zeros, which takes a thousandth of its size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + width) * height) if width * height < 2**28 else zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "width, height", [(5793, 5793), (16384, 16384), (65535, 65535), (2**31 - 1, 1), (2**30, 2**30)]
)
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, width, height):
    path = tmp_path / "huge.png"
    path.write_bytes(png(width, height))
    assert width * height > MAX_FRAME_PIXELS
    with pytest.raises(VideoDecodeError, match=r"huge.png: .* above the limit of 33554432 pixels"):
        read_video(path)


def test_huge_video_frames_are_refused(tmp_path, write_video):
    path = write_video(
        tmp_path / "large.mp4", "libx264", options={"preset": "ultrafast"}, num_frames=1, size=(6000, 6000)
    )
    with pytest.raises(VideoDecodeError, match="large.mp4: frames of 6000x6000 are above the limit of 33554432 pixels"):
        read_video(path)


def test_audio_is_no_video(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(8000), sound.writeframes(bytes(16000))
    with pytest.raises(VideoDecodeError, match="sound.wav: has no video stream, what it holds is: audio"):
        read_video(tmp_path / "sound.wav")


def test_container_under_another_name_is_read_as_what_it_is(tmp_path, videos, decode_all):
    (tmp_path / "clip.avi").write_bytes(videos["clip.webm"].read_bytes())
    np.testing.assert_array_equal(read_video(tmp_path / "clip.avi")[0], decode_all(videos["clip.webm"]))

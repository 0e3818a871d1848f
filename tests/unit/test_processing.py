# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Video files, arrays and captions in; the original's pixels and token ids out; one sentence for whatever is broken."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from transformers import BertTokenizer

from svitt import SViTTProcessor, SViTTVideoProcessor, VideoDecodeError, sample_frame_indices
from svitt.processing_svitt import random_crop_box

from ..conftest import GOLDEN

VOCAB = str(GOLDEN / "case10b_tokenizer/vocab.txt")


@pytest.fixture(scope="module")
def processor():
    return SViTTProcessor(SViTTVideoProcessor(size=32), BertTokenizer(vocab=VOCAB))


# Sampling ------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 400), st.sampled_from(["middle", "rand"]), st.integers(0, 2**31))
def test_sampled_indices_are_ascending_in_range_and_complete(num_frames, vlen, sampling, seed):
    def draw():
        return sample_frame_indices(num_frames, vlen, sampling, generator=torch.Generator().manual_seed(seed))

    indices = draw()
    assert indices == draw() == sorted(indices) and len(indices) == num_frames
    assert 0 <= indices[0] and indices[-1] < vlen
    assert len(set(indices)) == min(num_frames, vlen)  # distinct, but for the repeated last one
    edges = np.linspace(0, vlen, min(num_frames, vlen) + 1).astype(int)
    if np.diff(edges).min() > 1:
        assert all(low <= index < high for index, low, high in zip(indices, edges[:-1], edges[1:], strict=True))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(sampling="centre"), "`sampling` must be 'middle', 'rand' or 'fps' followed by a number, got 'centre'"),
        (dict(sampling="fps"), "`sampling` must name a positive rate after 'fps'"),
        (dict(sampling="fps-1", fps=25), "`sampling` must name a positive rate after 'fps'"),
        (dict(sampling="fps1"), "needs the video's own frame rate"),
        (dict(vlen=0), "must be at least 1, got 4 and 0"),
    ],
)
def test_sampling_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_frame_indices(**{"num_frames": 4, "vlen": 10, **arguments})


def test_sampling_of_files(videos, decode_all):
    reference = decode_all(videos["end.mp4"])
    video_processor = SViTTVideoProcessor(do_resize=False, do_rescale=False, do_normalize=False)

    def frames(**kwargs):
        clip = video_processor(videos["end.mp4"], return_tensors="pt", **kwargs)["pixel_values"][0]
        return clip.permute(0, 2, 3, 1).numpy()

    np.testing.assert_array_equal(frames(), reference[[2, 8, 14, 20]])
    np.testing.assert_array_equal(frames(num_frames=30), reference[[*range(24), *[23] * 6]])
    np.testing.assert_array_equal(frames(sampling="fps4"), reference[[3, 9, 16, 22]])
    np.testing.assert_array_equal(frames(fps=4, max_num_frames=2), reference[[3, 9]])
    np.testing.assert_array_equal(frames(do_sample_frames=False), reference)
    np.testing.assert_array_equal(frames(sampling="rand", seed=3), frames(sampling="rand", seed=3))
    with pytest.raises(VideoDecodeError, match="end.mp4: too short, the sampling takes no frame of it"):
        frames(sampling="fps0.1")


# Pixels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old, new", [((9, 13), (4, 5)), ((4, 5), (9, 13)), ((6, 6), (6, 6))])
def test_pixels_are_resized_by_bicubic_interpolation_without_antialiasing_and_rounded(old, new):
    video = np.random.default_rng(0).integers(0, 256, (2, *old, 3), dtype=np.uint8)
    video[:, : old[0] // 2] = 255 * (video[:, : old[0] // 2] > 127)  # hard edges, so that bicubic overshoots
    frames = torch.from_numpy(video).permute(0, 3, 1, 2).double()
    resized = F.interpolate(frames, size=new, mode="bicubic", antialias=False)
    expected = (resized.round().clip(0, 255) / 255 - 0.5) / 0.5
    video_processor = SViTTVideoProcessor(size={"height": new[0], "width": new[1]}, num_frames=2)
    actual = video_processor(video, return_tensors="pt")["pixel_values"]
    assert actual.dtype == torch.float32 and actual.shape == (1, 2, 3, *new)
    # A value within float32's precision of .5 may round to either side.
    tolerance = torch.where(abs(resized % 1 - 0.5) < 1e-3, 2.1 / 255, 1e-6)
    assert (abs(actual[0] - expected) <= tolerance).all()


def test_every_kind_of_frames_gives_the_same_clip(processor):
    video = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), dtype=np.uint8)
    expected = processor.video_processor(video, return_tensors="pt")["pixel_values"]
    assert expected.shape == (1, 4, 3, 32, 32)
    tensor = torch.from_numpy(video)
    same = [list(video), list(tensor), [Image.fromarray(frame) for frame in video], tensor, tensor.permute(0, 3, 1, 2)]
    same += [video.transpose(0, 3, 1, 2), video[None], [video], [[video]], [list(video)], [tensor]]
    same += [np.concatenate([video, video[..., :1] // 2], axis=-1)]  # alpha is dropped
    for clip in same:
        actual = processor.video_processor(clip, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)

    numbers = [video / 255, (video / 255).astype(np.float16), tensor / 255, tensor.bfloat16() / 255, tensor.double()]
    numbers += [video + np.float32(0.3), video.astype(np.int64), tensor.to(torch.uint16), list(tensor.half() / 255)]
    for clip in numbers + [clip.permute(0, 3, 1, 2) for clip in numbers if isinstance(clip, torch.Tensor)]:
        actual = processor.video_processor(clip, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    batch = processor.video_processor((tensor / 255).permute(0, 3, 1, 2)[None].repeat(2, 1, 1, 1, 1))["pixel_values"]
    assert len(batch) == 2 and torch.equal(batch[1], expected[0])

    grey = processor.video_processor(np.repeat(video[..., :1], 3, axis=-1), return_tensors="pt")["pixel_values"]
    levels = video[..., :1]
    same = [levels, list(levels[..., 0]), [Image.fromarray(frame[..., 0]) for frame in levels]]
    for clip in [*same, levels / 255, torch.from_numpy(levels).permute(0, 3, 1, 2) / 255]:
        torch.testing.assert_close(processor.video_processor(clip, return_tensors="pt")["pixel_values"], grey)


def test_the_clip_and_not_a_frame_says_what_white_is():
    read = SViTTVideoProcessor(num_frames=2, do_resize=False).read_clip
    clip = np.zeros((4, 8, 8, 3), np.float32)
    for last, level in ((1, 255), (200, 1)):  # of the frame before, whether the last is taken or not
        clip[2], clip[3] = 1, last
        assert read(clip)[1].unique().tolist() == read(clip, do_sample_frames=False)[2].unique().tolist() == [level]
    assert read(clip > 0, do_sample_frames=False).unique().tolist() == [0, 255]
    assert read(np.ones((2, 8, 8, 3), np.int64)).unique().tolist() == [1]  # dark, as one of uint8 is
    for value, got in ((math.nan, "nan to nan"), (-0.1, "-0.1 to 1"), (1.1, "0 to 1.1"), (256, "0 to 256")):
        clip[:], clip[0, 0, 0, 0], clip[1] = 0, value, 1  # a frame that is not taken
        with pytest.raises(ValueError, match=rf"`videos\[0\]`: frames must be .* got float32 from {got}\."):
            SViTTVideoProcessor(num_frames=1)([clip])
    for clip, message in (
        (np.full((2, 8, 8, 3), 256), "got int64 from 256 to 256"),
        (np.full((2, 8, 8, 3), -1), "got int64 from -1 to -1"),
        (np.zeros((2, 8, 8, 3), complex), "frames must be numbers from 0 to 255, .* got complex128"),
        (np.full((2, 8, 8, 3), "a"), "frames must be numbers from 0 to 255, .* got <U1"),
    ):
        with pytest.raises(ValueError, match=message):
            read(clip)


def test_batch_of_everything(processor, videos):
    image = np.full((20, 30, 3), 255, np.uint8)
    batch = [videos["clip.webm"], videos["end.mp4"].read_bytes(), np.zeros((9, 10, 12, 3), np.uint8), [image]]
    pixel_values = processor(videos=batch, return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (4, 4, 3, 32, 32)
    assert (pixel_values[2] == -1).all() and (pixel_values[3] == 1).all()
    for index, video in enumerate(batch):
        alone = processor(videos=video, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(alone[0], pixel_values[index], rtol=0, atol=0)
    for picture in (image, Image.fromarray(image), torch.from_numpy(image)):
        assert processor(videos=picture, num_frames=1, return_tensors="pt")["pixel_values"].shape == (1, 1, 3, 32, 32)
    assert processor(videos=batch, return_tensors="np")["pixel_values"].dtype == np.float32
    assert [clip.shape for clip in processor(videos=batch)["pixel_values"]] == [(4, 3, 32, 32)] * 4


def test_channels_are_found_or_told():
    ambiguous = torch.arange(1 * 3 * 5 * 3, dtype=torch.uint8).reshape(1, 3, 5, 3)
    as_is = SViTTVideoProcessor(num_frames=1, do_resize=False, do_rescale=False, do_normalize=False)
    last = as_is(ambiguous, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(last, ambiguous.permute(0, 3, 1, 2))
    told = as_is(ambiguous, input_data_format="channels_first", return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(told, ambiguous)


@pytest.mark.parametrize(
    "videos, message",
    [
        ([np.zeros((n, 5, 3), np.uint8) for n in (4, 5)], r"`videos\[0\]`: .* one size, they have 5x4, 5x5"),
        (np.full((2, 4, 5, 3), -1.0), r"`videos\[0\]`: frames must be numbers from 0 to 255, .* from -1 to -1"),
        (np.zeros((2, 6, 5, 2), np.uint8), r"`videos\[0\]`: frames must have 1, 3 or 4 channels"),
        (torch.zeros((2, 3, 0, 5)), r"`videos\[0\]`: frames must have 1, 3 or 4 channels and pixels"),
        (np.array(5), r"`videos` must hold files, frames or clips of frames, got ndarray of shape \(\)"),
        ([], "`videos` must hold files, frames or clips of frames, got list"),
        ([[np.zeros((4, 5, 3), np.uint8)], 7], "`videos` must hold files, frames or clips of frames, got int"),
        (np.zeros((1, 1, 2, 4, 5, 3), np.uint8), r"got ndarray of shape \(1, 1, 2, 4, 5, 3\)"),
        ({"frames": 3}, "needs `path` or `bytes`, this one has \\['frames'\\]"),
    ],
)
def test_bad_frames_are_one_sentence(videos, message):
    with pytest.raises(ValueError, match=message):
        SViTTVideoProcessor(num_frames=2)(videos, return_tensors="pt")


def test_bad_settings_are_one_sentence(processor):
    clip = np.zeros((25, 8, 8, 3), np.uint8)
    for settings_, message in [
        (dict(size={"shortest_edge": 8}), "`size` must give `height` and `width`"),
        (dict(do_center_crop=True, crop_size=4), "`do_center_crop` can only be False"),
        (dict(resample=0), "`resample` must be bilinear"),
        (dict(seed=[1, 2]), "got 2 seeds for 1 videos"),
    ]:
        with pytest.raises(ValueError, match=message):
            processor(videos=clip, return_tensors="pt", **settings_)
    metadata = [{"total_num_frames": 25, "fps": 25.0}, {"total_num_frames": 15, "fps": 25.0}]
    with pytest.raises(ValueError, match="The clips of a batch must have one shape"):
        processor(videos=[clip, clip[:15]], fps=5, video_metadata=metadata, return_tensors="pt")
    ragged = processor(videos=[clip, clip[:15]], fps=5, video_metadata=metadata)["pixel_values"]
    assert [len(frames) for frames in ragged] == [5, 3]
    with pytest.raises(ValueError, match="pass an image in `videos`"):
        processor(images=clip[0], text="a dog")


# Augmentation --------------------------------------------------------------------------------------------------------


def test_augmentation_is_shared_by_the_frames_and_seedable():
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    still = np.stack([frame] * 4)
    augment = SViTTVideoProcessor(size=24, do_augment=True)

    def views(videos, seed=None):
        return augment(videos, seed=seed, return_tensors="pt")["pixel_values"]

    clips = views([still] * 4, seed=0)
    assert (clips == clips[:, :1]).all()  # one draw per clip
    assert all((clips[i] != clips[j]).any() for i in range(4) for j in range(i))  # another for the next
    torch.testing.assert_close(clips, views([still] * 4, seed=0), rtol=0, atol=0)
    assert (clips != views([still] * 4, seed=1)).any()

    listed = views([still] * 4, seed=[5, 6, 7, 5])
    torch.testing.assert_close(listed[1:2], views(still, seed=6), rtol=0, atol=0)  # whatever else is in the batch
    torch.testing.assert_close(listed[0], listed[3], rtol=0, atol=0)

    torch.manual_seed(0)
    first = views(still)
    torch.manual_seed(0)
    torch.testing.assert_close(first, views(still), rtol=0, atol=0)
    assert (first != views(still)).any()


def test_augmented_clip_is_crop_resize_flip():
    video = np.random.default_rng(0).integers(0, 256, (4, 40, 60, 3), dtype=np.uint8)
    plain = SViTTVideoProcessor(size=24)
    flips = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        top, left, height, width = random_crop_box(40, 60, generator=generator)
        flip = torch.rand(1, generator=generator).item() < 0.5
        expected = plain(video[:, top : top + height, left : left + width], return_tensors="pt")["pixel_values"]
        expected = expected.flip(-1) if flip else expected
        actual = plain(video, do_augment=True, seed=seed, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        unflipped = plain(video, do_augment=True, flip_prob=0, seed=seed, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(unflipped, expected.flip(-1) if flip else expected, rtol=0, atol=0)
        flips += flip
    assert 4 < flips < 16


@pytest.mark.parametrize("do_augment", [False, True])
def test_halves_in_worker_and_on_device_equal_the_whole_to_the_bit(videos, do_augment):
    processor = SViTTVideoProcessor(size={"height": 20, "width": 30}, do_augment=do_augment, sampling="rand")
    batch = [videos["end.mp4"], np.random.default_rng(0).integers(0, 256, (9, 33, 77, 3), dtype=np.uint8)]
    whole = processor(batch, seed=[3, 4], return_tensors="pt")["pixel_values"]
    clips = torch.stack([processor.read_clip(video, seed=seed) for video, seed in zip(batch, (3, 4), strict=True)])
    assert clips.dtype == torch.uint8 and clips.shape == (2, 4, 3, 20, 30)
    assert torch.equal(processor.to_pixel_values(clips), whole)


def test_decoding_settings_reach_the_reader(videos):
    small = SViTTVideoProcessor(do_resize=False, do_rescale=False, do_normalize=False, decode_short_side=24)
    for clip in small(videos["end.mp4"], return_tensors="pt")["pixel_values"], small.read_clip(videos["end.mp4"]):
        assert clip.shape[-3:] == (3, 24, 32)
    assert small(videos["end.mp4"], decode_short_side=48, return_tensors="pt")["pixel_values"].shape[-2:] == (48, 64)
    with pytest.raises(ValueError, match="`short_side` must be at least 1"):
        small(videos["end.mp4"], decode_short_side=0)


# Text ----------------------------------------------------------------------------------------------------------------


def test_a_long_answer_loses_its_end(processor):
    cut = processor.encode_answers(["dog", "a man runs in the park"])["input_ids"].tolist()
    assert cut == [[2, 62, 3, 0, 0], [2, 5, 58, 64, 65]]  # [CLS] dog [SEP]; the long answer lost its [SEP]


def test_captions_are_cleaned_and_end_without_sep(processor):
    encoded = processor(text=["A Dog!", "the park [SEP] cat's"], return_tensors="pt")
    words = [processor.tokenizer.convert_ids_to_tokens(ids) for ids in encoded["input_ids"].tolist()]
    assert words[0][:3] == ["[CLS]", "a", "dog"] and words[0][3] == "[PAD]"
    assert words[1][:3] == ["[CLS]", "the", "park"] and "[SEP]" not in words[1]  # a caption writes no special token
    assert encoded["attention_mask"][0].tolist() == [1, 1, 1] + [0] * (len(words[0]) - 3)

    hub_form = processor(text="a dog", add_sep=True)
    assert hub_form["input_ids"] == processor.tokenizer("a dog")["input_ids"] == [2, 5, 62, 3]
    long = processor(text="dog " * 100)["input_ids"]
    assert long == [2] + [62] * 31
    assert processor(text="dog " * 100, add_sep=True)["input_ids"] == [2] + [62] * 30 + [3]
    assert processor.batch_decode([[5, 62]]) == ["a dog"] and processor.decode([5, 62]) == "a dog"


def test_text_and_videos_together(processor):
    encoded = processor(videos=[np.zeros((5, 8, 8, 3), np.uint8)] * 2, text=["a dog", "two"], return_tensors="pt")
    assert sorted(encoded) == sorted(processor.model_input_names) == ["attention_mask", "input_ids", "pixel_values"]
    with pytest.raises(ValueError, match="at least one input"):
        processor()
    with pytest.raises(ValueError, match="`text` must be a string or list of strings"):
        processor(text=["a", None])


# Saving and loading --------------------------------------------------------------------------------------------------


def test_settings_survive_saving(tmp_path):
    first = SViTTProcessor(
        SViTTVideoProcessor(size=48, num_frames=8, sampling="fps2", antialias=True, flip_prob=0.0),
        BertTokenizer(vocab=VOCAB),
        add_sep=True,
        clean_text=False,
    )
    first.save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    second = SViTTProcessor.from_pretrained(tmp_path)  # no `trust_remote_code`: the class is at hand
    assert second.to_dict() == first.to_dict()
    assert second.video_processor.to_dict() == first.video_processor.to_dict()
    assert second(text="A dog!")["input_ids"] == [2, 5, 62, 1, 3]

    longer = SViTTProcessor.from_pretrained(tmp_path, max_length=64, num_frames=2, clean_text=True)
    longer.save_pretrained(tmp_path / "longer")
    longer = SViTTProcessor.from_pretrained(tmp_path / "longer")
    assert len(longer(text="dog " * 100)["input_ids"]) == 64 and longer.clean_text
    assert longer.video_processor.num_frames == 2

# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Two-stage retrieval: shortlists, missing videos, options, ranks, chance; golden scores are in the contract suite."""

import math
from collections import Counter

import pytest
import torch
from datasets import Dataset, Features, Video
from hypothesis import given, settings
from hypothesis import strategies as st

from svitt import SViTTConfig, SViTTForVideoTextRetrieval, SViTTProcessor
from svitt.data.annotations import ChoiceSet, RetrievalSet
from svitt.evaluation.retrieval import (
    ChoiceScores,
    RetrievalArguments,
    RetrievalScores,
    chance_recall,
    choice_ranks,
    choice_scores,
    choose_lists,
    itm_scores,
    metrics_of,
    pair_matrix,
    plan_matching,
    rank_table,
    results_table,
    retrieval_metrics,
    score_retrieval,
    shortlist,
    what_was_ranked,
)


def score(case, videos, texts, batch_size=3, is_missing=(), candidates=None, device="cpu", **overrides):
    """Scores of a golden case's model; texts are (input_ids, attention_mask)."""
    config = case.json["config"]
    settings = {
        "num_frames_test": config["video_input"]["num_frames_test"],
        "eval_frame_ensemble": config["eval_frame_ensemble"],
        "strided_clips": config["eval_sparse_sampling"],
        "k_test": config["k_test"],
    }
    model = case.load(SViTTForVideoTextRetrieval, case.config()).to(device)
    batches = [dict(zip(("input_ids", "attention_mask"), texts, strict=True))]
    missing = torch.isin(torch.arange(len(videos)), torch.tensor(is_missing, dtype=torch.long))
    clips = zip(videos.split(batch_size), missing.split(batch_size), strict=True)
    clips = [{"pixel_values": pixel_values, "is_missing": missing} for pixel_values, missing in clips]
    return score_retrieval(model, clips, batches, 3, RetrievalArguments(**settings | overrides), candidates)


def inputs_of(case):
    return case.inputs["video"], (case.inputs["input_ids"], case.inputs["attention_mask"])


def test_all_pairs_are_scored_without_shortlist(golden, assert_close):
    case = golden("case09_ret_concat")
    every = score(case, *inputs_of(case), eval_x_only=True)
    assert every.video_to_text.isfinite().all()
    assert torch.equal(every.video_to_text, every.text_to_video.t())
    short = score(case, *inputs_of(case))
    inside = short.video_to_text.isfinite()
    assert inside.sum(dim=1).tolist() == [5] * 6
    assert_close(short.video_to_text[inside], every.video_to_text[inside])
    videos, texts = inputs_of(case)
    padded = score(case, videos, [torch.nn.functional.pad(tensor, (0, 5)) for tensor in texts], k_test=128)
    assert_close(padded.itc, every.itc)
    assert_close(padded.video_to_text, every.video_to_text)


@given(st.data())
@settings(deadline=None)
def test_a_plan_covers_each_pair_once_in_bounds(data):
    num_videos, num_texts = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 12))
    pairs = st.lists(st.booleans(), min_size=num_texts, max_size=num_texts)
    pairs = torch.tensor(data.draw(st.lists(pairs, min_size=num_videos, max_size=num_videos)))
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, 20), min_size=num_texts, max_size=num_texts)))
    words_at_once = data.draw(st.integers(0, 100))
    covered = Counter()
    for videos, texts, length in plan_matching(pairs, lengths, words_at_once):
        assert length == lengths[texts].max()
        assert texts.numel() == 1 or texts.numel() * length <= words_at_once
        for video, texts_of_video in zip(videos, texts.tolist(), strict=True):
            covered.update((video, text) for text in texts_of_video)
    assert covered == Counter(map(tuple, pairs.nonzero().tolist()))


def one_pair_per_call(model, clips, states, mask, pairs, ensemble):
    """What `itm_scores` computes, in its simplest form: no sharing, texts as they are padded."""
    scores = torch.full(pairs.shape, float("-inf"))
    for video, text in pairs.nonzero().tolist():
        inputs = {"text_hidden_states": states[text, None], "attention_mask": mask[text, None]}
        per_clip = torch.cat([model.match(video_hidden_states=clip[None], **inputs) for clip in clips[video]])
        pooled = {"mean": per_clip.mean(), "max": per_clip.max(), "lse": per_clip.exp().sum().log()}
        scores[video, text] = per_clip[0] if ensemble == "concat" else pooled[ensemble]
    return scores


@pytest.mark.parametrize("ensemble", ["concat", "mean", "max", "lse"])
@pytest.mark.parametrize("strategy", ["cls_attn", "avg_attn", "random"])
@pytest.mark.parametrize("attn_mask_padding", [True, False])
@torch.inference_mode()
def test_scores_are_those_of_one_pair_per_call(golden, assert_close, ensemble, strategy, attn_mask_padding):
    case = golden("case09b_ret_concat_prune")
    drops = {"token_keep_strategy": strategy, "attn_mask_padding": attn_mask_padding, "token_keep_rate": 0.5}
    model = case.load(SViTTForVideoTextRetrieval, case.config(text_overrides=drops)).eval()
    generator = torch.Generator().manual_seed(0)
    clips, width = 1 if ensemble == "concat" else 3, model.config.text_config.hidden_size
    tokens = torch.randn(5, clips, 14, width, generator=generator)
    states = torch.randn(9, 20, width, generator=generator)
    mask = (torch.arange(20) < torch.tensor([3, 20, 4, 7, 5, 5, 11, 4, 6])[:, None]).long()
    pairs = torch.rand(5, 9, generator=generator) < torch.tensor([1.0, 0.5, 0.0, 0.3, 0.5])[:, None]
    expected = one_pair_per_call(model, tokens, states, mask, pairs, ensemble)
    for words_at_once in (1, 50, 400, None):
        scores = itm_scores(model, list(tokens), states, mask, pairs, ensemble, words_at_once)
        assert torch.equal(scores.isfinite(), pairs)
        assert_close(scores[pairs], expected[pairs])


@torch.inference_mode()
def test_late_concat_shows_a_text_the_tokens_of_clips_that_were_encoded_alone(golden, assert_close):
    case = golden("case09_ret_concat")
    videos, (ids, mask) = inputs_of(case)
    scores = score(case, videos, (ids, mask), eval_frame_ensemble="late_concat", eval_x_only=True)
    model = case.load(SViTTForVideoTextRetrieval, case.config()).eval()
    clips = [model.get_video_features(clip) for clip in videos.split(3, dim=1)]
    tokens = torch.cat([clip.last_hidden_state for clip in clips], dim=1)
    expected = [
        [
            model.match(None, *text, video_hidden_states=one[None])[0]
            for text in zip(ids[:, None], mask[:, None], strict=True)
        ]
        for one in tokens
    ]
    assert_close(scores.video_to_text, torch.tensor(expected))
    assert_close(scores.itc, score(case, videos, (ids, mask), eval_frame_ensemble="mean").itc)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_videos_beyond_the_memory_wait_on_the_cpu(golden, assert_close):
    case = golden("case09_ret_concat")
    every, none = (score(case, *inputs_of(case), device="cuda", feature_memory=memory) for memory in (4, 0))
    assert torch.equal(every.video_to_text, none.video_to_text)


def test_a_missing_video_is_a_miss_in_both_directions(golden, assert_close):
    case = golden("case09_ret_concat")
    videos, texts = inputs_of(case)
    whole = score(case, videos, texts, eval_x_only=True)
    for options in ({"eval_x_only": True}, {"k_test": 128}, {"k_test": 3}):
        scores = score(case, videos, texts, is_missing=[1, 4], **options)
        for matrix in (scores.itc, scores.video_to_text, scores.text_to_video.t()):
            assert matrix[[1, 4]].isneginf().all()
        others = [0, 2, 3, 5]
        assert torch.equal(scores.itc[others], whole.itc[others])
        found = scores.text_to_video.t()[others].isfinite()
        assert_close(scores.text_to_video.t()[others][found], whole.text_to_video.t()[others][found])
        assert found.sum(dim=0).tolist() == [min(options.get("k_test", 128), 4)] * found.shape[1]

        one_to_one = [[video] for video in range(6)]
        perfect = torch.where(scores.itc[:, :6].isneginf(), scores.itc[:, :6], torch.eye(6))
        metrics = retrieval_metrics(RetrievalScores(perfect, perfect, perfect.t()), one_to_one)
        for kind in ("itm", "itc"):
            for name in ("txt_r1", "txt_r10", "img_r1", "img_r10"):
                assert metrics[kind][name] == pytest.approx(100 * 4 / 6, abs=0.01)
            for direction in ("txt", "img"):  # the two are last of six
                ranks = metrics[kind][f"{direction}_median_rank"], metrics[kind][f"{direction}_mean_rank"]
                assert ranks == (1, round((4 * 1 + 2 * 6) / 6, 2))
    scores = score(case, videos, texts, is_missing=range(6))
    assert scores.video_to_text.isneginf().all() and scores.text_to_video.isneginf().all()


def test_options_are_all_scored_and_nothing_else(golden, assert_close):
    case = golden("case09c_ret_lse_contig")
    whole = score(case, *inputs_of(case), eval_x_only=True)
    candidates = pair_matrix([[0, 1], [1, 2, 3], [4, 5], [0, 7], [2, 3], [6, 7]], 8)
    scores = score(case, *inputs_of(case), candidates=candidates, k_test=1, is_missing=[3])
    considered = candidates.clone()
    considered[3] = False
    for name in ("itc", "video_to_text"):
        own = getattr(scores, name)
        assert torch.equal(own.isfinite(), considered) and own[~considered].isneginf().all()
        assert_close(own[considered], getattr(whole, name)[considered])


def choices(options_of_video, answers, texts):
    videos = [{"path": f"{number}.mp4", "bytes": None} for number in range(len(answers))]
    features = Features(video=Video(decode=False))
    return ChoiceSet(Dataset.from_dict({"video": videos}, features), texts, options_of_video, answers)


def test_accuracy_of_options_by_hand():
    """Matching and embeddings are wrong once each, their ensemble is right; the last video is missing."""
    none = float("-inf")
    itm = torch.tensor([[0.3, 0.7, none, none, none], [none, none, 0.1, 0.8, 0.1], [none] * 5]).log()
    itm = torch.where(itm.isnan(), none, itm)
    itc = torch.tensor([[0.9, 0.1, none, none, none], [none, none, 0.6, 0.3, 0.1], [none] * 5]).log() * 0.07
    itc = torch.where(itc.isnan(), none, itc)
    scores = choice_scores(RetrievalScores(itc, itm, itm.t()), temperature=0.07)
    expected = torch.tensor([[1.2, 0.8, none, none, none], [none, none, 0.7, 1.1, 0.2], [none] * 5])
    torch.testing.assert_close(scores.ensemble, expected)
    split = choices([[0, 1], [2, 3, 4], [0, 1]], [0, 3, 0], list("abcde"))
    metrics = metrics_of(scores, split)
    accuracies = {kind: metrics[kind]["accuracy"] for kind in metrics}
    # By chance, (1/2 + 1/3 + 1/2) / 3.
    assert accuracies == {"itm": 33.33, "itc": 33.33, "ensemble": 66.67, "chance": 44.44}

    lines = results_table("mc", metrics, {"videos": 3, "videos_missing": 1, "options": 5}).splitlines()
    assert lines[0].split() == ["mc", "accuracy"] and lines[3].split() == ["both", "(ensemble)", "66.67"]
    assert lines[-1] == "  3 videos, 1 videos missing, 5 options"

    rows = rank_table(scores, split).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("video_to_text", 0, "0.mp4", 2, 1, 1, 1, "b", pytest.approx(math.log(0.7))),
        ("video_to_text", 1, "1.mp4", 1, 2, 1, 3, "d", pytest.approx(math.log(0.8))),
        ("video_to_text", 2, "2.mp4", None, None, None, None, None, None),
    ]


def test_equal_options_count_in_their_order():
    scores = torch.tensor([[0.5, 0.5, 0.1, 0.5]]).repeat(4, 1)
    assert choice_ranks(scores, [0, 1, 2, 3]).tolist() == [0, 1, 3, 2]
    split = choices([[0, 1, 2, 3]] * 4, [0, 1, 2, 3], list("abcd"))
    scores = ChoiceScores(scores, scores, scores)
    assert metrics_of(scores, split)["itm"] == {"accuracy": 25}
    assert rank_table(scores, split)["rank_itm"].to_pylist() == [1, 2, 4, 3]


def test_ranks_by_hand():
    none = float("-inf")
    itm = torch.tensor([[0.9, none, 0.3], [0.5, 0.4, none]])
    itc = torch.tensor([[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]])
    videos = choices([], [0, 0], []).videos
    split = RetrievalSet(videos, ["a", "b", "c"], [[1, 2], [0]])
    rows = rank_table(RetrievalScores(itc, itm, torch.where(itm.isneginf(), 0.1, itm).t()), split).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("video_to_text", 0, "0.mp4", 2, 1, 0, "a", pytest.approx(0.9)),  # c is second; b outside the shortlist
        ("video_to_text", 1, "1.mp4", 1, 1, 0, "a", 0.5),
        ("text_to_video", 0, "a", 2, 1, 0, "0.mp4", pytest.approx(0.9)),
        ("text_to_video", 1, "b", 2, 2, 1, "1.mp4", pytest.approx(0.4)),
        ("text_to_video", 2, "c", 1, 2, 0, "0.mp4", pytest.approx(0.3)),
    ]
    outside = RetrievalScores(itc, torch.tensor([[0.9, none, none], [none, 0.4, none]]), itm.t())
    assert rank_table(outside, split)["rank_itm"].to_pylist()[:2] == [None, None]


def test_what_is_outside_a_shortlist_ranks_behind_it_as_by_embeddings():
    """Five texts, shortlists of two: text 0 of video 0 is inside and second; of video 1, text 1 is fourth outside."""
    none = float("-inf")
    itc = torch.tensor([[0.8, 0.9, 0.3, 0.2, 0.1], [0.9, 0.4, 0.8, 0.7, 0.1]])
    itm = torch.tensor([[0.1, 0.9, none, none, none], [0.8, none, 0.2, none, none]])
    metrics = retrieval_metrics(RetrievalScores(itc, itm, itc.t()), [[0, 2, 3, 4], [1]])
    assert (metrics["itm"]["txt_mean_rank"], metrics["itm"]["txt_r5"]) == (3.0, 50.0)
    assert metrics["itc"]["txt_mean_rank"] == 3.0


def test_what_was_ranked(folders, capsys):
    processor, videos = SViTTProcessor.from_pretrained(folders / "svitt"), choices([], [0, 0, 0], []).videos
    itc = torch.tensor([[0.1, 0.2], [float("-inf")] * 2, [0.3, 0.1]])
    split, scores = RetrievalSet(videos, ["the cat", "a " * 40], [[0], [1], [1]]), RetrievalScores(itc, itc, itc.t())
    ranked = what_was_ranked("test", scores, split, processor, join_captions=True)
    assert ranked == {"videos": 3, "videos_missing": 1, "texts": 2, "texts_cut": 1, "captions_joined": True}
    assert capsys.readouterr().out == "test: 1 of 2 texts are longer than 32 tokens and were cut\n"
    line = results_table("test", metrics_of(scores, split), ranked).splitlines()[-1]
    assert line == "  3 videos, 1 videos missing, 2 texts, 1 texts cut, captions joined"
    split = choices([[0, 1]] * 3, [0] * 3, ["the cat", "a"])
    ranked = what_was_ranked("test", ChoiceScores(itc, itc, itc), split, processor, join_captions=True)
    assert ranked == {"videos": 3, "videos_missing": 1, "options": 2, "options_cut": 0, "captions_joined": False}
    assert not capsys.readouterr().out


def test_shortlist_takes_candidates_tied_with_the_last():
    scores = torch.tensor([[3.0, 1.0, 2.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    assert shortlist(scores, 2).tolist() == [[True, False, True, False], [True, True, True, False]]
    assert shortlist(scores, 4).all() and shortlist(scores, 9).all()


def test_scores_are_float32_in_half_precision(golden):
    case = golden("case09_ret_concat")
    with torch.autocast("cpu", torch.bfloat16):
        scores = score(case, *inputs_of(case), eval_x_only=True)
    assert scores.itc.dtype == scores.video_to_text.dtype == torch.float32
    exact = score(case, *inputs_of(case), eval_x_only=True)
    assert (scores.itc - exact.itc).abs().max() < 0.02
    # Held in bfloat16, 48 scores of this range would share a handful of values.
    assert len(scores.itc.unique()) == 48


def test_frames_must_make_whole_clips():
    RetrievalArguments(num_frames_test=7, eval_frame_ensemble="concat").set_frames(4, 8)
    with pytest.raises(ValueError, match="multiple of the 4 frames"):
        RetrievalArguments(num_frames_test=7, eval_frame_ensemble="lse").set_frames(4, 8)
    with pytest.raises(ValueError, match="from 1 to 8, got 9"):
        RetrievalArguments(num_frames_test=9, eval_frame_ensemble="concat").set_frames(4, 8)


def test_chance_is_the_expected_recall_of_random_scores():
    texts_of_video = [[0, 1], [2], [3, 4, 5], [6], [6], [7], [8], [9], [10], [11], [12]]
    generator, sums = torch.Generator().manual_seed(0), Counter()
    for _ in range(400):
        scores = torch.rand(11, 13, generator=generator)
        sums.update(retrieval_metrics(RetrievalScores(scores, scores, scores.t()), texts_of_video)["itm"])
    assert chance_recall(texts_of_video) == pytest.approx({name: total / 400 for name, total in sums.items()}, abs=2)
    one_to_one = chance_recall([[i] for i in range(200)])
    assert (one_to_one["txt_r1"], one_to_one["img_r10"]) == (0.5, 5.0)
    assert one_to_one["r_mean"] == pytest.approx((0.5 + 2.5 + 5.0) / 3, abs=0.01)
    assert one_to_one["txt_median_rank"] == one_to_one["img_mean_rank"] == 100.5
    # Of 9 texts, 3 to a video: the mean is (9 + 1) / (3 + 1), and the first 1 or 2 hold one with 1/3 or 7/12.
    several = chance_recall([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    assert (several["txt_median_rank"], several["txt_mean_rank"], several["img_mean_rank"]) == (2.0, 2.5, 2.0)


def test_table_shows_chance_beside_the_recalls():
    scores = torch.eye(20)
    metrics = retrieval_metrics(RetrievalScores(scores, scores, scores), [[i] for i in range(20)])
    lines = results_table("test", metrics, {"videos": 1000, "captions_joined": False}).splitlines()
    assert lines[0].split() == ["test", "R@1", "R@5", "R@10", "mean", "MdR", "MnR"]
    assert lines[2].split()[-6:] == ["100.00"] * 4 + ["1.00"] * 2
    assert lines[4].split() == ["chance", "5.00", "25.00", "50.00", "26.67", "10.50", "10.50"]
    assert lines[-1] == "  1,000 videos"


@pytest.mark.parametrize(("itm", "itc"), [(50.0, 40.0), (40.0, 40.0), (39.0, 40.0)])
def test_the_better_lists_of_validation_are_those_of_a_search(itm, itc):
    config = SViTTConfig()
    said = choose_lists(config, {"itm": {"r_mean": itm}, "itc": {"r_mean": itc}, "chance": {"r_mean": 1.0}})
    assert config.rerank is (itm >= itc) and ("re-rank" in said) is config.rerank
    assert choose_lists(config, None) == said == choose_lists(config, {"ensemble": {"accuracy": 1.0}})

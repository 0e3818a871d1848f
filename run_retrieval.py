#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
r"""Fine-tune and evaluate SViTT for text-video retrieval.

On a published dataset, with the settings of the paper, or on annotations of {"video": "a.mp4", "caption": "a cat
plays"} in JSON, JSON lines or CSV, whose videos lie in --video_dir:

    python run_retrieval.py --model_name_or_path svitt-base --dataset msrvtt --data_dir data --output_dir out
    python run_retrieval.py --model_name_or_path svitt-base --video_dir videos --train_file train.json \
        --validation_file val.json --test_file test.json --output_dir out --num_frames_test 12
    python run_retrieval.py --model_name_or_path out --video_dir videos --test_file test.json --output_dir zero_shot

Without data to train on, or with --evaluate_only, it evaluates. `accelerate launch` runs it on several devices.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
from safetensors.torch import save_file
from transformers import set_seed
from transformers.hf_argparser import HfArg

from svitt import SViTTForVideoTextRetrieval
from svitt.conversion.loading import COMPARING, load_model_and_processor, loading
from svitt.conversion.positions import expanded
from svitt.data import annotations, loaders, presets
from svitt.distributed import write_whole
from svitt.errors import exit_on_bad_input
from svitt.evaluation import retrieval
from svitt.evaluation.clips import VideoReader
from svitt.training import start
from svitt.training.card import describe_and_publish, write_results, write_settings
from svitt.training.checkpoints import find_checkpoint
from svitt.training.options import parse_options
from svitt.training.trainer import SViTTTrainer, SViTTTrainingArguments


@dataclass(kw_only=True)
class TaskArguments(start.FineTuningArguments):
    """What to train and evaluate."""

    model_name_or_path: str = HfArg(help="Folder or Hub name of a SViTT model with its processor.")
    join_captions: bool = HfArg(default=False, help="Paragraph retrieval (DiDeMo, ActivityNet): join a row's captions.")
    match_by: Literal["video", "caption"] = HfArg(default="video", help="What positives share; `caption` for SSv2.")
    save_scores: bool = HfArg(default=False, help="Write all scores to scores_<split>.safetensors.")


def main():
    groups = TaskArguments, presets.DatasetArguments, start.ConfigArguments, loaders.ProcessingArguments
    groups = *groups, retrieval.RetrievalArguments, SViTTTrainingArguments
    preset, groups = parse_options(groups, "retrieval", __doc__)
    task, dataset, config, processing, evaluation, args = groups
    checkpoint, output_dir = find_checkpoint(args.output_dir, args.resume_from_checkpoint), args.output_dir

    splits = dataset.splits(preset, "captions", "multiple_choice")
    sets = retrieval.load_retrieval_sets(splits, processing, task.join_captions)
    training, stop_key = task.plan(splits, sets, args)
    pairs = None
    if training is not None:
        captions = training.load(processing.bad_videos == "skip", join_captions=task.join_captions)
        pairs = annotations.training_pairs(captions, task.match_by)

    set_seed(args.seed)
    lengths = {"num_frames": processing.num_frames, "max_text_length": processing.max_text_length}
    source = task.model_name_or_path, SViTTForVideoTextRetrieval
    needed = COMPARING if training is None else None  # scores of new heads mean nothing
    loaded = load_model_and_processor(*source, architectures=needed, **lengths)
    with loading(task.model_name_or_path):
        model, processor = expanded(*loaded, config.fields())
    evaluation.set_frames(processor.video_processor.num_frames, model.config.vision_config.max_num_frames)
    write_whole(output_dir, partial(write_settings, preset.settings))
    bad_videos = loaders.BadVideoReport(Path(output_dir) / "bad_videos.jsonl", resume=checkpoint is not None)
    sizes = args.per_device_eval_batch_size, args.dataloader_num_workers
    reader = VideoReader(processor, evaluation.num_frames_test, processing, bad_videos, *sizes)

    def evaluate(model: SViTTForVideoTextRetrieval, split: str):
        scores = retrieval.score_split(model, sets[split], reader, evaluation)
        return scores, retrieval.metrics_of(scores, sets[split])

    batches = args.per_device_train_batch_size, processing, loaders.collate_pairs, args.seed
    is_choice = isinstance(sets.get(stop_key), annotations.ChoiceSet)
    names = ["ensemble_accuracy"] if is_choice else ["itm_r_mean", "itc_r_mean"]
    trainer = SViTTTrainer(
        model,
        args,
        pairs and loaders.training_loader({"video": pairs}, processor, *batches, args.dataloader_num_workers),
        partial(loaders.to_model_inputs, processor=processor),
        evaluate,
        eval_splits=[stop_key] if stop_key else [],
        stop_metrics=[f"{stop_key}_{name}" for name in names] if stop_key else [],
        bad_videos=bad_videos,
        processing_class=processor,
    )
    if pairs:
        loaders.count_cut("train", "captions", pairs["caption"], processor, loaders.ROWS_LOOKED_AT)
        trainer.train(checkpoint)
        write_whole(output_dir, model.save_pretrained, processor.save_pretrained)

    results, ranked = {}, {}
    for split in sets:
        scores, results[split] = trainer.score(split)
        ranked[split] = retrieval.what_was_ranked(split, scores, sets[split], processor, task.join_captions)
        write_whole(output_dir, partial(write_scores, split, scores, sets[split], task.save_scores))
        trainer.accelerator.print(retrieval.results_table(split, results[split], ranked[split]))
    trainer.accelerator.print(retrieval.choose_lists(model.config, results.get(stop_key) if pairs else None))
    write_results(trainer, results, ranked)
    if pairs:
        write_whole(output_dir, model.config.save_pretrained)
        describe_and_publish(trainer, results, ranked, [training.source], task.model_name_or_path)
    trainer.accelerator.end_training()


def write_scores(split: str, scores, videos_and_texts, has_all: bool, folder: Path):
    """Write the rank of each query, and all scores if they are wanted."""
    pq.write_table(retrieval.rank_table(scores, videos_and_texts), folder / f"ranks_{split}.parquet")
    if has_all:
        save_file(vars(scores), folder / f"scores_{split}.safetensors")


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Fine-tune and evaluate SViTT for text-video retrieval.

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
from transformers import HfArgumentParser, set_seed
from transformers.hf_argparser import HfArg

from svitt import SViTTForVideoTextRetrieval
from svitt.conversion import load_model_and_processor
from svitt.data import annotations, loaders, presets
from svitt.distributed import write_whole
from svitt.errors import exit_on_bad_input
from svitt.evaluation import retrieval
from svitt.training import start
from svitt.training.card import describe_and_publish, settings_of, write_results, write_settings
from svitt.training.checkpoints import find_checkpoint
from svitt.training.trainer import SViTTTrainer, SViTTTrainingArguments, check_task


@dataclass
class TaskArguments:
    """What to train and evaluate."""

    _argument_group_name = "task"

    model_name_or_path: str = HfArg(help="Folder or Hub name of a SViTT model with its processor.")
    evaluate_only: bool = HfArg(default=False, help="Do not train, even on a split `train`.")
    stop_key: str | None = HfArg(default=None, help="Split whose best r_mean or accuracy is kept: `validation` if any.")
    join_captions: bool = HfArg(default=False, help="Paragraph retrieval (DiDeMo, ActivityNet): join a row's captions.")
    match_by: Literal["video", "caption"] = HfArg(default="video", help="What positives share; `caption` for SSv2.")
    save_scores: bool = HfArg(default=False, help="Write all scores to scores_<split>.safetensors.")


def main():
    groups = TaskArguments, presets.DatasetArguments, start.DroppingArguments, loaders.ProcessingArguments
    parser = HfArgumentParser((*groups, retrieval.RetrievalArguments, SViTTTrainingArguments))
    preset, groups = presets.parse_with_preset(parser, "retrieval")
    task, dataset, dropping, processing, evaluation, args = groups
    settings, output_dir = settings_of(groups, preset.settings), args.output_dir
    checkpoint = find_checkpoint(output_dir, args.resume_from_checkpoint)

    splits = dataset.splits(preset, "captions", "multiple_choice")
    sets = retrieval.load_retrieval_sets(splits, processing, task.join_captions)
    stop_key = task.stop_key or ("validation" if "validation" in sets else None)
    retrieval.check_stop_key(stop_key, sets)
    is_trained = "train" in splits and not task.evaluate_only
    check_task(is_trained, sets, args)
    pairs = None
    if is_trained:
        captions = splits["train"].load(processing.bad_videos == "skip", join_captions=task.join_captions)
        pairs = annotations.training_pairs(captions, task.match_by)

    set_seed(args.seed)
    options = {"num_frames": processing.num_frames, "max_text_length": processing.max_text_length} | vars(dropping)
    model, processor = load_model_and_processor(task.model_name_or_path, SViTTForVideoTextRetrieval, **options)
    evaluation.set_frames(processor.video_processor.num_frames)
    write_whole(output_dir, partial(write_settings, settings))
    bad_videos = loaders.BadVideoReport(Path(output_dir) / "bad_videos.jsonl", resume=checkpoint is not None)
    reading = processing, bad_videos, args.per_device_eval_batch_size, args.dataloader_num_workers

    def score(model: SViTTForVideoTextRetrieval, split: str):
        return retrieval.score_split(trainer.accelerator, model, split, sets[split], processor, evaluation, *reading)

    def validate(model: SViTTForVideoTextRetrieval, split: str) -> dict[str, float]:
        metrics = retrieval.metrics_of(score(model, split), sets[split])
        return {f"{kind}_{name}": value for kind in metrics for name, value in metrics[kind].items()}

    loading = args.per_device_train_batch_size, processing, loaders.collate_pairs, args.seed
    is_choice = isinstance(sets.get(stop_key), annotations.ChoiceSet)
    trainer = SViTTTrainer(
        model,
        args,
        pairs and loaders.training_loader({"video": pairs}, processor, *loading, args.dataloader_num_workers),
        partial(loaders.to_model_inputs, processor=processor),
        validate,
        eval_splits=[stop_key] if stop_key else [],
        stop_metric=stop_key and f"{stop_key}_{'ensemble_accuracy' if is_choice else 'itm_r_mean'}",
        bad_videos=bad_videos,
        processing_class=processor,
    )
    results = {}
    if is_trained:
        trainer.train(checkpoint)
        write_whole(output_dir, model.save_pretrained, processor.save_pretrained)

    for split in sets:
        scores = score(model, split)
        results[split] = retrieval.metrics_of(scores, sets[split])
        write_whole(output_dir, partial(write_scores, split, scores, sets[split], task.save_scores))
        trainer.accelerator.print(retrieval.results_table({split: results[split]}))
    facts = {"num_processes": args.world_size} | ({"epoch": trainer.best_epoch} if is_trained else {})
    write_whole(output_dir, partial(write_results, facts | results))
    if is_trained:
        rows = {f"{split}, {kind}": metrics for split in results for kind, metrics in results[split].items()}
        describe_and_publish(trainer, rows, [splits["train"].source], task.model_name_or_path)
    trainer.accelerator.end_training()


def write_scores(split: str, scores, videos_and_texts, has_all: bool, folder: Path):
    """Write the rank of each query, and all scores if they are wanted."""
    pq.write_table(retrieval.rank_table(scores, videos_and_texts), folder / f"ranks_{split}.parquet")
    if has_all:
        save_file(vars(scores), folder / f"scores_{split}.safetensors")


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
"""Fine-tune and evaluate SViTT for text-video retrieval.

On a published dataset, with the settings of the paper, or on annotations of {"video": "a.mp4", "caption": "a cat
plays"} in JSON, JSON lines or CSV, whose videos lie in --video_dir:

    python run_retrieval.py --model_name_or_path svitt-base --dataset msrvtt --data_dir data --output_dir out
    python run_retrieval.py --model_name_or_path svitt-base --video_dir videos --train_file train.json \
        --validation_file val.json --test_file test.json --output_dir out --num_frames_test 12
    python run_retrieval.py --model_name_or_path out --video_dir videos --test_file test.json --output_dir zero_shot

Without data to train on, or with --evaluate_only, it evaluates. To run on several devices, start it with `accelerate
launch`; for two CPU processes, with `accelerate launch --config_file configs/cpu_2_processes.yaml`.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from accelerate.utils import set_seed
from datasets import Dataset
from safetensors.torch import save_file
from transformers import HfArgumentParser

from svitt import SViTTForVideoTextRetrieval
from svitt.training import checkpoints, data, loaders, loop, models, presets, retrieval
from svitt.training.processes import InputError, check_launch, check_output, exit_on_bad_input, write_whole


@dataclass
class TaskArguments:
    """What to train and evaluate on, and where to write."""

    _argument_group_name = "task"

    model_name_or_path: str = field(metadata={"help": "Folder or Hub name of a SViTT model with its processor."})
    output_dir: str = field(metadata={"help": "Folder for results.json and, after training, the model."})
    evaluate_only: bool = field(default=False, metadata={"help": "Do not train, even on a split `train`."})
    stop_key: str | None = field(
        default=None,
        metadata={"help": "Split whose best r_mean picks the epoch to keep: `validation` if given, else the last."},
    )
    join_captions: bool = field(
        default=False, metadata={"help": "Paragraph retrieval: join a row's captions into one (DiDeMo, ActivityNet)."}
    )
    match_by: str = field(
        default="video",
        metadata={"choices": ["video", "caption"], "help": "What positives of a batch share; `caption` for SSv2."},
    )
    save_scores: bool = field(default=False, metadata={"help": "Write all scores to scores_<split>.safetensors."})


def main():
    arguments = (
        TaskArguments,
        presets.DatasetArguments,
        models.DroppingArguments,
        loaders.ProcessingArguments,
        loop.OptimizationArguments,
        checkpoints.CheckpointArguments,
        loop.LoggingArguments,
        retrieval.RetrievalArguments,
    )
    parser = HfArgumentParser(arguments, description="Fine-tune and evaluate SViTT for text-video retrieval.")
    preset = presets.use_preset(parser, "retrieval")
    task, dataset, dropping, processing, optimization, checkpointing, logging, evaluation = (
        parser.parse_args_into_dataclasses()
    )
    accelerator = loop.make_accelerator(optimization, logging, task.output_dir)
    check_launch()
    check_output(task.output_dir)

    pairs, splits, stop_key = load_data(task, processing, dataset.splits(preset, "captions"))
    set_seed(optimization.seed)
    model, processor = models.load_model_and_processor(
        SViTTForVideoTextRetrieval, task.model_name_or_path, processing, dropping
    )
    evaluation.set_frames(processor.video_processor.num_frames)
    is_resumed = checkpointing.resume_from_checkpoint is not None
    bad_videos = loaders.BadVideoReport(Path(task.output_dir) / "bad_videos.jsonl", resume=is_resumed)

    def evaluate(model: SViTTForVideoTextRetrieval, split: str) -> dict[str, dict[str, float]]:
        scores = retrieval.score_split(
            accelerator, model, split, splits[split], processor, evaluation, processing, bad_videos
        )
        if task.save_scores:
            write_whole(
                task.output_dir, lambda folder: save_file(asdict(scores), folder / f"scores_{split}.safetensors")
            )
        return retrieval.retrieval_metrics(scores, splits[split].texts_of_video)

    def validate(model: SViTTForVideoTextRetrieval) -> tuple[float, dict[str, float]]:
        metrics = evaluate(model, stop_key)
        return metrics["itm"]["r_mean"], retrieval.flat_metrics(stop_key, metrics)

    def save(model: SViTTForVideoTextRetrieval, weights: dict):
        write_whole(task.output_dir, partial(model.save_pretrained, state_dict=weights), processor.save_pretrained)

    results = {"num_processes": accelerator.num_processes}
    if pairs is not None:
        set_seed(optimization.seed, device_specific=True)
        training = loop.Training(
            accelerator,
            model,
            loaders.pair_loader(pairs, processor, optimization.train_batch_size, processing, optimization.seed),
            optimization,
            checkpoints.Checkpoints(task.output_dir, checkpointing),
            save,
            validate if stop_key else None,
            logging,
            to_model_inputs=partial(loaders.to_model_inputs, processor=processor),
            bad_videos=bad_videos,
        )
        results["epoch"] = training.run().best_epoch
        model = SViTTForVideoTextRetrieval.from_pretrained(task.output_dir)
    model.to(accelerator.device)
    for split in splits:
        results[split] = evaluate(model, split)
        accelerator.print(retrieval.recall_table(split, results[split]))
    write_whole(task.output_dir, lambda folder: (folder / "results.json").write_text(json.dumps(results, indent=2)))
    accelerator.end_training()


def load_data(
    task: TaskArguments, processing: loaders.ProcessingArguments, splits: dict[str, presets.Split]
) -> tuple[Dataset | None, dict[str, data.RetrievalSet], str | None]:
    """Training pairs, if there is something to train; the retrieval set of each split given; the split to stop by."""
    sets = retrieval.load_retrieval_sets(splits, processing, task.join_captions)
    stop_key = task.stop_key or ("validation" if "validation" in sets else None)
    retrieval.check_stop_key(stop_key, sets)
    if "train" not in splits or task.evaluate_only:
        if not sets:
            raise InputError(
                "There is nothing to do: give --dataset, or --train_file to train, --test_file to evaluate."
            )
        return None, sets, stop_key
    captions = splits["train"].load(
        join_captions=task.join_captions, missing_videos=processing.missing_videos(is_training=True)
    )
    return data.training_pairs(captions, task.match_by), sets, stop_key


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

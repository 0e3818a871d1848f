#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
"""Fine-tune and evaluate SViTT for text-video retrieval.

Annotations are JSON lists of {"video": "a.mp4", "caption": "a cat plays"}; the videos lie in --video_dir:

    python run_retrieval.py --model_name_or_path svitt-base --video_dir videos --train_file train.json \
        --validation_file val.json --test_file test.json --output_dir out --num_frames_test 12
    python run_retrieval.py --model_name_or_path out --video_dir videos --test_file test.json --output_dir zero_shot

Without --train_file it evaluates. To run on several devices, start it with `accelerate launch`; for two CPU processes,
with `accelerate launch --config_file configs/cpu_2_processes.yaml`.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from datasets import Dataset
from safetensors.torch import save_file
from transformers import HfArgumentParser

from svitt import SViTTForVideoTextRetrieval
from svitt.training import data, loop, retrieval
from svitt.training.processes import InputError, check_launch, exit_on_bad_input, share_of, write_whole


@dataclass
class TaskArguments:
    """What to train and evaluate on, and where to write."""

    _argument_group_name = "task"

    model_name_or_path: str = field(metadata={"help": "Folder or Hub name of a SViTT model with its processor."})
    video_dir: str = field(metadata={"help": "Folder that the names of the videos are relative to."})
    output_dir: str = field(metadata={"help": "Folder for results.json and, after training, the model."})
    train_file: str | None = field(default=None, metadata={"help": "Annotations to train on."})
    validation_file: str | None = field(default=None, metadata={"help": "Annotations of the split `validation`."})
    test_file: str | None = field(default=None, metadata={"help": "Annotations of the split `test`."})
    evaluate_only: bool = field(default=False, metadata={"help": "Do not train, even if there is a --train_file."})
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
    mixed_precision: str = field(default="no", metadata={"choices": ["no", "bf16", "fp16"], "help": "Of the model."})
    save_scores: bool = field(default=False, metadata={"help": "Write all scores to scores_<split>.safetensors."})


def main():
    parser = HfArgumentParser(
        (TaskArguments, data.ProcessingArguments, loop.OptimizationArguments, retrieval.RetrievalArguments),
        description="Fine-tune and evaluate SViTT for text-video retrieval.",
    )
    task, processing, optimization, evaluation = parser.parse_args_into_dataclasses()
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=task.mixed_precision,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=optimization.seed),
    )
    check_launch()

    pairs, splits, stop_key = load_data(task)
    set_seed(optimization.seed)
    model, processor = data.load_model_and_processor(SViTTForVideoTextRetrieval, task.model_name_or_path, processing)
    num_frames = processor.video_processor.num_frames
    evaluation.set_frames(num_frames)

    def evaluate(model: SViTTForVideoTextRetrieval, split: str) -> dict[str, dict[str, float]]:
        videos, texts, texts_of_video = splits[split]
        num_frames_test, batch_size = evaluation.num_frames_test, evaluation.eval_batch_size
        clips = data.video_loader(share_of(videos), processor, num_frames_test, batch_size, processing.num_workers)
        tokens = data.text_batches(texts, processor)
        with accelerator.autocast():
            scores = retrieval.score_retrieval(model, clips, tokens, num_frames, evaluation)
        if task.save_scores:
            write_whole(
                task.output_dir, lambda folder: save_file(asdict(scores), folder / f"scores_{split}.safetensors")
            )
        return retrieval.retrieval_metrics(scores, texts_of_video)

    results = {"num_processes": accelerator.num_processes}
    if pairs is not None:
        set_seed(optimization.seed, device_specific=True)
        results["epoch"] = loop.train(
            accelerator,
            model,
            data.pair_loader(pairs, processor, optimization.train_batch_size, processing),
            optimization,
            save=lambda model: write_whole(task.output_dir, model.save_pretrained, processor.save_pretrained),
            validate=stop_key and (lambda model: evaluate(model, stop_key)["itm"]["r_mean"]),
        )
        model = SViTTForVideoTextRetrieval.from_pretrained(task.output_dir)
    model.to(accelerator.device)
    for split in splits:
        results[split] = evaluate(model, split)
        accelerator.print(retrieval.recall_table(split, results[split]))
    write_whole(task.output_dir, lambda folder: (folder / "results.json").write_text(json.dumps(results, indent=2)))
    accelerator.end_training()


def load_data(task: TaskArguments) -> tuple[Dataset | None, dict[str, data.RetrievalSet], str | None]:
    """Training pairs, if there is something to train; the retrieval set of each split given; the split to stop by."""
    if Path(task.output_dir).is_file():
        raise InputError(f"--output_dir {task.output_dir}: must be a folder, but is a file.")
    files = {"validation": task.validation_file, "test": task.test_file}
    splits = {
        split: data.retrieval_set(data.load_captions(file, task.video_dir, task.join_captions, unique_videos=True))
        for split, file in files.items()
        if file is not None
    }
    stop_key = task.stop_key or ("validation" if "validation" in splits else None)
    if stop_key is not None and stop_key not in splits:
        raise InputError(f"--stop_key {stop_key}: there is no such split, but: {', '.join(splits) or 'none'}.")
    if task.train_file is None or task.evaluate_only:
        if not splits:
            raise InputError("There is nothing to do: give --train_file to train, --test_file to evaluate, or both.")
        return None, splits, stop_key
    captions = data.load_captions(task.train_file, task.video_dir, task.join_captions)
    return data.training_pairs(captions, task.match_by), splits, stop_key


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

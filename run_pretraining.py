#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
r"""Pre-train SViTT: contrast (ITC), match (ITM) and complete (MLM) captions of videos and images.

From a BEiT and a BERT, on a published dataset with the settings of the paper, or on your own annotations:

    accelerate launch run_pretraining.py --dataset webvid --data_dir data --output_dir out \
        --vision_name_or_path microsoft/beit-base-patch16-224-pt22k-ft22k --text_name_or_path bert-base-uncased
    accelerate launch run_pretraining.py --train_file train.json --validation_file val.json --video_dir videos \
        --vision_name_or_path beit --text_name_or_path bert --output_dir out

Temporal sparse expansion, from clips of 4 frames to clips of 8 and fewer of their tokens, is a second run:

    accelerate launch run_pretraining.py --dataset webvid_expansion --output_dir out8 --model_name_or_path out

A --dataset_file (data/presets) names several corpora, of videos, images and shards. A run that was stopped or killed
continues from its last checkpoint with the same command and --resume_from_checkpoint latest.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from transformers import set_seed
from transformers.hf_argparser import HfArg

from svitt import SViTTForPreTraining
from svitt.data import annotations, loaders, presets
from svitt.distributed import write_whole
from svitt.errors import InputError, exit_on_bad_input
from svitt.evaluation import retrieval
from svitt.evaluation.clips import VideoReader
from svitt.training import start
from svitt.training.card import describe_and_publish, write_results, write_settings
from svitt.training.checkpoints import find_checkpoint
from svitt.training.options import parse_options
from svitt.training.trainer import SViTTTrainer, SViTTTrainingArguments


@dataclass
class TaskArguments:
    """What to learn from a batch; its configuration (--model_config) says more."""

    _argument_group_name = "task"

    stop_key: str | None = HfArg(
        default=None, help="Split whose best r_mean picks the model to keep; by default the last is kept."
    )
    match_by: Literal["video", "caption"] = HfArg(default="video", help="What positives of a batch share.")


def main():
    groups = TaskArguments, presets.DatasetArguments, start.StartArguments, start.ConfigArguments
    groups = *groups, loaders.ProcessingArguments, retrieval.RetrievalArguments, SViTTTrainingArguments
    preset, groups = parse_options(groups, "pretraining", __doc__)
    task, dataset, source, config, processing, evaluation, args = groups
    checkpoint, output_dir = find_checkpoint(args.output_dir, args.resume_from_checkpoint), args.output_dir

    splits = dataset.splits(preset, "captions")
    training = {name: split for name, split in splits.items() if name.startswith("train")}
    if not training:
        raise InputError("There is nothing to train on: give --dataset, --dataset_file or --train_file.")
    sets = retrieval.load_retrieval_sets(splits, processing)
    start.check_stop_key(task.stop_key, sets)
    pairs = {}
    for split in training.values():
        captions = split.load(allow_missing=processing.bad_videos == "skip")
        pairs.setdefault(split.medium, []).append(annotations.training_pairs(captions, task.match_by))
    pairs = {medium: annotations.join_pairs(parts) for medium, parts in pairs.items()}

    set_seed(args.seed)
    model, processor = start.start_training(SViTTForPreTraining, source, config, processing)
    evaluation.set_frames(processor.video_processor.num_frames, model.config.vision_config.max_num_frames)
    write_whole(output_dir, partial(write_settings, preset.settings))
    bad_videos = loaders.BadVideoReport(Path(output_dir) / "bad_videos.jsonl", resume=checkpoint is not None)
    sizes = args.per_device_eval_batch_size, args.dataloader_num_workers
    reader = VideoReader(processor, evaluation.num_frames_test, processing, bad_videos, *sizes)

    def evaluate(model: SViTTForPreTraining, split: str):
        scores = retrieval.score_split(model, sets[split], reader, evaluation)
        return scores, retrieval.metrics_of(scores, sets[split])

    loading = args.per_device_train_batch_size, processing, loaders.collate_pairs, args.seed
    trainer = SViTTTrainer(
        model,
        args,
        loaders.training_loader(pairs, processor, *loading, args.dataloader_num_workers),
        partial(loaders.to_model_inputs, processor=processor),
        evaluate,
        eval_splits=sets,
        stop_metrics=[f"{task.stop_key}_{kind}_r_mean" for kind in ("itm", "itc")] if task.stop_key else [],
        bad_videos=bad_videos,
        processing_class=processor,
    )
    for medium, part in pairs.items():
        loaders.count_cut("train", f"captions of {medium}s", part["caption"], processor, loaders.ROWS_LOOKED_AT)
    trainer.train(checkpoint)
    write_whole(output_dir, model.save_pretrained, processor.save_pretrained)

    results, ranked = {}, {}
    for split in sets:
        scores, results[split] = trainer.score(split)
        ranked[split] = retrieval.what_was_ranked(split, scores, sets[split], processor)
        trainer.accelerator.print(retrieval.results_table(split, results[split], ranked[split]))
    trainer.accelerator.print(retrieval.choose_lists(model.config, results.get(task.stop_key or "validation")))
    write_whole(output_dir, model.config.save_pretrained)
    write_results(trainer, results, ranked)
    describe_and_publish(trainer, results, ranked, [split.source for split in training.values()], source.name)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

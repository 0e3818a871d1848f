#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from accelerate.utils import set_seed
from datasets import Dataset
from safetensors.torch import save_file

from svitt import SViTTForVideoTextRetrieval
from svitt.conversion import load_model_and_processor
from svitt.data import annotations, loaders, presets
from svitt.distributed import check_launch, check_output, write_whole
from svitt.errors import InputError, exit_on_bad_input
from svitt.evaluation import retrieval
from svitt.training import card, checkpoints, loop, publish, start
from svitt.training.arguments import ScriptArguments


@dataclass
class TaskArguments:
    """What to train and evaluate on, and where to write."""

    _argument_group_name = "task"

    model_name_or_path: str = field(metadata={"help": "Folder or Hub name of a SViTT model with its processor."})
    output_dir: str = field(metadata={"help": "Folder for results.json, ranks and, after training, the model."})
    evaluate_only: bool = field(default=False, metadata={"help": "Do not train, even on a split `train`."})
    stop_key: str | None = field(
        default=None,
        metadata={
            "help": "Split whose best r_mean, or accuracy of multiple choice, picks the epoch to keep: `validation` if "
            "given, else the last."
        },
    )
    join_captions: bool = field(
        default=False, metadata={"help": "Paragraph retrieval: join a row's captions into one (DiDeMo, ActivityNet)."}
    )
    match_by: str = field(
        default="video",
        metadata={"choices": ["video", "caption"], "help": "What positives of a batch share; `caption` for SSv2."},
    )
    save_scores: bool = field(default=False, metadata={"help": "Write all scores to scores_<split>.safetensors."})


@dataclass
class Arguments(ScriptArguments):
    """All of a run."""

    task: TaskArguments
    dataset: presets.DatasetArguments
    dropping: start.DroppingArguments
    processing: loaders.ProcessingArguments
    optimization: loop.OptimizationArguments
    checkpointing: checkpoints.CheckpointArguments
    logging: loop.LoggingArguments
    evaluation: retrieval.RetrievalArguments
    hub: publish.HubArguments


def main():
    parser = Arguments.make_parser("Fine-tune and evaluate SViTT for text-video retrieval.")
    preset = presets.use_preset(parser, "retrieval")
    args = Arguments.parse(parser)
    output_dir = args.task.output_dir
    accelerator = loop.make_accelerator(args.optimization, args.logging, output_dir)
    check_launch()
    check_output(output_dir)

    splits = args.dataset.splits(preset, "captions", "multiple_choice")
    pairs, sets, stop_key = load_data(args, splits)
    hub_name = publish.name_to_publish(args.hub, output_dir)
    set_seed(args.optimization.seed)
    model, processor = load_model_and_processor(
        args.task.model_name_or_path,
        SViTTForVideoTextRetrieval,
        num_frames=args.processing.num_frames,
        max_text_length=args.processing.max_text_length,
        token_keep_rate=args.dropping.token_keep_rate,
        fusion_token_keep_rate=args.dropping.fusion_token_keep_rate,
    )
    args.evaluation.set_frames(processor.video_processor.num_frames)
    is_resumed = args.checkpointing.resume_from_checkpoint is not None
    bad_videos = loaders.BadVideoReport(Path(output_dir) / "bad_videos.jsonl", resume=is_resumed)

    def score(model: SViTTForVideoTextRetrieval, split: str) -> retrieval.RetrievalScores | retrieval.ChoiceScores:
        return retrieval.score_split(
            accelerator, model, split, sets[split], processor, args.evaluation, args.processing, bad_videos
        )

    def validate(model: SViTTForVideoTextRetrieval) -> tuple[float, dict[str, float]]:
        metrics = retrieval.metrics_of(score(model, stop_key), sets[stop_key])
        return retrieval.stopping_score(metrics), retrieval.flat_metrics(stop_key, metrics)

    def save(model: SViTTForVideoTextRetrieval, weights: dict):
        write_whole(output_dir, partial(model.save_pretrained, state_dict=weights), processor.save_pretrained)

    end = None
    if pairs is not None:
        write_whole(output_dir, args.save)
        args.start_trackers(accelerator)
        set_seed(args.optimization.seed, device_specific=True)
        batch_size, seed = args.optimization.train_batch_size, args.optimization.seed
        training = loop.Training(
            accelerator,
            model,
            loaders.pair_loader(pairs, processor, batch_size, args.processing, seed),
            args.optimization,
            checkpoints.Checkpoints(output_dir, args.checkpointing),
            save,
            validate if stop_key else None,
            args.logging,
            to_model_inputs=partial(loaders.to_model_inputs, processor=processor),
            bad_videos=bad_videos,
        )
        end = training.run()
        model = SViTTForVideoTextRetrieval.from_pretrained(output_dir)

    model.to(accelerator.device)
    results = {}
    for split in sets:
        scores = score(model, split)
        results[split] = retrieval.metrics_of(scores, sets[split])
        write_whole(output_dir, partial(write_scores, args, split, scores, sets[split]))
    if sets:
        accelerator.print(retrieval.results_table(results))
    facts = {"num_processes": accelerator.num_processes} | ({} if end is None else {"epoch": end.best_epoch})
    text = json.dumps(facts | results, indent=2)
    # The settings once more, as those of an evaluation are written no sooner than its results.
    write_whole(output_dir, args.save, lambda folder: (folder / "results.json").write_text(text))
    if end is not None and accelerator.is_main_process:
        describe(args, splits, results, end, hub_name)
        if hub_name is not None:
            print(publish.push_to_hub(output_dir, hub_name, args.hub.hub_private))
    accelerator.end_training()


def load_data(
    args: Arguments, splits: dict[str, presets.Split]
) -> tuple[Dataset | None, dict[str, annotations.RetrievalSet | annotations.ChoiceSet], str | None]:
    """Training pairs, if there is something to train; the set of each split to evaluate; the split to stop by."""
    task = args.task
    sets = retrieval.load_retrieval_sets(splits, args.processing, task.join_captions)
    stop_key = task.stop_key or ("validation" if "validation" in sets else None)
    retrieval.check_stop_key(stop_key, sets)
    if "train" not in splits or task.evaluate_only:
        if not sets:
            raise InputError(
                "There is nothing to do: give --dataset, or --train_file to train, --test_file to evaluate."
            )
        if args.hub.push_to_hub:
            raise InputError("--push_to_hub: publishes a model that was trained, but nothing is trained here.")
        return None, sets, stop_key
    captions = splits["train"].load(
        join_captions=task.join_captions, missing_videos=args.processing.missing_videos(is_training=True)
    )
    return annotations.training_pairs(captions, task.match_by), sets, stop_key


def write_scores(args: Arguments, split: str, scores, videos_and_texts, folder: Path):
    """The rank of each query, and all scores if they are wanted."""
    pq.write_table(retrieval.rank_table(scores, videos_and_texts), folder / f"ranks_{split}.parquet")
    if args.task.save_scores:
        save_file(vars(scores), folder / f"scores_{split}.safetensors")


def describe(args: Arguments, splits: dict, results: dict, end: checkpoints.TrainingState, hub_name: str | None):
    """Write the model card."""
    card.write_card(
        args.task.output_dir,
        title="SViTT for text-video retrieval",
        summary="Fine-tuned to find videos by sentences and sentences by videos (ITC, ITM).",
        settings=args.options(),
        **retrieval.card_rows(results),
        losses=end.history,
        datasets=[splits["train"].source],
        base_model=args.task.model_name_or_path,
        model_id=hub_name,
    )


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

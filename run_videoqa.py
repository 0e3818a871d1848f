#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Fine-tune and evaluate SViTT for video question answering: the model ranks a list of answers, or options.

On a published dataset, with the settings of the paper, or on annotations of {"video": "a.mp4", "question": "what
plays?", "answer": "a cat"} in JSON, JSON lines or CSV, whose videos lie in --video_dir:

    accelerate launch run_videoqa.py --model_name_or_path svitt-base --dataset msrvtt_qa --data_dir data \
        --output_dir out
    python run_videoqa.py --model_name_or_path svitt-base --video_dir videos --train_file train.json \
        --validation_file val.json --test_file test.json --output_dir out --num_frames_test 12
    python run_videoqa.py --model_name_or_path out --video_dir videos --test_file test.json --output_dir evaluated

A pre-trained model has no decoder of answers yet: it begins as its fusion layers. Without data to train on, or with
--evaluate_only, the script evaluates. A run that was stopped or killed goes on where its last checkpoint was with
--resume_from_checkpoint latest.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset

from svitt import SViTTForVideoQuestionAnswering, SViTTProcessor
from svitt.data import loaders, presets
from svitt.distributed import check_launch, check_output, write_whole
from svitt.errors import InputError, exit_on_bad_input
from svitt.evaluation import answering, retrieval
from svitt.training import card, checkpoints, loop, publish, start
from svitt.training.arguments import ScriptArguments


@dataclass
class TaskArguments:
    """What to do, and where to write."""

    _argument_group_name = "task"

    output_dir: str = field(metadata={"help": "Folder for results.json, predictions and, after training, the model."})
    evaluate_only: bool = field(default=False, metadata={"help": "Do not train, even on a split `train`."})
    stop_key: str | None = field(
        default=None,
        metadata={"help": "Split whose best accuracy picks the epoch to keep: `validation` if given, else the last."},
    )


@dataclass
class Arguments(ScriptArguments):
    """All of a run."""

    task: TaskArguments
    dataset: presets.DatasetArguments
    start: start.StartArguments
    dropping: start.DroppingArguments
    processing: loaders.ProcessingArguments
    optimization: loop.OptimizationArguments
    checkpointing: checkpoints.CheckpointArguments
    logging: loop.LoggingArguments
    answering: answering.AnsweringArguments
    hub: publish.HubArguments


def main():
    parser = Arguments.make_parser("Fine-tune and evaluate SViTT for video question answering.")
    preset = presets.use_preset(parser, "videoqa")
    args = Arguments.parse(parser)
    processing = args.answering.question_processing(args.processing)
    output_dir = args.task.output_dir
    accelerator = loop.make_accelerator(args.optimization, args.logging, output_dir)
    check_launch()
    check_output(output_dir)
    hub_name = publish.name_to_publish(args.hub, output_dir)

    splits = args.dataset.splits(preset, "questions")
    questions, sets, stop_key = load_data(args, splits)
    set_seed(args.optimization.seed)
    model, processor = start.start_training(SViTTForVideoQuestionAnswering, args.start, args.dropping, processing)
    args.answering.set_frames(processor.video_processor.num_frames)
    args.answering.set_lengths(args.processing, processor, model.config)
    answers = answering.find_answer_list(
        args.answering, preset, questions, splits.get("train"), args.start.model_name_or_path
    )
    results = report_answers(accelerator, questions, sets, answers, processor)
    if questions is None and accelerator.is_main_process:
        answering.warn_of_new_decoder(model, args.start.model_name_or_path)
    is_resumed = args.checkpointing.resume_from_checkpoint is not None
    bad_videos = loaders.BadVideoReport(Path(output_dir) / "bad_videos.jsonl", resume=is_resumed)

    def predict(model: SViTTForVideoQuestionAnswering, split: str) -> list[answering.Prediction | None]:
        return answering.answer_split(
            accelerator, model, split, sets[split], answers, processor, args.answering, args.processing, bad_videos
        )

    def validate(model: SViTTForVideoQuestionAnswering) -> tuple[float, dict[str, float]]:
        metrics = answering.answer_metrics(sets[stop_key].questions, predict(model, stop_key), answers)
        flat = answering.flat_metrics(metrics["accuracy"])
        return flat["accuracy"], {f"{stop_key}/{name}": value for name, value in flat.items()}

    end = None
    if questions is not None:
        end = train(accelerator, args, model, processor, questions, answers, validate if stop_key else None, bad_videos)
        results["epoch"] = end.best_epoch
        model = SViTTForVideoQuestionAnswering.from_pretrained(output_dir)
    model.to(accelerator.device)
    for split in sets:
        predictions = predict(model, split)
        results[split] = answering.answer_metrics(sets[split].questions, predictions, answers)
        accelerator.print(answering.answer_table(split, results[split]))
        write_whole(
            output_dir,
            partial(answering.write_predictions, split=split, questions=sets[split].questions, predictions=predictions),
        )
    write_whole(output_dir, lambda folder: (folder / "results.json").write_text(json.dumps(results, indent=2)))
    if end is not None and accelerator.is_main_process:
        describe(args, splits, {split: results[split] for split in sets}, end, hub_name)
        if hub_name is not None:
            print(publish.push_to_hub(output_dir, hub_name, args.hub.hub_private))
    accelerator.end_training()


def report_answers(
    accelerator: Accelerator,
    questions: Dataset | None,
    sets: dict[str, answering.QuestionSet],
    answers: list[str],
    processor: SViTTProcessor,
) -> dict:
    """Check and print what there is to choose from, before hours of training; the results so far."""
    rows_of = {split: sets[split].questions for split in sets}
    if questions is not None:
        rows_of = {"train": questions} | rows_of
    for split, rows in rows_of.items():
        answering.check_answers(split, rows, answers, processor)
    if line := answering.alike_line(answers, processor):
        accelerator.print(line)
    results = {"num_processes": accelerator.num_processes}
    if questions is not None:
        metrics = {"coverage": answering.answer_coverage(questions, answers), "num_questions": len(questions)}
        accelerator.print(f"train: {answering.coverage_line(metrics)}")
        results["train"] = metrics
    return results


def train(
    accelerator: Accelerator,
    args: Arguments,
    model: SViTTForVideoQuestionAnswering,
    processor: SViTTProcessor,
    questions: Dataset,
    answers: list[str],
    validate: Callable | None,
    bad_videos: loaders.BadVideoReport,
) -> checkpoints.TrainingState:
    """Train, and leave the model, its processor and its answers in the folder of the run."""
    output_dir = args.task.output_dir

    def save(model: SViTTForVideoQuestionAnswering, weights: dict):
        write_whole(
            output_dir,
            partial(model.save_pretrained, state_dict=weights),
            processor.save_pretrained,
            partial(answering.save_answer_list, answers),
        )

    if args.checkpointing.resume_from_checkpoint is not None:
        answering.check_resumed_answers(Path(output_dir), answers)
    set_seed(args.optimization.seed, device_specific=True)
    batch_size, seed = args.optimization.train_batch_size, args.optimization.seed
    training = loop.Training(
        accelerator,
        model,
        loaders.question_loader(questions, processor, batch_size, args.processing, seed),
        args.optimization,
        checkpoints.Checkpoints(output_dir, args.checkpointing),
        save,
        validate,
        args.logging,
        to_model_inputs=partial(answering.to_training_inputs, processor=processor),
        bad_videos=bad_videos,
    )
    write_whole(output_dir, args.save)
    args.start_trackers(accelerator)
    return training.run()


def load_data(
    args: Arguments, splits: dict[str, presets.Split]
) -> tuple[Dataset | None, dict[str, answering.QuestionSet], str | None]:
    """Questions to train on, if any; the question set of each split given; the split to stop by."""
    sets = answering.load_question_sets(splits, args.processing)
    stop_key = args.task.stop_key or ("validation" if "validation" in sets else None)
    retrieval.check_stop_key(stop_key, sets)
    if "train" not in splits or args.task.evaluate_only:
        if not sets:
            raise InputError(
                "There is nothing to do: give --dataset, or --train_file to train, --test_file to evaluate."
            )
        return None, sets, stop_key
    return splits["train"].load(missing_videos=args.processing.missing_videos(is_training=True)), sets, stop_key


def describe(args: Arguments, splits: dict, results: dict, end: checkpoints.TrainingState, hub_name: str | None):
    """Write the model card."""
    card.write_card(
        args.task.output_dir,
        title="SViTT for video question answering",
        summary=f"Fine-tuned to answer questions about videos, by one of the answers in {answering.ANSWER_LIST}.",
        settings=args.options(),
        results={split: answering.flat_metrics(results[split]["accuracy"]) for split in results},
        baselines={
            f"{split}, {name}": baseline
            for split in results
            for name, baseline in answering.flat_baselines(results[split]).items()
        },
        losses=end.history,
        datasets=[splits["train"].source],
        base_model=args.start.model_name_or_path or args.start.vision_name_or_path,
        model_id=hub_name,
    )


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

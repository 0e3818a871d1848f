#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Fine-tune and evaluate SViTT for video question answering: the model ranks a list of answers, or options.

On a published dataset, with the settings of the paper, or on annotations of {"video": "a.mp4", "question": "what
plays?", "answer": "a cat"} in JSON, JSON lines or CSV, whose videos lie in --video_dir:

    accelerate launch run_videoqa.py --model_name_or_path svitt-base --dataset msrvtt_qa --output_dir out
    python run_videoqa.py --model_name_or_path svitt-base --video_dir videos --train_file train.json \
        --validation_file val.json --test_file test.json --output_dir out --num_frames_test 12
    python run_videoqa.py --model_name_or_path out --video_dir videos --test_file test.json --output_dir evaluated

A pre-trained model has no decoder of answers yet: it begins as its fusion layers. Without data to train on, or with
--evaluate_only, the script evaluates.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import HfArgumentParser, set_seed
from transformers.hf_argparser import HfArg

from svitt import SViTTForVideoQuestionAnswering
from svitt.data import loaders, presets
from svitt.distributed import write_whole
from svitt.errors import exit_on_bad_input
from svitt.evaluation import answering, retrieval
from svitt.training import start
from svitt.training.card import describe_and_publish, settings_of, write_results, write_settings
from svitt.training.checkpoints import find_checkpoint
from svitt.training.trainer import SViTTTrainer, SViTTTrainingArguments, check_task


@dataclass
class TaskArguments:
    """What to do."""

    _argument_group_name = "task"

    evaluate_only: bool = HfArg(default=False, help="Do not train, even on a split `train`.")
    stop_key: str | None = HfArg(
        default=None, help="Split whose best accuracy picks the epoch to keep: `validation` if given, else the last."
    )


def main():
    groups = TaskArguments, presets.DatasetArguments, start.StartArguments, start.DroppingArguments
    groups = *groups, loaders.ProcessingArguments, answering.AnsweringArguments, SViTTTrainingArguments
    preset, groups = presets.parse_with_preset(HfArgumentParser(groups), "videoqa")
    task, dataset, source, dropping, processing, answering_args, args = groups
    settings, output_dir = settings_of(groups, preset.settings), args.output_dir
    checkpoint = find_checkpoint(output_dir, args.resume_from_checkpoint)

    splits = dataset.splits(preset, "questions")
    sets = answering.load_question_sets(splits, processing)
    stop_key = task.stop_key or ("validation" if "validation" in sets else None)
    retrieval.check_stop_key(stop_key, sets)
    is_trained = "train" in splits and not task.evaluate_only
    check_task(is_trained, sets, args)
    questions = splits["train"].load(allow_missing=processing.bad_videos == "skip") if is_trained else None

    set_seed(args.seed)
    model, processor = start.start_training(SViTTForVideoQuestionAnswering, source, dropping, processing)
    answering_args.set_frames(processor.video_processor.num_frames)
    answering_args.set_answer_length(processor, model.config)
    answers = answering.find_answer_list(
        answering_args, preset, questions, splits.get("train"), source.model_name_or_path
    )
    rows_of = {"train": questions} if is_trained else {}
    for split, rows in (rows_of | {split: sets[split].questions for split in sets}).items():
        answering.check_answers(split, rows, answers)
    write_whole(output_dir, partial(write_settings, settings))
    bad_videos = loaders.BadVideoReport(Path(output_dir) / "bad_videos.jsonl", resume=checkpoint is not None)
    reading = processing, bad_videos, args.per_device_eval_batch_size, args.dataloader_num_workers
    reading = answers, processor, answering_args, *reading

    def predict(model: SViTTForVideoQuestionAnswering, split: str) -> list[answering.Prediction | None]:
        return answering.answer_split(trainer.accelerator, model, split, sets[split], *reading)

    def validate(model: SViTTForVideoQuestionAnswering, split: str) -> dict[str, float]:
        metrics = answering.answer_metrics(sets[split].questions, predict(model, split), answers)
        return answering.flat_metrics(metrics["accuracy"])

    loading = args.per_device_train_batch_size, processing, loaders.collate_questions, args.seed
    trainer = SViTTTrainer(
        model,
        args,
        questions and loaders.training_loader({"video": questions}, processor, *loading, args.dataloader_num_workers),
        partial(answering.to_training_inputs, processor=processor),
        validate,
        eval_splits=[stop_key] if stop_key else [],
        stop_metric=stop_key and f"{stop_key}_accuracy",
        bad_videos=bad_videos,
        processing_class=processor,
    )
    results = {"num_processes": args.world_size}
    if is_trained:
        metrics = {"coverage": answering.answer_coverage(questions, answers), "num_questions": len(questions)}
        trainer.accelerator.print(f"train: {answering.coverage_line(metrics)}")
        write_whole(output_dir, partial(answering.save_answer_list, answers))
        trainer.train(checkpoint)
        write_whole(output_dir, model.save_pretrained, processor.save_pretrained)
        results |= {"train": metrics, "epoch": trainer.best_epoch}
    elif trainer.is_world_process_zero():
        answering.warn_of_new_decoder(model, source.model_name_or_path)

    for split in sets:
        predictions, rows = predict(model, split), sets[split].questions
        results[split] = answering.answer_metrics(rows, predictions, answers)
        trainer.accelerator.print(answering.answer_table(split, results[split]))
        write = partial(answering.write_predictions, split=split, questions=rows, predictions=predictions)
        write_whole(output_dir, write)
    write_whole(output_dir, partial(write_results, results))
    if is_trained:
        compared = {split: answering.compared(results[split]) for split in sets}
        rows = {f"{split}, {name}": values for split in sets for name, values in compared[split].items()}
        base_model = source.model_name_or_path or source.vision_name_or_path or source.config_name
        describe_and_publish(trainer, rows, [splits["train"].source], base_model)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

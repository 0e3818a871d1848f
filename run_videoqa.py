#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
r"""Fine-tune and evaluate SViTT for video question answering: the model ranks a list of answers, or options.

On a published dataset, with the settings of the paper, or on annotations of {"video": "a.mp4", "question": "what
plays?", "answer": "a cat"} in JSON, JSON lines or CSV, whose videos lie in --video_dir:

    accelerate launch run_videoqa.py --model_name_or_path svitt-base --dataset msrvtt_qa --output_dir out
    python run_videoqa.py --model_name_or_path svitt-base --video_dir videos --train_file train.json \
        --validation_file val.json --test_file test.json --output_dir out --num_frames_test 12
    python run_videoqa.py --model_name_or_path out --video_dir videos --test_file test.json --output_dir evaluated

A pre-trained model has no decoder of answers yet: it begins as its fusion layers. Without data to train on, or with
--evaluate_only, the script evaluates.
"""

from functools import partial
from pathlib import Path

from transformers import set_seed

from svitt import SViTTForVideoQuestionAnswering
from svitt.data import loaders, presets
from svitt.distributed import write_whole
from svitt.errors import exit_on_bad_input
from svitt.evaluation import answering
from svitt.evaluation.clips import VideoReader
from svitt.training import start
from svitt.training.card import describe_and_publish, write_results, write_settings
from svitt.training.checkpoints import find_checkpoint
from svitt.training.options import parse_options
from svitt.training.trainer import SViTTTrainer, SViTTTrainingArguments


def main():
    groups = start.FineTuningArguments, presets.DatasetArguments, start.StartArguments, start.ConfigArguments
    groups = *groups, loaders.ProcessingArguments, answering.AnsweringArguments, SViTTTrainingArguments
    preset, groups = parse_options(groups, "videoqa", __doc__)
    task, dataset, source, config, processing, answering_args, args = groups
    checkpoint, output_dir = find_checkpoint(args.output_dir, args.resume_from_checkpoint), args.output_dir

    splits = dataset.splits(preset, "questions")
    evaluated = {name: split for name, split in splits.items() if not name.startswith("train")}
    allow_missing = processing.bad_eval_videos != "error"
    sets = {name: answering.question_set(split.load(allow_missing)) for name, split in evaluated.items()}
    training, stop_key = task.plan(splits, sets, args)
    questions = training and training.load(processing.bad_videos == "skip")

    set_seed(args.seed)
    model, processor = start.start_training(SViTTForVideoQuestionAnswering, source, config, processing)
    answering_args.set_frames(processor.video_processor.num_frames, model.config.vision_config.max_num_frames)
    answering_args.set_answer_length(processor, model.config)
    answers = answering.find_answer_list(answering_args, preset.answer_list, questions, source.model_name_or_path)
    for split, rows in {"train": questions, **{split: sets[split].questions for split in sets}}.items():
        if rows is not None:
            answering.check_answers(split, rows, answers)
    write_whole(output_dir, partial(write_settings, preset.settings))
    bad_videos = loaders.BadVideoReport(Path(output_dir) / "bad_videos.jsonl", resume=checkpoint is not None)
    sizes = args.per_device_eval_batch_size, args.dataloader_num_workers
    reader = VideoReader(processor, answering_args.num_frames_test, processing, bad_videos, *sizes)

    def evaluate(model: SViTTForVideoQuestionAnswering, split: str):
        predictions = answering.answer_split(model, sets[split], answers, reader, answering_args)
        return predictions, answering.answer_metrics(sets[split].questions, predictions, answers)

    loading = args.per_device_train_batch_size, processing, loaders.collate_questions, args.seed
    trainer = SViTTTrainer(
        model,
        args,
        questions and loaders.training_loader({"video": questions}, processor, *loading, args.dataloader_num_workers),
        partial(answering.to_training_inputs, processor=processor),
        evaluate,
        eval_splits=[stop_key] if stop_key else [],
        stop_metrics=[f"{stop_key}_accuracy_overall"] if stop_key else [],
        bad_videos=bad_videos,
        processing_class=processor,
    )
    results, ranked = {}, {}
    if questions:
        for kind in ("question", "answer"):
            loaders.count_cut("train", f"{kind}s", questions[kind], processor, loaders.ROWS_LOOKED_AT)
        results["train"] = answering.coverage_metrics(questions, answers)
        trainer.accelerator.print(f"train: {answering.coverage_line(results['train'])}")
        write_whole(output_dir, partial(answering.save_answer_list, answers))
        trainer.train(checkpoint)
        write_whole(output_dir, model.save_pretrained, processor.save_pretrained)
    elif trainer.is_world_process_zero():
        answering.warn_of_new_decoder(model, source.model_name_or_path)

    for split in sets:
        predictions, results[split] = trainer.score(split)
        ranked[split] = answering.what_was_ranked(split, sets[split], answers, processor)
        trainer.accelerator.print(answering.answer_table(split, results[split], ranked[split]))
        write = partial(answering.write_predictions, split=split, questions=sets[split].questions)
        write_whole(output_dir, partial(write, predictions=predictions))
    write_results(trainer, results, ranked)
    if questions:
        compared = {split: answering.compared(results[split]) for split in sets}
        describe_and_publish(trainer, compared, ranked, [training.source], source.name)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

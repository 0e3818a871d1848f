#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Pre-train SViTT: contrast (ITC), match (ITM) and complete (MLM) captions of videos and images.

From a BEiT and a BERT, on a published dataset with the settings of the paper, or on your own annotations:

    accelerate launch run_pretraining.py --dataset webvid --data_dir data --output_dir out \
        --vision_name_or_path microsoft/beit-base-patch16-224-pt22k-ft22k --text_name_or_path bert-base-uncased
    accelerate launch run_pretraining.py --train_file train.json --validation_file val.json --video_dir videos \
        --vision_name_or_path beit --text_name_or_path bert --output_dir out

Temporal sparse expansion, from clips of 4 frames to clips of 8 and fewer of their tokens:

    accelerate launch run_pretraining.py --dataset webvid_expansion --output_dir out8 --model_name_or_path out

or all in one, with --curriculum FILE.yaml, a list of stages and the options that differ in each:

    - {num_frames: 4, num_train_epochs: 10}
    - {num_frames: 8, token_keep_rate: 0.6, num_train_epochs: 10}

A --dataset_file (training/presets) names several corpora, of videos, images and shards. A run that was stopped or
killed goes on exactly where its last checkpoint was with the same command and --resume_from_checkpoint latest.
"""

import copy
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from transformers import HfArgumentParser

from svitt import SViTTForPreTraining, SViTTProcessor
from svitt.data import annotations, loaders, presets
from svitt.distributed import check_launch, check_output, write_whole
from svitt.errors import InputError, exit_on_bad_input
from svitt.evaluation import clips, retrieval
from svitt.training import card, checkpoints, loop, publish, start
from svitt.training.arguments import ScriptArguments


@dataclass
class TaskArguments:
    """Where to write, and how to mix."""

    _argument_group_name = "task"

    output_dir: str = field(metadata={"help": "Folder for the model, checkpoints, log.jsonl and results.json."})
    curriculum: str | None = field(
        default=None, metadata={"help": "YAML file: a list of stages, each with the options that differ from these."}
    )
    stop_key: str | None = field(
        default=None, metadata={"help": "Split whose best r_mean picks the model to keep; by default the last is kept."}
    )
    match_by: str = field(
        default="video", metadata={"choices": ["video", "caption"], "help": "What positives of a batch share."}
    )
    streaming: bool = field(default=False, metadata={"help": "Stream datasets of the Hub, as shards always are."})
    buffer_size: int = field(default=1000, metadata={"help": "Samples of a stream that are shuffled together."})


@dataclass
class LossArguments:
    """What to learn from a batch; by default as the model's configuration says."""

    _argument_group_name = "losses"

    mlm_prob: float | None = field(default=None, metadata={"help": "Share of the words to be completed (MLM)."})
    itc_all_gather: bool = field(
        default=False, metadata={"help": "Contrast (ITC) the clips and texts of all processes, not of each alone."}
    )

    def as_fields(self) -> dict[str, float | bool]:
        """Of the model's configuration, those given."""
        return {name: value for name, value in asdict(self).items() if value is not None and value is not False}


@dataclass
class Arguments(ScriptArguments):
    """All of a run, or of a stage of it."""

    task: TaskArguments
    dataset: presets.DatasetArguments
    start: start.StartArguments
    losses: LossArguments
    dropping: start.DroppingArguments
    processing: loaders.ProcessingArguments
    optimization: loop.OptimizationArguments
    checkpointing: checkpoints.CheckpointArguments
    logging: loop.LoggingArguments
    evaluation: retrieval.RetrievalArguments
    hub: publish.HubArguments

    # What stages of a curriculum may change.
    OF_A_STAGE = ("losses", "dropping", "processing", "optimization", "evaluation")


def main():
    parser = Arguments.make_parser("Pre-train SViTT on videos and images with captions.")
    preset = presets.use_preset(parser, "pretraining")
    args = Arguments.parse(parser)
    output_dir = args.task.output_dir
    accelerator = loop.make_accelerator(args.optimization, args.logging, output_dir)
    check_launch()
    check_output(output_dir)
    hub_name = publish.name_to_publish(args.hub, output_dir)

    splits = args.dataset.splits(preset, "captions")
    stages = [args] if args.task.curriculum is None else read_curriculum(parser, args)
    write_whole(output_dir, args.save)
    args.start_trackers(accelerator)
    steps_before = 0
    for number, stage in enumerate(stages, start=1):
        folder = Path(output_dir) if number == len(stages) else Path(output_dir) / f"stage_{number}"
        if len(stages) > 1:
            accelerator.print(f"stage {number} of {len(stages)}, in {folder}", flush=True)
        steps_before += run_stage(accelerator, stage, splits, folder, steps_before, hub_name)
        accelerator.free_memory()
        for later in stages[number:]:
            later.start = start.StartArguments(model_name_or_path=str(folder))
    if hub_name is not None and accelerator.is_main_process:
        print(publish.push_to_hub(output_dir, hub_name, args.hub.hub_private))
    accelerator.end_training()


def run_stage(
    accelerator: Accelerator,
    args: Arguments,
    splits: dict[str, presets.Split],
    folder: Path,
    steps_before: int,
    hub_name: str | None,
) -> int:
    """Train in a folder, from its last checkpoint on, and evaluate the model that was kept; returns the updates."""
    set_seed(args.optimization.seed)
    model, processor = start.start_training(
        SViTTForPreTraining, args.start, args.dropping, args.processing, **args.losses.as_fields()
    )
    clips.check_length("max_text_length", args.processing.max_text_length, model.config.text_config)
    args.evaluation.set_frames(processor.video_processor.num_frames)
    is_resumed = args.checkpointing.resume_from_checkpoint is not None
    bad_videos = loaders.BadVideoReport(folder / "bad_videos.jsonl", resume=is_resumed)
    loader = make_loader(args, splits, processor)
    sets = retrieval.load_retrieval_sets(splits, args.processing)
    retrieval.check_stop_key(args.task.stop_key, sets)

    def evaluate(model: SViTTForPreTraining) -> dict[str, dict]:
        results = {}
        for split in sets:
            scores = retrieval.score_split(
                accelerator,
                model,
                split,
                sets[split],
                processor,
                args.evaluation,
                args.processing,
                bad_videos,
                args.optimization.eval_batch_size,
                args.processing.num_workers,
            )
            results[split] = retrieval.metrics_of(scores, sets[split])
        return results

    def validate(model: SViTTForPreTraining) -> tuple[float | None, dict[str, float]]:
        results, metrics = evaluate(model), {}
        for split in results:
            metrics |= retrieval.flat_metrics(split, results[split])
        return metrics.get(f"{args.task.stop_key}/itm_r_mean"), metrics

    def save(model: SViTTForPreTraining, weights: dict):
        write_whole(folder, partial(model.save_pretrained, state_dict=weights), processor.save_pretrained)

    set_seed(args.optimization.seed, device_specific=True)
    training = loop.Training(
        accelerator,
        model,
        loader,
        args.optimization,
        checkpoints.Checkpoints(folder, args.checkpointing),
        save,
        validate if sets else None,
        args.logging,
        to_model_inputs=partial(loaders.to_model_inputs, processor=processor),
        bad_videos=bad_videos,
        steps_before=steps_before,
    )
    end = training.run()
    model = SViTTForPreTraining.from_pretrained(folder).to(accelerator.device)
    results = {"epoch": end.best_epoch, "step": end.best_step, "num_processes": accelerator.num_processes}
    results |= evaluate(model)
    for split in sets:
        accelerator.print(retrieval.results_table({split: results[split]}))
    write_whole(folder, lambda folder: (folder / "results.json").write_text(json.dumps(results, indent=2)))
    if accelerator.is_main_process:
        describe(folder, args, splits, {split: results[split] for split in sets}, end, hub_name)
    return end.step


def describe(
    folder: Path, args: Arguments, splits: dict, results: dict, end: checkpoints.TrainingState, hub_name: str | None
):
    """Write the model card."""
    start = args.start
    card.write_card(
        folder,
        title="SViTT, pre-trained",
        summary="Pre-trained to contrast, match and complete captions of videos (ITC, ITM, MLM).",
        settings=args.options(),
        results={f"{split}, {kind.upper()}": values for split in results for kind, values in results[split].items()},
        baselines={},
        losses=end.history,
        datasets=[split.source for name, split in splits.items() if name.startswith("train")],
        base_model=start.model_name_or_path or start.vision_name_or_path,
        model_id=hub_name,
    )


def make_loader(args: Arguments, splits: dict[str, presets.Split], processor: SViTTProcessor) -> loaders.TrainingLoader:
    """Batches of all splits named `train...`: of annotated videos, of images, and of each stream, one at a time."""
    splits = {name: split for name, split in splits.items() if name.startswith("train")}
    if not splits:
        raise InputError("There is nothing to train on: give --dataset, --dataset_file or --train_file.")
    batch_size, seed = args.optimization.train_batch_size, args.optimization.seed
    processing = {"video": args.processing, "image": replace(args.processing, num_frames=1)}
    corpora: dict[str, list[Dataset]] = defaultdict(list)
    parts: dict[str, loaders.TrainingLoader] = {}
    weights: dict[str, float] = defaultdict(float)
    for name, split in splits.items():
        if split.shards or (split.hub and args.task.streaming):
            rows = split.stream(args.task.match_by, seed, args.task.buffer_size)
            parts[name] = loaders.pair_stream_loader(rows, processor, batch_size, processing[split.medium], seed)
            weights[name] = split.weight
        else:
            captions = split.load(missing_videos=args.processing.missing_videos(is_training=True))
            corpora[split.medium].append(annotations.training_pairs(captions, args.task.match_by))
            weights[split.medium] += split.weight
    if not parts and any(split.weight != 1 for split in splits.values()):
        raise InputError("`weight` is for mixes with streams: of annotated corpora, every row comes once in an epoch.")
    is_drawn = bool(parts)
    for medium, pairs in corpora.items():
        pairs = annotations.join_pairs(pairs)
        parts[medium] = loaders.pair_loader(pairs, processor, batch_size, processing[medium], seed)
    return (
        loaders.MixedLoader(parts, seed, weights if is_drawn else None)
        if len(parts) > 1
        else next(iter(parts.values()))
    )


def read_curriculum(parser: HfArgumentParser, args: Arguments) -> list[Arguments]:
    """The arguments of each stage of `--curriculum`."""
    file = Path(args.task.curriculum)
    content = presets.read_yaml(file)
    if not isinstance(content, list) or not content or not all(isinstance(stage, dict) for stage in content):
        raise InputError(f"{file}: must be a list of stages, each a mapping of options to values.")
    if args.checkpointing.resume_from_checkpoint not in (None, "latest"):
        raise InputError("--curriculum goes on with --resume_from_checkpoint latest only, which is told per stage.")
    actions = {action.dest: action for action in reversed(parser._actions)}
    stages = []
    for number, options in enumerate(content, start=1):
        stage = copy.deepcopy(args)
        groups = {name: getattr(stage, group) for group in Arguments.OF_A_STAGE for name in vars(getattr(stage, group))}
        for name, value in options.items():
            if name not in groups:
                raise InputError(f"{file}, stage {number}: there is no option `{name}`, but: {', '.join(groups)}.")
            origin = f"{file}, stage {number}"
            setattr(groups[name], name, presets.parse_setting(origin, actions[name], value))
        stages.append(stage)
    return stages


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

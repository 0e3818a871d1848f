#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What a GPU makes of SViTT, in at most 8 minutes: whether its results are right, and what each part of the work costs.

    python benchmarks/gpu.py --output results          # one GPU: prints a table, and writes results/gpu.json
    python benchmarks/gpu.py --output results --tiny   # a minute: all of it at a size that tells nothing, on a CPU too

Each part has a share of the time. A case that does not fit the memory, fails, or is past its part's time is a row that
says so. "off by" is |x - y| / |y|, where y is `eager` in float32, or the CPU's. All else is in bfloat16. Ratios are to
dense `sdpa`, or to matching each pair by itself. MFU is the share of the rate of one large matrix product. It counts
the FLOPs that the definition of an encoder needs, or those that a training step takes.
"""

import argparse
import copy
import gc
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import encoder
import torch
from decoding import CLIPS, make_clip
from encoder import DTYPES, bytes_of_call, make_clips, make_texts, make_whole, median_seconds, with_settings
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertTokenizer

from svitt import SViTTForPreTraining, SViTTForVideoTextRetrieval
from svitt.conversion.loading import make_processor, save_folder
from svitt.search import SViTTIndex
from svitt.training.optimization import parameter_groups

BASE = encoder.BASE | {"product_size": 8192, "frames": [4, 8, 16, 32, 64], "batch_sizes": [8, 1, 32], "rounds": 3}
BASE |= {"backend": "inductor", "step_frames": [4, 8], "step_batch_size": 32, "videos": 512, "rerank": 128}
TINY = encoder.TINY | {"product_size": 256, "frames": [4], "batch_sizes": [2], "rounds": 1}
TINY |= {"backend": "eager", "step_frames": [4], "step_batch_size": 4, "videos": 4, "rerank": 8}
COLUMNS = ("part", "contestant", "frames", "batch", "ms", "clips/s", "time ratio", "GFLOP", "FLOP ratio", "MFU")
COLUMNS += ("peak MiB", "off by", "gradient off by", "note")

Case = tuple[str, int, int, Callable[[], list[dict]]]  # what is measured: name, frames, clips; and how, to rows of it


# ---- Whether results are right


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.double().cpu(), expected.double().cpu()
    return ((actual - expected).norm() / expected.norm()).item()


def gradients(model: torch.nn.Module) -> torch.Tensor:
    found = (parameter.grad for parameter in model.parameters())
    return torch.cat([grad.flatten().float() for grad in found if grad is not None])


def agreement(args: argparse.Namespace, name: str, dtype: str) -> list[dict]:
    """Compare an encoder that drops no tokens, as which ones it drops hangs on the last bit, with `eager` float32."""
    results, args = [], with_settings(args, dtype="float32")
    for contestant, kind in ((f"{name.split()[0]} eager", torch.float32), (name, DTYPES[dtype])):
        model = encoder.make_encoder(args, contestant, args.frames[0], args.device).to(kind).eval()
        pooled = model(make_clips(args, 2, args.frames[0], args.device).to(kind)).pooler_output.float()
        torch.manual_seed(2)
        (pooled * torch.randn_like(pooled)).sum().backward()  # a norm is last, so that the plain sum would not change
        results.append((pooled.detach(), gradients(model)))
    (expected, expected_gradient), (actual, gradient) = results
    return [{"off by": relative(actual, expected), "gradient off by": relative(gradient, expected_gradient)}]


def agreement_of_step(args: argparse.Namespace) -> list[dict]:
    """Compare loss and gradient with the CPU's, and the loss after an update. All that is drawn is fixed."""
    args = with_settings(args, dtype="float32")
    first = make_whole(args, SViTTForPreTraining, args.frames[0], "cpu", token_keep_strategy="random").eval()
    batch = make_texts(2, "cpu") | {"pixel_values": make_clips(args, 2, args.frames[0], "cpu")}
    batch |= dict.fromkeys(("negative_video_idx", "negative_text_idx"), torch.tensor([1, 0]))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    batch |= {"mlm_input_ids": batch["input_ids"], "mlm_labels": labels}
    results = []
    for device in ("cpu", args.device):
        model, here = copy.deepcopy(first).to(device), {name: value.to(device) for name, value in batch.items()}
        loss = model(**here, return_loss=True).loss
        loss.backward()
        gradient = gradients(model)
        torch.optim.AdamW(parameter_groups(model.named_parameters(), 1e-4)).step()
        results.append((loss.detach(), gradient, model(**here, return_loss=True).loss.detach()))
    expected, actual = results
    loss, gradient, after = map(relative, actual, expected)
    return [{"off by": loss, "gradient off by": gradient}, {"off by": after, "note": "the loss after an update"}]


# ---- What it costs


def encoders(args: argparse.Namespace, num_frames: int) -> list[dict]:
    rows = encoder.encoder_rows(args, num_frames)
    for row in rows:
        if row["ms"]:
            row |= rates(args, row["ms"] / 1e3, args.batch_size, 1e9 * row["GFLOP"])
        if row["time ratio"] and row["time ratio"] > 2 * row["FLOP ratio"]:
            row["note"] = "gains less than half of what its FLOPs promise"
    return rows


def rates(args: argparse.Namespace, seconds: float, num_clips: int, flops: float) -> dict:
    return {"ms": 1e3 * seconds, "clips/s": num_clips / seconds, "MFU": flops / seconds / args.product_rate}


def training_step(args: argparse.Namespace, model_class: type, num_frames: int) -> list[dict]:
    """Measure forward, backward and update in bfloat16 autocast, of clips that are on the device already."""
    args, size = with_settings(args, dtype="float32"), args.step_batch_size
    model = make_whole(args, model_class, num_frames, args.device).train()
    batch = make_texts(size, args.device) | {"pixel_values": make_clips(args, size, num_frames, args.device)}
    optimizer = torch.optim.AdamW(parameter_groups(model.named_parameters(), 1e-5), fused=True)

    def step() -> torch.Tensor:
        with torch.autocast(args.device, torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    with FlopCounterMode(display=False) as counter:
        step()  # which makes the states of the optimizer
    row = {"peak MiB": bytes_of_call(step, "cuda") / 2**20} if args.device == "cuda" else {}
    seconds = median_seconds({"step": step}, args.rounds)["step"]
    return [row | rates(args, seconds, size, counter.get_total_flops())]


def indexing(args: argparse.Namespace) -> list[dict]:
    """Index one video of 10 s under many names, with as many workers as `svitt index` takes."""
    *how, _ = CLIPS["10s_key250.mp4"]
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    model = make_whole(with_settings(args, dtype="float32"), SViTTForVideoTextRetrieval, args.frames[0], "cpu")
    with tempfile.TemporaryDirectory() as folder:
        videos, model_folder = Path(folder, "videos"), Path(folder, "model")
        save_folder(model, make_processor(model.config, tokenizer), model_folder)
        videos.mkdir()
        make_clip(str(videos / "0.mp4"), *how)
        for number in range(1, args.videos):
            os.link(videos / "0.mp4", videos / f"{number}.mp4")
        report = SViTTIndex.create(Path(folder, "index"), str(model_folder)).add([videos])
    seconds = sum(report.seconds.values())
    shares = ", ".join(f"{name} {part / seconds:.0%}" for name, part in report.seconds.items())
    return [{"ms": 1e3 * seconds, "clips/s": report.num_spans / seconds, "note": shares}]


# ---- Parts


def parts_of(args: argparse.Namespace) -> dict[str, tuple[float, list[Case]]]:
    """Return the minutes, of 8, that a part may take at most, and its cases."""
    first, classes = args.frames[0], (SViTTForVideoTextRetrieval, SViTTForPreTraining)
    # `eager` in bfloat16 shows how far off bfloat16 itself is.
    both = ("dense", "edges")
    pairs = [(name, dtype) for dtype in DTYPES for name in both] + [(f"{name} eager", "bfloat16") for name in both]
    equal = [(", ".join(pair), first, 2, partial(agreement, args, *pair)) for pair in pairs]
    equal.append(("training step", first, 2, partial(agreement_of_step, args)))
    steps = [
        (one.__name__, num_frames, args.step_batch_size, partial(training_step, args, one, num_frames))
        for one in classes
        for num_frames in args.step_frames
    ]

    def of_encoders(contestants: str, **how) -> list[Case]:
        sizes = [(num_frames, size) for size in args.batch_sizes for num_frames in args.frames]
        how |= {"contestants": contestants.split()}
        cases = [(*size, with_settings(args, batch_size=size[1], **how)) for size in sizes]
        return [(contestants, *size, partial(encoders, of_size, size[0])) for *size, of_size in cases]

    return {
        "agreement": (0.7, equal),
        "forward": (0.9, of_encoders("dense edges sparse")),
        "forward + backward": (1.2, of_encoders("dense edges sparse", backward=True)),
        "training step": (0.7, steps),
        "index": (0.7, [("spans", first, args.videos, partial(indexing, args))]),
        "re-ranking": (0.3, [("captions", first, args.rerank, partial(encoder.matching_rows, args))]),
        "forward, compiled": (1.3, of_encoders("dense sparse", compile=args.backend)),
        "forward + backward, compiled": (1.7, of_encoders("dense sparse", compile=args.backend, backward=True)),
    }


class OutOfTime(BaseException):
    """An alarm has gone off; no `except Exception` of a library may stop it."""


def stop(*_):
    raise OutOfTime


def rows_of(part: str, cases: list[Case], seconds: float) -> list[dict]:
    """Return rows of all cases, the last of which says so if time runs out."""
    signal.signal(signal.SIGALRM, stop)
    rows, left = [], list(cases)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
        while left:
            gc.collect()
            torch.cuda.empty_cache()
            torch.compiler.reset()  # which would give up after a few shapes
            try:
                found = left[0][-1]()
            except torch.OutOfMemoryError:
                found = [{"note": "out of memory"}]
            except (Exception, SystemExit) as error:
                found = [{"note": f"{type(error).__name__}: {' '.join(str(error).split()):.200}"}]
            rows += [dict(zip(COLUMNS, (part, *left[0][:-1]), strict=False)) | row for row in found]
            del left[0]
    except OutOfTime:
        note = {"note": f"past its part's time, as are {len(left) - 1} cases after it"}
        rows += [dict(zip(COLUMNS, (part, *case[:-1]), strict=False)) | note for case in left[:1]]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return [{name: row.get(name) for name in COLUMNS} for row in rows]


def main():
    start, on_gpu = time.monotonic(), torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for gpu.json")
    parser.add_argument("--minutes", type=float, default=8, help="for all of it (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="all of it at a tiny size, for which a CPU will do")
    parser.set_defaults(device="cuda" if on_gpu else "cpu", dtype="bfloat16", backward=False, compile=None)
    args = parser.parse_args()
    if not on_gpu and not args.tiny:
        sys.exit("There is no GPU; --tiny tries all of it on a CPU.")
    settings = TINY if args.tiny else BASE
    args = with_settings(args, **settings, memory=on_gpu)
    one, other = torch.randn(2, args.product_size, args.product_size, device=args.device, dtype=torch.bfloat16)
    args.product_rate = 2 * args.product_size**3 / median_seconds({"product": lambda: one @ other}, 20)["product"]
    torch.backends.cudnn.allow_tf32 = False  # as products of matrices are: float32 is compared with the CPU's
    where = {"device": torch.cuda.get_device_name() if on_gpu else platform.machine(), "CUDA": torch.version.cuda}
    where |= encoder.versions() | {"product TFLOP/s": round(args.product_rate / 1e12, 2)}
    rows, end = [], start
    for part, (minutes, cases) in parts_of(args).items():
        end += 60 * minutes * args.minutes / 8  # what a part leaves is for the next ones
        rows += rows_of(part, cases, end - time.monotonic())
        encoder.write(args.output / "gpu.json", environment=where, settings=settings, rows=rows)
    print(", ".join(f"{name} {value}" for name, value in where.items()), encoder.markdown(rows), sep="\n\n")


if __name__ == "__main__":
    main()

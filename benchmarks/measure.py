#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What the benchmarks share: equality first, interleaved rounds, FLOPs, peak memory, JSON and tables.

python benchmarks/measure.py benchmark_results/encoder.json    # its rows as a Markdown table
"""

import argparse
import json
import math
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# How far results of two implementations may lie apart, relative to 1 + the largest.
TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2}
# Last word of a column's key -> heading, and by what its values are multiplied.
UNITS = {"seconds": ("ms", 1e3), "flops": ("GFLOP", 1e-9), "bytes": ("MiB", 2**-20), "share": ("%", 100)}

Call = Callable[[], object]


# ---- Arguments


def make_parser(doc: str) -> argparse.ArgumentParser:
    """The options that all scripts take; `doc` is the script's own."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved measurements of each contestant")
    parser.add_argument("--output", type=Path, help="write the rows here as JSON")
    return parser


# ---- Equality


def check_equal(outputs: dict[str, torch.Tensor], tolerance: float):
    """Exit unless all outputs equal the first of them within `tolerance` * (1 + the largest of its values)."""
    reference, *others = outputs
    expected = outputs[reference].double()
    limit = tolerance * (1 + expected.abs().max().item())
    for name in others:
        if outputs[name].shape != expected.shape:
            shapes = f"{tuple(outputs[name].shape)}, not {tuple(expected.shape)}"
            sys.exit(f"{name} returns another shape than {reference}: {shapes}.")
        difference = (outputs[name].double() - expected).abs().max().item()
        if not difference <= limit:  # so that NaN fails
            sys.exit(f"{name} returns other values than {reference}: off by {difference:.1e}, limit {limit:.1e}.")


# ---- Time


def seconds_of(call: Call, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def median_seconds(contestants: dict[str, Call], rounds: int, device: str) -> dict[str, float]:
    """Of each contestant; all run once in each round, so that what slows the machine down slows all of them."""
    for call in contestants.values():
        for _ in range(3 if device == "cuda" else 1):  # warm up: kernels are chosen and compiled, memory is mapped
            call()
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            times[name].append(seconds_of(call, device))
    return {name: statistics.median(values) for name, values in times.items()}


# ---- Work


def count_flops(make_call: Callable[..., Call], *args) -> int:
    """FLOPs (2 per multiply-add of matrix products) of the call that `make_call(*args)` returns.

    Both run on tensors without data, so any size is quick. torch counts nothing for the fused attention of CPUs, hence
    the backend made of matrix products. Count after the first real call: BEiT keeps an index from its first call.
    """
    saves_memory = mock.patch("svitt.modeling_svitt.is_training_on_cpu", return_value=False)  # by computing again
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH), saves_memory:
        call = make_call(*args)
        with FlopCounterMode(display=False) as counter:
            call()
    return counter.get_total_flops()


def matmul_ceiling(num_tokens: int, width: int, device: str, dtype: torch.dtype) -> tuple[Call, int]:
    """Matrix products of an MLP's size, (n, D) (D, 4D) and (n, 4D) (4D, D), to be timed among others; their FLOPs."""
    tokens = torch.randn(num_tokens, width, device=device, dtype=dtype)
    up, down = torch.randn(2, 4 * width * width, device=device, dtype=dtype)
    up, down = up.view(width, 4 * width), down.view(4 * width, width)
    return lambda: tokens @ up @ down, 16 * num_tokens * width**2


# ---- Memory


def in_fresh_process(function: Callable, *args):
    """`function(*args)`, computed by a new Python, which inherits nothing."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def peak_memory(make_call: Callable[..., Call], *args, device: str) -> int:
    """Bytes that the call `make_call(*args)` returns takes at its peak, beyond what was there before it ran.

    On a CPU it runs in a fresh process, as a process seldom hands back memory that it has used.
    """
    if device == "cuda":
        return bytes_of_call(make_call(*args), device)
    return in_fresh_process(_bytes_of_made_call, make_call, args)


def _bytes_of_made_call(make_call: Callable[..., Call], args: tuple) -> int:
    return bytes_of_call(make_call(*args), "cpu")


def bytes_of_call(call: Call, device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # Not `getrusage`: its peak cannot be reset, and a process inherits that of the one that started it.
    Path("/proc/self/clear_refs").write_text("5")
    before = _bytes_in_status("VmRSS")
    call()
    return _bytes_in_status("VmHWM") - before


def _bytes_in_status(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


# ---- Reports


def environment(args: argparse.Namespace) -> dict:
    """On what the figures of a run depend."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
    }


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return found[1] if found else platform.processor()


def report(args: argparse.Namespace, rows: list[dict]):
    """Print the rows, and write them to `--output`."""
    print(as_markdown(write(args, rows)), flush=True)


def write(args: argparse.Namespace, rows: list[dict]) -> dict:
    """Rows and what they depend on, also written to `--output`; long runs call it for each length, lest all be lost."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    results = {"environment": environment(args), "settings": settings, "rows": rows}
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(results, indent=2) + "\n")
    return results


def as_markdown(results: dict) -> str:
    """Versions and settings in one line, then the rows as a table."""
    depends_on = ", ".join(f"{name} {value}" for name, value in results["environment"].items())
    columns = list(dict.fromkeys(key for row in results["rows"] for key in row))
    headings = [heading(column) for column in columns]
    cells = [[cell(column, row.get(column)) for column in columns] for row in results["rows"]]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    rules = [f"{'-' * (width - 1)}:" if i else "-" * width for i, width in enumerate(widths)]
    return "\n".join([depends_on, "", *(_line(line, widths) for line in (headings, rules, *cells))])


def _line(cells: Iterable[str], widths: list[int]) -> str:
    padded = [
        text.rjust(width) if i else text.ljust(width) for i, (text, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def heading(column: str) -> str:
    """`forward_seconds` -> `forward ms`"""
    *words, last = column.split("_")
    return " ".join([*words, UNITS[last][0] if last in UNITS else last])


def cell(column: str, value) -> str:
    """Three digits at least; nothing where a row has no such value."""
    if value is None:
        return ""
    if isinstance(value, str) or column.split("_")[-1] not in (*UNITS, "ratio", "target"):
        return str(value)
    value *= UNITS.get(column.split("_")[-1], ("", 1))[1]
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(max(decimals, 0), 2)}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON that a benchmark wrote")
    for path in parser.parse_args().results:
        print(f"{as_markdown(json.loads(path.read_text()))}\n")


if __name__ == "__main__":
    main()

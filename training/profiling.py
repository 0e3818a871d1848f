# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""`PROFILE=1`: what a few updates spend their time on, as a trace that ui.perfetto.dev and Chrome show."""

import os
from pathlib import Path

import torch
from transformers import TrainerCallback


def is_asked_for() -> bool:
    return os.environ.get("PROFILE", "0") not in ("", "0")


class ProfileCallback(TrainerCallback):
    """Writes `trace_<process>.json` into the output folder, of the third update of a run to the fifth."""

    def on_train_begin(self, args, state, control, **kwargs):
        path = Path(args.output_dir) / f"trace_{args.process_index}.json"

        def write(profiler: torch.profiler.profile):
            profiler.export_chrome_trace(str(path))
            print(f"{path}: a trace of {len(profiler.events())} events, for ui.perfetto.dev", flush=True)

        few = torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1)
        self.profiler = torch.profiler.profile(schedule=few, on_trace_ready=write)
        self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.profiler.step()

    def on_train_end(self, args, state, control, **kwargs):
        self.profiler.stop()

# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""configs/: what Accelerate makes of each file, and the SLURM script beside stand-ins of SLURM's commands."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

CONFIGS = Path(__file__).parents[2] / "configs"
SLURM_COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then echo node7; echo node9; else echo "$@" >> "$JOURNAL"; fi',
    "srun": 'shift; SLURM_NODEID=1 exec "$@"',
    "accelerate": """trap 'echo saved >> "$JOURNAL"; exit 1' TERM
printf '%s\\n' "$@" > "$JOURNAL.arguments"
[ -z "${WAIT:-}" ] || { touch "$JOURNAL.started"; while true; do sleep 0.05; done; }""",
}


@pytest.mark.parametrize("config", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_configs_load_and_nothing_in_them_is_ignored(config):
    settings = yaml.safe_load((CONFIGS / config).read_text())
    loaded = load_config_from_file(str(CONFIGS / config)).to_dict()
    assert settings == {name: loaded[name] for name in settings}


def slurm_job(folder, **settings):
    """The script as node 1 of 2, up and running."""
    for name, body in SLURM_COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "JOURNAL": str(folder / "journal")}
    environment |= {"SLURM_JOB_NODELIST": "node[7,9]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    command = ["bash", str(CONFIGS / "slurm.sh"), "--dataset", "webvid", "--output_dir", "an out"]
    return subprocess.Popen(command, env=environment | {"SLURM_JOB_ID": "1234567"} | settings)


def test_slurm_launches_on_each_node(tmp_path):
    assert slurm_job(tmp_path).wait(timeout=30) == 0
    command, *typed = (tmp_path / "journal.arguments").read_text().splitlines()
    assert command == "launch" and not (tmp_path / "journal").exists()
    args = launch_command_parser().parse_args(typed)
    assert (args.num_machines, args.machine_rank, args.num_processes) == (2, 1, 8)
    assert (args.main_process_ip, args.main_process_port) == ("node7", 24567)
    assert args.config_file == "configs/ddp.yaml" and args.training_script == "run_pretraining.py"
    assert args.training_script_args[:2] == ["--resume_from_checkpoint", "latest"]
    assert args.training_script_args[2:] == ["--dataset", "webvid", "--output_dir", "an out"]


def test_slurm_job_that_runs_out_of_time_saves_and_queues_again(tmp_path):
    job = slurm_job(tmp_path, WAIT="yes")
    while not (tmp_path / "journal.started").exists():
        assert job.poll() is None
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 0
    assert (tmp_path / "journal").read_text().splitlines() == ["saved", "requeue 1234567"]


def test_slurm_job_that_fails_is_not_queued_again(tmp_path):
    job = slurm_job(tmp_path, SLURM_JOB_NODELIST="", SLURM_NNODES="no number")
    assert job.wait(timeout=30) != 0 and not (tmp_path / "journal").exists()

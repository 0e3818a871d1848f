# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""configs/: what Accelerate makes of each file, and the SLURM script beside stand-ins of SLURM's commands."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"
SLURM_COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then echo node7; echo node9; else echo "$@" >> "$JOURNAL"; fi',
    "srun": 'shift; SLURM_NODEID=1 exec "$@"',
    "accelerate": """trap 'echo saved >> "$JOURNAL"; exit 1' TERM
printf '%s\\n' "$@" > "$JOURNAL.arguments"
[ -z "${WAIT:-}" ] || { touch "$JOURNAL.started"; while true; do sleep 0.05; done; }""",
}


def launch_environment(config, monkeypatch):
    """What the launcher sets for a script, as an environment."""
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(CONFIGS / config), "run_pretraining.py"])
    args.nondefault = {"config_file"}  # `parse_args` of the command line tool notes what was typed
    args, *_ = _validate_launch_command(args)
    return args, prepare_multi_gpu_env(args)


@pytest.mark.parametrize("config", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_configs_load_and_nothing_in_them_is_ignored(config):
    settings = yaml.safe_load((CONFIGS / config).read_text())
    loaded = load_config_from_file(str(CONFIGS / config)).to_dict()
    assert settings == {name: loaded[name] for name in settings}


def test_data_parallel_on_one_machine(monkeypatch):
    args, environment = launch_environment("ddp.yaml", monkeypatch)
    assert args.multi_gpu and args.num_processes == 8
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"


# Two nodes at once, which take part in one run.
TWO_NODES = """shift
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
trap 'kill -TERM "$first" "$second"' TERM
wait "$first" "$second" || true
wait"""
RUN = """
import os, signal, sys, time
from accelerate import PartialState
state = PartialState(cpu=True)
def save(*_):
    open(f"{os.environ['JOURNAL']}.{state.process_index}", "w").write(f"of {state.num_processes} {sys.argv[1:]}")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
state.wait_for_everyone()
if state.is_main_process:
    open(os.environ["JOURNAL"] + ".started", "w").close()
time.sleep(120)
"""


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


def test_slurm_nodes_find_each_other_and_save(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SLURM_COMMANDS, "scontrol", SLURM_COMMANDS["scontrol"].replace("node7", "127.0.0.1"))
    monkeypatch.setitem(SLURM_COMMANDS, "srun", TWO_NODES)
    monkeypatch.setitem(
        SLURM_COMMANDS, "accelerate", f'exec "{sys.executable}" -m accelerate.commands.accelerate_cli "$@"'
    )
    (tmp_path / "run_pretraining.py").write_text(RUN)
    job = slurm_job(tmp_path, SLURM_GPUS_ON_NODE="1", CONFIG=str(CONFIGS / "cpu_2_processes.yaml"))
    while not (tmp_path / "journal.started").exists():
        assert job.poll() is None
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 0
    arguments = ["--resume_from_checkpoint", "latest", "--dataset", "webvid", "--output_dir", "an out"]
    assert [(tmp_path / f"journal.{rank}").read_text() for rank in range(2)] == [f"of 2 {arguments}"] * 2
    assert (tmp_path / "journal").read_text() == "requeue 1234567\n"

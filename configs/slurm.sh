#!/bin/bash
# sbatch configs/slurm.sh --dataset webvid --data_dir data --output_dir out
# Pre-training on several nodes. Before the time is up the run saves its state, and the job queues again to continue.
#SBATCH --job-name=svitt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1 # a launcher, which starts a process for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120 # to this shell, two minutes before the end
#SBATCH --requeue # also when a node fails or the job is preempted
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

config=${CONFIG:-configs/ddp.yaml}
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)

save_and_queue_again() {
    kill -TERM "$step" # srun passes it on to the launchers, and these to the run, which saves within 30 seconds
    wait "$step" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap save_and_queue_again TERM

# Each node fills in its own $SLURM_NODEID, hence the inner shell.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' launch \
    --config_file "$config" \
    --num_machines "$SLURM_NNODES" \
    --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
    --main_process_ip "$head_node" \
    --main_process_port "$((20000 + SLURM_JOB_ID % 10000))" \
    run_pretraining.py --resume_from_checkpoint latest "$@" &
step=$!
wait "$step"

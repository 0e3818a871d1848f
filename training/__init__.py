"""Training: what a run starts from, the trainer, its schedule, checkpoints and model card."""

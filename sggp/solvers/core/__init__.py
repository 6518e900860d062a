"""What every solver stands on: the checked problem, the driver and its bookkeeping, checkpoints, the `Solution`."""

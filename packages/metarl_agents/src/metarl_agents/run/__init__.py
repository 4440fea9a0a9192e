"""Training runs: parts, directory, checkpoints, progress, evaluation and curves."""

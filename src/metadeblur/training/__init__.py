"""Training: what the commands `train ...` run."""

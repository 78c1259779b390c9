"""Training: the loop, deblurrers, the reblurrer, meta-training."""

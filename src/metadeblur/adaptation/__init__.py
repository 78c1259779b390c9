"""Adaptation: a copy of a deblurrer fits itself to one blurred clip, without ground truth."""

"""Frames restored by a deblurrer, fused with their neighbours, corrected by the blurred ones."""

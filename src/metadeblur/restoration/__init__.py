"""Frames restored by a deblurrer, fused with their neighbours, and corrected by the blurred ones."""

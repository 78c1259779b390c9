"""Frames restored by a deblurrer, fused with their neighbours, corrected by the blurred ones."""

from metadeblur.exports import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    back_projection="BackProjectionSettings back_project",
    clips="restore restore_frames restore_pairs",
    fusion="fuse_frames fuse_pairs",
    prefetching="BackgroundWriter pays prefetch",
    restorer="RestoreSettings Restorer whole_frames",
    windows="windows",
)

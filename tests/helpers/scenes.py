"""A scene that moves, blurred and sharp."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from metadeblur.clip import Clip
from metadeblur.imaging.linear_light import to_display, to_linear


def scene(frames=8, speed=6, height=96, width=128, *, quiet=True):
    """A pan over blobs, blurred by 7 moments in linear light; where ``quiet``, even frames are sharp."""
    noise = np.random.default_rng(1).random((height + 20, width + frames * speed + 40, 3)).astype(np.float32)
    wide = cv2.GaussianBlur(noise, (0, 0), 2.5)
    wide = (wide - wide.min()) / (wide.max() - wide.min())
    sharp, blurred = [], []
    for index in range(frames):
        moments = [wide[10 : 10 + height, index * speed + k : index * speed + k + width] for k in range(7)]
        light = np.mean([to_linear(torch.from_numpy(moment)).numpy() for moment in moments], axis=0)
        sharp.append(moments[3])
        blurred.append(moments[3] if quiet and index % 2 == 0 else to_display(torch.from_numpy(light)).numpy())
    return [Clip(torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2).contiguous()) for side in (blurred, sharp)]

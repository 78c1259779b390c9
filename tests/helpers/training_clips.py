"""Paired clips on disk to train the reblurrer on."""

from __future__ import annotations

import cv2
import numpy as np


def write_clip(folder, seed, count=6, size=(48, 64)):
    """A texture that pans by 4 px a frame, and the mean of it over one frame interval."""
    coarse = np.random.default_rng(seed).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    texture = cv2.resize(coarse, (160, 80), interpolation=cv2.INTER_NEAREST)
    height, width = size
    for index in range(count):
        left = 4 * index + 8
        sharp = texture[8 : 8 + height, left : left + width]
        blurred = np.mean([texture[8 : 8 + height, left + k : left + k + width] for k in range(-2, 3)], axis=0)
        for side, picture in (("sharp", sharp), ("blur", blurred.astype(np.uint8))):
            (folder / side).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / side / f"{index:06d}.png"), picture)

"""Paired clips on disk and a network to evaluate on them."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.restoration.restorer import RestoreSettings

ADAPTATION = AdaptSettings(pairs=2, steps=2, patch=48, batch=2, precision="fp32")


RESTORATION = RestoreSettings(tile=0, precision="fp32", device="cpu")


class Small(nn.Module):
    """Sharpens a little, and can learn."""

    multiple = 8

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
        self.conv.weight.data = torch.tensor([[0, -0.1, 0], [-0.1, 0.4, -0.1], [0, -0.1, 0]]).expand(3, 1, 3, 3).clone()

    def forward(self, x):
        assert x.shape[-1] % 8 == 0
        return x + self.conv(x)


def write_clip(folder, speed, frames=6, height=64, width=96):
    coarse = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    texture = cv2.resize(coarse, (200, 120), interpolation=cv2.INTER_CUBIC)
    for index in range(frames):
        left = index * speed
        moments = [texture[10 : 10 + height, left + k : left + k + width] for k in range(speed if index % 2 else 1)]
        for side, frame in (("blur", np.mean(moments, axis=0)), ("sharp", moments[len(moments) // 2])):
            (folder / side).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / side / f"{index:03d}.png"), frame.astype(np.uint8))

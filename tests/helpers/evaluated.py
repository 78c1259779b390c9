"""Paired clips on disk and a network to evaluate on them."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.evaluation.records import ClipRecord, Means, MethodSummary, Summary
from metadeblur.restoration.restorer import RestoreSettings

ADAPTATION = AdaptSettings(pairs=2, steps=2, patch=48, batch=2, precision="fp32")


RESTORATION = RestoreSettings(tile=0, precision="fp32", device="cpu")


COLUMNS = {"psnr": {}, "ssim": {}, "flicker": {}, "self_shift": {}}
MEANS = COLUMNS | {"over_frames": {}, "intervals": {}, "effect": None, "seconds": {}, "peak_memory_mb": None}


def clip_record(**values):
    """A clip's record that holds nothing but what is given."""
    rest = {"clip": "goat", "frames": 6, "aligned": {}, "per_frame": {}, "seconds": {}, "share": 0.0, "focus": None}
    rest |= {"peak_memory_mb": None, "gpu_peak_memory_mb": None, "adaptation": None, "conditions": {}, "input": ""}
    return ClipRecord(**(COLUMNS | rest | values))


def method_summary(**values):
    """A method's summary that holds nothing but what is given."""
    return MethodSummary(**(COLUMNS | {"effect": None, "unguarded": None, "share": 0.0, "seconds": 0.0} | values))


def means(kind=Means, **values):
    """Means over clips that hold nothing but what is given."""
    return kind(**(MEANS | values))


def summary_of(**values):
    """A summary that holds nothing but what is given."""
    rest = {"clips": ("goat",), "frames": 6, "layout": "plain", "notes": (), "conditions": {}}
    return means(Summary, **(rest | {"versions": {}, "machine": {}} | values))


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

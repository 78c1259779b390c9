"""Whether a restored frame is sharper than the blurred one: without truth, and not fooled by noise or ringing."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from metadeblur.guard.blurriness import grey_picture, lowest_ratio, noise_variance, structure_tensors
from metadeblur.imaging.quality import ringing
from metadeblur.imaging.sharpness import self_shift_score

# Set on five clips of 16 frames with their truth. Of frames that are blurred, the base model sharpens 20 to 90 % of the
# patches; noise of 6 levels changes up to 20 % of them and raises the noise by 1.6 levels or more; true sharp frames
# ring up to 1.2 levels but for the worst, those under a strong unsharp mask from 1.5 on.
_DETAIL = 0.15  # log2 of fine to coarse gradient energy by which a patch's detail must rise to count
_PATCHES = 0.1  # share of the patches with texture that must gain, less those that lose
_NOISE = 1.0 / 255  # rise of the noise up to which detail is told from it
_RINGING = 1.2  # levels of 255


def is_sharper(restored: Tensor, blurred: Tensor) -> bool:
    """Whether a frame shows clearly more true detail than before.

    Detail must rise in the direction in which each patch is blurred most, noise taken off
    (:mod:`metadeblur.guard.blurriness`), and the self-shift score must fall; more noise, or overshoot beside edges,
    counts as no gain.

    Args:
        restored: (3, H, W) RGB in [0, 1].
        blurred: likewise.

    >>> import torch
    >>> frame = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    >>> blurred = torch.nn.functional.avg_pool2d(frame, (1, 7), 1, (0, 3))
    >>> is_sharper(blurred, blurred)
    False
    """
    now, before = grey_picture(restored), grey_picture(blurred)
    if min(now.shape) < 64:
        return False
    fine, coarse, _ = structure_tensors(now)
    fine_before, coarse_before, textured = structure_tensors(before)
    if not textured.any():
        return False
    rise = np.sqrt(noise_variance(now)) - np.sqrt(noise_variance(before))
    gains = lowest_ratio(fine[textured], coarse[textured])
    gains -= lowest_ratio(fine_before[textured], coarse_before[textured])
    return bool(
        rise <= _NOISE
        and np.mean(gains > _DETAIL) - np.mean(gains < -_DETAIL) >= _PATCHES
        and float(self_shift_score(restored)) < float(self_shift_score(blurred))
        and float(ringing(restored, blurred)) <= _RINGING
    )

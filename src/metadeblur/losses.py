"""Training losses, pure functions of (output, target), both (B, 3, H, W) in about [0, 1]; each returns a scalar."""

from __future__ import annotations

import torch
from torch import Tensor


def charbonnier(output: Tensor, target: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of sqrt(d^2 + eps^2): L1 that is smooth near zero (Lai et al., CVPR 2017, eq. 3).

    >>> round(charbonnier(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)).item(), 4)
    0.5
    """
    return torch.sqrt((output - target).square() + eps * eps).mean()


def psnr_loss(output: Tensor, target: Tensor, floor: float = 3e-5) -> Tensor:
    """Minus PSNR / 10, mean over the images of the batch: log10 of the mean squared error above a ``floor``.

    Every picture counts by the share of its error that goes, not by how blurred it is; the floor (45 dB) keeps pictures
    that are sharp already from outweighing the rest.

    >>> round(psnr_loss(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1)).item(), 3)
    -1.999
    """
    error = (output - target).square().flatten(1).mean(1)
    return torch.log10(error + floor).mean()


def balanced(output: Tensor, target: Tensor) -> Tensor:
    """Charbonnier plus 0.02 of the PSNR loss: strong blur leads, and pictures that are nearly sharp are not spoilt.

    >>> near, far = (balanced(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), d)).item() for d in (0.01, 0.1))
    >>> round(near, 3), round(far, 3)
    (-0.068, 0.06)
    """
    return charbonnier(output, target) + 0.02 * psnr_loss(output, target)

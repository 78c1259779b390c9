"""How noisy a clip is, from its flat places, as a 3x3 covariance of the colour channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

# Immerkaer, "Fast Noise Variance Estimation" (CVIU 1996): blind to planes; divided by its own norm (6).
_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
_BLOCK = 16  # px
_FLATTEST = 0.05  # share of the blocks that is looked at
_DARKEST, _BRIGHTEST = 0.05, 0.95  # clipped places show less noise than there is


def estimate_noise(frames: Iterable[Tensor]) -> Array:
    """Covariance of the noise of display values between the colour channels, (3, 3) float64.

    The flattest blocks are chosen on a picture reduced by four, where noise hardly shows, so that the choice does
    not favour blocks with little noise. Noise that is smooth (strong compression) is not seen: the figure is low.

    Args:
        frames: (3, H, W), display values in [0, 1]; a handful is enough.

    >>> noise = 0.02 * torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(0))
    >>> [round(float(x), 2) for x in np.sqrt(np.diag(estimate_noise([0.5 + noise])))]
    [0.02, 0.02, 0.02]
    """
    covariances = []
    for frame in frames:
        picture = frame.permute(1, 2, 0).contiguous().numpy()
        rows, columns = picture.shape[0] // _BLOCK, picture.shape[1] // _BLOCK
        if rows == 0 or columns == 0:
            continue
        picture = picture[: rows * _BLOCK, : columns * _BLOCK]
        fine = cv2.filter2D(picture, -1, _MASK, borderType=cv2.BORDER_REFLECT_101)
        # The border of a filtered block sees its neighbours; inside is enough.
        blocks = fine.reshape(rows, _BLOCK, columns, _BLOCK, 3).transpose(0, 2, 1, 3, 4)[:, :, 1:-1, 1:-1]
        samples = blocks.reshape(rows * columns, -1, 3).astype(np.float64)
        coarse = cv2.resize(picture, (columns * 4, rows * 4), interpolation=cv2.INTER_AREA)
        cells = coarse.reshape(rows, 4, columns, 4, 3).transpose(0, 2, 1, 3, 4).reshape(rows * columns, 16, 3)
        usable = ((cells > _DARKEST) & (cells < _BRIGHTEST)).all((1, 2))
        if usable.any():
            spread = np.where(usable, cells.std(1).sum(-1), np.inf)
            flattest = np.argsort(spread, kind="stable")[: max(4, round(_FLATTEST * len(spread)))]
            chosen = samples[flattest[np.isfinite(spread[flattest])]]
            covariances.append(np.einsum("bni,bnj->bij", chosen, chosen) / chosen.shape[1])
    if not covariances:
        return np.zeros((3, 3))
    values, vectors = np.linalg.eigh(np.median(np.concatenate(covariances), axis=0))
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def draw_noise(covariance: Array, height: int, width: int, generator: torch.Generator) -> Tensor:
    """White noise with the given covariance between its channels, (3, height, width) float32."""
    values, vectors = np.linalg.eigh(covariance)
    colour = torch.from_numpy(vectors * np.sqrt(np.maximum(values, 0))).float()
    white = torch.randn(3, height * width, generator=generator)
    return (colour @ white).view(3, height, width)

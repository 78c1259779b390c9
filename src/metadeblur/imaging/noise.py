"""How noisy a clip is, from its flat places, as a 3x3 covariance of the colour channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.imaging.primitives import area_planes, array, filtered, on_opencv

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
        rows, columns = frame.shape[-2] // _BLOCK, frame.shape[-1] // _BLOCK
        if rows and columns:
            whole = frame[:, : rows * _BLOCK, : columns * _BLOCK]
            found = _by_opencv(whole, rows, columns) if on_opencv(frame) else _by_torch(whole, rows, columns)
            covariances += [found] * (len(found) > 0)
    if not covariances:
        return np.zeros((3, 3))
    values, vectors = np.linalg.eigh(np.median(np.concatenate(covariances), axis=0))
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def _by_opencv(frame: Tensor, rows: int, columns: int) -> Array:
    """The covariances of the flattest blocks of a frame (3, H, W), (n, 3, 3); none where all is clipped."""
    picture = array(frame.permute(1, 2, 0).contiguous())
    fine = cv2.filter2D(picture, -1, _MASK, borderType=cv2.BORDER_REFLECT_101)
    # The border of a filtered block sees its neighbours; inside is enough.
    blocks = fine.reshape(rows, _BLOCK, columns, _BLOCK, 3).transpose(0, 2, 1, 3, 4)[:, :, 1:-1, 1:-1]
    samples = blocks.reshape(rows * columns, -1, 3).astype(np.float64)
    coarse = cv2.resize(picture, (columns * 4, rows * 4), interpolation=cv2.INTER_AREA)
    cells = coarse.reshape(rows, 4, columns, 4, 3).transpose(0, 2, 1, 3, 4).reshape(rows * columns, 16, 3)
    usable = ((cells > _DARKEST) & (cells < _BRIGHTEST)).all((1, 2))
    spread = np.where(usable, cells.std(1).sum(-1), np.inf)
    flattest = np.argsort(spread, kind="stable")[: max(4, round(_FLATTEST * len(spread)))]
    chosen = samples[flattest[np.isfinite(spread[flattest])]]
    return np.asarray(np.einsum("bni,bnj->bij", chosen, chosen) / chosen.shape[1])


def _by_torch(frame: Tensor, rows: int, columns: int) -> Array:
    """The same on the device of the frame; only the covariances leave it."""

    def in_blocks(planes: Tensor, side: int, edge: int) -> Tensor:
        inside = slice(edge, side - edge)
        blocks = planes.reshape(3, rows, side, columns, side)[:, :, inside, :, inside]
        return blocks.permute(1, 3, 2, 4, 0).reshape(rows * columns, -1, 3)

    curve = frame.new_tensor([1.0, -2.0, 1.0])
    samples = in_blocks(filtered(frame[None], curve / 6, curve, "reflect101"), _BLOCK, 1)
    cells = in_blocks(area_planes(frame[None], (rows * 4, columns * 4)), 4, 0)
    usable = ((cells > _DARKEST) & (cells < _BRIGHTEST)).flatten(1).all(1)
    spread = cells.std(1, correction=0).sum(-1).masked_fill(~usable, torch.inf)
    flattest = spread.argsort(stable=True)[: max(4, round(_FLATTEST * len(spread)))]
    chosen = samples[flattest]
    found = chosen.mT @ chosen / chosen.shape[1]
    return array(found.cpu().double())[array(spread[flattest].isfinite().cpu())]


def draw_noise(covariance: Array, height: int, width: int, generator: torch.Generator) -> Tensor:
    """White noise with the given covariance between its channels, (3, height, width) float32."""
    values, vectors = np.linalg.eigh(covariance)
    colour = torch.from_numpy(vectors * np.sqrt(np.maximum(values, 0))).float()
    white = torch.randn(3, height * width, generator=generator)
    return (colour @ white).view(3, height, width)

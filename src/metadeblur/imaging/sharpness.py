"""How blurred a patch is, without a sharp one to compare with: the self-shift score (paper, section 3.1).

A patch is compared with itself shifted by one pixel in four directions. Blur makes neighbouring pixels alike, so a
low score means sharp and a high one blurred, among patches of the same content. Only the region where the patch and
its shifted self overlap counts.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.primitives import array, finest, on_opencv

IDENTICAL_DB = 100.0
"""PSNR of two equal pictures by convention, and the highest value any score takes."""

# (rows, columns) by which one side of each comparison is moved: horizontal, vertical, diagonal, antidiagonal.
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))

Indices = npt.NDArray[np.int64]


def self_shift_score(patch: Tensor) -> Tensor:
    """Mean PSNR between a patch and itself shifted by one pixel in four directions (paper, section 3.1).

    Args:
        patch: (..., 3, H, W), RGB in [0, 1], at least 2x2 pixels; any number of leading dimensions, also none.

    Returns:
        (...), float64, dB, in main memory; low is sharp, high is blurred. A direction without difference counts 100 dB.

    Raises:
        MetadeblurError: not (..., 3, H, W) or smaller than 2x2 pixels.

    >>> import torch
    >>> stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(3, 8, 8)  # columns alternate: only "up" sees no change
    >>> self_shift_score(stripes).item()
    25.0
    >>> self_shift_score(torch.full((2, 3, 8, 8), 0.5)).tolist()
    [100.0, 100.0]
    """
    if patch.ndim < 3 or patch.shape[-3] != 3 or min(patch.shape[-2:]) < 2:
        raise MetadeblurError(
            f"a self-shift score needs a patch (..., 3, H, W) of 2x2 or more, not {tuple(patch.shape)}"
        )
    with torch.no_grad():
        overlaps = (_overlap(patch.float(), down, right) for down, right in _SHIFTS)
        errors = [(one - other).to(finest(one.device)).square().mean((-3, -2, -1)) for one, other in overlaps]
        return _decibel(torch.stack(errors)).mean(0).cpu().double()


def score_places(frames: Iterable[Tensor], tops: Tensor, lefts: Tensor, height: int, width: int) -> Tensor:
    """Self-shift scores of K co-located patches in every frame; each frame is asked for once.

    Integral images make 20 and 2,000 places cost nearly the same.

    Args:
        frames: T frames (3, H, W), RGB in [0, 1], all of one size; any iterable, a decoder too.
        tops: (K,), first row of each patch.
        lefts: (K,), first column of each patch.
        height: rows of every patch, at least 2.
        width: columns of every patch, at least 2.

    Returns:
        (T, K), float64, dB, in main memory: ``self_shift_score`` of each patch of each frame.

    Raises:
        MetadeblurError: a patch smaller than 2x2 or reaching over the frame, or frames of different sizes.

    >>> import torch
    >>> frames = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    >>> scores = score_places(frames, torch.tensor([0, 4]), torch.tensor([0, 9]), 16, 16)
    >>> bool((scores[1, 1] - self_shift_score(frames[1, :, 4:20, 9:25])).abs() < 1e-4)
    True
    """
    if height < 2 or width < 2:
        raise MetadeblurError(f"patches of {width}x{height} pixels have no shifted self; use 2x2 or more")
    rows, columns = (array(start.cpu()).astype(np.int64) for start in (tops, lefts))
    size: tuple[int, ...] | None = None
    scores: list[Tensor] = []
    for frame in frames:
        if size is None:
            size = tuple(frame.shape)
            _check_inside(rows, columns, height, width, size)
        elif size != tuple(frame.shape):
            raise MetadeblurError(
                f"frame {len(scores)} is {tuple(frame.shape)} where frame 0 is {size}; sizes must agree"
            )
        scores.append(score_frame(frame, rows, columns, height, width))
    return torch.stack(scores).cpu().double() if scores else torch.zeros(0, len(rows), dtype=torch.float64)


def self_shift_map(frame: Tensor, patch: int, stride: int) -> Tensor:
    """Self-shift scores of one frame on a regular grid of square patches.

    Args:
        frame: (3, H, W), RGB in [0, 1].
        patch: side of the patches in pixels, at least 2 and at most the frame's smaller side.
        stride: pixels from one patch to the next.

    Returns:
        (rows, cols), float64, dB, with rows = (H - patch) // stride + 1 and cols likewise.

    Raises:
        MetadeblurError: the patch does not fit the frame or the stride is below 1.

    >>> import torch
    >>> self_shift_map(torch.zeros(3, 40, 64), patch=16, stride=8).shape
    torch.Size([4, 7])
    """
    height, width = int(frame.shape[-2]), int(frame.shape[-1])
    if stride < 1 or not 2 <= patch <= min(height, width):
        raise MetadeblurError(
            f"patches of {patch} px every {stride} px do not fit a frame of {width}x{height}; "
            f"use a patch of 2 to {min(height, width)} and a stride of 1 or more"
        )
    tops, lefts = torch.arange(0, height - patch + 1, stride), torch.arange(0, width - patch + 1, stride)
    grid_tops, grid_lefts = torch.meshgrid(tops, lefts, indexing="ij")
    scores = score_places([frame], grid_tops.flatten(), grid_lefts.flatten(), patch, patch)
    return scores.reshape(len(tops), len(lefts))


def score_frame(frame: Tensor, tops: Indices, lefts: Indices, height: int, width: int, *, shift: int = 1) -> Tensor:
    """Scores (K,) of K patches of one frame, dB, where it is: what :func:`score_places` does for each frame.

    The patches lie inside the frame and are larger than ``shift``, the pixels by which they are moved: 1 is the
    self-shift score, more sees coarser structure.
    """
    frame = frame.detach().float().contiguous()
    errors = []
    for down, right in _SHIFTS:
        rows, columns = height - shift * down, width - shift * abs(right)
        sums = box_sums(_squared_difference(frame, shift * down, shift * right), tops, lefts, rows, columns)
        errors.append(sums / (3 * rows * columns))
    return _decibel(torch.stack(errors)).mean(0)


def box_sums(values: Tensor, tops: Indices, lefts: Indices, height: int, width: int) -> Tensor:
    """Sums (K,) over K rectangles of one size of values (H, W), where these are; on the processor float64.

    >>> box_sums(torch.ones(6, 6), np.array([0, 1]), np.array([0, 2]), 3, 4).tolist()
    [12.0, 12.0]
    """
    if not on_opencv(values):
        # Two products of matrices: sums over thousands of rectangles that lose nothing in float32, as an integral does.
        rows, columns = (
            _within(starts, size, whole, values)
            for starts, size, whole in ((tops, height, values.shape[0]), (lefts, width, values.shape[1]))
        )
        return ((rows @ values) * columns).sum(1)
    integral = cv2.integral(array(values), sdepth=cv2.CV_64F)
    bottoms, rights = tops + height, lefts + width
    sums = integral[bottoms, rights] - integral[tops, rights] - integral[bottoms, lefts] + integral[tops, lefts]
    return torch.from_numpy(np.asarray(sums, dtype=np.float64))


def _within(starts: Indices, size: int, whole: int, like: Tensor) -> Tensor:
    """1 for each of ``whole`` places that lies in one of K stretches of a size, else 0: (K, whole)."""
    first = torch.from_numpy(starts).to(like.device)[:, None]
    places = torch.arange(whole, device=like.device)
    return ((places >= first) & (places < first + size)).to(like)


def _squared_difference(frame: Tensor, down: int, right: int) -> Tensor:
    """Squared difference (H - down, W - abs(right)), over the channels, of a frame (C, H, W) and itself shifted.

    >>> import torch
    >>> _squared_difference(torch.tensor([[[0.0, 1.0, 3.0]]]), 0, 1)
    tensor([[1., 4.]])
    """
    one, other = _overlap(frame, down, right)
    difference = one[0] - other[0]
    total = difference * difference
    for channel in range(1, len(one)):
        torch.sub(one[channel], other[channel], out=difference)
        total.addcmul_(difference, difference)
    return total


def _overlap(frame: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """The parts (..., H - down, W - abs(right)) of a frame that lie on each other when one is shifted."""
    height, width = frame.shape[-2:]
    one = frame[..., down:, max(right, 0) : width + min(right, 0)]
    other = frame[..., : height - down, max(-right, 0) : width - max(right, 0)]
    return one, other


def _decibel(squared_error: Tensor) -> Tensor:
    """PSNR in dB for a peak of 1; the floor keeps equal patches at 100 dB, rounding of the sums included."""
    return -10 * squared_error.clamp_min(10 ** (-IDENTICAL_DB / 10)).log10()


def _check_inside(tops: Indices, lefts: Indices, height: int, width: int, size: tuple[int, ...]) -> None:
    """Refuses frames that are not (3, H, W) and patches that reach over them."""
    if len(size) != 3 or size[0] != 3:
        raise MetadeblurError(f"scores need frames (3, H, W), not {size}")
    outside = (tops < 0) | (lefts < 0) | (tops + height > size[1]) | (lefts + width > size[2])
    if outside.any():
        first = int(outside.argmax())
        raise MetadeblurError(
            f"the {width}x{height} patch at row {tops[first]}, column {lefts[first]} reaches over the frame of "
            f"{size[2]}x{size[1]}; tops may be 0 to {size[1] - height}, lefts 0 to {size[2] - width}"
        )

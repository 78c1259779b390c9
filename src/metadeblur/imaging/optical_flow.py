"""Dense optical flow between frames (DIS, as in OpenCV), and pictures read where a flow leads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Flow: TypeAlias = Callable[[Array, Array], Array]

FAST: int = cv2.DISOPTICAL_FLOW_PRESET_FAST
MEDIUM: int = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM

# OpenCV's DIS flow reads outside its image pyramid on small or very elongated pictures: these bounds keep it safe.
_SMALLEST_SIDE = 48
_LONGEST_TO_SHORTEST = 3
_TRUSTED = 4.0  # px of difference between the flows there and back up to which the first is trusted fully


def dense_flow(source: Array, target: Array, preset: int = FAST) -> Array:
    """Where each pixel of ``source`` lies in ``target``: (h, w, 2) float32 displacements, x then y, in pixels.

    Kroeger et al., "Fast Optical Flow using Dense Inverse Search" (ECCV 2016), as in OpenCV. A picture too small
    or too elongated for it is continued at its borders.

    Args:
        source: (h, w) uint8.
        target: (h, w) uint8.
        preset: ``FAST`` or ``MEDIUM``.
    """
    height, width = source.shape
    below = max(_SMALLEST_SIDE, -(-width // _LONGEST_TO_SHORTEST)) - height
    right = max(_SMALLEST_SIDE, -(-height // _LONGEST_TO_SHORTEST)) - width
    if below > 0 or right > 0:
        source, target = (
            cv2.copyMakeBorder(picture, 0, max(0, below), 0, max(0, right), cv2.BORDER_REFLECT)
            for picture in (source, target)
        )
    algorithm: Any = cv2.DISOpticalFlow.create(preset)
    flow = algorithm.calc(source, target, None)
    return np.ascontiguousarray(flow[:height, :width], dtype=np.float32)


def positions(flow: Array, left: int = 0, top: int = 0) -> tuple[Array, Array]:
    """Where a flow (h, w, 2) leads the pixels of a picture, or of its part that begins at (left, top): x, y (h, w)."""
    rows, columns = np.indices(flow.shape[:2], dtype=np.float32)
    return (columns + np.float32(left)) + flow[..., 0], (rows + np.float32(top)) + flow[..., 1]


def warp(
    picture: Array,
    flow: Array,
    interpolation: int = cv2.INTER_LINEAR,
    border: int = cv2.BORDER_REPLICATE,
    *,
    outside: float = 0.0,
    left: int = 0,
    top: int = 0,
) -> Array:
    """A picture read at each pixel's place plus its flow.

    Args:
        picture: (H, W) or (H, W, C).
        flow: (h, w, 2) float32, px, x then y.
        interpolation: of OpenCV.
        border: what lies outside the picture, of OpenCV.
        outside: value there, with ``cv2.BORDER_CONSTANT``.
        left: where in the picture the part begins that the flow is of, px.
        top: likewise.

    Returns:
        (h, w) or (h, w, C), the picture's dtype.

    >>> warp(np.arange(4, dtype=np.float32)[None], np.ones((1, 4, 2), np.float32) * (1, 0)).tolist()
    [[1.0, 2.0, 3.0, 3.0]]
    """
    x, y = positions(np.asarray(flow, np.float32), left, top)
    return np.asarray(cv2.remap(picture, x, y, interpolation, borderMode=border, borderValue=(outside,) * 4))


def grey(frame: Tensor, pixels: int) -> Array:
    """A frame (3, H, W) in [0, 1] as 8-bit grey (h, w), reduced to about so many pixels where it has more."""
    picture = (frame.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    dark = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    height, width = dark.shape
    scale = min(1.0, (pixels / (height * width)) ** 0.5)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(dark, size, interpolation=cv2.INTER_AREA), np.uint8).reshape(size[1], size[0])


def window_flows(window: Tensor, pixels: int = 256_000, flow: Flow = dense_flow) -> Tensor:
    """Where the pixels of a window's centre lie in each of the other frames, and how far that is to be trusted.

    Args:
        window: (N, 3, H, W), RGB in [0, 1], N odd, oldest first. A frame that equals the centre, as at the ends of a
            clip, says nothing: its flow is zero.
        pixels: the flow is computed on pictures reduced to about this many pixels.
        flow: what computes it.

    Returns:
        (N - 1, 3, h, w) float32 on the CPU, at the reduced size; oldest first, without the centre. Channels: x, y in px
        of the frame; trust, see :func:`trust`.

    >>> torch.manual_seed(0); texture = torch.rand(3, 64, 64)
    <torch._C.Generator object at ...>
    >>> smooth = torch.nn.functional.avg_pool2d(texture, 5, 1, 2)
    >>> window = torch.stack([smooth.roll(2 * shift, -1) for shift in (-1, 0, 1)])
    >>> window_flows(window)[..., 16:48, 16:48].mean((2, 3)).abs().round().tolist()
    [[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]]
    """
    half = len(window) // 2
    pictures = [grey(frame, pixels) for frame in window]
    rows, columns = pictures[half].shape
    step = np.array([window.shape[-1] / columns, window.shape[-2] / rows], np.float32)
    still = np.dstack([np.zeros((rows, columns, 2), np.float32), np.ones((rows, columns), np.float32)])
    flows = []
    for number in range(len(window)):
        if number == half:
            continue
        if torch.equal(window[half], window[number]):
            flows.append(still)
            continue
        there = flow(pictures[half], pictures[number]) * step
        back = flow(pictures[number], pictures[half]) * step
        flows.append(np.dstack([there, trust(there, back, step)]))
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous()


def trust(there: Array, back: Array, step: Array) -> Array:
    """How far the flow there is borne out by the flow back: (h, w) float32, 1 (fully) to 0 (not at all).

    Where a thing is hidden in the other frame, or out of its view, the flow back leads elsewhere. Full up to 4 px of
    difference, none from 8 px on. Flows are (h, w, 2) in px of the frame; a pixel of theirs is ``step`` (2,) px wide
    and high.
    """
    x, y = positions(there / step)
    returned = cv2.remap(back, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    difference = np.hypot(*np.moveaxis(there + returned, -1, 0))
    seen = (x >= 0) & (y >= 0) & (x <= there.shape[1] - 1) & (y <= there.shape[0] - 1)
    return np.asarray(np.clip(2 - difference / _TRUSTED, 0, 1) * seen, np.float32)

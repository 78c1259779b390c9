"""Dense optical flow between frames, and pictures read where a flow leads.

On the processor it is DIS as in OpenCV; on any other device :mod:`metadeblur.imaging.torch_flow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.imaging.primitives import array, grey, on_opencv, places, remap, tensor
from metadeblur.imaging.torch_flow import torch_flow

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


def flows_between(pairs: Sequence[tuple[Tensor, Tensor]], flow: Flow = dense_flow) -> list[Tensor]:
    """The flow (h, w, 2) of each pair of pictures (h, w) uint8: on the processor one by one, elsewhere all at once.

    Args:
        pairs: source and target each, all of one size and on one device.
        flow: what computes it on the processor.
    """
    if not pairs or on_opencv(pairs[0][0]):
        return [tensor(flow(array(source), array(target))) for source, target in pairs]
    sources, targets = (torch.stack(side) for side in zip(*pairs, strict=True))
    return list(torch_flow(sources, targets))


def window_flows(window: Tensor, pixels: int = 256_000, flow: Flow = dense_flow) -> Tensor:
    """Where the pixels of a window's centre lie in each of the other frames, and how far that is to be trusted.

    Args:
        window: (N, 3, H, W), RGB in [0, 1], N odd, oldest first. A frame that equals the centre, as at the ends of a
            clip, says nothing: its flow is zero.
        pixels: the flow is computed on pictures reduced to about this many pixels.
        flow: what computes it on the processor.

    Returns:
        (N - 1, 3, h, w) float32 on the window's device, at the reduced size; oldest first, without the centre.
        Channels: x, y in px of the frame; trust, see :func:`trust`.

    >>> torch.manual_seed(0); texture = torch.rand(3, 64, 64)
    <torch._C.Generator object at ...>
    >>> smooth = torch.nn.functional.avg_pool2d(texture, 5, 1, 2)
    >>> window = torch.stack([smooth.roll(2 * shift, -1) for shift in (-1, 0, 1)])
    >>> window_flows(window)[..., 16:48, 16:48].mean((2, 3)).abs().round().tolist()
    [[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]]
    """
    window = window.detach()
    half = len(window) // 2
    others = [number for number in range(len(window)) if number != half]
    pictures = [grey(frame, pixels) for frame in window]
    rows, columns = pictures[half].shape
    step = pictures[half].new_tensor([window.shape[-1] / columns, window.shape[-2] / rows], dtype=torch.float32)
    still = torch.stack([torch.zeros_like(step[0]), torch.zeros_like(step[0]), torch.ones_like(step[0])])
    # Asking a device whether frames are equal would wait for it: there all flows are computed, and such are left out.
    ahead = on_opencv(window)
    moving = [number for number in others if not (ahead and torch.equal(window[half], window[number]))]
    pairs = [pair for number in moving for pair in ((half, number), (number, half))]
    found = iter(flows_between([(pictures[one], pictures[other]) for one, other in pairs], flow))
    flows = []
    for number in others:
        if number not in moving:
            flows.append(still.expand(rows, columns, 3))
            continue
        there, back = next(found) * step, next(found) * step
        told = torch.cat([there, trust(there, back, step)[..., None]], -1)
        flows.append(told if ahead else torch.where((window[half] == window[number]).all(), still, told))
    return torch.stack(flows).permute(0, 3, 1, 2).contiguous()


def trust(there: Tensor, back: Tensor, step: Tensor) -> Tensor:
    """How far the flow there is borne out by the flow back: (h, w) float32, 1 (fully) to 0 (not at all).

    Where a thing is hidden in the other frame, or out of its view, the flow back leads elsewhere. Full up to 4 px of
    difference, none from 8 px on. Flows are (h, w, 2) in px of the frame; a pixel of theirs is ``step`` (2,) px wide
    and high.
    """
    x, y = places(there / step)
    difference = torch.hypot(*(there + remap(back, x, y)).unbind(-1))
    seen = (x >= 0) & (y >= 0) & (x <= there.shape[1] - 1) & (y <= there.shape[0] - 1)
    return (2 - difference / _TRUSTED).clamp(0, 1) * seen

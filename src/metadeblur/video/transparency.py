"""Transparency: taken from decoded frames, kept out of what the network sees, and put back untouched."""

from __future__ import annotations

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from metadeblur.video.colour import plane_rows


def has_alpha(pix_fmt: str) -> bool:
    """Whether a pixel format can tell how transparent a pixel is.

    >>> has_alpha("yuva420p"), has_alpha("bgra"), has_alpha("yuv420p"), has_alpha("bgr0")
    (True, True, False, False)
    """
    return any(part.is_alpha for part in av.VideoFormat(pix_fmt).components)


def alpha_of(frame: av.VideoFrame) -> Tensor | None:
    """How opaque each pixel of a decoded frame is, (H, W), 0 to 1; None where its format cannot tell."""
    name = frame.format.name
    if not has_alpha(name):
        return None
    bits = next(part.bits for part in frame.format.components if part.is_alpha)
    if not (name.startswith(("yuva", "gbrap")) and name.endswith(("p", "le"))):
        frame = frame.reformat(format="gbrap" if bits <= 8 else "gbrap16le", interpolation="POINT")
        bits = 8 if bits <= 8 else 16
    samples = plane_rows(frame.planes[3], bits)[:, : frame.planes[3].width]
    opacity: Tensor = torch.from_numpy(samples.astype(np.float32)) / (2**bits - 1)
    return opacity


def is_transparent(frame: av.VideoFrame) -> bool:
    """Whether something of a decoded frame is not opaque."""
    alpha = alpha_of(frame)
    return alpha is not None and bool((alpha < 1).any())


def filled(rgb: Tensor, alpha: Tensor) -> Tensor:
    """A picture (3, H, W) whose hidden pixels have the colours of the visible ones around them.

    What lies under transparency, often black, would otherwise be drawn into what shows, as an edge of it.
    """
    seen = (alpha > 0).float()[None]
    if bool(seen.all()) or not bool(seen.any()):
        return rgb
    return torch.where(seen > 0, rgb, _spread(rgb * seen, seen))


def _spread(sums: Tensor, weight: Tensor) -> Tensor:
    """Sums (3, h, w) over known pixels, divided by their number (1, h, w); unknown ones are filled from around."""
    if bool((weight > 0).all()):
        return sums / weight
    height, width = weight.shape[-2:]
    pad = (0, width % 2, 0, height % 2)
    halves = [4 * functional.avg_pool2d(functional.pad(each[None], pad), 2)[0] for each in (sums, weight)]
    coarse = functional.interpolate(_spread(*halves)[None], scale_factor=2, mode="bilinear")[0, :, :height, :width]
    return torch.where(weight > 0, sums / weight.clamp(min=1e-6), coarse)


def put_back(restored: Tensor, stored: Tensor, alpha: Tensor) -> Tensor:
    """A restored picture (3, H, W) with the hidden pixels as they were.

    Where the source's colours are nowhere above its opacity they have been multiplied by it, and stay so.
    """
    if bool((stored <= alpha + 1 / 255).all()) and bool((alpha < 1).any()):
        restored = torch.minimum(restored, alpha.expand_as(restored))
    return torch.where(alpha > 0, restored, stored)


def spread_over(layer: Tensor, height: int, width: int) -> Tensor:
    """A layer (..., h, w) repeated to a frame's size: frames next to each other are multiples of it."""
    down, across = height // layer.shape[-2], width // layer.shape[-1]
    return layer.repeat(*(1 for _ in layer.shape[:-2]), down, across)


def with_alpha(frame: av.VideoFrame, pix_fmt: str, alpha: Tensor) -> av.VideoFrame:
    """A frame of planes with the colours of ``frame``, in the format ``pix_fmt`` that has transparency too.

    Args:
        frame: colours; ``pix_fmt`` without transparency.
        pix_fmt: yuva... or gbrap... of the same depth.
        alpha: (H, W), 0 to 1.
    """
    target = av.VideoFrame(frame.width, frame.height, pix_fmt)
    for before, after in zip(frame.planes, target.planes, strict=False):
        after_rows, before_rows = plane_rows(after), plane_rows(before)
        width = min(after_rows.shape[1], before_rows.shape[1])
        after_rows[:, :width] = before_rows[:, :width]
    bits = next(part.bits for part in target.format.components if part.is_alpha)
    samples = plane_rows(target.planes[3], bits)
    samples[:, : frame.width] = (alpha * (2**bits - 1)).round().numpy().astype(samples.dtype)
    return target

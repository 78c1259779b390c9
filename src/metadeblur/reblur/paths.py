"""Paths that pixels take while the shutter is open, and patches whose light is averaged along them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.linear_light import to_display, to_linear
from metadeblur.imaging.motion import ClipMotion, displacement, moments
from metadeblur.imaging.primitives import array, gaussian, lengths, median, on_opencv, remap, tensor
from metadeblur.types import Response

Array: TypeAlias = NDArray[Any]

_INTERPOLATION_MARGIN = 4  # px that cubic interpolation reads around a sample


@dataclass(frozen=True)
class Spot:
    """A blurred place whose motion blurs other patches: frame number, top left corner and side in px."""

    frame: int
    top: int
    left: int
    size: int


def paths(motion: ClipMotion, spot: Spot, size: int) -> tuple[Tensor, Tensor]:
    """Velocity and bend at a spot, each (size, size, 2) float32 in px of the full frame, where the clip is."""
    field_ = motion.field(spot.frame)
    offsets = (np.arange(size, dtype=np.float32) + 0.5) * (spot.size / size)
    height, width = motion.clip.height, motion.clip.width
    inside, at = [], []
    for start, whole, length in ((spot.top, height, motion.height), (spot.left, width, motion.width)):
        places = (start + offsets) / np.float32(whole / length) - 0.5
        # Of the field only what is read: a spot is a small part of it.
        first = min(max(int(places[0]) - 1, 0), length - 1)
        inside.append(slice(first, max(int(places[-1]) + 3, first + 1)))
        at.append(torch.from_numpy(places - np.float32(first)).to(motion.device))
    both = torch.cat([part[inside[0], inside[1]] for part in (field_.velocity, field_.bend)], -1).float()
    rows, columns = torch.meshgrid(*at, indexing="ij")
    read = remap(both, columns, rows)
    return read[..., :2].contiguous(), read[..., 2:].contiguous()


def blur_patch(
    frame: Tensor,
    top: int,
    left: int,
    velocity: Tensor | Array,
    bend: Tensor | Array,
    exposure: float,
    response: Response = "srgb",
    most_samples: int = 33,
    *,
    middle: float = 0.0,
) -> tuple[Tensor, float]:
    """Average the light of a frame along the paths of a patch's pixels.

    A pixel at p shows at time s what lies at p - (s * velocity + s^2 * bend) in the sharp frame, s within exposure/2
    of the ``middle``. Samples are a pixel apart, but for paths longer than ``most_samples``. Light from outside the
    patch comes from the frame; outside the frame its border is mirrored.

    Args:
        frame: (3, H, W) display values in [0, 1]; the work is done where it is.
        top: of the patch, px.
        left: of the patch, px.
        velocity: (h, w, 2) px a frame interval.
        bend: (h, w, 2) px a squared frame interval.
        exposure: frame intervals, 0 or more; 0 returns the patch as it is.
        response: how display values depend on light.
        most_samples: samples along a path at most.
        middle: of the exposure, in frame intervals from the frame's own time.

    Returns:
        The blurred patch (3, h, w) in [0, 1], and the mean length of the paths in px.

    Raises:
        MetadeblurError: the patch reaches over the frame.

    >>> bar = torch.zeros(3, 32, 32); bar[:, :, 16] = 1
    >>> velocity = np.zeros((16, 16, 2), np.float32); velocity[..., 0] = 8
    >>> patch, length = blur_patch(bar, 8, 8, velocity, np.zeros_like(velocity), 0.5, "linear")
    >>> [round(float(x), 2) for x in patch[0, 8, 4:13]], length
    ([0.0, 0.0, 0.12, 0.27, 0.25, 0.27, 0.12, 0.0, 0.0], 4.0)
    """
    velocity, bend = (tensor(part) if isinstance(part, np.ndarray) else part for part in (velocity, bend))
    velocity, bend = velocity.to(frame.device), bend.to(frame.device)
    height, width = velocity.shape[:2]
    frame_height, frame_width = frame.shape[-2:]
    if top < 0 or left < 0 or top + height > frame_height or left + width > frame_width:
        raise MetadeblurError(
            f"a patch of {width}x{height} at ({left}, {top}) reaches over the frame of {frame_width}x{frame_height}"
        )
    usual, most, mean, most_bend = _told(lengths(velocity), lengths(bend))
    longest = exposure * usual
    # A span of n pixels is n samples in the middle of its n parts; an odd number keeps the frame's own time.
    count = min(int(np.ceil(longest - 1e-3)) | 1, most_samples | 1)
    if longest <= 0 and middle == 0:
        return frame[:, top : top + height, left : left + width].clone(), 0.0
    times = moments(max(count, 3), exposure) + np.float32(middle)
    farthest = float(np.abs(times).max())
    reach = farthest * most + farthest**2 * most_bend
    margin = int(np.ceil(reach)) + _INTERPOLATION_MARGIN
    first_row, first_column = max(0, top - margin), max(0, left - margin)
    crop = frame[
        :,
        first_row : min(frame_height, top + height + margin),
        first_column : min(frame_width, left + width + margin),
    ]
    light = to_linear(crop, response).permute(1, 2, 0).contiguous()
    total = light.new_zeros(height, width, 3)
    rows = torch.arange(top - first_row, top - first_row + height, device=frame.device, dtype=torch.float32)[:, None]
    columns = torch.arange(left - first_column, left - first_column + width, device=frame.device, dtype=torch.float32)
    for time in times:
        x, y = displacement(velocity, bend, time).unbind(-1)
        total += remap(light, columns - x, rows - y, "cubic", "reflect")
    blurred = (total / len(times)).permute(2, 0, 1).contiguous()
    return to_display(blurred, response), exposure * mean


def _told(speed: Tensor, bend: Tensor) -> tuple[float, float, float, float]:
    """How fast nearly all pixels of a patch are, the fastest and the mean, and the largest bend: asked for at once."""
    if on_opencv(speed):
        plain = array(speed)
        return float(np.quantile(plain, 0.95)), float(plain.max()), float(plain.mean()), float(array(bend).max())
    figures = torch.stack([torch.quantile(speed.flatten(), 0.95), speed.max(), speed.mean(), bend.max()])
    return tuple(figures.tolist())


def mean_motion(velocity: Tensor) -> complex:
    """Median velocity as a complex number, x + iy."""
    return complex(median(velocity[..., 0]), median(velocity[..., 1]))


def turned(vectors: Tensor, by: complex) -> Tensor:
    """Vectors (h, w, 2) turned and stretched: multiplied as complex numbers."""
    x, y = vectors.unbind(-1)
    return torch.stack([x * by.real - y * by.imag, x * by.imag + y * by.real], -1)


def smoothed(vectors: Tensor, sigma: float) -> Tensor:
    """Vectors (h, w, 2) blurred by a Gaussian of ``sigma`` px, at least half a pixel."""
    return gaussian(vectors, max(sigma, 0.5), "replicate")

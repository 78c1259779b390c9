"""Display values to linear light and back: blur is a mean of light, not of the numbers in a file."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.types import Response

RESPONSES: tuple[Response, ...] = get_args(Response)

# IEC 61966-2-1: a straight piece near black, then a power of 2.4 with an offset.
_SRGB_KNEE_DISPLAY = 0.04045
_SRGB_KNEE_LINEAR = 0.0031308
_SRGB_SLOPE = 12.92
_SRGB_OFFSET = 0.055
_SRGB_POWER = 2.4


def to_linear(display: Tensor, response: Response = "srgb") -> Tensor:
    """Light, in [0, 1], behind display values.

    Args:
        display: values in [0, 1] of any shape; values outside are clamped.
        response: the curve; ``"srgb"`` is IEC 61966-2-1.

    Returns:
        A tensor of the same shape, in [0, 1].

    Raises:
        MetadeblurError: ``response`` is not known.

    >>> [round(float(x), 4) for x in to_linear(torch.tensor([0.0, 0.02, 0.5, 1.0]))]
    [0.0, 0.0015, 0.214, 1.0]
    """
    display = display.clamp(0, 1)
    if response == "linear":
        return display
    if response == "gamma22":
        return display**2.2
    if response == "srgb":
        power = ((display.clamp(min=_SRGB_KNEE_DISPLAY) + _SRGB_OFFSET) / (1 + _SRGB_OFFSET)) ** _SRGB_POWER
        return torch.where(display <= _SRGB_KNEE_DISPLAY, display / _SRGB_SLOPE, power)
    raise _unknown(response)


def to_display(linear: Tensor, response: Response = "srgb") -> Tensor:
    """Display values, in [0, 1], that show the given light: the inverse of :func:`to_linear`.

    Args:
        linear: light of any shape; values outside [0, 1] are clamped, as a sensor saturates.
        response: the curve.

    Returns:
        A tensor of the same shape, in [0, 1].

    Raises:
        MetadeblurError: ``response`` is not known.

    >>> [round(float(x), 4) for x in to_display(torch.tensor([0.0, 0.0015, 0.214, 1.0, 2.0]))]
    [0.0, 0.0194, 0.5, 1.0, 1.0]
    """
    linear = linear.clamp(0, 1)
    if response == "linear":
        return linear
    if response == "gamma22":
        # Away from zero, where the slope of the root is infinite and its gradient not a number.
        return linear.clamp(min=1e-8) ** (1 / 2.2) * (linear > 0)
    if response == "srgb":
        power = (1 + _SRGB_OFFSET) * linear.clamp(min=_SRGB_KNEE_LINEAR) ** (1 / _SRGB_POWER) - _SRGB_OFFSET
        return torch.where(linear <= _SRGB_KNEE_LINEAR, linear * _SRGB_SLOPE, power)
    raise _unknown(response)


def _unknown(response: object) -> MetadeblurError:
    return MetadeblurError(f"response {response!r} is not known; choose one of {', '.join(RESPONSES)}")

"""Measures of one restored frame: for each benchmark the rule that its papers use.

Three ways to take SSIM of a colour picture are in use, and their figures differ by hundredths: of luma, of each colour
(scikit-image), and of the whole RGB array as one volume (MATLAB's ``ssim``, whose 11x11x11 window runs over the
colours too, their border repeated). All figures are taken after rounding to 8 bits, on the frame without any padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.quality import aligned_psnr_ssim, psnr, ssim
from metadeblur.types import SsimKind

_RADIUS = 5  # of the Gaussian window of sigma 1.5
_SIGMA = 1.5
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """The pair of figures that a benchmark's papers print."""

    psnr: Literal["rgb", "aligned"]  # all three channels; aligned: brightness fitted, then a homography (RealBlur)
    ssim: SsimKind  # luma: BT.601; rgb: mean over colours; matlab: one volume; aligned: with RealBlur's alignment
    why: str  # whose rule it is

    def __call__(self, restored: Tensor, truth: Tensor) -> dict[str, float]:
        """PSNR in dB and SSIM of one frame (3, H, W) in [0, 1]; "aligned" says whether an alignment was found."""
        figures: dict[str, float] = {}
        if self.psnr == "aligned" or self.ssim == "aligned":
            aligned = aligned_psnr_ssim(restored, truth, round_to_8bit=True)
            figures = {"psnr": aligned.psnr, "ssim": aligned.ssim, "aligned": float(aligned.converged)}
        if self.psnr == "rgb":
            figures["psnr"] = float(psnr(restored, truth, round_to_8bit=True))
        if self.ssim != "aligned":
            figures["ssim"] = SSIMS[self.ssim](restored, truth)
        return figures

    def describe(self) -> str:
        """In one sentence, for records and reports."""
        psnr_words = {
            "rgb": "PSNR over RGB",
            "aligned": "PSNR over RGB after fitting brightness and aligning by a homography (ECC)",
        }[self.psnr]
        ssim_words = {
            "luma": "SSIM of BT.601 luma (11x11 Gaussian, valid area)",
            "rgb": "SSIM as the mean over R, G and B (11x11 Gaussian, valid area)",
            "matlab": "SSIM of the RGB volume as MATLAB takes it (11x11x11 Gaussian, border repeated)",
            "aligned": "SSIM over RGB of the aligned pair",
        }[self.ssim]
        return f"{psnr_words}, {ssim_words}, after rounding to 8 bits: {self.why}"


MEASURES: dict[str, Measure] = {
    "plain": Measure("rgb", "luma", "the paper that this program implements measures so"),
    "gopro": Measure("rgb", "matlab", "papers on GoPro since MPRNet measure with its MATLAB script"),
    "hide": Measure("rgb", "matlab", "papers on HIDE measure with MPRNet's MATLAB script"),
    "dvd": Measure("rgb", "matlab", "papers on DVD measure with MATLAB"),
    "reds": Measure("rgb", "rgb", "the authors of REDS measure with scikit-image"),
    "bsd": Measure("rgb", "rgb", "the authors of BSD measure with scikit-image"),
    "realblur": Measure("aligned", "aligned", "the authors of RealBlur measure so"),
}
"""The rule for each layout."""


def measure_for(layout: str, ssim_kind: str = "auto") -> Measure:
    """The rule of a layout, with another kind of SSIM where one is named.

    Raises:
        MetadeblurError: no such kind of SSIM.
    """
    measure = MEASURES[layout]
    if ssim_kind == "auto":
        return measure
    for kind in get_args(SsimKind):
        if kind == ssim_kind:
            return Measure("aligned" if kind == "aligned" else "rgb", kind, "asked for")
    raise MetadeblurError(f"ssim {ssim_kind!r} is not known; allowed: auto, {', '.join(get_args(SsimKind))}")


def ssim_rgb(restored: Tensor, truth: Tensor) -> float:
    """SSIM as the mean over R, G and B, 11x11 Gaussian of sigma 1.5, valid area, after rounding to 8 bits.

    What scikit-image's ``structural_similarity`` gives with Gaussian weights and without sample covariance.

    >>> picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> round(ssim_rgb(picture, picture), 6)
    1.0
    """
    one, other = _volumes(restored, truth)
    return float(_similarity(one, other, _blurred)[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS].mean())


def ssim_matlab(restored: Tensor, truth: Tensor) -> float:
    """SSIM as MATLAB's ``ssim`` takes it of an RGB picture: one volume (H, W, 3), after rounding to 8 bits.

    Its Gaussian window of sigma 1.5 has 11 samples along each of the three axes, colour too; borders are repeated and
    the mean is over all pixels.

    >>> picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> round(ssim_matlab(picture, picture), 6)
    1.0
    """
    mix = _colour_mix()

    def blur(values: _Array) -> _Array:
        return np.asarray(_blurred(values) @ mix)

    one, other = _volumes(restored, truth)
    return float(_similarity(one, other, blur).mean())


SSIMS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "luma": lambda restored, truth: float(ssim(restored, truth, round_to_8bit=True)),
    "rgb": ssim_rgb,
    "matlab": ssim_matlab,
}
"""SSIM of one frame (3, H, W) by its kind."""


def _volumes(restored: Tensor, truth: Tensor) -> tuple[_Array, _Array]:
    """Both pictures as (H, W, 3) in 8-bit levels."""
    if restored.shape != truth.shape or restored.ndim != 3 or min(restored.shape[1:]) < 2 * _RADIUS + 1:
        raise MetadeblurError(
            f"SSIM compares two pictures (3, H, W) of one size, 11x11 or more, not {tuple(restored.shape)} and "
            f"{tuple(truth.shape)}"
        )
    levels = [(picture.detach().cpu().float() * 255).clamp(0, 255).round() for picture in (restored, truth)]
    one, other = (np.ascontiguousarray(picture.permute(1, 2, 0).double().numpy()) for picture in levels)
    return one, other


def _similarity(one: _Array, other: _Array, blur: Callable[[_Array], _Array]) -> _Array:
    """The map of SSIM (H, W, 3) of two pictures in 8-bit levels (Wang et al. 2004, eq. 13)."""
    tiny, small = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_one, mean_other = blur(one), blur(other)
    variances = blur(one * one) - mean_one**2 + blur(other * other) - mean_other**2
    covariance = blur(one * other) - mean_one * mean_other
    means = mean_one**2 + mean_other**2
    top = (2 * mean_one * mean_other + tiny) * (2 * covariance + small)
    return np.asarray(top / ((means + tiny) * (variances + small)))


def _gaussian() -> _Array:
    """The 11 weights of the window, (11,)."""
    return np.asarray(cv2.getGaussianKernel(2 * _RADIUS + 1, _SIGMA)[:, 0])


def _blurred(values: _Array) -> _Array:
    """Each colour of (H, W, 3) averaged with the 11x11 window, border repeated."""
    weights = _gaussian()
    return np.asarray(cv2.sepFilter2D(values, cv2.CV_64F, weights, weights, borderType=cv2.BORDER_REPLICATE))


def _colour_mix() -> _Array:
    """How the window along the axis of colours mixes three values whose ends are repeated, (3, 3)."""
    mix = np.zeros((3, 3))
    for offset, weight in zip(range(-_RADIUS, _RADIUS + 1), _gaussian(), strict=True):
        for colour in range(3):
            mix[min(max(colour + offset, 0), 2), colour] += weight
    return mix


def to_8bit(frame: Tensor) -> Tensor:
    """A frame in [0, 1] as the bytes that a file would hold, uint8."""
    return (frame.detach().cpu().float() * 255).clamp(0, 255).round().to(torch.uint8)

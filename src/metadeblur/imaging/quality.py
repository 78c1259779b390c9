"""How good a picture is: against the truth (PSNR, SSIM, RealBlur's aligned pair) and without one (guard's figures).

All functions are pure. Pictures are tensors (..., 3, H, W), RGB in [0, 1]; figures come back as float64, one a
picture, in main memory. PSNR and the guard's figures are worked out where the pictures are, SSIM and RealBlur's pair in
main memory. "8-bit levels" are steps of 1/255.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metadeblur.clip import FrameSource
from metadeblur.errors import MetadeblurError
from metadeblur.imaging import optical_flow
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.optical_flow import flows_between
from metadeblur.imaging.primitives import (
    array,
    extremes,
    finest,
    gaussian,
    grey,
    places,
    power,
    remap,
    resize,
    total,
)
from metadeblur.imaging.sharpness import IDENTICAL_DB

FrameFlow = Callable[[Tensor, Tensor], Tensor]
"""Optical flow: two frames (3, H, W) to (2, H, W), the pixels (right, down) from the first to the second."""

_Picture = npt.NDArray[np.float64]

_SSIM_SIGMA = 1.5
_SSIM_RADIUS = 5
_GAMMA = 2.2


def psnr(restored: Tensor, truth: Tensor, *, round_to_8bit: bool = False) -> Tensor:
    """Peak signal-to-noise ratio over all three channels, for a peak of 1.

    Args:
        restored: (..., 3, H, W) in [0, 1].
        truth: the same shape.
        round_to_8bit: clamp both to [0, 1] and round to 8-bit levels first, as published tables do.

    Returns:
        (...), float64, dB; 100 where both are equal, and never more.

    Raises:
        MetadeblurError: the shapes differ or are not (..., 3, H, W).

    >>> import torch
    >>> round(psnr(torch.full((3, 8, 8), 0.6), torch.full((3, 8, 8), 0.5)).item(), 3)
    20.0
    """
    _check_alike(restored, truth)
    difference = _levels(restored, round_to_8bit) - _levels(truth.to(restored.device), round_to_8bit)
    squared_error = difference.square().mean((-3, -2, -1), dtype=finest(difference.device)).cpu().double() / 255**2
    return -10 * squared_error.clamp_min(10 ** (-IDENTICAL_DB / 10)).log10()


def ssim(restored: Tensor, truth: Tensor, *, round_to_8bit: bool = False) -> Tensor:
    """Structural similarity (Wang et al. 2004) on BT.601 luma, 11x11 Gaussian window of sigma 1.5, valid area only.

    Args:
        restored: (..., 3, H, W) in [0, 1], at least 11x11 pixels.
        truth: the same shape.
        round_to_8bit: clamp both to [0, 1] and round to 8-bit levels first, as published tables do; luma itself is
            not rounded.

    Returns:
        (...), float64, at most 1.

    Raises:
        MetadeblurError: the shapes differ, are not (..., 3, H, W) or are smaller than 11x11.

    >>> import torch
    >>> picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> round(ssim(picture, picture).item(), 6), ssim(picture, 1 - picture).item() < 0
    (1.0, True)
    """
    _check_alike(restored, truth)
    _check_ssim_size(restored)
    restored, truth = restored.cpu(), truth.cpu()
    pairs = zip(_each(_levels(restored, round_to_8bit)), _each(_levels(truth, round_to_8bit)), strict=True)
    means = [_valid(_ssim_map(_luma(one), _luma(other), 255.0)).mean() for one, other in pairs]
    return torch.tensor(means, dtype=torch.float64).reshape(restored.shape[:-3])


@dataclass(frozen=True)
class AlignedFigures:
    """RealBlur's figures of one picture."""

    psnr: float  # dB, over the pixels that the alignment covers
    ssim: float  # mean over RGB and the covered pixels
    converged: bool  # False: no alignment was found; the figures are of the unaligned pair
    warp: tuple[tuple[float, ...], ...]  # 3x3 homography from the truth's pixels to the restored picture's
    intensity_scale: float  # factor that the restored picture was multiplied with


def aligned_psnr_ssim(restored: Tensor, truth: Tensor, *, round_to_8bit: bool = False) -> AlignedFigures:
    """PSNR and SSIM as the RealBlur benchmark takes them: brightness fitted, then aligned by a homography.

    The restored picture is scaled by the least-squares factor, aligned to the truth (enhanced correlation coefficient,
    100 iterations, 5 px Gaussian), resampled cubically, and compared where it covers the truth. Where no alignment is
    found, the scaled picture is compared as it is, and ``converged`` says so.

    Args:
        restored: (3, H, W) in [0, 1], at least 11x11 pixels.
        truth: the same shape.
        round_to_8bit: clamp both to [0, 1] and round to 8-bit levels first.

    Raises:
        MetadeblurError: the shapes differ, or are not (3, H, W) of 11x11 or more.
    """
    _check_alike(restored, truth)
    _check_ssim_size(restored)
    if restored.ndim != 3:
        raise MetadeblurError(f"aligned figures are taken picture by picture, (3, H, W), not {tuple(restored.shape)}")
    sharp, picture = (array(_pixels(_levels(p.cpu(), round_to_8bit) / 255)) for p in (truth, restored))
    energy = float(np.square(picture, dtype=np.float64).sum())
    scale = float((sharp.astype(np.float64) * picture).sum()) / energy if energy > 0 else 1.0
    picture = picture * np.float32(scale)
    warp = _alignment(sharp, picture)
    homography = np.eye(3, dtype=np.float32) if warp is None else warp
    size = (sharp.shape[1], sharp.shape[0])
    inverse = cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(
        picture, homography, size, flags=cv2.INTER_CUBIC | inverse, borderMode=cv2.BORDER_REFLECT
    )
    covered = cv2.warpPerspective(np.ones(sharp.shape[:2], np.float32), homography, size, flags=inverse)
    covered = (covered > 0.5).astype(np.float64)[..., None]
    one, other = moved * covered, sharp * covered
    squared_error = float(np.square(one - other).sum() / (3 * covered.sum())) if covered.any() else 1.0
    similarity = np.stack([_ssim_map(one[..., c], other[..., c], 1.0) for c in range(3)], axis=-1)
    inside = _valid(covered)
    return AlignedFigures(
        psnr=min(IDENTICAL_DB, -10 * math.log10(max(squared_error, 1e-30))),
        ssim=float((_valid(similarity) * inside).sum() / max(3 * inside.sum(), 1.0)),
        converged=warp is not None,
        warp=tuple(tuple(float(value) for value in row) for row in homography),
        intensity_scale=scale,
    )


def colour_shift(restored: Tensor, blurred: Tensor) -> Tensor:
    """Low-frequency colour difference between a restored picture and its blurred input, in 8-bit levels.

    Blur keeps the mean of wide neighbourhoods in linear light. Both pictures are averaged in linear light by a Gaussian
    of sigma H / 8 and coded again; the figure is the root mean square of their difference. 0 for the input itself; on
    six clips at most 0.5 for true sharp frames (1.5 on one with very fast motion); about the number of levels for a
    uniform cast.

    Args:
        restored: (..., 3, H, W) in [0, 1].
        blurred: the same shape.

    Returns:
        (...), float64, 8-bit levels (0 to 255).

    Raises:
        MetadeblurError: the shapes differ or are not (..., 3, H, W).

    >>> import torch
    >>> round(colour_shift(torch.full((3, 32, 48), 0.5 + 2 / 255), torch.full((3, 32, 48), 0.5)).item(), 3)
    2.0
    """
    _check_alike(restored, blurred)
    pairs = zip(_each(restored), _each(blurred.to(restored.device)), strict=True)
    errors = [(_mean_colour(one) - _mean_colour(other)).square() for one, other in pairs]
    means = torch.stack([total(error) / error.numel() for error in errors])
    return means.cpu().double().sqrt().reshape(restored.shape[:-3])


def ringing(restored: Tensor, blurred: Tensor, *, radius: int = 15) -> Tensor:
    """Overshoot at strong edges, as ringing and over-sharpening make it, in 8-bit levels.

    How far restored pixels are brighter than the brightest, or darker than the darkest, blurred pixel around them. The
    mean is weighted by the squared contrast around, so that strong edges count and fine texture hardly does. 0 for
    the input itself; on six clips 0.1 to 1.4 for true sharp frames, from 1.5 on for these under an unsharp mask of
    sigma 1.5 px and amount 1, from 3.1 on with sigma 3.

    Args:
        restored: (..., 3, H, W) in [0, 1].
        blurred: the same shape.
        radius: reach of the neighbourhood in pixels; at least half the length of the blur.

    Returns:
        (...), float64, 8-bit levels (0 to 255).

    Raises:
        MetadeblurError: the shapes differ or are not (..., 3, H, W).
    """
    _check_alike(restored, blurred)
    sums = []
    for picture, reference in zip(_each(restored), _each(blurred.to(restored.device)), strict=True):
        sharp, soft = _pixels(picture), _pixels(reference)
        highest, lowest = extremes(soft, radius)
        overshoot = (sharp - highest).clamp(min=0) + (lowest - sharp).clamp(min=0)
        weight = (highest - lowest).square()
        sums.append(torch.stack([total(overshoot * weight), total(weight)]))
    found, weights = torch.stack(sums).cpu().double().unbind(-1)
    return torch.where(weights > 0, 255 * found / weights, 0.0).reshape(restored.shape[:-3])


def dis_flow(first: Tensor, second: Tensor, cache: ClipCache | None = None) -> Tensor:
    """Dense optical flow by inverse search (DIS, Kroeger et al. 2016): OpenCV's, preset medium, on the processor.

    On another device it is :mod:`metadeblur.imaging.torch_flow`, whose choices are those of the preset fast.

    Args:
        first: (3, H, W) in [0, 1], at least 12 pixels a side (smaller frames give no motion).
        second: the same shape, on the same device.
        cache: of their clip.

    Returns:
        (2, H, W), float32: how far right and down each pixel of ``first`` lies in ``second``, in pixels.
    """
    height, width = first.shape[-2:]
    if min(height, width) < 12:
        return torch.zeros(2, height, width, device=first.device)
    pair = (grey(first, height * width), grey(second, height * width))
    flow = partial((cache or ClipCache()).flow, preset=optical_flow.MEDIUM)
    return flows_between([pair], flow)[0].permute(2, 0, 1).contiguous()


def flicker(restored: FrameSource, blurred: FrameSource, *, flow: FrameFlow = dis_flow) -> float:
    """How much less steady over time the restored frames are than the blurred ones, in 8-bit levels.

    The mean absolute difference between each frame and the next one warped onto it, where the flow of the blurred
    frames agrees forwards and backwards. Errors of the flow cost a sharp picture more, so the restored frames' figure
    is scaled by the ratio of mean gradients, blurred to restored, before the blurred frames' own is taken off. All
    frames are smoothed by 1 px first. 0 where nothing was changed; on six clips -1.0 to 1.1 for true sharp frames, 1.8
    to 4.1 where sharp and blurred frames take turns.

    Args:
        restored: T frames (3, H, W) in [0, 1] (tensor (T, 3, H, W), list, clip).
        blurred: as many, in the same order and of the same size.
        flow: optical flow between two blurred frames.

    Returns:
        Mean over the T - 1 neighbouring pairs, in 8-bit levels; 0 for fewer than two frames.

    Raises:
        MetadeblurError: the numbers of frames differ.
    """
    if len(restored) != len(blurred):
        raise MetadeblurError(
            f"flicker compares as many restored as blurred frames, not {len(restored)} and {len(blurred)}"
        )
    figures = []
    for index, following in pairwise(range(len(blurred))):
        first, second = blurred[index], blurred[following]
        forward, backward = flow(first, second), flow(second, first)
        returned, inside = warp_frame(backward, forward)
        longest = forward.square().sum(0) + returned.square().sum(0)
        trusted = inside & ((forward + returned).square().sum(0) < 0.25 + 0.01 * longest)
        if trusted.any():
            error, detail = _unsteadiness(first, second, forward, trusted)
            new_error, new_detail = _unsteadiness(restored[index], restored[following], forward, trusted)
            figures.append(255 * (new_error * (detail / new_detail if new_detail > 0 else 1.0) - error))
    return math.fsum(figures) / len(figures) if figures else 0.0


def warp_frame(frame: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Fetches each pixel from where the flow points.

    Args:
        frame: (C, H, W).
        flow: (2, H, W), pixels right and down.

    Returns:
        The frame (C, H, W), float32, bilinear, and where (H, W) the flow stays inside it, bool.
    """
    height, width = flow.shape[-2:]
    right, down = places(flow.permute(1, 2, 0))
    moved = remap(_pixels(frame), right, down)
    inside = (right >= 0) & (right <= width - 1) & (down >= 0) & (down <= height - 1)
    return moved.permute(2, 0, 1), inside


def _check_alike(one: Any, other: Any) -> None:
    """Refuses pictures that cannot be compared."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        kinds = " and ".join(type(value).__name__ for value in (one, other))
        raise MetadeblurError(f"tensors (..., 3, H, W) are compared, not {kinds}; md.Clip(frames).frames makes one")
    if one.shape != other.shape or one.ndim < 3 or one.shape[-3] != 3:
        raise MetadeblurError(
            f"two pictures (..., 3, H, W) of one size are compared, not {tuple(one.shape)} and {tuple(other.shape)}"
        )


def _check_ssim_size(picture: Tensor) -> None:
    """Refuses pictures that the window of SSIM does not fit into."""
    if min(picture.shape[-2:]) < 2 * _SSIM_RADIUS + 1:
        raise MetadeblurError(
            f"SSIM needs pictures of 11x11 pixels or more, not {picture.shape[-1]}x{picture.shape[-2]}"
        )


def _levels(picture: Tensor, round_to_8bit: bool) -> Tensor:
    """The picture in 8-bit levels (0 to 255), float32; clamped and rounded where wanted."""
    levels = picture.detach().float() * 255
    return levels.clamp(0, 255).round() if round_to_8bit else levels


def _each(pictures: Tensor) -> Tensor:
    """Pictures (..., 3, H, W) in one row, (B, 3, H, W)."""
    return pictures.reshape(-1, *pictures.shape[-3:])


def _pixels(picture: Tensor) -> Tensor:
    """(C, H, W) as (H, W, C), float32, without gradient."""
    return picture.detach().float().permute(1, 2, 0).contiguous()


def _luma(levels: Tensor) -> _Picture:
    """BT.601 luma (H, W), 16 to 235, of a picture (3, H, W) in 8-bit levels."""
    red, green, blue = levels.double().numpy() / 255
    return np.asarray(16 + 65.481 * red + 128.553 * green + 24.966 * blue)


def _mean_colour(picture: Tensor) -> Tensor:
    """A picture (3, H, W) averaged widely in linear light, in 8-bit levels, (h, w, 3)."""
    light = power(_pixels(picture.clamp(0, 1)), _GAMMA)
    if min(light.shape[:2]) >= 64:
        light = resize(light, (light.shape[0] // 4, light.shape[1] // 4), "area")
    wide = gaussian(light, light.shape[0] / 8, "reflect")
    return 255 * power(wide, 1 / _GAMMA)


def _unsteadiness(first: Tensor, second: Tensor, flow: Tensor, trusted: Tensor) -> tuple[float, float]:
    """Mean warping error and mean gradient of ``first`` over the trusted pixels, both per channel and in [0, 1]."""
    start, end = (gaussian(_pixels(frame), 1.0).permute(2, 0, 1) for frame in (first, second))
    moved, _ = warp_frame(end, flow)
    error = (moved - start).abs().mean(0)
    right, down = torch.zeros_like(error), torch.zeros_like(error)
    right[:, :-1] = start.diff(dim=2).abs().mean(0)
    down[:-1] = start.diff(dim=1).abs().mean(0)
    means = torch.stack([values[trusted].mean(dtype=finest(values.device)) for values in (error, right + down)])
    return tuple(means.tolist())


def _ssim_map(one: _Picture, other: _Picture, data_range: float) -> _Picture:
    """SSIM at each pixel (H, W) of two one-channel pictures; the outer 5 pixels lack part of their window."""

    def blur(values: _Picture) -> _Picture:
        kernel = cv2.getGaussianKernel(2 * _SSIM_RADIUS + 1, _SSIM_SIGMA)
        return np.asarray(cv2.sepFilter2D(values, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_REFLECT))

    small, tiny = (0.03 * data_range) ** 2, (0.01 * data_range) ** 2
    mean_one, mean_other = blur(one), blur(other)
    variances = blur(one * one) - mean_one**2 + blur(other * other) - mean_other**2
    covariance = blur(one * other) - mean_one * mean_other
    structure = (2 * covariance + small) / (variances + small)
    return structure * (2 * mean_one * mean_other + tiny) / (mean_one**2 + mean_other**2 + tiny)


def _valid(values: _Picture) -> _Picture:
    """The part of a map (H, W, ...) whose windows lie wholly inside the picture."""
    return values[_SSIM_RADIUS:-_SSIM_RADIUS, _SSIM_RADIUS:-_SSIM_RADIUS]


def _alignment(truth: npt.NDArray[np.float32], picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """Homography that leads from the truth's pixels to the picture's, or None where none is found."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    one, other = cv2.cvtColor(truth, cv2.COLOR_RGB2GRAY), cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    try:
        start = np.eye(3, dtype=np.float32)
        _, matrix = cv2.findTransformECC(one, other, start, cv2.MOTION_HOMOGRAPHY, criteria, None, 5)  # type: ignore[call-overload]
    except cv2.error:
        return None
    homography = np.asarray(matrix, dtype=np.float32)
    return homography if np.isfinite(homography).all() and abs(np.linalg.det(homography)) > 1e-6 else None

"""How motion-blurred a clip is, from its frames alone: no network and no sharp frame to compare with.

Natural pictures look much alike at every scale, so the energy of the gradient at one pixel and at four pixels stand in
about the same ratio from scene to scene. Motion blur lowers the energy at one pixel along its own direction first. For
each patch the structure tensors at both scales are compared in the direction where their ratio is lowest (the smallest
generalised eigenvalue); its binary logarithm is the patch's figure: about -1 in sharp video, -2 to -3.5 in blurred.
The content of a patch cancels out to a large part because it is in both scales; sensor noise, which would pass for
detail, is estimated from the smoothest places and taken off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.clip import Clip, as_clip
from metadeblur.imaging.optical_flow import dense_flow

Array = NDArray[Any]

_PATCH = 32  # px
_COARSE = 4  # px: the scale that fine detail is compared with
_LONGEST_SIDE = 1280  # px; larger frames are reduced first: nobody sees a pixel of 4K
_FLOW_SIDE = 640  # px
_LEAST_TEXTURE = 0.02  # root of the gradient energy at the coarse scale, display values a pixel
_MOVES = 1.0  # px a frame interval
_LEAST_PATCHES = 8  # that move, to speak of motion at all
_LEAST_SHARE = 0.02  # of the patches with texture, likewise
_FLOOR = 0.05  # share of a tensor's trace added to both eigenvalues: patches with one edge have only one direction
_SOBEL_GAIN = 0.1875  # variance of the Sobel derivative of white noise of variance 1
_LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_SMALLEST_SIDE = 2 * _PATCH


@dataclass(frozen=True)
class Blurriness:
    """Figures of a clip: log2 of fine to coarse gradient energy, lower is more blurred.

    Attributes:
        whole: of the clip's worst frames (5 % quantile over the frames of the median over their patches), in the
            direction in which each patch is blurred most.
        spread: by how much the clip's best frames (95 % quantile) are above ``whole``: what is seen sharp at times is
            blurred at others.
        moving: median over all patches that move, along their motion; None where too little moves.
        skew: the same less the median across the motion: blur takes the detail along the motion only, whatever the
            content; None where too little moves.
        moving_share: of all patches with texture.
        frames: looked at.
    """

    whole: float
    spread: float
    moving: float | None
    skew: float | None
    moving_share: float
    frames: int


def blurriness(clip: Clip, *, frames: int = 16) -> Blurriness | None:
    """How motion-blurred a clip is.

    So many frames, spread evenly, are read with their neighbours. None: frames under 64 px a side, or without texture.
    """
    clip = as_clip(clip)
    if min(clip.height, clip.width) < _SMALLEST_SIDE:
        return None
    chosen = sorted({round(place) for place in np.linspace(0, len(clip) - 1, min(frames, len(clip)))})
    medians: list[float] = []
    along_motion: list[Array] = []
    across_motion: list[Array] = []
    patches = 0
    for index in chosen:
        picture = grey_picture(clip[index])
        fine, coarse, textured = structure_tensors(picture)
        if not textured.any():
            continue
        medians.append(float(np.median(lowest_ratio(fine[textured], coarse[textured]))))
        patches += int(textured.sum())
        if len(clip) > 1:
            motion = _motion(clip, index, picture)
            moving = textured & (np.hypot(motion[..., 0], motion[..., 1]) > _MOVES)
            for ratios, turned in ((along_motion, motion), (across_motion, motion[..., ::-1] * (-1, 1))):
                ratios.append(_ratio_along(turned[moving], fine[moving], coarse[moving]))
    if not medians:
        return None
    along, across = (np.concatenate(ratios) if ratios else np.zeros(0) for ratios in (along_motion, across_motion))
    share = len(along) / patches
    enough = len(along) >= _LEAST_PATCHES and share >= _LEAST_SHARE
    worst, best = np.quantile(medians, (0.05, 0.95))
    return Blurriness(
        whole=float(worst),
        spread=float(best - worst),
        moving=float(np.median(along)) if enough else None,
        skew=float(np.median(along) - np.median(across)) if enough else None,
        moving_share=share,
        frames=len(medians),
    )


def grey_picture(frame: Tensor) -> Array:
    """A frame (3, H, W) in grey, float32 in [0, 1], reduced where it is large."""
    picture = frame.permute(1, 2, 0).contiguous().numpy()
    return _reduced(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), _LONGEST_SIDE)


def _reduced(picture: Array, longest: int) -> Array:
    scale = longest / max(picture.shape)
    if scale >= 1:
        return picture
    return np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def _pooled(picture: Array, side: int) -> Array:
    """Means over whole squares of ``side`` px: (h, w, ...) to (h // side, w // side, ...)."""
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    squares = picture[: rows * side, : columns * side].reshape(rows, side, columns, side, *picture.shape[2:])
    return np.asarray(squares.mean((1, 3)))


def _structure(picture: Array, side: int) -> Array:
    """Structure tensors (xx, xy, yy) of patches of ``side`` px: (rows, columns, 3)."""
    across = cv2.Sobel(picture, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    down = cv2.Sobel(picture, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    return _pooled(np.stack([across * across, across * down, down * down], -1), side)


def structure_tensors(picture: Array) -> tuple[Array, Array, Array]:
    """Structure tensors at both scales, (rows, columns, 3) each, without noise, and which patches have texture."""
    height, width = (side // _PATCH * _PATCH for side in picture.shape)
    picture = picture[:height, :width]
    size = (width // _COARSE, height // _COARSE)
    coarse = _structure(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), _PATCH // _COARSE)
    noise = _SOBEL_GAIN * noise_variance(picture)
    fine = _structure(picture, _PATCH)
    fine[..., [0, 2]] = np.maximum(fine[..., [0, 2]] - noise, 1e-9)
    most = np.sqrt(fine[..., 0] * fine[..., 2])  # where noise was most of it, what is left must stay a tensor
    fine[..., 1] = np.clip(fine[..., 1], -most, most)
    return fine, coarse, coarse[..., 0] + coarse[..., 2] > _LEAST_TEXTURE**2


def noise_variance(picture: Array) -> float:
    """Variance of white noise, from the smoothest 5 % of places (Immerkaer, "Fast noise variance estimation", 1996)."""
    response = _pooled(np.abs(cv2.filter2D(picture, cv2.CV_32F, _LAPLACIAN)), 16)
    return float(np.quantile(response, 0.05) * np.sqrt(np.pi / 2) / 6) ** 2


def lowest_ratio(fine: Array, coarse: Array) -> Array:
    """log2 of the smallest generalised eigenvalue of tensors (n, 3): fine v = ratio * coarse v.

    >>> lowest_ratio(np.array([[1.0, 0.0, 4.0]]), np.array([[4.0, 0.0, 4.0]])).round(1).tolist()
    [-1.8]
    """
    (a, b, c), (d, e, f) = (
        (one[:, 0] + floor, one[:, 1], one[:, 2] + floor)
        for one, floor in ((fine, _FLOOR * (fine[:, 0] + fine[:, 2])), (coarse, _FLOOR * (coarse[:, 0] + coarse[:, 2])))
    )
    determinant = d * f - e * e
    half_trace = (a * f + c * d - 2 * b * e) / (2 * determinant)
    product = np.maximum(a * c - b * b, 0) / determinant
    larger = half_trace + np.sqrt(np.maximum(half_trace**2 - product, 0))
    return np.asarray(np.log2(np.maximum(product / larger, 1e-6)))


def _ratio_along(motion: Array, fine: Array, coarse: Array) -> Array:
    """log2 of fine to coarse gradient energy along the motion, (n,) from motions (n, 2) and tensors (n, 3)."""
    x, y = (motion / np.maximum(np.hypot(motion[:, 0], motion[:, 1]), 1e-6)[:, None]).T

    def along(tensor: Array) -> Array:
        return np.asarray(x * x * tensor[:, 0] + 2 * x * y * tensor[:, 1] + y * y * tensor[:, 2])

    return np.log2((along(fine) + 1e-6) / (along(coarse) + _FLOOR * (coarse[:, 0] + coarse[:, 2])))


def _motion(clip: Clip, index: int, picture: Array) -> Array:
    """Mean motion of each patch of a frame, (rows, columns, 2) px a frame interval, x then y."""
    here = _flow_picture(picture)
    flow = np.zeros((*here.shape, 2), np.float32)
    neighbours = [(other, sign) for other, sign in ((index + 1, 1), (index - 1, -1)) if 0 <= other < len(clip)]
    for other, sign in neighbours:
        flow += sign * dense_flow(here, _flow_picture(grey_picture(clip[other]))) / len(neighbours)
    height, width = picture.shape
    scale = np.array([width / here.shape[1], height / here.shape[0]], np.float32)
    return _pooled(np.asarray(cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)) * scale, _PATCH)


def _flow_picture(picture: Array) -> Array:
    return np.asarray((_reduced(picture, _FLOW_SIDE) * 255).round().astype(np.uint8))

"""Basic operations on pictures, each with two ways: OpenCV on the processor, PyTorch on any other device.

Pictures are tensors as OpenCV lays them out: (H, W) or (H, W, C), float32 unless it is said. On the processor they are
handed to OpenCV as they lie in memory, without a copy: it is faster there. Elsewhere the same is computed by PyTorch on
the device that they are on, so that nothing leaves it. The two agree up to rounding; OpenCV reads between pixels in
steps of 1/32 px.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[Any]
Border = Literal["replicate", "reflect", "reflect101", "constant"]
"""What lies outside a picture: its edge, the picture mirrored with or without its edge repeated, or one value."""
Reading = Literal["linear", "cubic"]
Resizing = Literal["area", "linear", "cubic"]

_BORDERS: dict[Border, int] = {
    "replicate": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "reflect101": cv2.BORDER_REFLECT_101,
    "constant": cv2.BORDER_CONSTANT,
}
_READINGS: dict[Resizing, int] = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
_LUMA = (0.299, 0.587, 0.114)

_forced: list[str] = []  # ways that are forced on all devices, innermost last


@contextmanager
def backend(name: Literal["opencv", "torch"]) -> Iterator[None]:
    """Force one way inside the ``with``, in the whole process: PyTorch's on the processor, to try it out there.

    >>> with backend("torch"):
    ...     on_opencv(torch.zeros(1))
    False
    """
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def on_opencv(picture: Tensor) -> bool:
    """Whether a picture is for OpenCV: it lies in main memory."""
    return picture.device.type == "cpu" and not (_forced and _forced[-1] == "torch")


def array(picture: Tensor) -> Array:
    """A tensor in main memory as OpenCV's array, the same memory: the one door between the two."""
    result: Array = picture.detach().numpy()
    return result if result.flags.c_contiguous else np.ascontiguousarray(result)


def tensor(values: Array) -> Tensor:
    """OpenCV's array as a tensor, the same memory, or a copy where it must not be written."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def as_float(picture: Tensor) -> Tensor:
    """A copy of a picture of 16-bit levels, as float32."""
    return tensor(array(picture).astype(np.float32)) if on_opencv(picture) else picture.to(torch.float32, copy=True)


def reduced_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Height and width of a picture reduced to about so many pixels; its own where it has no more.

    >>> reduced_size(1080, 1920, 256_000), reduced_size(100, 100, 256_000)
    ((379, 675), (100, 100))
    """
    scale = min(1.0, (pixels / (height * width)) ** 0.5)
    return max(1, round(height * scale)), max(1, round(width * scale))


def picture_of(frame: Tensor) -> Tensor:
    """A frame (3, H, W) as a picture (H, W, 3), float32, contiguous, without gradient."""
    return frame.detach().float().permute(1, 2, 0).contiguous()


def grey(frame: Tensor, pixels: int) -> Tensor:
    """A frame (3, H, W) in [0, 1] as 8-bit grey (h, w), reduced to about so many pixels where it has more."""
    size = reduced_size(frame.shape[-2], frame.shape[-1], pixels)
    levels = (frame.detach().float().clamp(0, 1) * 255).round()
    if on_opencv(frame):
        plain = cv2.cvtColor(array(levels.byte().permute(1, 2, 0).contiguous()), cv2.COLOR_RGB2GRAY)
        return tensor(np.asarray(cv2.resize(plain, size[::-1], interpolation=cv2.INTER_AREA)).reshape(size))
    dark = (levels * levels.new_tensor(_LUMA)[:, None, None]).sum(0).round()
    return resize(dark, size, "area").round().byte()


def luma(picture: Tensor) -> Tensor:
    """The grey value (H, W) of a picture (H, W, 3)."""
    if on_opencv(picture):
        return tensor(cv2.cvtColor(array(picture), cv2.COLOR_RGB2GRAY))
    red, green, blue = picture.unbind(-1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def resize(picture: Tensor, size: tuple[int, int], how: Resizing) -> Tensor:
    """A picture at another (height, width); ``area`` averages and is for sizes of at most its own."""
    if tuple(picture.shape[:2]) == tuple(size):
        return picture
    if on_opencv(picture):
        resized = cv2.resize(array(picture), size[::-1], interpolation=_READINGS[how])
        return tensor(np.asarray(resized).reshape(*size, *picture.shape[2:]))
    if how == "area":
        return _planes(lambda planes: area_planes(planes, size), picture)
    mode = {"linear": "bilinear", "cubic": "bicubic"}[how]
    return _planes(lambda planes: F.interpolate(planes, size=size, mode=mode, align_corners=False), picture)


def gaussian(picture: Tensor, sigma: float, border: Border = "reflect101") -> Tensor:
    """A picture blurred by a Gaussian of ``sigma`` px."""
    if on_opencv(picture):
        blurred = cv2.GaussianBlur(array(picture), (0, 0), sigma, borderType=_BORDERS[border])
        return tensor(np.asarray(blurred).reshape(picture.shape))
    kernel = _gaussian_kernel(sigma, picture.device)
    return _planes(lambda planes: filtered(planes, kernel, kernel, border), picture)


def box(picture: Tensor, side: int, border: Border = "reflect101") -> Tensor:
    """The mean of a picture over squares; those of an even ``side`` reach a pixel less far right and down."""
    if on_opencv(picture):
        blurred = cv2.boxFilter(array(picture), -1, (side, side), borderType=_BORDERS[border])
        return tensor(np.asarray(blurred).reshape(picture.shape))
    kernel = picture.new_full((side,), 1 / side)
    return _planes(lambda planes: filtered(planes, kernel, kernel, border), picture)


def median5(picture: Tensor) -> Tensor:
    """The median of 5 x 5 px around each pixel of each channel; the edge is repeated outside."""
    if on_opencv(picture):
        planes = picture[..., None] if picture.ndim == 2 else picture
        medians = [cv2.medianBlur(array(plane.contiguous()), 5) for plane in planes.unbind(-1)]
        return tensor(np.stack(medians, -1).reshape(picture.shape))
    return _planes(median_planes, picture)


def extremes(picture: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The largest and the smallest value of each channel in the square of ``radius`` px to each side of a pixel."""
    side = 2 * radius + 1
    if on_opencv(picture):
        plain, kernel = array(picture), np.ones((side, side), np.uint8)
        found = (cv2.dilate(plain, kernel), cv2.erode(plain, kernel))
        return tuple(tensor(np.asarray(one).reshape(picture.shape)) for one in found)  # type: ignore[return-value]

    def pooled(planes: Tensor) -> Tensor:
        return F.max_pool2d(F.max_pool2d(planes, (side, 1), 1, (radius, 0)), (1, side), 1, (0, radius))

    return _planes(pooled, picture), -_planes(pooled, -picture)


def sobel(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of a picture (H, W) across and down, per pixel: Sobel's 3 x 3 filters over eight."""
    if on_opencv(picture):
        plain = array(picture)
        return tuple(tensor(cv2.Sobel(plain, -1, *axis) / 8) for axis in ((1, 0), (0, 1)))  # type: ignore[return-value]
    slope, smooth = picture.new_tensor([-0.5, 0.0, 0.5]), picture.new_tensor([0.25, 0.5, 0.25])
    return (
        _planes(lambda planes: filtered(planes, smooth, slope, "reflect101"), picture),
        _planes(lambda planes: filtered(planes, slope, smooth, "reflect101"), picture),
    )


def remap(
    picture: Tensor,
    x: Tensor,
    y: Tensor,
    how: Reading = "linear",
    border: Border = "replicate",
    outside: float = 0.0,
) -> Tensor:
    """A picture read at the places x, y (h, w), in px: (h, w) or (h, w, C).

    On the processor it may be of any kind that OpenCV takes, and the result is of the same kind.
    """
    if on_opencv(picture):
        plain = array(picture)
        if border == "reflect101":
            # OpenCV 5.0 would look for ever for the mirror image of a single row or column; two alike show the same.
            for axis in (0, 1):
                plain = np.repeat(plain, 2, axis) if plain.shape[axis] == 1 else plain
        read = cv2.remap(
            plain,
            array(x),
            array(y),
            _READINGS[how],
            borderMode=_BORDERS[border],
            borderValue=(outside,) * 4,
        )
        return tensor(np.asarray(read).reshape(*x.shape, *picture.shape[2:]))
    return _planes(lambda planes: read_at(planes, x[None], y[None], how, border, outside), picture)


def reader(x: Tensor, y: Tensor, border: Border) -> Callable[[Tensor], Tensor]:
    """Reads pictures at the same places x, y (h, w) again and again, as :func:`remap` does between pixels."""
    if not on_opencv(x):
        return lambda picture: remap(picture, x, y, "linear", border)
    maps = cv2.convertMaps(array(x), array(y), cv2.CV_16SC2)  # fixed-point maps are read twice as fast

    def read(picture: Tensor) -> Tensor:
        return tensor(np.asarray(cv2.remap(array(picture), *maps, cv2.INTER_LINEAR, borderMode=_BORDERS[border])))

    return read


def places(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where a flow (h, w, 2) leads the pixels of a picture: x, y (h, w)."""
    rows = torch.arange(flow.shape[0], device=flow.device, dtype=torch.float32)[:, None]
    columns = torch.arange(flow.shape[1], device=flow.device, dtype=torch.float32)
    return columns + flow[..., 0], rows + flow[..., 1]


def lengths(vectors: Tensor) -> Tensor:
    """Lengths of vectors (..., 2)."""
    if on_opencv(vectors):
        plain = array(vectors)
        return tensor(np.asarray(np.hypot(plain[..., 0], plain[..., 1])))
    return torch.hypot(*vectors.unbind(-1))


def quantile(values: Tensor, share: float) -> float:
    """What a share of all values is below; a device is waited for."""
    if on_opencv(values):
        return float(np.quantile(array(values), share))
    return float(torch.quantile(values.flatten(), share))


def power(values: Tensor, exponent: float) -> Tensor:
    """Values raised to a power."""
    return tensor(np.power(array(values), exponent)) if on_opencv(values) else values**exponent


def finest(device: torch.device) -> torch.dtype:
    """What long sums are added up in: float64 on devices that surely have it."""
    return torch.float64 if device.type in ("cpu", "cuda", "meta") else torch.float32


def total(values: Tensor) -> Tensor:
    """The sum of all values, as :func:`finest` as the device can."""
    if on_opencv(values):
        return torch.tensor(float(array(values).sum(dtype=np.float64)), dtype=torch.float64)
    return values.sum(dtype=finest(values.device))


def median(values: Tensor) -> float:
    """The median of all values; a device is waited for."""
    return float(np.median(array(values))) if on_opencv(values) else quantile(values, 0.5)


def read_at(
    planes: Tensor,
    x: Tensor,
    y: Tensor,
    how: Reading = "linear",
    border: Border = "replicate",
    outside: float = 0.0,
) -> Tensor:
    """Pictures (B, C, H, W) read at the places x, y (B, h, w), in px: (B, C, h, w); always by PyTorch."""
    height, width = planes.shape[-2:]
    # Mirrored about the middle of the outermost pixels; else about their edge, which single pixels have too.
    middles = border == "reflect101"
    if middles:
        grid = torch.stack([x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1], -1)
    else:
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    padding = {"replicate": "border", "reflect": "reflection", "reflect101": "reflection", "constant": "zeros"}[border]
    mode = {"linear": "bilinear", "cubic": "bicubic"}[how]
    if border == "constant" and outside:
        return F.grid_sample(planes - outside, grid, mode, padding, align_corners=middles) + outside
    return F.grid_sample(planes, grid, mode, padding, align_corners=middles)


def filtered(planes: Tensor, down: Tensor, across: Tensor, border: Border) -> Tensor:
    """Planes (B, C, H, W) filtered by one kernel down the columns and one along the rows; always by PyTorch."""
    alone = bordered(planes.flatten(0, 1)[:, None], len(down) // 2, len(across) // 2, border)
    if len(down) > 1:
        alone = F.conv2d(alone, down[None, None, :, None])
    if len(across) > 1:
        alone = F.conv2d(alone, across[None, None, None, :])
    # A kernel of an even length has no middle: OpenCV's begins half of it before the pixel.
    return alone[..., : planes.shape[-2], : planes.shape[-1]].reshape(planes.shape)


def bordered(planes: Tensor, rows: int, columns: int, border: Border) -> Tensor:
    """Planes (..., H, W) with so many rows and columns more on each side; always by PyTorch.

    A border may be wider than the picture.
    """
    if border == "constant":
        return F.pad(planes, (columns, columns, rows, rows))
    for axis, more in ((-2, rows), (-1, columns)):
        if more:
            planes = planes.index_select(axis, _border_places(planes.shape[axis], more, border, planes.device))
    return planes


def area_planes(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Planes (B, C, H, W) averaged to a size of at most their own; always by PyTorch."""
    if tuple(planes.shape[-2:]) == tuple(size):
        return planes
    rows, columns = (
        _shares(before, after, planes.device) for before, after in zip(planes.shape[-2:], size, strict=True)
    )
    return rows @ planes.contiguous() @ columns.mT


def median_planes(planes: Tensor) -> Tensor:
    """The median of 5 x 5 px of planes (B, C, H, W), edges repeated; always by PyTorch."""
    around = F.unfold(bordered(planes.flatten(0, 1)[:, None], 2, 2, "replicate"), 5)
    return around.sort(1).values[:, 12].reshape(planes.shape)


def _planes(work: Callable[[Tensor], Tensor], picture: Tensor) -> Tensor:
    """Work on a picture (H, W) or (H, W, C) as planes (1, C, H, W)."""
    if picture.ndim == 2:
        return work(picture[None, None])[0, 0]
    return work(picture.permute(2, 0, 1)[None])[0].permute(1, 2, 0).contiguous()


@lru_cache(maxsize=256)
@torch.inference_mode(mode=False)  # what is kept may be used anywhere
def _border_places(length: int, more: int, border: Border, device: torch.device) -> Tensor:
    """Which of ``length`` pixels each of ``length + 2 * more`` shows."""
    places = torch.arange(-more, length + more, device=device)
    if border == "replicate" or length == 1:
        return places.clamp(0, length - 1)
    period = 2 * length if border == "reflect" else 2 * length - 2
    places = places.remainder(period)
    return torch.minimum(places, period - 1 - places if border == "reflect" else period - places)


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # what is kept may be used anywhere
def _gaussian_kernel(sigma: float, device: torch.device) -> Tensor:
    """A Gaussian that reaches four sigma to each side, as OpenCV's for float pictures does."""
    half = (round(sigma * 8 + 1) | 1) // 2
    weights = torch.exp(torch.arange(-half, half + 1, device=device, dtype=torch.float32).square() / (-2 * sigma**2))
    return weights / weights.sum()


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # what is kept may be used anywhere
def _shares(before: int, after: int, device: torch.device) -> Tensor:
    """How much of each of ``after`` pixels each of ``before`` smaller ones covers: (after, before)."""
    scale = before / after
    starts = torch.arange(after, device=device, dtype=torch.float32)[:, None] * scale
    places = torch.arange(before, device=device, dtype=torch.float32)
    covered = torch.minimum(places + 1, starts + scale) - torch.maximum(places, starts)
    return covered.clamp(min=0) / scale

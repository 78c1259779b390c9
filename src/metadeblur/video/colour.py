"""Decoded pictures to RGB tensors and back, exactly: matrix, range and chroma siting, at the full bit depth.

Both directions are float arithmetic on the planes of the picture. Chroma is enlarged bilinearly (its samples sit on the
left luma sample and between two rows, the default of MPEG-2 and everything since) and reduced by the least-squares
inverse of that enlargement, so that decoding and encoding again without loss gives the samples back that were there,
except for colours outside of RGB, which are clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

UNSPECIFIED = 2
"""Matrix, primaries and transfer that the file does not tell (FFmpeg's number)."""
LIMITED, FULL = 1, 2
"""Colour ranges as FFmpeg numbers them; 0 is not told, which means limited for YUV. Grey video is always full."""

_RGB_MATRIX, _YCGCO = 0, 8
_LUMA_WEIGHTS = {  # (red, blue) by matrix: ITU-T H.273, table 4
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
    10: (0.2627, 0.0593),  # BT.2020 constant luminance, treated as 9 in both directions
    14: (0.2627, 0.0593),  # ICtCp, treated as 9 in both directions
}
_DEPTHS = (9, 10, 12, 14, 16)
_SUBSAMPLED = {(1, 1): "444", (2, 1): "422", (4, 1): "411", (2, 2): "420", (4, 4): "410", (1, 2): "440"}


@dataclass(frozen=True)
class ColourTags:
    """What a file tells about its colours, in FFmpeg's numbers (ITU-T H.273)."""

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    def or_else(self, other: ColourTags) -> ColourTags:
        """These tags, with the untold ones taken from ``other``."""
        return ColourTags(
            other.matrix if self.matrix in (UNSPECIFIED, 3) else self.matrix,
            self.range or other.range,
            other.primaries if self.primaries in (UNSPECIFIED, 3) else self.primaries,
            other.transfer if self.transfer in (UNSPECIFIED, 3) else self.transfer,
        )


SRGB_AS_VIDEO = ColourTags(matrix=1, range=LIMITED, primaries=1, transfer=1)
"""The tags given to a video made from pictures: BT.709, limited range, which every player assumes."""


def assumed_matrix(matrix: int, width: int, height: int) -> int:
    """The matrix that is meant: as told, otherwise by size as players do (BT.709 from HD on, BT.601 below).

    >>> assumed_matrix(2, 1280, 720), assumed_matrix(2, 640, 480), assumed_matrix(9, 64, 64)
    (1, 6, 9)
    """
    if matrix in _LUMA_WEIGHTS or matrix in (_RGB_MATRIX, _YCGCO):
        return matrix
    return 1 if width >= 1280 or height > 576 else 6


def bit_depth(pix_fmt: str) -> int:
    """Bits a channel of a pixel format, 8 to 16.

    >>> bit_depth("yuv420p"), bit_depth("p010le"), bit_depth("rgb48be"), bit_depth("pal8")
    (8, 10, 16, 8)
    """
    bits = [part.bits for part in av.VideoFormat(pix_fmt).components if not part.is_alpha]
    return min(16, max(8, *bits, 8))


def subsampling(pix_fmt: str) -> str:
    """Kind of a pixel format's chroma: "444", "422", "440", "420", "411", "410", "gray" or "rgb".

    >>> subsampling("nv12"), subsampling("yuvj422p"), subsampling("bgra"), subsampling("gray10le")
    ('420', '422', 'rgb', 'gray')
    """
    layout = av.VideoFormat(pix_fmt, 64, 64)
    if layout.is_rgb or layout.has_palette or layout.is_bayer or pix_fmt.startswith("xyz"):
        return "rgb"
    if len([part for part in layout.components if not part.is_alpha]) < 3:
        return "gray"
    return _SUBSAMPLED.get((64 // layout.chroma_width(), 64 // layout.chroma_height()), "444")


def colour_samples(pix_fmt: str) -> Fraction:
    """How many samples of colour a pixel format has for each pixel.

    >>> [str(colour_samples(name)) for name in ("rgb24", "yuv422p", "yuv420p", "gray")]
    ['1', '1/2', '1/4', '0']
    """
    kind = subsampling(pix_fmt)
    if kind in ("rgb", "gray"):
        return Fraction(kind == "rgb")
    across, down = _steps(kind)
    return Fraction(1, across * down)


def to_rgb(frame: av.VideoFrame, tags: ColourTags, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """A decoded picture as a tensor.

    Args:
        frame: the picture, any pixel format that FFmpeg can convert.
        tags: what to take where the picture itself does not tell matrix or range.
        box: (top, left, height, width) of a part, px; top and left even. None: all of it.

    Returns:
        (3, H, W), float32, RGB in [0, 1].
    """
    resolved = frame_tags(frame).or_else(tags)
    matrix = assumed_matrix(resolved.matrix, frame.width, frame.height)
    kind, bits = subsampling(frame.format.name), bit_depth(frame.format.name)
    # FFmpeg writes and reads grey pictures with the full range, whatever their tag says.
    full = resolved.range == FULL or frame.format.name.startswith("yuvj") or kind == "gray"
    frame = _planar(frame, kind, bits)
    bits = bit_depth(frame.format.name)
    top, left, height, width = box or (0, 0, frame.height, frame.width)
    if kind == "rgb":
        green, blue, red = (_plane(frame, index)[top : top + height, left : left + width] for index in range(3))
        return torch.stack([red, green, blue]).div_(2**bits - 1)
    luma = _plane(frame, 0)[top : top + height, left : left + width]
    luma = luma / (2**bits - 1) if full else (luma - (16 << (bits - 8))) / (219 << (bits - 8))
    if kind == "gray":
        return luma.clamp_(0, 1).expand(3, -1, -1).clone()
    across, down = _steps(kind)
    parts = []
    for index in (1, 2):
        # One more sample on each side, so that a part is what it would be in the whole picture.
        plane = _plane(frame, index)
        rows = slice(max(0, top // down - 1), -(-(top + height) // down) + 1)
        columns = slice(max(0, left // across - 1), -(-(left + width) // across) + 1)
        chroma = (plane[rows, columns] - (1 << (bits - 1))) / ((2**bits - 1) if full else (224 << (bits - 8)))
        chroma = enlarge(chroma, across, down)
        inner = (top - rows.start * down, left - columns.start * across)
        parts.append(chroma[inner[0] : inner[0] + height, inner[1] : inner[1] + width])
    if matrix == _RGB_MATRIX:  # the planes of a "YUV" picture hold green, blue and red
        return torch.stack([parts[1] + 0.5, luma, parts[0] + 0.5]).clamp_(0, 1)
    rgb: Tensor = torch.tensordot(_from_ycc(matrix), torch.stack([luma, *parts]), dims=1)
    return rgb.clamp_(0, 1)


def to_frame(rgb: Tensor, pix_fmt: str, matrix: int, full: bool) -> av.VideoFrame:
    """A tensor as a picture for the encoder; the inverse of :func:`to_rgb`.

    Args:
        rgb: (3, H, W), RGB in [0, 1]; values outside are clipped.
        pix_fmt: planar format: yuv4XXp, gbrp or gray with any of their depths, or rgb24.
        matrix: the matrix to use, never "not told".
        full: full range instead of limited; grey always has it.
    """
    rgb = rgb.detach().float().clamp(0, 1)
    height, width = int(rgb.shape[-2]), int(rgb.shape[-1])
    kind, bits = subsampling(pix_fmt), bit_depth(pix_fmt)
    frame = av.VideoFrame(width, height, pix_fmt)
    top = 2**bits - 1
    if pix_fmt in ("rgb24", "bgr0"):
        return _packed(rgb, pix_fmt, frame)
    if kind == "rgb":
        for index, channel in enumerate((1, 2, 0)):
            _fill(frame, index, rgb[channel] * top, bits)
        return frame
    ycc = torch.tensordot(_to_ycc(1 if matrix == _RGB_MATRIX else matrix), rgb, dims=1)
    full = full or kind == "gray"
    scale, offset = (top, 0) if full else (219 << (bits - 8), 16 << (bits - 8))
    _fill(frame, 0, ycc[0] * scale + offset, bits)
    if kind != "gray":
        across, down = _steps(kind)
        scale = top if full else 224 << (bits - 8)
        for index in (1, 2):
            _fill(frame, index, reduce(ycc[index], across, down) * scale + (1 << (bits - 1)), bits)
    return frame


def frame_tags(frame: av.VideoFrame) -> ColourTags:
    """What the picture itself tells about its colours."""
    return ColourTags(int(frame.colorspace), int(frame.color_range), int(frame.color_primaries), int(frame.color_trc))


def enlarge(chroma: Tensor, across: int, down: int) -> Tensor:
    """Chroma (h, w) bilinearly at the size that the factors, 1, 2 or 4, give: (h * down, w * across).

    >>> enlarge(torch.tensor([[0.0, 4.0]]), 2, 1)
    tensor([[0., 2., 4., 4.]])
    >>> enlarge(torch.tensor([[0.0], [4.0]]), 1, 2).T
    tensor([[0., 1., 3., 4.]])
    """
    if across == 4:  # FFmpeg places these in the middle of four pixels
        return enlarge(enlarge(chroma.T, 1, 2).T, 2, down)
    if down == 4:
        return enlarge(enlarge(chroma, 1, 2), across, 2)
    if across == 2:
        following = torch.cat([chroma[:, 1:], chroma[:, -1:]], dim=1)
        chroma = torch.stack([chroma, (chroma + following) / 2], dim=-1).flatten(-2)
    if down == 2:
        above = torch.cat([chroma[:1], chroma[:-1]])
        below = torch.cat([chroma[1:], chroma[-1:]])
        chroma = torch.stack([0.75 * chroma + 0.25 * above, 0.75 * chroma + 0.25 * below], dim=1).flatten(0, 1)
    return chroma


def reduce(chroma: Tensor, across: int, down: int) -> Tensor:
    """Chroma (H, W) at half the size, rounded up, where the factor is 2: the left inverse of :func:`enlarge`.

    It is the small picture whose enlargement comes closest to ``chroma``.

    >>> reduce(enlarge(torch.tensor([[1.0, 4.0], [2.0, 3.0]]), 2, 2), 2, 2).round(decimals=3)
    tensor([[1., 4.],
            [2., 3.]])
    """
    if across == 2:
        chroma = _filtered(chroma, _inverse_kernel(centred=False), -(-chroma.shape[1] // 2), centred=False)
    if down == 2:
        rows = -(-chroma.shape[0] // 2)
        if chroma.shape[0] % 2 and rows > 1:  # the row below the last one, as enlarging would have made it
            chroma = torch.cat([chroma, 1.5 * chroma[-1:] - 0.5 * chroma[-2:-1]])
        chroma = _filtered(chroma.T, _inverse_kernel(centred=True), rows, centred=True).T
    return chroma


def _filtered(signal: Tensor, kernel: Tensor, count: int, *, centred: bool) -> Tensor:
    """Every second sample along the last axis of (R, C), filtered; ends repeat: (R, count)."""
    before = (kernel.shape[0] - (2 if centred else 1)) // 2
    after = 2 * (count - 1) + kernel.shape[0] - before - signal.shape[1]
    padded = functional.pad(signal[None], (before, max(0, after)), mode="replicate")
    filtered: Tensor = functional.conv1d(padded.transpose(0, 1), kernel[None, None], stride=2)
    return filtered[:, 0, :count]


@lru_cache(maxsize=2)
def _inverse_kernel(*, centred: bool) -> Tensor:
    """Taps of the least-squares inverse of enlarging by two along one axis."""
    size, reach = 64, 10
    enlarged = enlarge(torch.eye(size), 1, 2) if centred else enlarge(torch.eye(size), 2, 1).T
    inverse = torch.linalg.pinv(enlarged.double())
    start = size - 2 * reach
    taps = inverse[size // 2, start : size + 2 * reach + (2 if centred else 1)]
    kernel: Tensor = taps / taps.sum()
    return kernel.float()


@lru_cache(maxsize=16)
def _to_ycc(matrix: int) -> Tensor:
    """(3, 3): RGB in [0, 1] to luma in [0, 1] and two chroma in [-0.5, 0.5] (ITU-T H.273, equations 38 to 40)."""
    if matrix == _YCGCO:
        return torch.tensor([[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0.0, -0.5]])
    red, blue = _LUMA_WEIGHTS[matrix]
    luma = torch.tensor([red, 1 - red - blue, blue], dtype=torch.float64)
    to_blue = (torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) - luma) / (2 * (1 - blue))
    to_red = (torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64) - luma) / (2 * (1 - red))
    return torch.stack([luma, to_blue, to_red]).float()


@lru_cache(maxsize=16)
def _from_ycc(matrix: int) -> Tensor:
    inverse: Tensor = torch.linalg.inv(_to_ycc(matrix).double())
    return inverse.float()


def _steps(kind: str) -> tuple[int, int]:
    """By how much chroma is enlarged, across and down."""
    return {"444": (1, 1), "422": (2, 1), "420": (2, 2), "440": (1, 2), "411": (4, 1), "410": (4, 4)}[kind]


def _planar(frame: av.VideoFrame, kind: str, bits: int) -> av.VideoFrame:
    """The same samples in planes; only packed, big-endian and exotic formats go through swscale."""
    depth = next((d for d in _DEPTHS if d >= bits), 16)
    ending = "" if bits == 8 else f"{depth}le"
    target = {"rgb": "gbrp", "gray": "gray"}.get(kind, f"yuv{kind}p") + ending
    name = frame.format.name
    if name in (target, target.replace("yuv", "yuvj"), target.replace("yuv", "yuva"), target.replace("gbrp", "gbrap")):
        return frame
    if kind == "rgb" and frame.format.components[0].bits < 8:
        frame = frame.reformat(format="rgb24")  # straight to planes it would fill up the lower bits with zeros
    return frame.reformat(format=target, interpolation="POINT")


def plane_rows(plane: Any, bits: int = 8) -> NDArray[Any]:
    """The samples of a plane, (H, its rows' length), in the numbers of the file; what is written there is in the plane.

    Rows may be longer than the picture is wide.
    """
    return np.frombuffer(memoryview(plane), "u1" if bits <= 8 else "<u2").reshape(plane.height, -1)


def _plane(frame: av.VideoFrame, index: int) -> Tensor:
    """One plane as float32 (H, W), in the numbers of the file."""
    plane = frame.planes[index]
    samples = plane_rows(plane, frame.format.components[0].bits)
    return torch.from_numpy(samples[:, : plane.width].astype(np.float32))


def _fill(frame: av.VideoFrame, index: int, values: Tensor, bits: int) -> None:
    plane = frame.planes[index]
    samples = plane_rows(plane, bits)
    samples[:, : plane.width] = values.round().clamp(0, 2**bits - 1).numpy().astype(samples.dtype)


def _packed(rgb: Tensor, pix_fmt: str, frame: av.VideoFrame) -> av.VideoFrame:
    pixel = 3 if pix_fmt == "rgb24" else 4
    samples = plane_rows(frame.planes[0])[:, : frame.width * pixel]
    picture = (rgb * 255).round().byte().permute(1, 2, 0).numpy()
    pixels = samples.reshape(frame.height, frame.width, pixel)
    pixels[..., :3] = picture if pixel == 3 else picture[..., ::-1]
    return frame

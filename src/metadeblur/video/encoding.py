"""Choose encoder, pixel format and settings for the restored frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import torch

from metadeblur.errors import MetadeblurError
from metadeblur.limits import Quality, check, spelt
from metadeblur.types import Codec
from metadeblur.video.colour import (
    FULL,
    LIMITED,
    SRGB_AS_VIDEO,
    ColourTags,
    assumed_matrix,
    subsampling,
)
from metadeblur.video.info import VideoInfo
from metadeblur.video.stills import IMAGE_SUFFIXES

CONTAINERS: dict[str, tuple[str, ...]] = {
    ".mp4": ("h264", "h265", "av1", "vp9"),
    ".m4v": ("h264", "h265"),
    ".mov": ("h264", "h265", "prores", "png"),  # the last two only where there is transparency
    ".mkv": ("h264", "h265", "av1", "vp9", "ffv1"),
    ".webm": ("vp9", "av1"),
    ".avi": ("mpeg4", "ffv1"),  # H.264 gets wrong time stamps from readers of AVI
}
"""Containers that can be written, each with the codecs it may hold."""

_X26X_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip


@spelt
@dataclass(frozen=True)
class EncodeSettings:
    """How the restored video is encoded.

    Raises:
        MetadeblurError: an unknown codec or a quality that does not exist.
    """

    # auto: H.264 for 8 bits, H.265 for more; VP9 or AV1 in WebM, MPEG-4 in AVI; one that keeps transparency
    codec: Codec = "auto"
    # constant rate factor, lower is better; None: visually lossless
    quality: Quality | Literal["lossless"] | None = None
    preset: str | None = None  # speed: ultrafast ... placebo (h264, h265), 0 slow ... 13 fast (av1), 0 ... 8 (vp9)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class _Encoder:
    """An encoder of FFmpeg and what it can do."""

    name: str
    depths: tuple[int, ...]
    kinds: tuple[str, ...]  # subsamplings, in no order
    quality: int  # visually lossless constant rate factor
    worst: int
    preset: str
    presets: tuple[str, ...]  # those there are, slow or fast first
    even: bool  # sizes of 4:2:0 must be even


_NUMBERS = tuple(map(str, range(14)))
_ENCODERS: dict[str, _Encoder] = {
    "h264": _Encoder("libx264", (8, 10), ("420", "422", "444"), 16, 51, "medium", _X26X_PRESETS, even=True),
    "h265": _Encoder("libx265", (8, 10, 12), ("420", "422", "444"), 16, 51, "medium", _X26X_PRESETS, even=True),
    "av1": _Encoder("libsvtav1", (8, 10), ("420",), 18, 63, "6", _NUMBERS, even=True),
    "vp9": _Encoder("libvpx-vp9", (8,), ("420", "422", "444"), 16, 63, "3", _NUMBERS[:9], even=False),
    "ffv1": _Encoder("ffv1", (8, 10, 12, 14, 16), ("gray", "420", "422", "444"), 0, 0, "", (), even=False),
    "prores": _Encoder("prores_ks", (10,), ("444",), 0, 51, "", (), even=False),
    "png": _Encoder("png", (8, 16), (), 0, 0, "", (), even=False),
    "mpeg4": _Encoder("mpeg4", (8,), ("420",), 2, 31, "", (), even=False),
}


def encoders() -> dict[str, bool]:
    """The FFmpeg encoders behind the codecs, and whether this build of FFmpeg has them."""
    return {plan.name: _has(plan.name) for plan in _ENCODERS.values()}


@dataclass(frozen=True)
class Encoding:
    """Everything that decides the bytes of a segment besides its frames."""

    encoder: str
    pix_fmt: str
    options: tuple[tuple[str, str], ...]
    colour: ColourTags  # tags to write
    matrix: int  # the matrix to convert with
    aspect: Fraction | None
    rate: Fraction  # only the encoder's rate control sees it; the time stamps come from the source
    planes: str  # pixel format of the colours, as :func:`metadeblur.video.colour.to_frame` makes them
    opacity: str = ""  # the same with transparency; empty: there is none, or it is not kept


def output_kind(output: Path) -> Literal["video", "frames", "image"]:
    """What a path asks for by its suffix: a video file, a single picture, or a folder of frames.

    Raises:
        MetadeblurError: a suffix that is neither.
    """
    suffix = output.suffix.lower()
    if suffix in CONTAINERS:
        return "video"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix == "" or output.is_dir():
        return "frames"
    raise MetadeblurError(
        f"{output}: cannot write {suffix} files; choose one of {', '.join(CONTAINERS)}, a picture, or a folder "
        "(a name without a suffix) for frames"
    )


def plan_encoding(info: VideoInfo, output: Path, settings: EncodeSettings, width: int, height: int) -> Encoding:
    """Choose encoder, pixel format and options: as close to the source as the container allows.

    Args:
        info: the source.
        output: the file that the segments will become; its suffix tells the container.
        settings: what the user asked for.
        width: of the frames to write, px (wider than the source side by side).
        height: of the frames to write, px.

    Raises:
        MetadeblurError: the container cannot hold the codec, or the codec not such frames.
    """
    suffix = output.suffix.lower()
    name = _codec(info, suffix, settings)
    encoder = _ENCODERS[name]
    if isinstance(settings.quality, int) and settings.quality > encoder.worst > 0:
        raise MetadeblurError(f"quality {settings.quality} is too large for {name}; 0 (best) to {encoder.worst}")
    if settings.preset is not None and settings.preset not in encoder.presets:
        choice = f"choose one of {', '.join(encoder.presets)}" if encoder.presets else "leave it out"
        raise MetadeblurError(f"preset {settings.preset!r} does not exist for {name}; {choice}")
    lossless = settings.quality == "lossless" or name in ("ffv1", "png")
    if lossless and name == "mpeg4":
        raise MetadeblurError("mpeg4 cannot be lossless; choose the codec ffv1, or write to .mkv or .mp4")
    wanted = info.bit_depth if info.kind == "video" or lossless else min(info.bit_depth, 10)
    depth = next((bits for bits in encoder.depths if bits >= wanted), encoder.depths[-1])
    kind = subsampling(info.pix_fmt)
    from_rgb = kind == "rgb" or info.colour.matrix == 0
    as_rgb = from_rgb and (lossless or _keeps_rgb(info, name, depth))
    if kind == "rgb" and info.kind != "video":
        kind = "420"  # pictures become a video that every player shows
    if info.transparent and _holds_opacity(name, suffix):
        planes, opacity, pix_fmt = _with_opacity(name, kind, depth, rgb=lossless and from_rgb)
        encoder_name = encoder.name
    else:
        pix_fmt, encoder_name = _pixel_format(name, encoder, kind, depth, as_rgb, width, height)
        planes, opacity = pix_fmt, ""
    _require(encoder_name)
    is_rgb = subsampling(pix_fmt) == "rgb"
    if is_rgb:
        tags = replace(info.colour, matrix=0, range=FULL)
    elif from_rgb:
        source_tags = info.colour if info.kind == "video" else SRGB_AS_VIDEO
        tags = replace(source_tags.or_else(SRGB_AS_VIDEO), matrix=1, range=LIMITED)
    else:
        grey = kind == "gray" and subsampling(pix_fmt) != "gray"
        full = info.colour.range == FULL or info.pix_fmt.startswith("yuvj") or grey
        full &= name != "prores"  # it has no way to say so
        tags = replace(info.colour, range=FULL if full else LIMITED if name == "prores" else info.colour.range)
        if full and suffix == ".avi" and subsampling(pix_fmt) != "gray":
            tags = replace(tags, range=LIMITED)  # AVI has no tag for the range; players assume this one
    matrix = assumed_matrix(tags.matrix, info.width, info.height)
    if not is_rgb and assumed_matrix(tags.matrix, width, height) != matrix:
        tags = replace(tags, matrix=matrix)  # another size must not change the assumed matrix of untagged colours
    options = _options(name, encoder, settings, info, lossless=lossless, width=width)
    rate = min(max(info.fps, Fraction(1)), Fraction(240))
    if name == "mpeg4":
        rate = Fraction(round(rate))  # it cannot count in small fractions of a second
    aspect = info.sample_aspect_ratio
    return Encoding(encoder_name, pix_fmt, tuple(options.items()), tags, matrix, aspect, rate, planes, opacity)


def default_suffix(info: VideoInfo) -> str:
    """Suffix of an output like the source: its own where that can be written, .mkv otherwise; none for a folder."""
    if info.kind == "frames":
        return ""
    suffix = info.path.suffix.lower()
    return suffix if info.kind == "image" or suffix in CONTAINERS else ".mkv"


def _codec(info: VideoInfo, suffix: str, settings: EncodeSettings) -> str:
    allowed = CONTAINERS[suffix]
    if settings.codec == "auto":
        deep = info.bit_depth > 8
        match suffix:
            case ".mov" if info.transparent:
                return "png" if settings.quality == "lossless" else "prores"
            case ".mkv" | ".avi" if info.transparent:
                return "ffv1"
            case ".webm" if info.transparent:
                return "vp9"
            case ".webm":
                return "av1" if deep else "vp9"
            case ".avi":
                return "ffv1" if deep or settings.quality == "lossless" else "mpeg4"
            case _:
                return "h265" if deep else "h264"
    if settings.codec not in allowed:
        holders = [other for other, codecs in CONTAINERS.items() if settings.codec in codecs]
        raise MetadeblurError(
            f"{suffix} files cannot hold {settings.codec}; choose the codec auto, or write to {holders[0]}"
        )
    return settings.codec


def _require(encoder: str) -> None:
    """Refuse an encoder that this build of FFmpeg lacks."""
    if not _has(encoder):
        raise MetadeblurError(
            f"the FFmpeg of this PyAV has no encoder {encoder}; choose another codec, or install av from PyPI"
        )


def _has(encoder: str) -> bool:
    try:
        av.Codec(encoder, "w")
    except ValueError:
        return False
    return True


def _pixel_format(
    name: str, encoder: _Encoder, kind: str, depth: int, rgb: bool, width: int, height: int
) -> tuple[str, str]:
    """Pixel format and FFmpeg's name of the encoder."""
    ending = "" if depth == 8 else f"{depth}le"
    if rgb:
        packed = {"h264": ("rgb24", "libx264rgb"), "ffv1": ("bgr0", "ffv1")}
        if depth == 8 and name in packed:
            return packed[name]
        if name in ("h265", "ffv1", "vp9"):
            return f"gbrp{ending}", encoder.name
        raise MetadeblurError(
            f"{name} cannot hold RGB of {depth} bits without loss; choose the codec h265, or ffv1 in .mkv"
        )
    chroma = {"440": "444", "411": "422", "410": "420", "rgb": "444"}.get(kind, kind)
    if chroma not in encoder.kinds:
        chroma = "420"
    odd = width % 2 or (height % 2 and chroma == "420")
    if encoder.even and odd and chroma != "444":
        if "444" not in encoder.kinds:
            raise MetadeblurError(f"{name} needs an even width and height, not {width}x{height}; choose another codec")
        chroma = "444"
    return "gray" + ending if chroma == "gray" else f"yuv{chroma}p{ending}", encoder.name


def _keeps_rgb(info: VideoInfo, name: str, depth: int) -> bool:
    """Whether a video of RGB stays RGB although it is compressed: where players show the source, they show this too."""
    same = info.codec == {"h265": "hevc"}.get(name, name)
    return info.kind == "video" and same and (name in ("h265", "vp9") or (name == "h264" and depth == 8))


def _holds_opacity(name: str, suffix: str) -> bool:
    """Whether a codec in a container keeps transparency."""
    return name in ("ffv1", "prores", "png") or (name == "vp9" and suffix in (".webm", ".mkv"))


def _with_opacity(name: str, kind: str, depth: int, *, rgb: bool) -> tuple[str, str, str]:
    """Planar pixel formats without and with transparency, and the one that the encoder takes."""
    ending = "" if depth == 8 else f"{depth}le"
    match name:
        case "vp9":
            return "yuv420p", "yuva420p", "yuva420p"
        case "prores":
            return "yuv444p10le", "yuva444p10le", "yuva444p10le"
        case "png":
            return f"gbrp{ending}", f"gbrap{ending}", "rgba" if depth == 8 else "rgba64be"
        case _ if rgb:
            return f"gbrp{ending}", f"gbrap{ending}", "bgra" if depth == 8 else f"gbrap{ending}"
        case _:
            chroma = kind if kind in ("420", "422", "444") else "420" if kind == "gray" else "444"
            if depth == 14 or (depth == 12 and chroma == "420"):
                ending = "16le"  # FFV1 has none of these with transparency
            opacity = f"yuva{chroma}p{ending}"
            return opacity.replace("yuva", "yuv"), opacity, opacity


def _options(
    name: str, encoder: _Encoder, settings: EncodeSettings, info: VideoInfo, *, lossless: bool, width: int
) -> dict[str, str]:
    quality = str(encoder.quality if settings.quality is None else settings.quality)
    preset = settings.preset or encoder.preset
    match name:
        case "h264":
            # The AVX-512 code of x264's macroblock tree reads memory that it never wrote: of 98x66 px, the same frames
            # gave seven different files in 30 encodings. With AVX2 it was one; without the tree, files would be larger.
            asm = {"x264-params": "asm=AVX2"} if torch.backends.cpu.get_cpu_capability() == "AVX512" else {}
            fixed = {"preset": preset, **asm}
            return fixed | ({"qp": "0"} if lossless else {"crf": quality})
        case "h265":
            more = info.mastering.x265() + (":lossless=1" if lossless else "")
            if width < 64:
                more += (
                    ":cutree=0"  # x265 writes beyond the end of its memory with it where frames are 40 to 48 px wide
                )
            # Closed groups of pictures, so that segments can be joined; the number of threads fixes the bytes.
            always = f"log-level=none:open-gop=0:frame-threads=2{more}"
            return {"preset": preset, "x265-params": always, **({} if lossless else {"crf": quality})}
        case "av1":
            return {"preset": preset, **({"svtav1-params": "lossless=1"} if lossless else {"crf": quality})}
        case "vp9":
            speed = {"deadline": "good", "cpu-used": preset, "b": "0"}
            return speed | ({"lossless": "1"} if lossless else {"crf": quality})
        case "prores":
            bits = {"profile": "4444", "alpha_bits": "8" if info.bit_depth == 8 else "16", "vendor": "apl0"}
            # Its quantiser, in FFmpeg's unit; without a number its own rate, which is visually lossless.
            rate = {"flags": "+qscale", "global_quality": str(118 * max(1, int(quality) // 4))}
            return bits if settings.quality is None else bits | rate
        case "png":
            return {}
        case "mpeg4":
            scale = str(max(1, int(quality)))  # its best is 1
            return {"qmin": scale, "qmax": scale}
        case _:
            return {"level": "3", "g": "1", "slicecrc": "1"}

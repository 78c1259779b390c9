"""Restored frames into encoded segments: which encoder, which pixel format, which settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast, get_args

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.video.colour import (
    FULL,
    LIMITED,
    SRGB_AS_VIDEO,
    ColourTags,
    assumed_matrix,
    subsampling,
    to_frame,
)
from metadeblur.video.info import IMAGE_SUFFIXES, VideoInfo
from metadeblur.video.output import Unfinished, refusals

Codec = Literal["auto", "h264", "h265", "av1", "vp9", "ffv1"]

CONTAINERS: dict[str, tuple[str, ...]] = {
    ".mp4": ("h264", "h265", "av1", "vp9"),
    ".m4v": ("h264", "h265"),
    ".mov": ("h264", "h265"),
    ".mkv": ("h264", "h265", "av1", "vp9", "ffv1"),
    ".webm": ("vp9", "av1"),
    ".avi": ("mpeg4", "ffv1"),  # H.264 gets wrong time stamps from readers of AVI
}
"""Containers that can be written, each with the codecs it may hold."""

_X26X_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip

JPEG_QUALITY = 97


@dataclass(frozen=True)
class EncodeSettings:
    """How the restored video is encoded.

    Raises:
        MetadeblurError: an unknown codec or a quality that does not exist.
    """

    codec: Codec = "auto"  # auto: H.264 for 8 bits, H.265 for more; VP9 or AV1 in WebM, MPEG-4 in AVI
    quality: int | Literal["lossless"] | None = None  # constant rate factor, lower is better; None: visually lossless
    preset: str | None = None  # speed: ultrafast ... placebo (h264, h265), 0 slow ... 13 fast (av1), 0 ... 8 (vp9)

    def __post_init__(self) -> None:
        if self.codec not in get_args(Codec):
            raise MetadeblurError(f"codec {self.codec!r} is unknown; choose one of {', '.join(get_args(Codec))}")
        if isinstance(self.quality, str) and self.quality != "lossless":
            raise MetadeblurError(f"quality {self.quality!r} is neither a number nor 'lossless'")
        if isinstance(self.quality, int) and not 0 <= self.quality <= 63:
            raise MetadeblurError(
                f"quality {self.quality} does not exist; 0 (best) to 51 (h264, h265) or 63 (av1, vp9)"
            )


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
    "ffv1": _Encoder("ffv1", (8, 10, 12, 14, 16), ("420", "422", "444"), 0, 0, "", (), even=False),
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
    lossless = settings.quality == "lossless" or name == "ffv1"
    if lossless and name == "mpeg4":
        raise MetadeblurError("mpeg4 cannot be lossless; choose the codec ffv1, or write to .mkv or .mp4")
    wanted = info.bit_depth if info.kind == "video" or lossless else min(info.bit_depth, 10)
    depth = next((bits for bits in encoder.depths if bits >= wanted), encoder.depths[-1])
    kind = subsampling(info.pix_fmt)
    from_rgb = kind == "rgb" or info.colour.matrix == 0
    pix_fmt, encoder_name = _pixel_format(name, encoder, kind, depth, lossless and from_rgb, width, height)
    _require(encoder_name)
    is_rgb = subsampling(pix_fmt) == "rgb"
    if is_rgb:
        tags = replace(info.colour, matrix=0, range=FULL)
    elif from_rgb:
        told = info.colour if info.kind == "video" else SRGB_AS_VIDEO
        tags = replace(told.or_else(SRGB_AS_VIDEO), matrix=1, range=LIMITED)
    else:
        full = info.colour.range == FULL or info.pix_fmt.startswith("yuvj")
        tags = replace(info.colour, range=FULL if full else info.colour.range)
    matrix = assumed_matrix(tags.matrix, info.width, info.height)
    if not is_rgb and assumed_matrix(tags.matrix, width, height) != matrix:
        tags = replace(tags, matrix=matrix)  # another size must not change what untold colours mean
    options = _options(name, encoder, settings, info, lossless=lossless, width=width)
    rate = min(max(info.fps, Fraction(1)), Fraction(240))
    if name == "mpeg4":
        rate = Fraction(round(rate))  # it cannot count in small fractions of a second
    return Encoding(encoder_name, pix_fmt, tuple(options.items()), tags, matrix, info.sample_aspect_ratio, rate)


class SegmentWriter:
    """Encodes the frames of one shot into a finished file of its own.

    Frames get their number as time stamp; :func:`metadeblur.video.assemble` gives them the source's. The first frame
    can be decoded alone, and the same frames give the same bytes. The segment appears under its name when
    :meth:`close` is done. Where the output is a folder of frames or a picture, the segment is a folder.

    Args:
        path: the segment.
        info: the source.
        settings: the encoder's.
        output: the file that the segments will become; its suffix tells the container. None: one like the source.

    Raises:
        MetadeblurError: the disk is full, there is no permission, or the container cannot hold the codec.
    """

    def __init__(
        self, path: Path, info: VideoInfo, settings: EncodeSettings | None = None, *, output: Path | None = None
    ) -> None:
        self.path = path
        self.frames = 0
        self._info = info
        self._settings = settings or EncodeSettings()
        self._output = output or Path(f"output{default_suffix(info)}")
        self._kind = output_kind(self._output)
        self._named = output or path  # in messages: what the user asked for
        with refusals(self._named):
            self._unfinished = Unfinished(path)
        self._open: tuple[av.container.OutputContainer, av.VideoStream, Encoding] | None = None
        self._size = (0, 0)
        self._closed = False

    def write(self, frame: Tensor) -> None:
        """Encode one frame (3, H, W), RGB in [0, 1]; all frames have the size of the first."""
        size = (int(frame.shape[-2]), int(frame.shape[-1]))
        with self._undone_on_error():
            if self.frames and size != self._size:
                raise MetadeblurError(f"{self.path}: frame {self.frames} is {size}, the first was {self._size}")
            self._size = size
            if self._kind == "video":
                self._encode(frame)
            else:
                self._unfinished.path.mkdir(exist_ok=True)
                suffix = picture_suffix(self._info, self._output, self._settings)
                place = self._unfinished.path / f"{self.frames:06d}{suffix}"
                write_picture(place, frame, self._info.bit_depth, grey=self._info.channels == 1)
        self.frames += 1

    def close(self) -> None:
        """Finish the segment and give it its name.

        Raises:
            MetadeblurError: no frame was written, or the disk is full.
        """
        if self._closed:
            return
        with self._undone_on_error():
            if self.frames == 0:
                raise MetadeblurError(f"{self.path}: no frames to write")
            if self._open is not None:
                container, stream, _ = self._open
                container.mux(stream.encode(None))
                container.close()
            self._unfinished.finish()
        self._closed = True

    def discard(self) -> None:
        """Remove what was written, unless it is finished."""
        if not self._closed:
            self._closed = True
            try:
                if self._open is not None:
                    # The file is removed anyway; what made it fail is being reported.
                    with suppress(OSError, av.FFmpegError):
                        self._open[0].close()
            finally:
                self._unfinished.discard()

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            with refusals(self._named):
                yield
        except BaseException:
            self.discard()
            raise

    def _encode(self, rgb: Tensor) -> None:
        if self._open is None:
            plan = plan_encoding(self._info, self._output, self._settings, self._size[1], self._size[0])
            exact = {"fflags": "+bitexact"}  # no random identifiers in the file
            container = av.open(str(self._unfinished.path), "w", format="matroska", container_options=exact)
            self._open = (container, _add_encoder(container, plan, *self._size), plan)
        container, stream, plan = self._open
        frame = to_frame(rgb, plan.pix_fmt, plan.matrix, plan.colour.range == FULL)
        frame.colorspace, frame.color_range = plan.colour.matrix, plan.colour.range
        frame.color_primaries, frame.color_trc = plan.colour.primaries, plan.colour.transfer
        frame.pts, frame.time_base = self.frames, 1 / plan.rate
        container.mux(stream.encode(frame))


def default_suffix(info: VideoInfo) -> str:
    """Suffix of an output like the source: its own where that can be written, .mkv otherwise; none for a folder."""
    if info.kind == "frames":
        return ""
    suffix = info.path.suffix.lower()
    return suffix if info.kind == "image" or suffix in CONTAINERS else ".mkv"


def picture_suffix(info: VideoInfo, output: Path, settings: EncodeSettings) -> str:
    """Suffix of the pictures to write: as asked for, as the source's, or .png."""
    if output.suffix.lower() in IMAGE_SUFFIXES:
        return output.suffix.lower()
    source = f".{info.codec}"
    lossy = source in (".jpg", ".jpeg")
    return source if source in IMAGE_SUFFIXES and not (lossy and settings.quality == "lossless") else ".png"


def write_picture(path: Path, frame: Tensor, bits: int, *, grey: bool = False) -> None:
    """Write one frame (3, H, W), RGB in [0, 1], as a picture of 8 bits, or 16 where ``bits`` is more than 8.

    With ``grey`` it gets one channel. JPEG, BMP and WebP always have 8 bits.

    Raises:
        OSError: the system refuses.
    """
    suffix = path.suffix.lower()
    deep = bits > 8 and suffix in (".png", ".tif", ".tiff")
    values = (frame.detach().float().clamp(0, 1) * (65535 if deep else 255)).round()
    kind: type[np.integer[Any]] = np.uint16 if deep else np.uint8
    picture: NDArray[np.integer[Any]] = values.permute(1, 2, 0).flip(-1).numpy().astype(kind)
    if grey:
        picture = cast("NDArray[np.integer[Any]]", cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
    options: list[int] = []
    if suffix in (".jpg", ".jpeg"):
        full_chroma = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full_chroma]
    elif suffix == ".webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100 means lossless
    done, data = cv2.imencode(suffix, np.ascontiguousarray(picture), options)
    if not done:
        raise MetadeblurError(f"{path}: this picture cannot be written as {suffix}; choose .png")
    path.write_bytes(data.tobytes())


def _add_encoder(container: av.container.OutputContainer, plan: Encoding, height: int, width: int) -> av.VideoStream:
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints its settings to the screen unless told so
    stream = container.add_stream(plan.encoder, rate=plan.rate, options=dict(plan.options))
    stream = cast(av.VideoStream, stream)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = width, height, plan.pix_fmt
    context.time_base = 1 / plan.rate
    context.color_range, context.colorspace = plan.colour.range, plan.colour.matrix
    context.color_primaries, context.color_trc = plan.colour.primaries, plan.colour.transfer
    if plan.aspect is not None:
        context.sample_aspect_ratio = plan.aspect
    # A fixed number: encoders give slightly different bytes with another number of threads.
    context.thread_count = 4
    return stream


def _codec(info: VideoInfo, suffix: str, settings: EncodeSettings) -> str:
    allowed = CONTAINERS[suffix]
    if settings.codec == "auto":
        deep = info.bit_depth > 8
        match suffix:
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
    chroma = {"440": "444"}.get(kind, kind)
    if chroma not in encoder.kinds:
        chroma = "420"
    odd = width % 2 or (height % 2 and chroma == "420")
    if encoder.even and odd and chroma != "444":
        if "444" not in encoder.kinds:
            raise MetadeblurError(f"{name} needs an even width and height, not {width}x{height}; choose another codec")
        chroma = "444"
    return f"yuv{chroma}p{ending}", encoder.name


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
        case "mpeg4":
            scale = str(max(1, int(quality)))  # its best is 1
            return {"qmin": scale, "qmax": scale}
        case _:
            return {"level": "3", "g": "1", "slicecrc": "1"}

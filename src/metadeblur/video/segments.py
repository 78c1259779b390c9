"""Segments: the frames of one shot, encoded or as pictures, in a file or folder of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import torch
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.system.files import Unfinished, refusals
from metadeblur.system.names import for_ffmpeg
from metadeblur.video.colour import FULL, to_frame
from metadeblur.video.encoding import EncodeSettings, Encoding, default_suffix, output_kind, plan_encoding
from metadeblur.video.info import VideoInfo
from metadeblur.video.labels import Labels
from metadeblur.video.reading import VideoReader
from metadeblur.video.stills import (
    IMAGE_SUFFIXES,
    TRANSPARENT_SUFFIXES,
    still_labels,
    still_layers,
    write_picture,
)
from metadeblur.video.transparency import put_back, spread_over, with_alpha

WIDE, HDR = (9, 11, 12), (16, 18)
"""Primaries wider than those of sRGB (BT.2020, DCI-P3, Display P3), and transfers of HDR (PQ, HLG)."""


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
        source: reads the source; what is transparent in it stays so. None: all of it becomes opaque.
        start: number of the first frame in the source.

    Raises:
        MetadeblurError: the disk is full, there is no permission, or the container cannot hold the codec.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        settings: EncodeSettings | None = None,
        *,
        output: Path | None = None,
        source: VideoReader | None = None,
        start: int = 0,
    ) -> None:
        self.path = path
        self.frames = 0
        self._info = info if source is not None or info.stills else replace(info, transparent=False)
        self._start = start
        # A generator: nothing is read unless a frame is transparent and stays so.
        self._source = (frame.layers() for frame in source.decoded(start)) if source is not None else iter(())
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
                self._write_picture(frame)
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

    def _write_picture(self, frame: Tensor) -> None:
        info, number = self._info, self._start + self.frames
        still = info.stills[number] if number < len(info.stills) else None
        suffix = segment_suffix(info, self._output, self._settings, number)
        bits, grey = (info.bit_depth, False) if still is None else (still.header.bits, still.header.channels == 1)
        alpha = None
        transparent = info.transparent if still is None else still.transparent
        if transparent and suffix in TRANSPARENT_SUFFIXES:
            frame, alpha = self._with_layers(frame)
        if still is None:
            labels = _video_labels(info)
            frame = upright(frame, info.display_matrix)
            alpha = None if alpha is None else upright(alpha, info.display_matrix)
        else:
            labels = still_labels(still)
        place = self._unfinished.path / f"{self.frames:06d}{suffix}"
        write_picture(place, frame, bits, grey=grey, alpha=alpha, labels=labels)

    def _with_layers(self, frame: Tensor) -> tuple[Tensor, Tensor | None]:
        """A frame with the hidden colours of the source, and its opacity."""
        number = self._start + self.frames
        layers = still_layers(self._info.stills[number]) if self._info.stills else next(self._source, None)
        if layers is None:
            return frame, None
        stored, alpha = (spread_over(layer, *self._size) for layer in layers)
        return put_back(frame, stored, alpha), alpha

    def _encode(self, rgb: Tensor) -> None:
        if self._open is None:
            plan = plan_encoding(self._info, self._output, self._settings, self._size[1], self._size[0])
            exact = {"fflags": "+bitexact"}  # no random identifiers in the file
            container = av.open(for_ffmpeg(self._unfinished.path), "w", format="matroska", container_options=exact)
            self._open = (container, _add_encoder(container, plan, *self._size), plan)
        container, stream, plan = self._open
        alpha = None
        if plan.opacity:
            rgb, alpha = self._with_layers(rgb)
        frame = to_frame(rgb, plan.planes, plan.matrix, plan.colour.range == FULL)
        if plan.opacity:
            frame = with_alpha(frame, plan.opacity, torch.ones(self._size) if alpha is None else alpha)
            if plan.pix_fmt != plan.opacity:
                frame = frame.reformat(format=plan.pix_fmt)
        frame.colorspace, frame.color_range = plan.colour.matrix, plan.colour.range
        frame.color_primaries, frame.color_trc = plan.colour.primaries, plan.colour.transfer
        frame.pts, frame.time_base = self.frames, 1 / plan.rate
        with _usual_scheduling():
            container.mux(stream.encode(frame))


@contextmanager
def _usual_scheduling() -> Iterator[None]:
    """Restore this thread's scheduling after encoding: as root, SVT-AV1 gives it real-time priority."""
    scheduling = getattr(os, "sched_getscheduler", None)  # Linux has it
    before = scheduling(0) if scheduling else None
    yield
    if scheduling and scheduling(0) != before:
        with suppress(OSError):
            os.sched_setscheduler(0, before or os.SCHED_OTHER, os.sched_param(0))


def segment_suffix(info: VideoInfo, output: Path, settings: EncodeSettings, number: int) -> str:
    """Suffix of the picture of a frame in a segment: PNG where it becomes one of several in a file."""
    if number < len(info.stills) and is_grouped(info, output) and info.stills[number].pages > 1:
        return ".png"
    return picture_suffix(info, output, settings, number)


def picture_suffix(info: VideoInfo, output: Path, settings: EncodeSettings, number: int = 0) -> str:
    """Suffix of a picture to write: as asked for, as the source's, or .png."""
    if output.suffix.lower() in IMAGE_SUFFIXES and output_kind(output) == "image":
        return output.suffix.lower()
    source = info.stills[number].path.suffix.lower() if number < len(info.stills) else f".{info.codec}"
    lossy = source in (".jpg", ".jpeg")
    return source if source in IMAGE_SUFFIXES and not (lossy and settings.quality == "lossless") else ".png"


def is_grouped(info: VideoInfo, output: Path) -> bool:
    """Whether pictures that lie in one file come back in one file, instead of each in its own."""
    return output_kind(output) == "image" or info.kind == "frames"


def upright(frame: Tensor, matrix: tuple[int, ...] | None) -> Tensor:
    """A frame (..., H, W) as players show it, turned and mirrored by a display matrix of quarter turns.

    >>> upright(torch.tensor([[1, 2], [3, 4]]), (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)).tolist()
    [[3, 1], [4, 2]]
    """
    if matrix is None:
        return frame
    across, down = matrix[0], matrix[4]
    if abs(matrix[1]) > abs(matrix[0]):
        frame, across, down = frame.transpose(-1, -2), matrix[3], matrix[1]
    return frame.flip([axis for axis, sign in ((-1, across), (-2, down)) if sign < 0])


def _video_labels(info: VideoInfo) -> Labels:
    """PNG's chunk cICP for pictures of a video whose colours are HDR or wider than sRGB."""
    tags = info.colour
    if info.kind != "video" or not (tags.primaries in WIDE or tags.transfer in HDR):
        return Labels()
    return Labels(own=((b"cICP", bytes([tags.primaries, tags.transfer, 0, 1])),))


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

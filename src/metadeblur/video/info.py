"""Probe a video file, a folder of frames or a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
from av.packet import Packet

from metadeblur.errors import MetadeblurError
from metadeblur.system.names import for_ffmpeg, natural
from metadeblur.system.thread_limit import starting
from metadeblur.video.colour import ColourTags, bit_depth, frame_tags
from metadeblur.video.marks import frame_marks, stream_marks
from metadeblur.video.mastering import Mastering, mastering_of, side_data
from metadeblur.video.stills import IMAGE_SUFFIXES, Still, colours_of, stills_of
from metadeblur.video.timing import TimeTable, likely_rate, measured_rate
from metadeblur.video.transparency import is_transparent

FOLDER_FPS = Fraction(30)
"""Frames a second of a folder of frames, which does not tell."""

_PROBED_FRAMES = 12  # decoded to see whether a video is interlaced and what its colours are
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders that read what Matroska keeps of transparency
_PHOTOGRAPHS = ("heic", "heix", "heim", "heis", "mif1", "mif2", "avif")  # kinds of MP4 that hold pictures
_TEXT_DEMUXERS = ("tty",)  # FFmpeg draws text files as video


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file, a folder of frames or a single picture."""

    path: Path
    kind: Literal["video", "frames", "image"]
    width: int
    height: int
    frames: int  # an estimate for videos until `with_times`
    fps: Fraction
    duration_seconds: float
    codec: str
    pix_fmt: str
    bit_depth: int  # bits a channel, 8 to 16
    interlaced: bool = False  # some frames are deinterlaced by the reader, one frame out for each one in
    interlaced_frames: int | None = None  # number of those frames; None: unknown before `with_times`
    recordings: int = 1  # joined in the file, whose clock starts anew with each; known after `with_times`
    variable_frame_rate: bool | None = None  # None: not known before `with_times`
    audio_streams: int = 0
    subtitle_streams: int = 0
    other_streams: int = 0  # data, attachments, cover pictures, further videos
    other_videos: int = 0  # further videos among them, which are copied
    container: str = ""
    stream: int = 0  # which stream of the file is restored
    time_base: Fraction = Fraction(1, 30)
    sample_aspect_ratio: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    rotation: int = 0  # degrees counterclockwise by which players turn the picture
    colour: ColourTags = field(default_factory=ColourTags)
    mastering: Mastering = field(default_factory=Mastering)
    files: tuple[Path, ...] = ()  # of a folder of frames, in order
    stills: tuple[Still, ...] = ()  # the pictures in them, one for each frame
    transparent: bool = False  # some pixel of the first frames is not opaque
    marks: frozenset[str] = frozenset()  # kinds of marks in the stream and the frames looked at
    channels: int = 3  # most of any picture: 1 grey, 3, or 4 with transparency
    missing: float = 0.0  # share of the file's bytes that are missing at its end

    def with_times(self, times: TimeTable) -> VideoInfo:
        """A copy with what only decoding the whole file can tell: number of frames, rate, interlaced frames."""
        woven = sum(stop - start for start, stop, _ in times.fields)
        return replace(
            self,
            frames=len(times),
            duration_seconds=float((times.stamps[-1] + times.duration - times.stamps[0]) * times.time_base),
            variable_frame_rate=times.variable,
            fps=measured_rate(self.fps, times) if self.kind == "video" else self.fps,
            interlaced=woven > 0,
            interlaced_frames=woven,
            recordings=len(times.shifts),
            transparent=self.transparent or times.transparent,
            marks=self.marks | times.marks.kinds,
        )

    def to_record(self) -> dict[str, Any]:
        """As JSON-able values, without the lists of files and pictures."""
        values = asdict(replace(self, files=(), stills=(), marks=frozenset()))
        del values["files"], values["stills"]
        values["marks"] = sorted(self.marks)
        return {name: str(v) if isinstance(v, Path | Fraction) else v for name, v in values.items()}


def probe(path: Path | str) -> VideoInfo:
    """Look at a video file, a folder of frames or a single picture.

    Args:
        path: the file or folder.

    Raises:
        MetadeblurError: nothing there, no frames in the folder, frames of different sizes, not a video, a video without
            a picture, or a file that is cut short.
    """
    path = Path(path)
    if not path.exists():
        raise MetadeblurError(f"{path}: there is no such file or folder")
    if path.is_dir():
        return _probe_folder(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _probe_pictures(path, (path,), "image")
    with open_media(path) as container:
        stream = main_video(container, path)
        _refuse_truncated(container, path)
        marks = stream_marks(container, stream.index)  # before there are decoders
        frames, damaged = _first_frames(container, stream)
        if not frames:
            raise MetadeblurError(f"{path}: not one frame could be decoded{' (damaged file)' if damaged else ''}")
        context, first = stream.codec_context, frames[0]
        rate = _frame_rate(stream, frames)
        duration = _duration(container, stream)
        types = [other.type for other in container.streams if other.index != stream.index]
        matrix = _display_matrix(first)
        tags = frame_tags(first).or_else(
            ColourTags(context.colorspace, context.color_range, context.color_primaries, context.color_trc)
        )
        return VideoInfo(
            path=path,
            kind="video",
            width=first.width,
            height=first.height,
            frames=stream.frames or max(1, round(duration * rate)),
            fps=rate,
            duration_seconds=duration,
            codec=context.codec.canonical_name,
            pix_fmt=first.format.name,
            bit_depth=bit_depth(first.format.name),
            interlaced=any(frame.interlaced_frame for frame in frames),
            audio_streams=types.count("audio"),
            subtitle_streams=types.count("subtitle"),
            other_streams=len(types) - types.count("audio") - types.count("subtitle"),
            other_videos=len(_videos(container)) - 1,
            container=container.format.name,
            stream=stream.index,
            time_base=stream.time_base or 1 / rate,
            sample_aspect_ratio=stream.sample_aspect_ratio or None,
            display_matrix=matrix,
            rotation=first.rotation if matrix else 0,
            colour=tags,
            mastering=mastering_of(first),
            transparent=any(map(is_transparent, frames)),
            marks=marks.union(kind for f in frames for kind, _ in frame_marks(f)),
            missing=_missing(path) if "matroska" in container.format.name else 0.0,
        )


def limit_pixels(most: int) -> None:
    """Limit the pixels of a frame that FFmpeg decodes in this process from now on."""
    _decoding["max_pixels"] = str(most)


_decoding: dict[str, str] = {}  # options of every decoder


@contextmanager
def open_media(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a media file for reading.

    Raises:
        MetadeblurError: not a media file, or it cannot be read.
    """
    try:
        # Tags that are not UTF-8 go through unchanged.
        container = av.open(for_ffmpeg(path), metadata_errors="surrogateescape", options=_decoding)
    except PermissionError as error:
        raise MetadeblurError(f"{path}: no permission to read it") from error
    except (av.FFmpegError, OSError) as error:
        raise MetadeblurError(f"{path}: not a video that FFmpeg can read, or damaged ({error.strerror})") from error
    try:
        for stream in container.streams.video if _decoding else ():
            if stream.codec_context is not None:
                stream.codec_context.options = _decoding
        yield container
    finally:
        container.close()


def main_video(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The video stream that is restored: the one that players show.

    That is one marked as default, of these the largest, of these the first; cover and still pictures do not count.

    Raises:
        MetadeblurError: there is none, or FFmpeg has no decoder for it.
    """
    streams = _videos(container)
    tiles = sum(bool(s.disposition & av.stream.Disposition.dependent) for s in container.streams.video)
    if tiles and container.metadata.get("major_brand", "").strip() in _PHOTOGRAPHS:
        raise MetadeblurError(
            f"{path}: a photograph stored as {tiles} tiles, which cannot be put together here; save it as PNG or JPEG "
            "first"
        )
    if not streams or container.format.name in _TEXT_DEMUXERS:
        raise MetadeblurError(f"{path}: no video in it; a video file or a folder of frames is needed")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise MetadeblurError(f"{path}: its video has a codec that this FFmpeg cannot decode")
    default = av.stream.Disposition.default
    return max(decodable, key=lambda s: (bool(s.disposition & default), s.codec_context.width * s.codec_context.height))


def _videos(container: av.container.InputContainer) -> list[av.VideoStream]:
    """All video streams of a file, without cover pictures and dependent streams."""
    kinds = av.stream.Disposition
    none = kinds.attached_pic | kinds.timed_thumbnails | kinds.still_image | kinds.dependent
    return [stream for stream in container.streams.video if not stream.disposition & none]


def _probe_folder(folder: Path) -> VideoInfo:
    files = sorted(
        (f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".")),
        key=lambda file: natural(file.name.lower()),
    )
    if not files:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise MetadeblurError(f"{folder}: no frames in this folder; it needs pictures ({kinds})")
    return _probe_pictures(folder, tuple(files), "frames")


def _probe_pictures(path: Path, files: tuple[Path, ...], kind: Literal["frames", "image"]) -> VideoInfo:
    stills = [still for file in files for still in stills_of(file)]
    _refuse_sizes(path, stills)
    height, width = colours_of(stills[0]).shape[:2]
    bits, rate, unit = max(still.header.bits for still in stills), FOLDER_FPS, 1 / FOLDER_FPS
    moments = [still.header.milliseconds for still in stills]
    if kind == "image" and all(moments):
        rate, unit = Fraction(1000 * len(moments), sum(moments)), Fraction(1, 1000)
    return VideoInfo(
        path=path,
        kind=kind,
        width=width,
        height=height,
        frames=len(stills),
        fps=rate,
        duration_seconds=float(len(stills) / rate),
        codec=files[0].suffix.lower().lstrip("."),
        pix_fmt="rgb24" if bits == 8 else "rgb48le",
        bit_depth=bits,
        variable_frame_rate=len(set(moments)) > 1,
        time_base=unit,
        files=files,
        stills=tuple(stills),
        channels=max(still.header.channels for still in stills),
    )


def _refuse_sizes(path: Path, stills: list[Still]) -> None:
    """All pictures of a clip need one size; the one that most have is taken for the right one."""
    sizes = Counter((still.header.width, still.header.height) for still in stills)
    if len(sizes) == 1:
        return
    (usual, _), *others = sizes.most_common()
    shown = next(still for still in stills if (still.header.width, still.header.height) == usual)
    named = [next(still for still in stills if (still.header.width, still.header.height) == size) for size, _ in others]
    words = [f"{_name(still)} is {still.header.width}x{still.header.height}" for still in (shown, *named[:2])]
    rest = len(stills) - sizes[usual] - len(named[:2])
    more = f" ({rest} more are of another size too)" if rest else ""
    raise MetadeblurError(
        f"{path}: frames differ in size: {', '.join(words)}{more}; all frames of a clip need one size"
    )


def _name(still: Still) -> str:
    return still.path.name if still.pages == 1 else f"picture {still.page + 1} of {still.path.name}"


def _first_frames(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[list[av.VideoFrame], int]:
    """The first frames that decode, and the number of packets that failed."""
    first: list[av.VideoFrame] = []
    decode, damaged = decoder(stream), 0
    for packet in container.demux(stream):
        try:
            first += decode(packet)
        except av.FFmpegError:
            damaged += 1
        if len(first) >= _PROBED_FRAMES or (damaged > 100 and not first):
            break
    return first, damaged


def decoder(stream: av.VideoStream) -> Callable[[Packet[av.VideoStream]], list[av.VideoFrame]]:
    """A function that decodes the packets of a stream.

    FFmpeg's own decoders of VP8 and VP9 know nothing of transparency, so libvpx decodes where there is some.
    A packet that cannot be decoded raises FFmpeg's error; a system that allows no further thread, ours.
    """
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    name = _WITH_ALPHA.get(stream.codec_context.name) if tags.get("alpha_mode") == "1" else None
    own: av.VideoCodecContext | None = None
    if name is None:
        stream.thread_type = "AUTO"
    else:
        own = cast(av.VideoCodecContext, av.CodecContext.create(name, "r"))
        own.thread_type, own.options = "AUTO", stream.codec_context.options

    def decode(packet: Packet[av.VideoStream]) -> list[av.VideoFrame]:
        with starting():  # the first packet starts the decoder's threads
            return packet.decode() if own is None else own.decode(packet if packet.size else None)

    return decode


def _frame_rate(stream: av.VideoStream, first: list[av.VideoFrame]) -> Fraction:
    """The rate that the file tells of and that its first frames agree with."""
    time_base = stream.time_base or Fraction(1, 25)
    stated = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    stamps, durations = [frame.pts for frame in first], [frame.duration for frame in first]
    return likely_rate(stated, stamps, durations, time_base) or Fraction(25)


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


def _refuse_truncated(container: av.container.InputContainer, path: Path) -> None:
    """MP4 and MOV tell where each packet lies: a file that ends before one of them has been cut short."""
    if "mp4" not in container.format.name.split(","):
        return
    size = path.stat().st_size
    for stream in container.streams:
        cut = sum(1 for entry in stream.index_entries if entry.pos + entry.size > size)
        if cut:
            raise MetadeblurError(
                f"{path}: cut short, {cut} of {len(stream.index_entries)} packets of stream {stream.index} "
                f"({stream.type}) are missing; copy or download the file again"
            )


def _missing(path: Path) -> float:
    """Share of a Matroska file that is missing at its end, by the size in its header (RFC 8794, RFC 9559).

    A file whose length was not known when it was begun, such as a recording, tells nothing.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    segment = head.find(b"\x18\x53\x80\x67")
    place = segment + 4
    if segment < 0 or place >= len(head) or not head[place]:
        return 0.0
    length = 9 - head[place].bit_length()  # bytes of the number: the place of the first bit that is set
    size = int.from_bytes(head[place : place + length], "big") & ((1 << 7 * length) - 1)
    expected = place + length + size
    if size == (1 << 7 * length) - 1 or expected <= path.stat().st_size:
        return 0.0
    return 1 - path.stat().st_size / expected


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The frame's display matrix, unless it changes nothing."""
    data = side_data(frame).get("DISPLAYMATRIX")
    if data is None:
        return None
    matrix = tuple(int(value) for value in np.frombuffer(memoryview(data), "=i4"))
    return None if matrix == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30) else matrix

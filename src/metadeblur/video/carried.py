"""Copy other streams, tags and chapters from the source to the output."""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

import av

from metadeblur.errors import MetadeblurError
from metadeblur.system.names import counted, for_ffmpeg
from metadeblur.video.clock import Packet, by_recording, may_jump
from metadeblur.video.cutting import Edges, moved_timecode
from metadeblur.video.info import VideoInfo, open_media
from metadeblur.video.timing import TimeTable

FORMATS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi",
}  # fmt: skip
# What FFmpeg says of packets that cannot be written.
DAMAGED = av.error.ArgumentError, av.error.InvalidDataError, av.error.PatchWelcomeError
_TS_NONSTRICT = 0x20000  # FFmpeg's AVFMT_TS_NONSTRICT: packets may have equal decoding times
_NOT_TAGS = (
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "duration",
    "_statistics",
    "bps",
    "number_of",
    "alpha_mode",  # true only where the transparency is kept
)
_MP4_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
    "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc", "compilation",
    "creation_time", "language", "handler_name", "timecode", "vendor_id", "hd_video", "media_type", "sort_name",
}  # fmt: skip


def other_packets(
    source: av.container.InputContainer,
    main: av.VideoStream,
    streams: list[av.stream.Stream],
    copies: dict[int, av.stream.Stream],
    times: TimeTable,
    shift: Fraction,
    refused: Mapping[int, frozenset[int]],
) -> Iterator[Packet]:
    """The packets of all other streams as they are; of a part or preview, those that begin in it, on its clock.

    Where recordings were joined, their times go on with those of the video. Those whose number within their stream is
    ``refused`` are left out.
    """
    edges = Edges.of(times)
    latest: dict[int, int] = {}  # of each stream, the last decoding time
    ends: dict[int, int] = {}  # and where the last packet ends
    numbers: Counter[int] = Counter()
    for packet, number in _with_recording(source, main, streams, times):
        numbers[packet.stream_index] += bool(packet.size)
        if packet.size and numbers[packet.stream_index] - 1 in refused.get(packet.stream_index, ()):
            continue
        if packet.pts is None and packet.dts is None:
            if not packet.size:
                continue  # the empty packet that ends a stream
            # A cover picture, or one of several packets of which only the first has a time.
            packet.pts = ends.get(packet.stream_index, 0)
        elif number:
            ahead = round(times.shifts[number] * times.time_base / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ahead
            packet.dts = None if packet.dts is None else packet.dts + ahead
        if packet.dts is None:
            packet.dts = packet.pts
        ends[packet.stream_index] = (packet.dts or 0) + (packet.duration or 1)
        if edges.is_over(packet):
            return
        if not edges.take(packet):
            continue
        copy = copies[packet.stream_index]
        last = latest.get(packet.stream_index)
        earliest = None if last is None else last + _least_step(copy, packet)
        if earliest is not None and packet.dts is not None and packet.dts < earliest:
            packet.dts = earliest  # no container takes packets that go back
            packet.pts = None if packet.pts is None else max(packet.pts, packet.dts)
        if packet.dts is not None:
            latest[packet.stream_index] = packet.dts
            ends[packet.stream_index] = packet.dts + (packet.duration or 1)
        offset = round(shift / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - offset
        packet.dts = None if packet.dts is None else packet.dts - offset
        packet.stream = copy
        yield packet


def _with_recording(
    source: av.container.InputContainer, main: av.VideoStream, streams: list[av.stream.Stream], times: TimeTable
) -> Iterator[tuple[Packet, int]]:
    """Packets of the other streams, with the number of the recording that each belongs to."""
    if not times.joined:
        yield from ((packet, 0) for packet in source.demux(streams))
        return
    for packet, number in by_recording(source.demux([main, *streams]), main.index, source):
        if packet.stream_index != main.index:
            yield packet, min(number, len(times.shifts) - 1)


def _least_step(copy: av.stream.Stream, packet: Packet) -> int:
    """The least difference between decoding times of two packets; 0 where the container allows equal ones."""
    if copy.type not in ("audio", "video") or copy.container.format.flags & _TS_NONSTRICT:
        return 0
    return ceil(max(Fraction(1), Fraction(copy.time_base or 0) / packet.time_base))


def copied_stream(
    target: av.container.OutputContainer,
    stream: av.stream.Stream,
    info: VideoInfo,
    times: TimeTable,
    output: Path,
    notes: list[str],
) -> av.stream.Stream | None:
    """A stream of the output that takes the packets of one of the source; None where it has none to take.

    Raises:
        MetadeblurError: this container cannot hold it, but another can.
    """
    format_name = FORMATS[output.suffix.lower()]
    if stream.disposition & av.stream.Disposition.attached_pic and format_name == "matroska":
        _attach_cover(target, stream, info)
        return None
    if stream.type == "data" and "timecode" in stream.metadata:
        return None  # the muxer makes this track from the tag of the same name
    if not _can_hold(format_name, stream):
        others = [s for s in dict.fromkeys((info.path.suffix.lower(), ".mkv", *FORMATS)) if s != output.suffix.lower()]
        holders = [s for s in others if s in FORMATS and _can_hold(FORMATS[s], stream)]
        refused = f"{output.suffix} files cannot hold {_stream_name(stream)} of {info.path.name}"
        if holders and not (stream.type == "data" and stream.name is None):
            raise MetadeblurError(f"{output}: {refused}; write to {holders[0]} instead")
        # Measurements that phones add in a form of their own are no reason to refuse the video.
        notes.append(f"{refused}, so it was left out" + (f"; {holders[0]} would keep it" if holders else ""))
        return None
    copy = target.add_stream_from_template(stream, opaque=True)
    if stream.time_base:
        timed_text = stream.type == "subtitle" and format_name in ("mp4", "mov")
        copy.time_base = stream.time_base / _finer(stream) if timed_text else stream.time_base
    describe(copy, stream, times)
    return copy


@dataclass(frozen=True)
class Damage:
    """Packets of a stream that a container refuses, by number; None: all of them."""

    packets: frozenset[int] | None
    note: str


def damages(source: av.container.InputContainer, main: av.VideoStream, format_name: str) -> dict[int, Damage]:
    """Streams beside the video of which a container refuses packets."""
    damaged = {}
    for stream in source.streams:
        if stream.index == main.index or stream.codec_context is None or not _takes(io.BytesIO(), format_name, stream):
            continue
        source.seek(0)
        refused, name = _refused_packets(source, format_name, stream), _stream_name(stream)
        if refused is None:
            damaged[stream.index] = Damage(None, f"{name} is damaged and was left out")
        elif refused:
            count = counted(len(refused), "packet")
            damaged[stream.index] = Damage(refused, f"{count} of {name}, damaged in the source")
    return damaged


def _refused_packets(
    source: av.container.InputContainer, format_name: str, stream: av.stream.Stream
) -> frozenset[int] | None:
    """The numbers of packets that a container refuses; None: it cannot be written with the others either."""
    refused, number = set(), -1
    try:
        with tempfile.TemporaryFile() as file, av.open(file, "w", format=format_name) as trial:
            copy = trial.add_stream_from_template(stream, opaque=True)
            for number, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
                packet.stream, packet.pts, packet.dts = copy, number, number
                try:
                    trial.mux(packet)
                except DAMAGED:
                    refused.add(number)
    except DAMAGED:
        return None
    return None if len(refused) == number + 1 > 0 else frozenset(refused)


def _finer(stream: av.stream.Stream) -> int:
    """By how much to refine the time stamps of subtitles in MP4.

    The muxer compares their numbers with those of the other streams, forgetting that the units differ, and puts an
    empty subtitle wherever it finds them smaller: so they are made the largest.
    """
    largest = max(other.time_base.denominator for other in stream.container.streams if other.time_base)
    own = stream.time_base.denominator if stream.time_base else 1
    return -(-2 * max(largest, 20_000) // own)  # the muxer itself refines coarse ones up to 20,000


def _attach_cover(target: av.container.OutputContainer, stream: av.stream.Stream, info: VideoInfo) -> None:
    """Matroska keeps a cover picture as an attachment, others as a video stream of one packet."""
    with open_media(info.path) as container:
        packet = next(p for p in container.demux(container.streams[stream.index]) if p.size)
    kind = {"png": "png", "mjpeg": "jpeg"}.get(stream.codec_context.name, stream.codec_context.name)
    name = stream.metadata.get("filename", f"cover.{'jpg' if kind == 'jpeg' else kind}")
    target.add_attachment(name, stream.metadata.get("mimetype", f"image/{kind}"), bytes(packet))


def _can_hold(format_name: str, stream: av.stream.Stream) -> bool:
    """Whether a container takes the stream, found out by writing a header with it alone."""
    if _takes(io.BytesIO(), format_name, stream):
        return True
    if format_name != "matroska":
        return False
    with tempfile.TemporaryDirectory(prefix="metadeblur-") as folder:
        return _takes(_lenient(Path(folder) / "trial.mkv", format_name, {}), "tee", stream)


def _takes(file: str | io.BytesIO, format_name: str, stream: av.stream.Stream) -> bool:
    try:
        with av.open(file, "w", format=format_name) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def needs_leniency(format_name: str, source: av.container.InputContainer, main: av.VideoStream) -> bool:
    """Whether the container can hold a stream that FFmpeg's table of its codecs does not name.

    So it is with the sound of WMV files in Matroska, which has a place for all codecs of Windows.
    """
    others = [stream for stream in source.streams if stream.index != main.index and stream.codec_context is not None]
    strict = [stream for stream in others if not _takes(io.BytesIO(), format_name, stream)]
    return any(_can_hold(format_name, stream) for stream in strict)


def opened(path: Path, format_name: str, options: dict[str, str], *, lenient: bool) -> av.container.OutputContainer:
    """A file to write; ``lenient``: take what the container holds, not only what FFmpeg's table says."""
    if lenient:  # PyAV checks the codec table of the muxer that it opens; "tee" has none and passes packets on
        name = _lenient(path, format_name, options)
        return av.open(name, "w", format="tee", container_options=options, metadata_errors="surrogateescape")
    file = for_ffmpeg(path)
    return av.open(file, "w", format=format_name, container_options=options, metadata_errors="surrogateescape")


def _lenient(path: Path, format_name: str, options: dict[str, str]) -> str:
    """What FFmpeg's muxer "tee" writes to: the one file in the one format."""
    arguments = ":".join(f"{name}={value}" for name, value in {"f": format_name, **options}.items())
    return f"[{arguments}]" + re.sub(r"([\\'|\s])", r"\\\1", str(path.absolute()))


def _stream_name(stream: av.stream.Stream) -> str:
    decodable = stream.codec_context is not None
    codec = stream.codec_context.codec.canonical_name if decodable else getattr(stream, "name", None)
    if not codec:
        codec = "" if stream.type == "data" else "of unknown kind"
    return f"stream {stream.index} ({', '.join(filter(None, (stream.type, codec)))})"


def describe(copy: av.stream.Stream, stream: av.stream.Stream, times: TimeTable) -> None:
    """Give a stream of the output the language, title, disposition and so on of the source's."""
    copy.metadata.update(moved_timecode(content_tags(stream.metadata), stream, times))
    copy.disposition = stream.disposition


def content_tags(tags: dict[str, str]) -> dict[str, str]:
    """Tags that say something about the content, not about the file that it was in."""
    return {name: value for name, value in tags.items() if not name.lower().startswith(_NOT_TAGS)}


def chapters(source: av.container.InputContainer, times: TimeTable, shift: Fraction) -> list[av.container.Chapter]:
    """The chapters of the source; of a part or preview, what of them lies in it."""
    kept = []
    for chapter in source.chapters():
        base = chapter["time_base"] or Fraction(1)
        offset = round(shift / base)
        start, end = chapter["start"], chapter["end"]
        if times.end is not None:
            limit = int(times.end * times.time_base / base)
            if start >= limit:
                continue
            end = min(end, limit)
        if times.begin is not None:
            start = max(start, offset)
            if end <= start:
                continue
        chapter["start"], chapter["end"] = start - offset, end - offset
        kept.append(chapter)
    return kept


def clock_start(source: av.container.InputContainer) -> Fraction:
    """Where the clock of a broadcast format (MPEG-TS and the like) happens to begin, in seconds; 0 for files."""
    if may_jump(source) and source.start_time:
        return Fraction(source.start_time, av.time_base)
    return Fraction(0)


def muxer_options(format_name: str, source: av.container.InputContainer, times: TimeTable) -> dict[str, str]:
    """How the muxer is to write the file, so that nothing of the source changes."""
    # Time stamps below zero, as sound has that was encoded with a lead-in, are kept instead of all being moved.
    options = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}
    if format_name in ("mp4", "mov"):
        units = [times.time_base.denominator] if times.stamps[0] > 0 else []
        if times.begin is not None:  # sound begins with a packet, which is hardly ever there where the part begins
            units = [stream.time_base.denominator for stream in source.streams if stream.time_base]
        fitting = [unit for unit in units if unit <= 1_000_000]
        if fitting:  # the unit of the delay of a track that begins late
            options["movie_timescale"] = str(max(fitting))
        if any(name.lower() not in _MP4_TAGS for name in content_tags(source.metadata)):
            options["movflags"] = "use_metadata_tags"
    return options

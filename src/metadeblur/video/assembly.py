"""Join encoded segments and copy everything else of the source into the output."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count
from math import gcd
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import torch

from metadeblur.clip import Clip, as_clip
from metadeblur.errors import MetadeblurError
from metadeblur.system.files import check_writable, refusals, remove, whole
from metadeblur.system.interrupts import undisturbed
from metadeblur.system.locks import beside, writing
from metadeblur.system.names import counted, for_ffmpeg
from metadeblur.system.scratch import scratch_folder
from metadeblur.video.carried import (
    DAMAGED,
    FORMATS,
    Damage,
    chapters,
    clock_start,
    content_tags,
    copied_stream,
    damages,
    describe,
    muxer_options,
    needs_leniency,
    opened,
    other_packets,
)
from metadeblur.video.clock import Packet
from metadeblur.video.cutting import moved_timecode
from metadeblur.video.encoding import EncodeSettings, output_kind
from metadeblur.video.folder import (
    assemble_pictures,
    check_single,
    lost_in_pictures,
    picture_stems,
    refuse_foreign_files,
)
from metadeblur.video.info import VideoInfo, main_video, open_media
from metadeblur.video.lost import lost_in_video
from metadeblur.video.marks import with_messages
from metadeblur.video.reading import VideoReader
from metadeblur.video.segments import SegmentWriter
from metadeblur.video.stills import write_picture
from metadeblur.video.timing import TimeTable


@dataclass(frozen=True)
class _Order:
    """One segment: how many frames it has and how far its packets are out of order."""

    frames: int
    delay: int
    extradata: bytes | None


def assemble(
    segments: Sequence[Path],
    info: VideoInfo,
    output: Path,
    *,
    times: TimeTable | None = None,
    draft: Path | None = None,
) -> tuple[str, ...]:
    """Join segments, in order, into the finished file, with everything else of the source.

    Frames are shown at the source's own time stamps, those of a part counted from its first frame. Sound, subtitles,
    data, attachments and cover pictures are copied packet by packet; so are tags, languages, dispositions, chapters,
    rotation, sample aspect ratio and colour tags. The file gets its name when it is whole. Folders of frames and
    pictures are written as such.

    Args:
        segments: files of :class:`SegmentWriter`, in the order of the shots.
        info: the source.
        output: the file, or the folder for frames.
        times: the source's table of time stamps; None: decode the source once more to get it. For a preview, its
            :meth:`~TimeTable.first` frames, and of a part its own: the other streams are cut like the video.
        draft: where to write instead, for the caller to give it its name (:func:`metadeblur.video.whole`).

    Returns:
        What could not be kept, one sentence each; empty as a rule.

    Raises:
        MetadeblurError: the segments do not have as many frames as the table, the container cannot hold a stream of the
            source, the disk is full, or there is no permission.
    """
    if draft is None:
        with whole(output) as draft:
            return assemble(segments, info, output, times=times, draft=draft)
    if output_kind(output) != "video":
        return assemble_pictures(segments, info, output, draft)
    return _join(segments, info, output, draft, times or VideoReader(info.path).times)


def check_output(source: Path | str, output: Path | str, settings: EncodeSettings | None = None) -> tuple[str, ...]:
    """Refuse, before the work, an output that :func:`assemble` would refuse after it.

    One frame of the source goes through encoder and container, in a temporary folder.

    Args:
        source: the input, a file or folder.
        output: the file or folder to write.
        settings: the encoder's.

    Returns:
        What cannot be kept, one sentence each, as :func:`assemble`.

    Raises:
        MetadeblurError: output and input are the same, the folder is missing or not writable, or the container
            cannot hold the codec or a stream of the source.
    """
    source, output = Path(source), Path(output)
    reader = VideoReader(source)
    info = reader.info
    kind = output_kind(output)
    if output.exists() and output.samefile(source):
        raise MetadeblurError(f"{output}: output and input are the same file; choose another output with -o")
    if source.is_dir() and source.resolve() in output.resolve().parents:
        raise MetadeblurError(f"{output}: the output lies inside of the input folder; choose another output with -o")
    if kind == "image":
        check_single(info, output, info.frames)
    if kind == "video" and output.is_dir():
        raise MetadeblurError(f"{output}: is a folder; choose a file name")
    check_writable(output)
    if kind == "frames":
        refuse_foreign_files(output, picture_stems(info))
    with scratch_folder() as folder:
        segment, trial = folder / "segment", folder / f"trial{output.suffix}"
        with SegmentWriter(segment, info, settings, output=output, source=reader) as writer:
            writer.write(torch.zeros(3, info.height, info.width))
        if kind != "video":
            return lost_in_pictures(info, {file.suffix for file in segment.iterdir()})
        step = max(1, round(1 / (info.fps * info.time_base)))
        with refusals(output):
            return _join([segment], info, output, trial, TimeTable((0,), info.time_base, step, end=step))


def write_clip(
    clip: Any, path: Path | str, *, settings: EncodeSettings | None = None, like: Path | str | None = None
) -> None:
    """Write a clip as a video file, a picture (one frame) or a folder of frames, by the suffix of the path.

    Args:
        clip: read one after the other; or its frames as a tensor or array, (T, 3, H, W) or (T, H, W, 3), uint8 or float
            in [0, 1], or as a list of single frames.
        path: where to; a name without a suffix is a folder.
        settings: the encoder's.
        like: a video with as many frames whose time stamps, sound, tags and colours the file gets. None: a silent
            video of constant rate, ``clip.fps``.

    Raises:
        MetadeblurError: as :func:`assemble`, or ``like`` has another number of frames.
    """
    clip, path = as_clip(clip), Path(path)
    info, times, reader = _clip_info(clip, path), None, None
    if like is not None:
        reader = VideoReader(like)
        times = reader.times
        info = reader.info
        check_output(like, path, settings)
        if len(times) != len(clip):
            raise MetadeblurError(
                f"{like}: has {counted(len(times), 'frame')}, the clip {len(clip)}; they must be equal"
            )
    check_writable(path)
    if output_kind(path) == "image" and len(clip) == 1:
        with whole(path) as unfinished:
            write_picture(unfinished, clip[0], clip.bit_depth)
        return
    if times is None:
        times = TimeTable(tuple(range(len(clip))), 1 / clip.fps, 1)
    with refusals(path), writing(path):
        segment = beside(path, "segment")
        remove(segment)  # of a run that was killed
        try:
            with SegmentWriter(segment, info, settings, output=path, source=reader) as writer:
                for frame in clip:
                    writer.write(frame)
            assemble([segment], info, path, times=times)
        finally:
            with undisturbed():
                remove(segment)


def _clip_info(clip: Clip, path: Path) -> VideoInfo:
    return VideoInfo(
        path=path,
        kind="frames",
        width=clip.width,
        height=clip.height,
        frames=len(clip),
        fps=clip.fps,
        duration_seconds=float(len(clip) / clip.fps),
        codec="png",
        pix_fmt="rgb24" if clip.bit_depth <= 8 else "rgb48le",
        bit_depth=clip.bit_depth,
        variable_frame_rate=False,
        time_base=1 / clip.fps,
    )


def _order(segment: Path) -> _Order:
    """How the packets of a segment lie: read once, without decoding."""
    stamps: list[int] = []
    with open_media(segment) as container:
        stream = main_video(container, segment)
        extradata = stream.codec_context.extradata
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None:
                if not stamps and not packet.is_keyframe:
                    raise MetadeblurError(f"{segment}: does not begin with a whole frame; run without --resume")
                stamps.append(packet.pts)
    places = _places(stamps)
    return _Order(len(stamps), max((j - i for j, i in enumerate(places)), default=0), extradata)


def _places(stamps: list[int]) -> list[int]:
    """For each packet, in the order of the file, the number of its frame in the order of showing."""
    ranks = {stamp: rank for rank, stamp in enumerate(sorted(stamps))}
    return [ranks[stamp] for stamp in stamps]


def _join(
    segments: Sequence[Path], info: VideoInfo, output: Path, unfinished: Path, times: TimeTable
) -> tuple[str, ...]:
    """Write what is to become ``output`` to ``unfinished``."""
    orders = [_order(segment) for segment in segments]
    frames = sum(order.frames for order in orders)
    if frames != len(times):
        raise MetadeblurError(
            f"{output}: the segments have {counted(frames, 'frame')} and the source {len(times)}; run it again"
        )
    if len({order.extradata for order in orders}) > 1:
        raise MetadeblurError(f"{output}: the segments were encoded with different settings; run without --resume")
    fitted = _fitting(times, output)
    delay = max(order.delay for order in orders)
    if info.kind == "video":
        try:
            with open_media(info.path) as source:
                return _write(segments, info, output, unfinished, times, fitted, delay, source)
        except DAMAGED:
            with open_media(info.path) as source:
                damaged = damages(source, main_video(source, info.path), FORMATS[output.suffix.lower()])
            if not damaged:
                raise
            with open_media(info.path) as source:
                return _write(segments, info, output, unfinished, times, fitted, delay, source, damaged)
    format_name = FORMATS[output.suffix.lower()]
    with av.open(for_ffmpeg(unfinished), "w", format=format_name, container_options={"fflags": "+bitexact"}) as target:
        video = _prepare(target, segments[0], info, fitted, format_name)
        for packet in _video_packets(segments, fitted, delay, video, Fraction(0)):
            target.mux(packet)
        return tuple(lost_in_video(info, video, format_name))


def _write(
    segments: Sequence[Path],
    info: VideoInfo,
    output: Path,
    unfinished: Path,
    times: TimeTable,
    fitted: TimeTable,
    delay: int,
    source: av.container.InputContainer,
    damaged: Mapping[int, Damage] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Write the output of a video: ``times`` are the source's, ``fitted`` those that the container can hold.

    What is ``damaged`` of the other streams is left out.
    """
    notes = [damage.note for damage in damaged.values()]
    format_name = FORMATS[output.suffix.lower()]
    main = main_video(source, info.path)
    shift = clock_start(source) if times.begin is None else times.begin * times.time_base
    options, lenient = muxer_options(format_name, source, fitted), needs_leniency(format_name, source, main)
    with opened(unfinished, format_name, options, lenient=lenient) as target:
        copies: dict[int, av.stream.Stream] = {}
        video: av.VideoStream | None = None
        for stream in source.streams:
            if stream.index == main.index:
                video = _prepare(target, segments[0], info, fitted, format_name)
                describe(video, stream, times)
                if info.display_matrix is not None:
                    if format_name == "avi":
                        raise MetadeblurError(
                            f"{output}: .avi cannot hold the rotation of {info.path}; use .mkv or .mp4"
                        )
                    video.set_display_matrix(list(info.display_matrix))
            elif stream.index in damaged and damaged[stream.index].packets is None:
                continue
            elif stream.discard != av.stream.Discard.all:  # those are chapters, which are written as such
                copy = copied_stream(target, stream, info, times, output, notes)
                if copy is not None:
                    copies[stream.index] = copy
        assert video is not None
        notes += lost_in_video(info, video, format_name)
        target.metadata.update(moved_timecode(content_tags(source.metadata), main, times))
        kept = chapters(source, times, shift)
        if kept and lenient:
            notes.append(f"the {len(kept)} chapters of {info.path.name} were left out: .mkv takes them or its sound")
        target.set_chapters(kept)
        streams = [source.streams[index] for index in copies]
        refused = {index: damage.packets or frozenset() for index, damage in damaged.items()}
        others = other_packets(source, main, streams, copies, times, shift, refused) if streams else iter(())
        pictures = _video_packets(segments, fitted, delay, video, shift if times.begin is None else Fraction(0))
        for packet in heapq.merge(pictures, others, key=_moment):
            target.mux(packet)
    return tuple(notes)


def _moment(packet: Packet) -> Fraction:
    """When a packet is decoded, in seconds: the order of packets in a file."""
    ticks = packet.dts if packet.dts is not None else packet.pts
    return (ticks or 0) * packet.time_base


def _prepare(
    target: av.container.OutputContainer, segment: Path, info: VideoInfo, times: TimeTable, format_name: str
) -> av.VideoStream:
    """The video stream of the output, with codec, size and colours of the segments."""
    with open_media(segment) as container:
        template = main_video(container, segment)
        stream = target.add_stream_from_template(template, opaque=True)
        stream.time_base = times.time_base
        rate = info.fps if info.kind == "video" else times.rate
        # Matroska stores the rate, where it would be wrong for a variable one; MP4 needs it to write a time code.
        states_rate = not times.variable or format_name in ("mp4", "mov")
        stream.codec_context.framerate = rate if states_rate else Fraction(0)
        if template.codec_context.name == "hevc" and format_name in ("mp4", "mov"):
            stream.codec_context.codec_tag = "hvc1"  # what Apple's players ask for
        stream.metadata.update({name: value for name, value in template.metadata.items() if name == "alpha_mode"})
    return stream


def _video_packets(
    segments: Iterable[Path], times: TimeTable, delay: int, stream: av.VideoStream, shift: Fraction
) -> Iterator[Packet]:
    """The packets of all segments as those of one stream, with the time stamps of the source.

    The packet that is decoded j-th gets the j-th time stamp as its decoding time, ``delay`` frames earlier, so that
    none is shown before it is decoded; before the first frame the table goes on backwards evenly.
    """
    stamps = times.stamps
    step = max(1, (stamps[1] - stamps[0]) if len(stamps) > 1 else times.duration)
    offset = round(shift / times.time_base)
    first, order, codec = 0, count(), stream.codec_context.codec.canonical_name
    for segment in segments:
        with open_media(segment) as container:
            source = main_video(container, segment)
            shown = sorted(p.pts for p in container.demux(source) if p.size and p.pts is not None)
        ranks = {stamp: first + rank for rank, stamp in enumerate(shown)}
        with open_media(segment) as container:
            for packet in container.demux(main_video(container, segment)):
                if not packet.size or packet.pts is None:
                    continue
                index, decoded = ranks[packet.pts], next(order) - delay
                packet.stream, packet.time_base = stream, times.time_base
                packet.pts = stamps[index] - offset
                packet.dts = (stamps[decoded] if decoded >= 0 else stamps[0] + decoded * step) - offset
                following = stamps[index + 1] if index + 1 < len(stamps) else stamps[index] + times.duration
                packet.duration = following - stamps[index]
                messages = times.marks.messages.get(index) if codec in ("h264", "hevc") else None
                yield with_messages(packet, codec, messages) if messages else packet
        first += len(ranks)


def _fitting(times: TimeTable, output: Path) -> TimeTable:
    """The time stamps that are written: those of a part from 0 on; in AVI numbers of frames, with gaps if need be."""
    if times.begin is not None:
        times = replace(times, stamps=tuple(stamp - times.begin for stamp in times.stamps))
    if output.suffix.lower() != ".avi":
        return times
    if not times.variable:
        rate = times.rate
        first = round(times.stamps[0] * times.time_base * rate)
        return replace(times, stamps=tuple(range(first, first + len(times))), time_base=1 / rate, duration=1)
    step = gcd(*times.stamps)
    if step * times.time_base < Fraction(1, 1000):
        raise MetadeblurError(f"{output}: .avi cannot hold this variable frame rate; write to .mkv or .mp4 instead")
    return replace(
        times, stamps=tuple(stamp // step for stamp in times.stamps), time_base=times.time_base * step, duration=1
    )

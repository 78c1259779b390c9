"""Encoded segments, joined and given back everything else that was in the source."""

from __future__ import annotations

import heapq
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count
from math import gcd
from pathlib import Path

import av
import torch

from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.locks import beside, writing
from metadeblur.scratch import scratch
from metadeblur.video.carried import (
    FORMATS,
    Packet,
    chapters,
    clock_start,
    content_tags,
    copied_stream,
    describe,
    lost_aspect,
    lost_mastering,
    muxer_options,
    other_packets,
)
from metadeblur.video.encoding import (
    EncodeSettings,
    SegmentWriter,
    output_kind,
    write_picture,
)
from metadeblur.video.info import TimeTable, VideoInfo, main_video, open_media, probe
from metadeblur.video.output import check_writable, refusals, remove, whole
from metadeblur.video.reading import VideoReader


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

    Frames are shown at the source's own time stamps. Sound, subtitles, data, attachments and cover pictures are
    copied packet by packet; so are tags, languages, dispositions, chapters, rotation, sample aspect ratio and colour
    tags. The file gets its name when it is whole. Folders of frames and pictures are written as such.

    Args:
        segments: files of :class:`SegmentWriter`, in the order of the shots.
        info: the source.
        output: the file, or the folder for frames.
        times: the source's table of time stamps; None: decode the source once more to get it. For a preview, its
            :meth:`~TimeTable.first` frames: what comes later in the other streams is left out.
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
    kind = output_kind(output)
    if kind != "video":
        _assemble_pictures(segments, info, output, draft, single=kind == "image")
        return ()
    return _join(segments, info, output, draft, times or VideoReader(info.path).times)


def check_output(source: Path | str, output: Path | str, settings: EncodeSettings | None = None) -> tuple[str, ...]:
    """Refuse before the work what would be refused after it.

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
    info = probe(source)
    kind = output_kind(output)
    if output.exists() and output.samefile(source):
        raise MetadeblurError(f"{output}: output and input are the same file; choose another output with -o")
    if source.is_dir() and source.resolve() in output.resolve().parents:
        raise MetadeblurError(f"{output}: the output lies inside of the input folder; choose another output with -o")
    if kind == "image" and info.frames > 1:
        raise MetadeblurError(f"{output}: a picture cannot hold {info.frames} frames; choose a video file or a folder")
    if kind == "video" and output.is_dir():
        raise MetadeblurError(f"{output}: is a folder; choose a file name")
    check_writable(output)
    if kind == "frames":
        _refuse_foreign_files(output, set(_picture_names(info, ".png", info.frames)))
    with scratch() as folder:
        segment, trial = folder / "segment", folder / f"trial{output.suffix}"
        with SegmentWriter(segment, info, settings, output=output) as writer:
            writer.write(torch.zeros(3, info.height, info.width))
        if kind != "video":
            return ()
        step = max(1, round(1 / (info.fps * info.time_base)))
        with refusals(output):
            return _join([segment], info, output, trial, TimeTable((0,), info.time_base, step, end=step))


def write_clip(
    clip: Clip, path: Path | str, *, settings: EncodeSettings | None = None, like: Path | str | None = None
) -> None:
    """Write a clip as a video file, a picture (one frame) or a folder of frames, by the suffix of the path.

    Args:
        clip: the frames, read one after the other.
        path: where to; a name without a suffix is a folder.
        settings: the encoder's.
        like: a video with as many frames whose time stamps, sound, tags and colours the file gets. None: a silent
            video of constant rate, ``clip.fps``.

    Raises:
        MetadeblurError: as :func:`assemble`, or ``like`` has another number of frames.
    """
    path = Path(path)
    info, times = _clip_info(clip, path), None
    if like is not None:
        reader = VideoReader(like)
        info, times = reader.info, reader.times
        check_output(like, path, settings)
        if len(times) != len(clip):
            raise MetadeblurError(f"{like}: has {len(times)} frames, the clip {len(clip)}; they must be equal")
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
            with SegmentWriter(segment, info, settings, output=path) as writer:
                for frame in clip:
                    writer.write(frame)
            assemble([segment], info, path, times=times)
        finally:
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
        raise MetadeblurError(f"{output}: the segments have {frames} frames and the source {len(times)}; run it again")
    if len({order.extradata for order in orders}) > 1:
        raise MetadeblurError(f"{output}: the segments were encoded with different settings; run without --resume")
    times = _fitting(times, output)
    delay = max(order.delay for order in orders)
    if info.kind == "video":
        with open_media(info.path) as source:
            return _write(segments, info, output, unfinished, times, delay, source)
    format_name = FORMATS[output.suffix.lower()]
    with av.open(str(unfinished), "w", format=format_name, container_options={"fflags": "+bitexact"}) as target:
        video = _prepare(target, segments[0], info, times)
        for packet in _video_packets(segments, times, delay, video, Fraction(0)):
            target.mux(packet)
    return ()


def _write(
    segments: Sequence[Path],
    info: VideoInfo,
    output: Path,
    unfinished: Path,
    times: TimeTable,
    delay: int,
    source: av.container.InputContainer,
) -> tuple[str, ...]:
    notes: list[str] = []
    format_name = FORMATS[output.suffix.lower()]
    main = main_video(source, info.path)
    shift = clock_start(source)
    with av.open(
        str(unfinished),
        "w",
        format=format_name,
        container_options=muxer_options(format_name, source, times),
        metadata_errors="surrogateescape",
    ) as target:
        copies: dict[int, av.stream.Stream] = {}
        video: av.VideoStream | None = None
        for stream in source.streams:
            if stream.index == main.index:
                video = _prepare(target, segments[0], info, times)
                describe(video, stream)
                if info.display_matrix is not None:
                    if format_name == "avi":
                        raise MetadeblurError(
                            f"{output}: .avi cannot hold the rotation of {info.path}; use .mkv or .mp4"
                        )
                    video.set_display_matrix(list(info.display_matrix))
            elif stream.discard != av.stream.Discard.all:  # those are chapters, which are written as such
                copy = copied_stream(target, stream, info, output, notes)
                if copy is not None:
                    copies[stream.index] = copy
        assert video is not None
        notes += lost_aspect(info, video) + lost_mastering(info, video)
        target.metadata.update(content_tags(source.metadata))
        target.set_chapters(chapters(source, times, shift))
        streams = [source.streams[index] for index in copies]
        others = other_packets(source, streams, copies, times, shift) if streams else iter(())
        pictures = _video_packets(segments, times, delay, video, shift)
        for packet in heapq.merge(pictures, others, key=_moment):
            target.mux(packet)
    return tuple(notes)


def _moment(packet: Packet) -> Fraction:
    """When a packet is decoded, in seconds: the order of packets in a file."""
    ticks = packet.dts if packet.dts is not None else packet.pts
    return (ticks or 0) * packet.time_base


def _prepare(target: av.container.OutputContainer, segment: Path, info: VideoInfo, times: TimeTable) -> av.VideoStream:
    """The video stream of the output, with codec, size and colours of the segments."""
    with open_media(segment) as container:
        template = main_video(container, segment)
        stream = target.add_stream_from_template(template, opaque=True)
        stream.time_base = times.time_base
        rate = info.fps if info.kind == "video" else times.rate
        # Matroska stores the rate, where it would be wrong for a variable one; MP4 needs it to write a time code.
        told = not times.variable or target.format.name in ("mp4", "mov")
        stream.codec_context.framerate = rate if told else Fraction(0)
        if template.codec_context.name == "hevc" and target.format.name in ("mp4", "mov"):
            stream.codec_context.codec_tag = "hvc1"  # what Apple's players ask for
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
    first, order = 0, count()
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
                yield packet
        first += len(ranks)


def _fitting(times: TimeTable, output: Path) -> TimeTable:
    """AVI has no time stamps but a frame rate, with gaps where need be; all others take the table as it is."""
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


def _picture_names(info: VideoInfo, suffix: str, frames: int) -> list[str]:
    """File names of a folder of frames: those of the source, or numbers."""
    names = [f"{file.stem}{suffix}" for file in info.files]
    if len(set(names)) != frames:
        names = [f"frame{number:06d}{suffix}" for number in range(1, frames + 1)]
    return names


def _refuse_foreign_files(folder: Path, own: set[str]) -> None:
    """A folder that is there is replaced, so it may hold nothing but frames of an earlier run."""
    if folder.is_dir():
        stems = {Path(name).stem for name in own}
        foreign = [f.name for f in sorted(folder.iterdir()) if f.stem not in stems and not f.name.startswith(".")]
        if foreign:
            raise MetadeblurError(
                f"{folder}: holds other files ({foreign[0]}{' ...' if len(foreign) > 1 else ''}); choose an empty "
                "or new folder"
            )


def _assemble_pictures(segments: Sequence[Path], info: VideoInfo, output: Path, draft: Path, *, single: bool) -> None:
    files = [file for segment in segments for file in sorted(segment.iterdir())]
    if single:
        if len(files) != 1:
            raise MetadeblurError(f"{output}: a picture cannot hold {len(files)} frames; choose a folder")
        shutil.copyfile(files[0], draft)
        return
    names = _picture_names(info, files[0].suffix, len(files))
    _refuse_foreign_files(output, set(names))
    draft.mkdir()
    for file, name in zip(files, names, strict=True):
        try:
            os.link(file, draft / name)
        except OSError:  # another disk, or one that cannot link
            shutil.copyfile(file, draft / name)

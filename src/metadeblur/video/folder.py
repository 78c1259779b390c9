"""Join segments of pictures to a folder of frames, or to one picture file."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from metadeblur.errors import MetadeblurError
from metadeblur.video.carried import content_tags
from metadeblur.video.encoding import output_kind
from metadeblur.video.info import VideoInfo, open_media
from metadeblur.video.marks import lost_marks
from metadeblur.video.segments import HDR, WIDE, is_grouped
from metadeblur.video.stills import TRANSPARENT_SUFFIXES, Still, lost_of, several_suffixes, write_several

PictureFile = tuple[Path, tuple[Path, ...], tuple[Still, ...]]
"""Name of a picture file to write, the pictures of segments that go into it, and those of the source."""


def assemble_pictures(segments: Sequence[Path], info: VideoInfo, output: Path, draft: Path) -> tuple[str, ...]:
    """Make the finished folder, or the one picture file, of segments.

    Args:
        segments: folders of pictures, in the order of the shots.
        info: the source.
        output: what is written in the end.
        draft: where to write it first.

    Returns:
        What could not be kept, one sentence each.
    """
    files = [file for segment in segments for file in sorted(segment.iterdir())]
    single = output_kind(output) == "image"
    if single:
        check_single(info, output, len(files))
        pictures: list[PictureFile] = [(Path(output.name), tuple(files), info.stills)]
    else:
        pictures = _named(files, info, output)
        refuse_foreign_files(output, {name.name for name, _, _ in pictures})
    if not single:
        draft.mkdir()
    for name, parts, stills in pictures:
        place = draft if single else draft / name
        if len(parts) > 1:
            write_several(place, parts, stills)
        else:
            _give(parts[0], place)
    return lost_in_pictures(info, {name.suffix.lower() for name, _, _ in pictures})


def check_single(info: VideoInfo, output: Path, frames: int) -> None:
    """Refuse one picture file for more frames than it can hold."""
    if frames > 1 and not (info.stills and output.suffix.lower() in several_suffixes(info.stills[0])):
        raise MetadeblurError(f"{output}: a picture cannot hold {frames} frames; choose a video file or a folder")


def picture_stems(info: VideoInfo) -> set[str]:
    """The names, without suffixes, that the pictures of a folder made of a source may have."""
    return {path.stem for path in info.files} | {path.name for path in info.files} | set(_numbers(info.frames))


def refuse_foreign_files(folder: Path, own: Iterable[str]) -> None:
    """Refuse a folder that holds anything but frames of an earlier run, since it would be replaced."""
    if folder.is_dir():
        stems = {Path(name).stem for name in own}
        foreign = [f.name for f in sorted(folder.iterdir()) if f.stem not in stems and not f.name.startswith(".")]
        if foreign:
            raise MetadeblurError(
                f"{folder}: holds other files ({foreign[0]}{' ...' if len(foreign) > 1 else ''}); choose an empty "
                "or new folder"
            )


def lost_in_pictures(info: VideoInfo, suffixes: Iterable[str]) -> tuple[str, ...]:
    """What pictures with these suffixes cannot hold of a source, one sentence each."""
    suffixes = sorted(suffixes)
    if info.stills:
        same = {still.path.suffix.lower() for still in info.stills} == set(suffixes)
        return tuple(lost_of(info.stills, None if same or len(suffixes) > 1 else suffixes[0]))
    if info.kind != "video":
        return ()
    name, lost = info.path.name, []
    if info.transparent and not set(suffixes) <= set(TRANSPARENT_SUFFIXES):
        lost.append(f"the transparency of {name}: {', '.join(suffixes)} pictures have none")
    words = [
        "the sound" if info.audio_streams else "",
        "the subtitles" if info.subtitle_streams else "",
        "further streams (data, attachments, cover pictures)" if info.other_streams else "",
        *_words(info.path),
        "the time stamps",
    ]
    present = [word for word in words if word]
    joined = f"{', '.join(present[:-1])} and {present[-1]}" if len(present) > 1 else present[0]
    lost.append(f"{joined} of {name}: pictures cannot hold them")
    if info.sample_aspect_ratio not in (None, 1):
        lost.append(f"the sample aspect ratio {info.sample_aspect_ratio} of {name}: pictures have square pixels")
    if (info.colour.primaries in WIDE or info.colour.transfer in HDR) and suffixes != [".png"]:
        lost.append(f"the tags of the HDR or wide-gamut colours of {name}: PNG would keep them")
    return (*lost, *lost_marks(info.marks, name, ""))


def _words(path: Path) -> list[str]:
    """Chapters and tags, where a video has them."""
    with open_media(path) as container:
        chapters, tags = container.chapters(), content_tags(container.metadata)
    return ["the chapters" if chapters else "", "the tags" if tags else ""]


def _numbers(frames: int) -> list[str]:
    return [f"frame{number:06d}" for number in range(1, frames + 1)]


def _named(files: Sequence[Path], info: VideoInfo, output: Path) -> list[PictureFile]:
    """The files of a folder of frames: with the names of those of the source, or with numbers."""
    if not is_grouped(info, output) or not info.stills or len(files) != len(info.stills):
        names = _numbers(len(files))
        return [(Path(name + file.suffix), (file,), ()) for name, file in zip(names, files, strict=True)]
    pairs = zip(files, info.stills, strict=True)
    groups = [list(group) for _, group in groupby(pairs, key=lambda pair: pair[1].path)]
    wanted = [_name(group[0][1], group[0][0].suffix) for group in groups]
    twice = {name for name, count in Counter(wanted).items() if count > 1}
    pictures: list[PictureFile] = []
    for name, group in zip(wanted, groups, strict=True):
        source = group[0][1].path
        # a.jpg and a.png both written as PNG: the first becomes a.jpg.png
        own = f"{source.name}{Path(name).suffix}" if name in twice and name != source.name else name
        pictures.append((Path(own), tuple(file for file, _ in group), tuple(still for _, still in group)))
    return pictures


def _name(still: Still, suffix: str) -> str:
    """The name of a picture, exactly that of the source's unless it is of another format now."""
    same = still.pages > 1 or still.path.suffix.lower() == suffix
    return still.path.name if same else still.path.stem + suffix


def _give(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # another disk, or one that cannot link
        shutil.copyfile(file, place)

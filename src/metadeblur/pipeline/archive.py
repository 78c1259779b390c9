"""Whole archives as inputs: folders of videos and patterns become the files in them, each with its place."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metadeblur.errors import MetadeblurError, UsageError
from metadeblur.video.encoding import CONTAINERS
from metadeblur.video.stills import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (*CONTAINERS, ".wmv", ".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts", ".3gp", ".flv", ".ogv", ".mxf",
                  ".vob", ".dv")  # fmt: skip
"""Files that are taken for videos where a folder is searched; one that is named itself may have any suffix."""

_OWN = ("_deblurred", "_preview", "_first_look")  # ends of names that this program gives to results


@dataclass(frozen=True)
class Input:
    """One input and where in its archive it lies."""

    source: Path
    folder: Path = Path()  # its folder, as seen from the folder or pattern that was given
    found: bool = False  # in a folder or by a pattern: it was not named itself


def find_inputs(given: Sequence[Path], output: Path | None = None) -> list[Input]:
    """The inputs that were named, or that lie in a folder or match a pattern, in order and each once.

    A folder that holds videos, itself or further down, stands for all of them and for the folders of frames in it;
    a folder of pictures alone is one input. Patterns are those of :meth:`pathlib.Path.glob` (``*``, ``?``, ``[...]``,
    and ``**`` for any depth); Windows does not expand them by itself. Results of this program and hidden files are left
    out.

    Args:
        given: files, folders and patterns.
        output: where results go; what lies in there is no input.

    Raises:
        MetadeblurError: a pattern that matches nothing.
    """
    found: dict[Path, Input] = {}
    for path in given:
        inputs = _matching(path) if is_pattern(path) else _in_folder(path)
        for each in inputs:
            inside = each.found and output is not None and each.source.resolve().is_relative_to(output.resolve())
            if not inside:
                found.setdefault(each.source.resolve(), each)
    return list(found.values())


def shard(inputs: Sequence[Input], part: str) -> list[Input]:
    """Every N-th input, for one of several jobs that share an archive.

    Args:
        inputs: all of them.
        part: "I/N", I from 1 to N.

    Raises:
        UsageError: another text.

    >>> [each.source.name for each in shard([Input(Path(name)) for name in "abcde"], "2/3")]
    ['b', 'e']
    """
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard {part} is not allowed; give I/N with I from 1 to N, such as --shard 1/4")
    return list(inputs[int(number) - 1 :: int(count)])


def is_pattern(path: Path) -> bool:
    """Whether a path that is not there has wildcards."""
    return glob.has_magic(str(path)) and not os.path.lexists(path)


def _matching(pattern: Path) -> list[Input]:
    """What matches a pattern; places are counted from the part of it that has no wildcard."""
    first = next(number for number, part in enumerate(pattern.parts) if glob.has_magic(part))
    root = Path(*pattern.parts[:first])
    found = root.glob("/".join(pattern.parts[first:]))
    matches = sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(root).parts))
    inputs = [
        Input(each.source, each.source.parent.relative_to(root), found=True)
        for match in matches
        for each in (_in_folder(match) if match.is_dir() else [Input(match)])
        if _is_input(each.source, match)
    ]
    if not inputs:
        raise MetadeblurError(f"{pattern}: no video, picture or folder of frames matches this pattern")
    return inputs


def _is_input(source: Path, match: Path) -> bool:
    """Whether a match is something to restore: a folder that was searched, or a file of a known kind."""
    known = source.suffix.lower() in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
    return not _made_here(source) and (source != match or source.is_dir() or known)


def _in_folder(path: Path) -> list[Input]:
    """A path itself, or where it is a folder with videos in it, all that can be restored there."""
    if not path.is_dir():
        return [Input(path)]
    inputs, videos = [], False
    for name, folders, files in os.walk(path):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        here = Path(name)
        films = [here / file for file in sorted(files) if Path(file).suffix.lower() in VIDEO_SUFFIXES]
        videos |= bool(films)
        pictures = any(Path(file).suffix.lower() in IMAGE_SUFFIXES and file[0] != "." for file in files)
        chosen = films or ([here] if pictures and here != path else [])
        inputs += [
            Input(each, each.parent.relative_to(path), found=True)
            for each in chosen
            if not each.name.startswith(".") and not _made_here(each)
        ]
    # One level of pictures is a folder of frames; more of them, or any video, make an archive.
    frames = any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
    return inputs if inputs and (videos or not frames) else [Input(path)]


def _made_here(path: Path) -> bool:
    """Whether a file or folder is a result of this program that lies beside what it was made from.

    >>> _made_here(Path("nowhere/walk_deblurred.mp4"))
    False
    """
    for end in _OWN:
        if path.stem.endswith(end):
            origin = path.stem.removesuffix(end)
            return any(other != path and other.stem == origin for other in path.parent.glob(f"{glob.escape(origin)}*"))
    return False

"""Folders of blurred and sharp frames, paired by name; messages about what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metadeblur.errors import MetadeblurError
from metadeblur.system.names import natural

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
_LISTED = 5  # names that an error message lists


@dataclass(frozen=True)
class ClipFolder:
    """One paired clip: its name and its frames' files, blurred and sharp, in order and of equal number."""

    name: str
    blurred: tuple[Path, ...]
    sharp: tuple[Path, ...]
    video: bool = True  # False: pictures that do not follow one another, to which nothing can adapt
    sizes_differ: bool = False  # whether frames of several sizes are to be expected (RealBlur)


@dataclass
class Search:
    """One search: what was asked for, what was found, and what is wrong."""

    root: Path
    part: str
    inputs: str
    clips: list[ClipFolder] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def pair(self, name: str, blur: Path, sharp: Path, *, key: Callable[[str], str] = str) -> None:
        """Add the clip of two folders, or say what is wrong with it."""
        absent = [str(folder.relative_to(self.root)) for folder in (blur, sharp) if not folder.is_dir()]
        if absent:
            self.wrong.append(f"{name}: no folder {' and '.join(absent)}; add it, or take the clip away")
            return
        blurred, truth = pictures(blur, key), pictures(sharp, key)
        lonely = sorted(set(blurred) ^ set(truth), key=natural)
        if lonely:
            listed = f"frames without a partner in {blur.name} and {sharp.name}: {enumerated(lonely)}"
            self.wrong.append(f"{name}: {listed}; add or remove them")
        elif not blurred:
            self.wrong.append(f"{name}: no pictures in {blur.name} and {sharp.name}")
        else:
            order = sorted(blurred, key=natural)
            self.clips.append(paired(name, order, blurred, truth))


def part_folder(search: Search, parts: Sequence[str]) -> Path:
    """The folder of the part asked for, or of the first one that is there; ``search.part`` becomes its name."""
    for part in [search.part] if search.part else parts:
        if (search.root / part).is_dir():
            search.part = part
            return search.root / part
    if search.part and search.root.name != search.part:
        raise MetadeblurError(f"{search.root}: no folder {search.part}; choose another --part")
    search.part = search.root.name if search.root.name in parts else ""
    return search.root


def folders_in(folder: Path) -> list[Path]:
    """The folders inside one, sorted; none where there is no such folder. Hidden ones do not count."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def paired(name: str, order: Sequence[str], blurred: Mapping[str, Path], sharp: Mapping[str, Path]) -> ClipFolder:
    """The clip of files by name, in an order of names."""
    return ClipFolder(name, tuple(blurred[stem] for stem in order), tuple(sharp[stem] for stem in order))


def pictures(folder: Path, key: Callable[[str], str]) -> dict[str, Path]:
    """The pictures right inside a folder, by what ``key`` makes of their names without ending."""
    return {key(path.stem): path for path in folder.iterdir() if path.suffix.lower() in PICTURES}


def last_number(stem: str) -> str:
    """The last number in a name, by which blur_12 is paired with gt_12.

    >>> last_number("blur_12")
    '12'
    """
    digits = re.findall(r"\d+", stem)
    return digits[-1].lstrip("0") or "0" if digits else stem


def enumerated(names: Sequence[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more

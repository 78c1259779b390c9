"""Sharp photographs and videos that ``synth`` starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from metadeblur.data.pairs import decode
from metadeblur.errors import MetadeblurError

PHOTOGRAPHS = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}
LONGEST_SIDE = 2600  # px; a larger photograph is reduced once, which also makes it sharper a pixel


@dataclass(frozen=True)
class Source:
    """One sharp input: a photograph, or the frames of a video, (H, W, 3) RGB uint8."""

    path: Path
    sha256: str
    photograph: NDArray[np.uint8] | None = None
    frames: tuple[NDArray[np.uint8], ...] = ()


def load_sources(inputs: Sequence[Path]) -> list[Source]:
    """Read every photograph and video among ``inputs`` (folders are searched deeply), in the order of their names.

    Raises:
        MetadeblurError: an input is missing or unreadable, or there is no photograph or video at all.
    """
    sources = [_load(path) for path in _files(inputs)]
    if not sources:
        names = ", ".join(str(path) for path in inputs)
        raise MetadeblurError(f"no photograph or video in {names}; give {_known()} files or folders of them")
    return sources


def refuse_within(inputs: Sequence[Path], out: Path) -> None:
    """Refuse to write among the inputs: the next run would take what was made for sharp pictures.

    Raises:
        MetadeblurError: ``out`` is an input, or lies inside one.
    """
    for path in inputs:
        if out.resolve().is_relative_to(path.resolve()):
            raise MetadeblurError(f"{out}: the output lies inside of the input {path}; choose another folder with -o")


def _known() -> str:
    return " ".join(sorted(PHOTOGRAPHS | VIDEOS))


def _files(inputs: Sequence[Path]) -> Iterator[Path]:
    for path in inputs:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in PHOTOGRAPHS | VIDEOS)
        elif path.suffix.lower() in PHOTOGRAPHS | VIDEOS and path.is_file():
            yield path
        else:
            raise MetadeblurError(f"{path}: not a photograph or video that is there; give {_known()} files or folders")


def _load(path: Path) -> Source:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix.lower() in VIDEOS:
        from metadeblur.video import read_clip

        frames = tuple((frame.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for frame in read_clip(path))
        return Source(path, digest, frames=frames)
    picture: Any = decode(path)
    if picture is None:
        raise MetadeblurError(f"{path}: not readable as a picture; leave it out or save it again as PNG")
    scale = LONGEST_SIDE / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return Source(path, digest, photograph=np.ascontiguousarray(picture[..., ::-1]))

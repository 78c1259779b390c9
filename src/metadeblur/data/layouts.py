"""Paired clips on disk: which folders hold which blurred and sharp frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metadeblur.errors import MetadeblurError

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}


@dataclass(frozen=True)
class ClipFolder:
    """One paired clip: its name and its frames' files, blurred and sharp, in order and of equal number."""

    name: str
    blurred: tuple[Path, ...]
    sharp: tuple[Path, ...]


def plain_clips(root: Path) -> list[ClipFolder]:
    """Clips in the plain layout ``<clip>/{blur,sharp}/<frame>`` anywhere below ``root``, sorted by name.

    Raises:
        MetadeblurError: no such clip, or frames that have no partner of the same name (they are listed).
    """
    clips = []
    for blur in sorted(root.rglob("blur")):
        sharp = blur.with_name("sharp")
        # A folder whose name begins with a dot is a clip that is still being made.
        if blur.is_dir() and sharp.is_dir() and not blur.parent.name.startswith("."):
            clips.append(_pair(str(blur.parent.relative_to(root)), blur, sharp))
    if not clips:
        raise MetadeblurError(
            f"{root}: no clip found; the plain layout is <clip>/blur and <clip>/sharp with equal names"
        )
    return clips


def _pair(name: str, blur: Path, sharp: Path) -> ClipFolder:
    blurred, truth = _pictures(blur), _pictures(sharp)
    lonely = sorted(set(blurred) ^ set(truth))
    if lonely:
        listed = ", ".join(lonely[:5]) + (f" and {len(lonely) - 5} more" if len(lonely) > 5 else "")
        raise MetadeblurError(f"{name}: frames without a partner in blur and sharp: {listed}; add or remove them")
    order = sorted(blurred)
    return ClipFolder(name, tuple(blurred[stem] for stem in order), tuple(truth[stem] for stem in order))


def _pictures(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.iterdir() if path.suffix.lower() in PICTURES}

"""How large a clip may be that the page restores: a small file can stand for pictures without measure or end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """The most that a clip may have."""

    pixels: int = 50_000_000  # of a frame; one of 8K video has 33 million
    frames: int = 20_000  # eleven minutes at 30 a second

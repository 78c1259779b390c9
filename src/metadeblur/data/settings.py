"""How clips are made of photographs and videos: every setting of ``synth``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from metadeblur.limits import RISING, Count, Seed, Share, Within, check, spelt

Side: TypeAlias = Annotated[int, Within(16, 8192)]
PixelSpeed: TypeAlias = Annotated[float, Within(0.01, 1000)]
Exposure: TypeAlias = Annotated[float, Within(0, 2)]
JpegQuality: TypeAlias = Annotated[int, Within(1, 100)]


@spelt
@dataclass(frozen=True)
class SynthSettings:
    """How ``synth`` makes its clips; ranges are (lowest, highest)."""

    clips: Count = 100  # clips to make
    frames: Annotated[int, Within(1, 10_000)] = 6  # frames a clip
    width: Side = 640  # frame width in px
    height: Side = 360  # frame height in px
    seed: Seed = 0  # the same seed and inputs give the same clips
    # camera speed, px a frame interval, drawn logarithmically
    speed_px: Annotated[tuple[PixelSpeed, PixelSpeed], RISING] = (2.5, 28.0)
    # share of the frame interval that the shutter is open
    exposure: Annotated[tuple[Exposure, Exposure], RISING] = (0.25, 1.5)
    # one fixed direction of all motion; none: any direction
    angle_degrees: Annotated[float, Within(-360, 360)] | None = None
    layers: Annotated[int, Within(0, 100)] = 3  # at most this many moving layers before the scene
    still: Share = 0.05  # share of clips without any motion (sharp stays sharp)
    steady: Share = 0.0  # share of clips that move nearly alike in all frames, so that no neighbour is sharper
    stepped: Share = 0.0  # share of clips that are means of 5 to 15 moments, as benchmarks average a fast video
    noise: Share = 0.006  # highest standard deviation of the noise, of full scale
    # JPEG quality of the blurred frames; two thirds of the clips are not compressed
    compression: Annotated[tuple[JpegQuality, JpegQuality], RISING] = (80, 98)
    # for videos: average this many consecutive frames instead of moving a camera (0: do not)
    average: Annotated[int, Within(2, 1000, also=0)] = 0

    def __post_init__(self) -> None:
        check(self)

"""What the report is told about a shot's pictures, and how it shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from metadeblur.imaging.pictures import Picture, data_uri, encode_jpeg, shrink, to_uint8
from metadeblur.limits import CountOrNone, Within, check
from metadeblur.report.html import as_number, as_table

_LEAST_WIDTH = 320  # px; frames of a page with very many shots are shrunk down to this, not further


@dataclass(frozen=True)
class PageSettings:
    """How large a page's pictures may be."""

    frame_width: Annotated[int, Within(16, 16_384)] = 1280  # px: frames of the viewer are shrunk to this width
    quality: Annotated[int, Within(1, 100)] = 90  # JPEG quality, 1 to 100
    # of all viewer frames together, about 0.3 MB each; more shots give smaller frames
    megapixels: Annotated[float, Within(0, 1_000_000, above=True)] = 60.0
    pairs: CountOrNone = 48  # pseudo pairs shown on the whole page, shared between the shots, at least two a shot

    def __post_init__(self) -> None:
        check(self)


@dataclass
class ShotStory:
    """The pictures of one shot; pictures are arrays (H, W, 3), uint8 (floats in [0, 1] and tensors work too).

    Frame numbers in ``frames``, in the record's pairs, ``map_frame`` and ``first_frame`` share one numbering.
    """

    index: int  # the shot's "index" in the record
    frames: list[tuple[int, Any, Any]] = field(default_factory=list)  # (frame number, before, after)
    base: list[Any] | None = None  # the base model's picture of each of these frames, where it differs from "after"
    pairs: list[tuple[Any, Any]] = field(default_factory=list)  # (pseudo-blurred, pseudo-sharp), as in the record
    sharpness_map: NDArray[Any] | None = None  # (rows, cols) self-shift scores of one frame in dB
    history: list[dict[str, Any]] = field(default_factory=list)  # one a step: {"step", "loss", ...}
    frame_scores: list[float] = field(default_factory=list)  # mean self-shift score of each frame in dB
    map_frame: int | None = None  # number of the frame that the map belongs to
    first_frame: int = 0  # number of the frame that the first of frame_scores belongs to


@dataclass(frozen=True)
class Look:
    """How the pictures of one page are shown."""

    width: int  # px, of the viewer's frames at most
    quality: int  # JPEG quality
    pairs: int  # pseudo pairs shown of each shot
    turns: int = 0  # quarter turns counterclockwise that a player makes
    pixel: float = 1.0  # width of a pixel as shown, over its height
    blurs: int = 1  # pairs made from each place, next to each other in the list

    @staticmethod
    def of(record: Mapping[str, Any], stories: Sequence[ShotStory], settings: PageSettings) -> Look:
        """Upright, in the video's proportions, and small enough for a page of all these stories."""
        video, asked = as_table(record.get("video")), as_table(record.get("settings"))
        rotation, pixel = as_number(video.get("rotation")), as_number(video.get("sample_aspect_ratio"))
        turns = int(rotation // 90) % 4 if rotation % 90 == 0 else 0
        pixel = pixel if 0 < pixel < math.inf else 1.0
        blurs = as_number((asked | as_table(asked.get("adaptation"))).get("blurs"))
        area, widest = 0.0, 0
        for story in stories:
            for _, before, _ in story.frames:
                height, width = to_uint8(before).shape[:2]
                shown = min(width, settings.frame_width)
                widest = max(widest, shown)
                area += (2 if story.base is None else 3) * shown * shown * height / width
        factor = min(1.0, math.sqrt(settings.megapixels * 1e6 / area)) if area else 1.0
        return Look(
            width=max(min(_LEAST_WIDTH, settings.frame_width), int(widest * factor)),
            quality=settings.quality,
            pairs=max(2, settings.pairs // max(len(stories), 1)),
            turns=turns,
            pixel=1 / pixel if turns % 2 else pixel,
            blurs=int(blurs) if blurs >= 1 else 1,
        )

    def picture(self, frame: Any, width: int | None = None) -> Picture:
        """A frame as it is shown: upright and at most ``width`` px wide."""
        upright = np.ascontiguousarray(np.rot90(to_uint8(frame), self.turns))
        return shrink(upright, self.width if width is None else min(width, self.width))

    def photo(self, picture: Picture) -> str:
        """The picture as JPEG in a ``data:`` address."""
        return data_uri(encode_jpeg(picture, self.quality))

    def aspect(self, picture: Picture) -> str:
        """Width over height as shown, for the page's style."""
        return f"{picture.shape[1] * self.pixel:.6g}/{picture.shape[0]}"

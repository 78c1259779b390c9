"""A place of a clip: which patch is sharp there, which blurred; its pixels, and what lies around it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from metadeblur.clip import Clip
from metadeblur.imaging.brightness import matched_window
from metadeblur.imaging.clip_cache import ClipCache


@dataclass(frozen=True)
class Place:
    """A square patch of the clip and what its co-located patches are like."""

    frame: int  # the sharpest frame here: the pseudo-sharp patch
    top: int  # first row, px
    left: int  # first column, px
    size: int  # side, px
    score: float  # self-shift score of the pseudo-sharp patch, dB
    blurred_frame: int  # the most blurred frame here: the real blurred sample
    blurred_score: float  # its self-shift score, dB
    shrunk: bool = False  # whether what lies around is to be shrunk, and sharper by that

    @property
    def gap(self) -> float:
        """By how much the sharpest frame stands out from the most blurred one, dB."""
        return self.blurred_score - self.score


@dataclass(frozen=True)
class Shrunk:
    """A part of a frame, restored and shrunk, and a patch in it."""

    picture: Tensor  # (3, h, w), the patch with what lies around it
    place: Place  # of the patch in ``picture``
    region: Place  # what the patch shows, in the frame

    @property
    def patch(self) -> Tensor:
        """The patch (3, P, P)."""
        place = self.place
        return self.picture[:, place.top : place.top + place.size, place.left : place.left + place.size]


def place_window(clip: Clip, place: Place, frames: int = 5, cache: ClipCache | None = None) -> Tensor:
    """Co-located patches (N, 3, P, P) of an odd number of frames, the pseudo-sharp one in the middle.

    Clip ends repeat the end frame; neighbours have the centre's brightness.

    Raises:
        MetadeblurError: an even number of frames.
    """
    return _crop(matched_window(clip.window(place.frame, frames), cache), place).clone()


def real_blurred(clip: Clip, place: Place) -> Tensor:
    """The most blurred of the co-located patches (3, P, P): the critic's real sample (paper, section 3.2)."""
    return _crop(clip[place.blurred_frame], place).clone()


def _crop(frames: Tensor, place: Place) -> Tensor:
    """The place's pixels of frames (..., 3, H, W)."""
    return frames[..., place.top : place.top + place.size, place.left : place.left + place.size]

"""What every reblurrer offers, whether it is optical flow or a network."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from metadeblur.clip import Clip
from metadeblur.models.adapted import FusionSettings
from metadeblur.reblur.place import Place, Shrunk, place_window


class Reblurrer(Protocol):
    """Anything that makes pseudo-blurred patches; subclasses say more than how to blur one patch.

    Attributes:
        learnt: it was fitted on the clip's own patches, so that is what it blurs, and another has to judge it.
        anywhere: it takes a clip whose frames are on any device; others get them in main memory.
    """

    learnt: ClassVar[bool] = False
    anywhere: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """What records call it."""
        ...

    @property
    def knows_motion(self) -> bool:
        """Whether it blurs by a motion of the clip that it knows: neighbours by it too, and shrunk patches."""
        return False

    def reblur(self, clip: Clip, place: Place, generator: torch.Generator) -> Tensor:
        """The pseudo-blurred patch at ``place``: (3, P, P) float32 in [0, 1], without gradient, where the frames are.

        All randomness comes from ``generator``: the same state gives the same patch.
        """
        ...

    def reblur_window(
        self, clip: Clip, place: Place, frames: int, generator: torch.Generator, shrunk: Shrunk | None = None
    ) -> Tensor:
        """The pseudo-blurred patch between its neighbours, (N, 3, P, P); by default these are the clip's own."""
        del shrunk
        blurred = self.reblur(clip, place, generator)[None]
        if frames == 1:
            return blurred
        window = place_window(clip, place, frames)
        return torch.cat([window[: frames // 2], blurred, window[frames // 2 + 1 :]])

    def blur_at(self, place: Place) -> float:
        """How long the blur of the pseudo-sharp patch itself is, in px; 0 where nothing is known of motion."""
        del place
        return 0.0

    def fusion(self) -> FusionSettings:
        """How restored frames of the clip are fused: with its exposure, where that is known."""
        return FusionSettings()

    def describe(self) -> dict[str, Any]:
        """Its estimates of the clip's blur and their certainty, for the record (JSON)."""
        ...

"""What every reblurrer offers, whether it is optical flow or a network."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from metadeblur.clip import Clip
from metadeblur.reblur.place import Place


class Reblurrer(Protocol):
    """Anything that makes pseudo-blurred patches: optical flow (:mod:`.flow`), or a network."""

    @property
    def name(self) -> str:
        """What records call it."""
        ...

    def reblur(self, clip: Clip, place: Place, generator: torch.Generator) -> Tensor:
        """The pseudo-blurred patch at ``place``: (3, P, P) float32 in [0, 1], on the CPU, without gradient.

        All randomness comes from ``generator``: the same state gives the same patch.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What it knows about the clip's blur and how sure it is, ready for JSON: goes into the record."""
        ...

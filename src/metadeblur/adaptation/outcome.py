"""What an adaptation gave: the network to use, how much of it is adapted, and why; shown in short, and in notebooks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from metadeblur.adaptation.places import SupportSet
from metadeblur.adaptation.steps import Pair
from metadeblur.clip import Clip
from metadeblur.guard.judge import Reason
from metadeblur.models.adapted import FusionSettings, fusion_of
from metadeblur.reblur.reblurrer import Reblurrer


@dataclass(frozen=True, repr=False)
class Outcome:
    """What adaptation gave: the network to use, how much of it is adapted, and why.

    A notebook shows it as a page: one place of the clip before and after, the loss, and all checks.
    """

    model: nn.Module  # to be used: base, adapted, or between; float32
    share: float  # of the adapted weights, 0 (base) to 1 (whole)
    reasons: tuple[Reason, ...]
    fusion: FusionSettings | None = None  # how frames would be fused, before the guard
    history: list[dict[str, float]] = field(default_factory=list)  # step, loss, seconds of the deblurrer's steps
    reblurrer: Reblurrer | None = None
    support: SupportSet | None = None
    pairs: list[Pair] = field(default_factory=list)  # the clip's training pairs
    adapted: nn.Module | None = None  # before the guard (share 1); None where no step was taken or it diverged
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    memory_mb: dict[str, float] = field(default_factory=dict)  # most memory held in each stage
    reblur_history: list[dict[str, float]] = field(default_factory=list)  # terms of the reblurrer's steps, see updates
    excerpt: Clip | None = None  # a few frames of one place, for the notebook's before and after

    @property
    def fused(self) -> bool:
        """Whether frames that the model restores are fused with their neighbours."""
        return fusion_of(self.model) is not None

    @property
    def back_projected(self) -> bool:
        """Whether fused frames are also corrected by what they leave unexplained."""
        chosen = fusion_of(self.model)
        return chosen is not None and chosen.exposure is not None

    def __repr__(self) -> str:
        passed = sum(reason.passed for reason in self.reasons)
        parts = [f"share={self.share:g}", f"fused={self.fused}", f"back_projected={self.back_projected}"]
        if self.history:
            first, last = self.history[0]["loss"], self.history[-1]["loss"]
            parts.append(f"{len(self.history)} steps, loss {first:.4g} to {last:.4g}")
        return f"Outcome({', '.join(parts)}, {passed} of {len(self.reasons)} checks passed)"

    def _repr_html_(self) -> str:
        from metadeblur.adaptation.notebook import outcome_html

        return outcome_html(self)

    def to_record(self) -> dict[str, Any]:
        """The plain values that the record of a run keeps."""
        places = self.support.train if self.support else ()
        return {
            "share": self.share,
            "adapted": self.share > 0,
            "fused": self.fused,
            "back_projected": self.back_projected,
            "fusion": asdict(self.fusion) if self.fusion else None,
            "reasons": [asdict(reason) for reason in self.reasons],
            "pairs": [asdict(place) for place in places],
            "scores": list(self.support.frame_scores) if self.support else [],
            "losses": self.history,
            "reblur_losses": self.reblur_history,
            "reblurrer": self.reblurrer.describe() if self.reblurrer else None,
            "seconds": self.seconds,
            "stage_memory_mb": self.memory_mb,
        }

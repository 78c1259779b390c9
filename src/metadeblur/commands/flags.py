"""Flags that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from metadeblur.commands import UsageError

if TYPE_CHECKING:
    from metadeblur.adapt import AdaptSettings


@dataclass(frozen=True)
class AdaptationFlags:
    """How the network adapts."""

    reblur: Literal["auto", "flow"] = "auto"
    """Where the blur to learn from comes from: the clip's optical flow, or the best there is."""
    pairs: Annotated[int, tyro.conf.arg(metavar="M")] = 20
    """Places of a shot whose sharpest patch is reblurred to learn from."""
    steps: Annotated[int, tyro.conf.arg(metavar="N")] = 40
    """Gradient steps of each adaptation."""
    lr: Annotated[float, tyro.conf.arg(metavar="LR")] = 1e-4
    """Learning rate of the adaptation."""
    budget: Annotated[float | None, tyro.conf.arg(metavar="SECONDS", help_behavior_hint="")] = None
    """Most seconds that the gradient steps of all shots of one input may take together; default: no limit."""
    seed: Annotated[int, tyro.conf.arg(metavar="S")] = 0
    """The same seed, settings and file give the same result on the same machine."""

    def __post_init__(self) -> None:
        positive_seconds("budget", self.budget)

    def settings(
        self, *, guard: bool, device: Literal["auto", "cpu", "cuda"], precision: Literal["auto", "fp32", "bf16"]
    ) -> AdaptSettings:
        """The settings of the adaptation; guard, device and precision are flags of each command's own.

        Raises:
            MetadeblurError: a value out of range.
        """
        from metadeblur.adapt import AdaptSettings

        return AdaptSettings(
            pairs=self.pairs,
            steps=self.steps,
            lr=self.lr,
            reblur=self.reblur,
            guard=guard,
            precision=precision,
            budget_seconds=self.budget or 0.0,
            device=device,
            seed=self.seed,
        )


def positive_seconds(name: str, value: float | None) -> None:
    """Refuse a flag that takes seconds and got none.

    Raises:
        UsageError: not above 0.
    """
    if value is not None and not value > 0:
        raise UsageError(f"--{name} {value:g}: give a number of seconds above 0")

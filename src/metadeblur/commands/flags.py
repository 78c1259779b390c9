"""Flags that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from metadeblur.commands import UsageError

if TYPE_CHECKING:
    from metadeblur.adapt import AdaptSettings


@dataclass(frozen=True)
class AdaptationFlags:
    """How the network adapts."""

    reblur: Literal["auto", "flow", "network"] = "auto"
    """Where the blur to learn from comes from: the clip's optical flow, the paper's network, or the best there is."""
    pairs: Annotated[int, tyro.conf.arg(metavar="M")] = 20
    """Places of a shot whose sharpest patch is reblurred to learn from."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Gradient steps of each adaptation; default: 40, or with the network one for each place."""
    lr: Annotated[float | None, tyro.conf.arg(metavar="LR", help_behavior_hint="")] = None
    """Learning rate of the adaptation; default: 1e-4, or with the network 2.5e-6."""
    reblurrer: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Weights of the network that --reblur network uses, from metadeblur train reblur or train meta."""
    preset: Literal["paper", "release"] = "paper"
    """How --reblur network adapts: as the paper says, or as its authors' released code does."""
    reblur_losses: Literal["both", "gan", "cycle", "none"] = "both"
    """Losses that fit that network to the clip: adversarial, cycle, both, or none (it stays as trained)."""
    parameters: Literal["all", "norms-and-biases", "decoder", "last", "low-rank"] = "all"
    """What of the network adapts; parts take less memory. last: its last stage, or the finest level of its decoder."""
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
        from metadeblur.adapt import preset

        base = preset(self.preset if self.reblur == "network" else "flow")
        given = {"steps": self.steps, "lr": self.lr}
        return base.changed(
            **{name: value for name, value in given.items() if value is not None},
            pairs=self.pairs,
            reblur=self.reblur,
            reblurrer=str(self.reblurrer or ""),
            updates=replace(base.updates, losses=self.reblur_losses),
            parameters=self.parameters,
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

"""How a reblurring network and its critic fit a clip: every setting."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from metadeblur.limits import Count, Rate, Weight, check, spelt
from metadeblur.types import AdversarialKind, CriticOptimizer, RealSample, ReblurLosses


@spelt
@dataclass(frozen=True)
class CriticSettings:
    """How a critic learns."""

    lr_critic: Rate = 1e-6  # learning rate of the critic
    adversarial_kind: AdversarialKind = "wgan"  # adversarial loss: wgan, hinge or lsgan
    # how the critic is bounded: clip (the paper's code), penalty (of its gradient), or spectral (the norm of its
    # layers is 1 at most); trained: as when it was trained, clip where its file does not say; a new one spectral
    critic_bound: Literal["trained", "clip", "penalty", "spectral"] = "trained"
    critic_clip: Weight = 0.01  # clip: all critic weights are held within +- this after each step; 0: they are not
    critic_penalty: Weight = 0.05  # penalty: weight of the gradient penalty in the critic's loss
    critic_optimizer: CriticOptimizer = "rmsprop"  # rmsprop or adam
    # weigh the adversarial loss anew at each step, so that at the last layer of the reblurring network it pulls as hard
    # as the other loss, times its weight (the adaptive weight of VQGAN)
    balance: bool = False

    def __post_init__(self) -> None:
        check(self)


@spelt
@dataclass(frozen=True)
class ReblurUpdates:
    """How a reblurring network and its critic fit a clip."""

    losses: ReblurLosses = "both"  # of the reblurrer: gan, cycle, both, or none (it stays as it was trained)
    adversarial: Weight = 1.0  # weight of L_adv
    cycle: Weight = 0.01  # weight of L_cycle
    lr_reblurrer: Rate = 1e-6  # Adam's learning rate for the reblurrer
    critic: CriticSettings = field(default_factory=CriticSettings)  # how the critic learns
    passes: Count = 1  # times through the M places
    real: RealSample = "blurriest"  # the critic's real sample at a place: its blurriest patch, or a neighbour frame's
    shared_adam: bool = False  # one Adam moves the deblurrer too, and goes on in its own stage
    # dropout and the like stay on in the gradient steps, never when pairs are made
    train_mode: bool = False

    def __post_init__(self) -> None:
        check(self)

    def faster(self, factor: float) -> ReblurUpdates:
        """The same with both learning rates multiplied, so that they keep their ratio to a deblurrer's.

        >>> ReblurUpdates().faster(2).critic.lr_critic
        2e-06
        """
        critic = replace(self.critic, lr_critic=self.critic.lr_critic * factor)
        return replace(self, lr_reblurrer=self.lr_reblurrer * factor, critic=critic)

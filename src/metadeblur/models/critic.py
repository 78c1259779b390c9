"""The critic of the adversarial loss: tells real blurred patches from those that the reblurrer made.

"Meta Transferring for Deblurring" (Liu et al., BMVC 2022), section 3.2, says no more than GAN. As in its release this
is a Wasserstein critic (Arjovsky et al., 2017) whose weights are clipped after every step, before the generator's term
is taken (docs/fidelity.md, adversarial loss; the losses are in :mod:`metadeblur.models.losses`); kind of loss, clip and
optimiser are settings. It sees the made patch as it is, not clamped to [0, 1]. The inner update weights the generator's
term by 1 beside 0.01 of the cycle term (docs/fidelity.md, loss weights), and shows as the real sample a co-located
patch with a high self-shift score (docs/fidelity.md, real sample).

:class:`Critic` is small, takes any size and is trained here. :class:`VGGCritic` has the shape and the names of a VGG19
with one output, for published critic checkpoints; nothing is ever downloaded for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metadeblur.errors import MetadeblurError
from metadeblur.types import CriticOptimizer

VGG19_CONVOLUTIONS = (2, 2, 4, 4, 4)
"""Convolutions before each pooling of a VGG19."""


class Critic(nn.Module):
    """Score of patches (B, 3, H, W) -> (B,): 4x4 convolutions of stride 2 with LeakyReLU 0.2, mean over space.

    The last convolution has stride 1 and one channel. No padding and no normalisation: every place is judged by the
    same rule, whatever the patch's size.

    Args:
        channels: of the convolutions but the last.

    >>> critic = Critic(channels=(32, 64))
    >>> critic.smallest, tuple(critic(torch.rand(2, 3, 22, 31)).shape)
    (22, (2,))
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        for index, (before, after) in enumerate(pairwise((3, *channels)), start=1):
            self.add_module(f"conv{index}", nn.Conv2d(before, after, 4, stride=2))
        self.add_module(f"conv{len(channels) + 1}", nn.Conv2d(channels[-1], 1, 4))
        self.smallest = 4  # side of a patch, px, that gives one score: 4, 10, 22, 46, ...
        for _ in channels:
            self.smallest = 2 * self.smallest + 2

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor]) -> Critic:
        """The critic of a state dict, its sizes read from the weights. KeyError, RuntimeError: other weights."""
        count = sum(key.endswith(".weight") for key in weights)
        critic = cls([weights[f"conv{index}.weight"].shape[0] for index in range(1, count)])
        critic.load_state_dict({key: value.float() for key, value in weights.items()})
        return critic

    def forward(self, patches: Tensor) -> Tensor:
        """Score (B, 3, H, W): (B,), unbounded; higher is more real.

        Raises:
            MetadeblurError: patches smaller than the convolutions reach.
        """
        _refuse_small(patches, self.smallest, "critic")
        *convolutions, last = self.children()
        for convolution in convolutions:
            patches = F.leaky_relu_(convolution(patches), 0.2)
        return last(patches).mean(dim=(1, 2, 3))


class VGGCritic(nn.Module):
    """Score of patches (B, 3, H, W) -> (B,) by a VGG19 (Simonyan & Zisserman, ICLR 2015) with one output.

    Parameter names are torchvision's; the input is RGB in [0, 1] without normalisation, as published (docs/fidelity.md,
    adversarial loss). Sides of 32 px or more. In training mode dropout is on, as in the release's inner update
    (docs/fidelity.md, train mode).

    Args:
        widths: channels of the five levels.
        hidden: width of the two hidden layers of the classifier.

    >>> tuple(VGGCritic(widths=(2, 2, 4, 4, 4), hidden=8)(torch.rand(2, 3, 40, 32)).shape)
    (2,)
    """

    def __init__(self, widths: Sequence[int] = (64, 128, 256, 512, 512), hidden: int = 4096) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, count in zip(widths, VGG19_CONVOLUTIONS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(before * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, 1),
        )

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor]) -> VGGCritic:
        """The critic of a state dict, its widths read from the weights. KeyError, RuntimeError: other weights."""
        firsts = [0, 5, 10, 19, 28]  # the first convolution of each level, by torchvision's numbers
        critic = cls(
            widths=[weights[f"features.{index}.weight"].shape[0] for index in firsts],
            hidden=weights["classifier.0.weight"].shape[0],
        )
        critic.load_state_dict({key: value.float() for key, value in weights.items()})
        return critic

    def forward(self, patches: Tensor) -> Tensor:
        """Score (B, 3, H, W): (B,), unbounded; higher is more real.

        Raises:
            MetadeblurError: patches smaller than 32 px.
        """
        _refuse_small(patches, 32, "VGG19 critic")
        pooled = F.adaptive_avg_pool2d(self.features(patches), 7)
        return self.classifier(pooled.flatten(1)).squeeze(1)


def _refuse_small(patches: Tensor, smallest: int, name: str) -> None:
    height, width = patches.shape[-2:]
    if min(height, width) < smallest:
        raise MetadeblurError(f"the {name} was given patches of {height}x{width} px: use {smallest} px or more")


def critic_from_weights(weights: dict[str, Tensor]) -> Critic | VGGCritic:
    """The critic that a state dict belongs to, small or VGG19-shaped.

    Raises:
        KeyError, RuntimeError: the weights are those of neither.
    """
    return VGGCritic.from_weights(weights) if "classifier.6.weight" in weights else Critic.from_weights(weights)


def clip_weights(critic: nn.Module, bound: float) -> None:
    """Clamp ALL parameters to +-``bound``, biases too, as published; 0 leaves them alone.

    For after every step of the critic and before the generator's term: what makes a critic of kind ``wgan`` Lipschitz.
    """
    if bound > 0:
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.clamp_(-bound, bound)


def critic_optimizer(critic: nn.Module, lr: float = 1e-6, kind: CriticOptimizer = "rmsprop") -> torch.optim.Optimizer:
    """A fresh optimiser of a critic, the library's defaults apart from the rate; RMSprop as published.

    Raises:
        MetadeblurError: an optimiser that is not known.
    """
    if kind == "rmsprop":
        return torch.optim.RMSprop(critic.parameters(), lr=lr)
    if kind == "adam":
        return torch.optim.Adam(critic.parameters(), lr=lr)
    raise MetadeblurError(f"optimiser {kind!r} of the critic is not known: use {', '.join(get_args(CriticOptimizer))}")

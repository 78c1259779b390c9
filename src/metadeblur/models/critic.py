"""The critic of the adversarial loss: tells real blurred patches from those that the reblurrer made.

"Meta Transferring for Deblurring" (Liu et al., BMVC 2022), section 3.2, says no more than GAN. As in its release this
is a Wasserstein critic (Arjovsky et al., 2017) whose weights are clipped after every step, before the generator's term
is taken (docs/fidelity.md, adversarial loss; the losses are in :mod:`metadeblur.models.losses`); kind of loss, clip and
optimiser are settings. It sees the made patch as it is, not clamped to [0, 1]. The inner update weights the generator's
term by 1 beside 0.01 of the cycle term (docs/fidelity.md, loss weights), and shows as the real sample a co-located
patch with a high self-shift score (docs/fidelity.md, real sample).

A critic that sees the patch as it is soon tells brightness, which is easier than blur (docs/results/critic.md). So
:class:`Critic` can be shown the patch without its mean colour, its fine detail, or its gradients alone; and instead of
by a clip it can be bounded by a gradient penalty or by the norm of its layers (:func:`gradient_penalty`,
:func:`hold`). What it sees and how it was bounded goes with its weights.

:class:`Critic` is small, takes any size and is trained here. :class:`VGGCritic` has the shape and the names of a VGG19
with one output, for published critic checkpoints; nothing is ever downloaded for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metadeblur.errors import MetadeblurError
from metadeblur.types import CriticBound, CriticInput, CriticOptimizer

_DETAIL = 4.0  # differences are small beside the picture: this brings them to its scale
_NEARBY = 9  # px, side of the square whose mean is taken from fine detail
_POWER_STEPS = 16  # of the power iteration that finds a layer's norm

VGG19_CONVOLUTIONS = (2, 2, 4, 4, 4)
"""Convolutions before each pooling of a VGG19."""


def _centred(patches: Tensor) -> Tensor:
    return patches - patches.mean((-2, -1), keepdim=True)


def _highpass(patches: Tensor) -> Tensor:
    rim = _NEARBY // 2
    inner = patches[..., rim : patches.shape[-2] - rim, rim : patches.shape[-1] - rim]
    return _DETAIL * (inner - F.avg_pool2d(patches, _NEARBY, stride=1))


def _gradients(patches: Tensor) -> Tensor:
    across = patches[..., :-1, 1:] - patches[..., :-1, :-1]
    down = patches[..., 1:, :-1] - patches[..., :-1, :-1]
    return _DETAIL * torch.cat([across, down], 1)


_SEEN: dict[CriticInput, tuple[Callable[[Tensor], Tensor], int, int]] = {
    "rgb": (lambda patches: patches, 3, 0),
    "centred": (_centred, 3, 0),
    "highpass": (_highpass, 3, _NEARBY - 1),
    "gradients": (_gradients, 6, 1),
}
"""What a critic makes of patches (B, 3, H, W), its channels, and by how many px its sides are shorter."""


class Critic(nn.Module):
    """Score of patches (B, 3, H, W) -> (B,): 4x4 convolutions of stride 2 with LeakyReLU 0.2, mean over space.

    The last convolution has stride 1 and one channel. No padding and no normalisation: every place is judged by the
    same rule, whatever the patch's size.

    Args:
        channels: of the convolutions but the last.
        sees: what the convolutions are given: the patch as it is (``rgb``, as published), less its mean colour
            (``centred``), less the mean of the 9x9 px around each (``highpass``), or differences between neighbouring
            pixels, to the right and down (``gradients``). Only the first depends on how bright the patch is.

    Attributes:
        sees: the same.
        bound: how it was bounded when it was trained, and is when it is trained on; None: not known.

    Raises:
        MetadeblurError: something that no critic sees.

    >>> critic = Critic(channels=(32, 64))
    >>> critic.smallest, tuple(critic(torch.rand(2, 3, 22, 31)).shape)
    (22, (2,))
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128), sees: CriticInput = "rgb") -> None:
        super().__init__()
        if sees not in _SEEN:
            raise MetadeblurError(f"a critic cannot see {sees!r}: use {', '.join(_SEEN)}")
        self.sees: CriticInput = sees
        self.bound: CriticBound | None = None
        _, first, margin = _SEEN[sees]
        for index, (before, after) in enumerate(pairwise((first, *channels)), start=1):
            self.add_module(f"conv{index}", nn.Conv2d(before, after, 4, stride=2))
        self.add_module(f"conv{len(channels) + 1}", nn.Conv2d(channels[-1], 1, 4))
        self.smallest = 4  # side of a patch, px, that gives one score: 4, 10, 22, 46, ...
        for _ in channels:
            self.smallest = 2 * self.smallest + 2
        self.smallest += margin

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor], sees: CriticInput = "rgb") -> Critic:
        """The critic of a state dict, its sizes read from the weights. KeyError, RuntimeError: other weights."""
        count = sum(key.endswith(".weight") for key in weights)
        critic = cls([weights[f"conv{index}.weight"].shape[0] for index in range(1, count)], sees)
        critic.load_state_dict({key: value.float() for key, value in weights.items()})
        return critic

    def forward(self, patches: Tensor) -> Tensor:
        """Score (B, 3, H, W): (B,), unbounded; higher is more real.

        Raises:
            MetadeblurError: patches smaller than the convolutions reach.
        """
        _refuse_small(patches, self.smallest, "critic")
        patches = _SEEN[self.sees][0](patches)
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

    Attributes:
        bound: as of :class:`Critic`.

    >>> tuple(VGGCritic(widths=(2, 2, 4, 4, 4), hidden=8)(torch.rand(2, 3, 40, 32)).shape)
    (2,)
    """

    def __init__(self, widths: Sequence[int] = (64, 128, 256, 512, 512), hidden: int = 4096) -> None:
        super().__init__()
        self.bound: CriticBound | None = None
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


def critic_from_weights(
    weights: dict[str, Tensor], sees: CriticInput = "rgb", bound: CriticBound | None = None
) -> Critic | VGGCritic:
    """The critic that a state dict belongs to, small or VGG19-shaped.

    Args:
        weights: its state dict.
        sees: what a small one is given, see :class:`Critic`.
        bound: how it was bounded; None: not known.

    Raises:
        KeyError, RuntimeError: the weights are those of neither.
        MetadeblurError: what it sees, or its bound, is none of those known.
    """
    if bound not in (None, *get_args(CriticBound)):
        raise MetadeblurError(f"bound {bound!r} of the critic is not known: use {', '.join(get_args(CriticBound))}")
    shaped_as_vgg = "classifier.6.weight" in weights
    critic = VGGCritic.from_weights(weights) if shaped_as_vgg else Critic.from_weights(weights, sees)
    critic.bound = bound
    return critic


def hold(critic: nn.Module, bound: CriticBound, clip: float) -> None:
    """What a bound does to the weights of a critic after each of its steps; a penalty does nothing."""
    if bound == "clip":
        clip_weights(critic, clip)
    elif bound == "spectral":
        norm_layers(critic)


def clip_weights(critic: nn.Module, bound: float) -> None:
    """Clamp ALL parameters to +-``bound``, biases too, as published; 0 leaves them alone.

    For after every step of the critic and before the generator's term: what makes a critic of kind ``wgan`` Lipschitz.
    """
    if bound > 0:
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.clamp_(-bound, bound)


def norm_layers(critic: nn.Module) -> None:
    """Scale down every layer whose spectral norm is above 1 to 1 (Gouk et al., Machine Learning 110, 2021).

    The norm is the largest singular value of the weights as a matrix of (outputs, all else), as in Miyato et al.
    (ICLR 2018), but taken after the step instead of in every pass, so that weights are stored as they are used. It is
    found by power iteration on the smaller side.

    >>> layer = nn.Linear(3, 2, bias=False)
    >>> layer.weight.data = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.5, 0.0]]); norm_layers(layer)
    >>> layer.weight.detach().tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.125, 0.0]]
    """
    with torch.no_grad():
        for weight in critic.parameters():
            if weight.ndim > 1:
                weight.div_(_spectral_norm(weight.flatten(1)).clamp(min=1))


def _spectral_norm(matrix: Tensor) -> Tensor:
    """The largest singular value of a matrix, by power iteration from where its rows are longest."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    vector = matrix.square().sum(1).sqrt()
    for _ in range(_POWER_STEPS):
        vector = F.normalize(matrix @ (matrix.T @ vector), dim=0)
    return (matrix.T @ vector).norm()


def gradient_penalty(critic: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """How far the critic's gradient between real and made patches (B, 3, H, W) is from length 1, squared, mean.

    WGAN-GP (Gulrajani et al., NeurIPS 2017), but of the score against the patch's root mean square, not against its
    length: so the score, and what the generator is asked for, does not depend on the patch's size. The places between
    the two are drawn by a seed that the patches give, so that nothing but them and the weights decides.
    """
    seed = int(made.detach().double().sum().cpu().view(torch.int64)) & (2**63 - 1)
    share = torch.rand(len(real), 1, 1, 1, generator=torch.Generator().manual_seed(seed)).to(real)
    between = torch.lerp(real.detach(), made.detach(), share).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    length = gradient.flatten(1).norm(dim=1) * gradient[0].numel() ** 0.5
    return (length - 1).square().mean()


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

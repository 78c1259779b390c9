"""The one registry of deblurring networks, and what the rest of the program must know of any network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from metadeblur.losses import balanced
from metadeblur.networks.lite import Lite

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Traits:
    """What restoring and adapting need to know of a deblurrer."""

    frames: int = 1  # frames it takes: 1 (B, 3, H, W), or odd N (B, N, 3, H, W)
    multiple: int = 16  # height and width are padded to a multiple of this, in px
    loss: Loss = F.l1_loss  # its own training loss on (output, sharp)


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry: how a network is built and used."""

    network: type[nn.Module]
    build: Callable[[dict[str, Tensor]], nn.Module]  # from a state dict, sizes read from the weights
    marks: tuple[str, ...]  # tensor names that tell this architecture from the others
    traits: Traits


ARCHITECTURES: dict[str, Architecture] = {
    "lite": Architecture(
        network=Lite,
        build=Lite.from_weights,
        marks=("stem.weight", "down.0.weight", "encoder.0.0.conv1.weight", "head.weight"),
        traits=Traits(frames=1, multiple=16, loss=balanced),
    ),
}


def traits(net: nn.Module) -> Traits:
    """The traits of any module: attributes ``frames``, ``multiple`` and ``loss``, or else what the registry says of it.

    A module of neither is taken for an image deblurrer that wants sides in multiples of 16 px and learns by L1.

    >>> traits(nn.Identity()).frames
    1
    """
    known = (entry.traits for entry in ARCHITECTURES.values() if isinstance(net, entry.network))
    default = next(known, Traits())
    return Traits(
        frames=int(getattr(net, "frames", default.frames)),
        multiple=int(getattr(net, "multiple", default.multiple)),
        loss=getattr(net, "loss", default.loss),
    )


def final(output: Tensor | Sequence[Tensor]) -> Tensor:
    """The full-size picture (B, 3, H, W) of a network's output: the tensor itself, or the largest of several."""
    if isinstance(output, Tensor):
        return output
    return max(output, key=lambda picture: picture.shape[-1])


def recognise(weights: dict[str, Tensor]) -> str | None:
    """The registered architecture whose marks are all among the tensor names, or None."""
    for name, architecture in ARCHITECTURES.items():
        if all(mark in weights for mark in architecture.marks):
            return name
    return None

"""The one registry of deblurring networks, and what the rest of the program must know of any network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from metadeblur.errors import MetadeblurError
from metadeblur.models.adapted import unwrapped
from metadeblur.models.cdvd_tsp import CDVDTSP
from metadeblur.models.lite import Lite
from metadeblur.models.losses import (
    balanced,
    charbonnier_edge,
    charbonnier_fft,
    drawn_hard_example,
    multiscale_fft,
    psnr_loss,
)
from metadeblur.models.maxim import Maxim
from metadeblur.models.mimo_unet import MIMOUNet
from metadeblur.models.mprnet import MPRNet
from metadeblur.models.nafnet import NAFNet
from metadeblur.models.restormer import Restormer

Loss = Callable[[Any, Tensor], Tensor]  # of an output, or all of them, and the sharp picture


@dataclass(frozen=True)
class Traits:
    """What restoring and adapting need to know of a deblurrer."""

    frames: int = 1  # frames it takes: 1 (B, 3, H, W), or odd N (B, N, 3, H, W)
    multiple: int = 16  # height and width are padded to a multiple of this, in px
    loss: Loss = F.l1_loss  # its own training loss on (output, sharp)
    all_outputs: bool = False  # the loss is given all that the network returns, not the full-size picture alone
    window_target: bool = False  # the loss takes the sharp frames of the whole window, (B, N, 3, H, W), where known


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry: how a network is built and used."""

    network: type[nn.Module]
    build: Callable[[dict[str, Tensor]], nn.Module]  # from a state dict, sizes read from the weights
    marks: tuple[str, ...]  # tensor names that tell this architecture from the others
    traits: Traits
    published: Callable[[], nn.Module]  # untrained, in the sizes of the paper
    small: Callable[[], nn.Module] | None = None  # untrained, in sizes that two processor cores can train in minutes
    sizes: tuple[tuple[str, int], ...] = ()  # first dimensions of tensors that tell a variant from its sisters
    # By name: faster settings of the same weights, or other weights that are built in.
    variants: dict[str, Callable[[dict[str, Tensor]], nn.Module]] = field(default_factory=dict)


ARCHITECTURES: dict[str, Architecture] = {
    "lite": Architecture(
        network=Lite,
        build=Lite.from_weights,
        marks=("stem.weight", "down.0.weight", "encoder.0.0.conv1.weight", "head.weight"),
        traits=Traits(frames=5, multiple=16, loss=balanced),
        published=partial(Lite, frames=5),
        variants={"lite-meta": Lite.from_weights},
    ),
    "mimo-unet": Architecture(
        network=MIMOUNet,
        build=MIMOUNet.from_weights,
        marks=("feat_extract.5.main.0.weight", "AFFs.1.conv.0.main.0.weight", "SCM1.main.0.main.0.weight"),
        traits=Traits(multiple=4, loss=multiscale_fft, all_outputs=True),
        published=MIMOUNet,
    ),
    "mimo-unet-plus": Architecture(
        network=MIMOUNet,
        build=MIMOUNet.from_weights,
        marks=(
            "feat_extract.5.main.0.weight",
            "AFFs.1.conv.0.main.0.weight",
            "SCM1.main.0.main.0.weight",
            "Encoder.0.layers.19.main.0.main.0.weight",
        ),
        traits=Traits(multiple=4, loss=multiscale_fft, all_outputs=True),
        published=MIMOUNet.plus,
        small=partial(MIMOUNet, blocks=2, channels=24),
    ),
    "mprnet": Architecture(
        network=MPRNet,
        build=MPRNet.from_weights,
        marks=("shallow_feat1.0.weight", "stage3_orsnet.conv_enc1.weight", "sam12.conv1.weight", "tail.weight"),
        traits=Traits(multiple=8, loss=charbonnier_edge, all_outputs=True),
        published=MPRNet,
        small=partial(MPRNet, channels=32, level_step=0, stage3_step=0, blocks=1),
    ),
    "restormer": Architecture(
        network=Restormer,
        build=Restormer.from_weights,
        marks=("patch_embed.proj.weight", "latent.0.attn.temperature", "refinement.0.ffn.project_in.weight"),
        traits=Traits(multiple=8, loss=F.l1_loss),
        published=Restormer,
        small=partial(Restormer, channels=16, blocks=(1, 1, 2, 2), refinement=1),
    ),
    "cdvd-tsp": Architecture(
        network=CDVDTSP,
        build=CDVDTSP.from_weights,
        marks=("flow_net.moduleNetwork.moduleTwo.moduleUpflow.weight", "recons_net.inBlock.0.0.weight"),
        traits=Traits(frames=5, multiple=4, loss=drawn_hard_example, all_outputs=True, window_target=True),
        published=CDVDTSP,
        small=partial(CDVDTSP, channels=16, blocks=1, narrow=4),
    ),
    "nafnet-32": Architecture(
        network=NAFNet,
        build=NAFNet.from_weights,
        marks=("intro.weight", "ending.weight", "middle_blks.0.beta", "downs.0.weight"),
        traits=Traits(multiple=16, loss=partial(psnr_loss, floor=1e-8)),
        published=NAFNet,
    ),
    "nafnet-64": Architecture(
        network=NAFNet,
        build=NAFNet.from_weights,
        marks=("intro.weight", "ending.weight", "middle_blks.0.beta", "downs.0.weight"),
        sizes=(("intro.weight", 64),),
        traits=Traits(multiple=16, loss=partial(psnr_loss, floor=1e-8)),
        published=partial(NAFNet, width=64),
    ),
    "maxim": Architecture(
        network=Maxim,
        build=Maxim.from_weights,
        marks=("stages.0.encoder.0.mix.0.grid.mix.weight", "stages.0.gating.0.gate_x.grid.weight", "output.weight"),
        traits=Traits(multiple=64, loss=charbonnier_fft),
        published=Maxim,
        variants={f"maxim-{stages}": partial(Maxim.from_weights, stages=stages) for stages in (2, 1)},
    ),
}


def traits(net: nn.Module) -> Traits:
    """The traits of any module: its attributes of the same names, or else what the registry says of it.

    A module of neither is taken for an image deblurrer that wants sides in multiples of 16 px and learns by L1.

    >>> traits(nn.Identity()).frames
    1
    """
    net = unwrapped(net)
    registered = (entry.traits for entry in ARCHITECTURES.values() if isinstance(net, entry.network))
    default = next(registered, Traits())
    return Traits(
        frames=int(getattr(net, "frames", default.frames)),
        multiple=int(getattr(net, "multiple", default.multiple)),
        loss=getattr(net, "loss", default.loss),
        all_outputs=bool(getattr(net, "all_outputs", default.all_outputs)),
        window_target=bool(getattr(net, "window_target", default.window_target)),
    )


def final(output: Any) -> Tensor:
    """The full-size picture (B, 3, H, W) of a network's output: the tensor itself, or the largest of several.

    Raises:
        MetadeblurError: neither a tensor nor a list of tensors.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, list | tuple) and output and all(isinstance(picture, Tensor) for picture in output):
        return max(output, key=lambda picture: picture.shape[-1])
    if isinstance(output, Mapping):
        names = ", ".join(map(str, output))
        what = f"a dictionary ({names}): name the restored picture with md.Deblurrer(net, picture=lambda every: every["
        raise MetadeblurError(f"the network returns {what}'...'])")
    raise MetadeblurError(
        f"the network returns a {type(output).__name__}: a deblurrer returns the restored picture, a tensor "
        "(B, 3, H, W), or a list with it; name it with md.Deblurrer(net, picture=...)"
    )


def outputs(net: nn.Module, frames: Tensor) -> Any:
    """The network's output for its own loss: from its method ``outputs`` where it has one."""
    every = getattr(net, "outputs", None)
    return every(frames) if callable(every) else net(frames)


def recognise(weights: dict[str, Tensor]) -> str | None:
    """The registered architecture whose marks are all among the tensor names, and whose sizes are right, or None.

    Of several, such as a network and its larger variant, the one that asks for most.
    """

    def fits(entry: Architecture) -> bool:
        named = all(mark in weights for mark in entry.marks)
        return named and all(name in weights and len(weights[name]) == size for name, size in entry.sizes)

    fitting = {name: len(entry.marks) + len(entry.sizes) for name, entry in ARCHITECTURES.items() if fits(entry)}
    return max(fitting, key=lambda name: fitting[name], default=None)

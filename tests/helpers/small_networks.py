"""Every network of the registry in a very small size, and clips for it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import metadeblur as md
from metadeblur.models.cdvd_tsp import CDVDTSP
from metadeblur.models.maxim import Maxim, SqueezeExcitation
from metadeblur.models.mimo_unet import MIMOUNet
from metadeblur.models.mprnet import MPRNet
from metadeblur.models.nafnet import NAFNet
from metadeblur.models.registry import traits
from metadeblur.models.restormer import Restormer

SMALL = {
    "mimo-unet": lambda: MIMOUNet(blocks=1, channels=8),
    "mimo-unet-plus": lambda: MIMOUNet(blocks=20, channels=4, dropout=0.1),
    "mprnet": lambda: MPRNet(channels=8, level_step=4, stage3_step=4, blocks=2, reduction=2),
    "restormer": lambda: Restormer(channels=8, blocks=(1, 2, 1, 2), refinement=2, heads=(1, 2, 2, 4), expansion=2.0),
    "nafnet-32": lambda: NAFNet(width=8, encoder=(1, 2), middle=2, decoder=(2, 1)),
    "nafnet-64": lambda: NAFNet(width=64, encoder=(1,), middle=1, decoder=(1,)),
    "cdvd-tsp": lambda: CDVDTSP(channels=4, blocks=1),
    "maxim": lambda: Maxim(features=8, stages=2, sizes=(4, 4, 2), groups=1, bottlenecks=1),
}


class Residual(nn.Module):
    """A deblurrer with a few weights: a picture plus a convolution of it, which is nothing at first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 5, padding=2)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, blurred: torch.Tensor) -> torch.Tensor:
        return blurred + self.conv(blurred)


def small(model: str) -> nn.Module:
    """A random network in which every parameter matters."""
    torch.manual_seed(0)
    net = SMALL[model]().eval()
    for weight in net.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.1)
    for module in net.modules():
        if isinstance(module, SqueezeExcitation):
            nn.init.ones_(module.squeeze.bias)  # so few channels may all be dead behind their ReLU
    return net


def frames_for(net: nn.Module, batch: int = 1, height: int = 48, width: int = 64) -> torch.Tensor:
    """Random input: (B, 3, H, W), or (B, N, 3, H, W) for a video deblurrer, coarse enough to have a flow."""
    count = traits(net).frames
    coarse = torch.rand(batch * count, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(1))
    frames = F.interpolate(coarse, (height, width), mode="bilinear")
    return frames if count == 1 else frames.unflatten(0, (batch, count))


def moving_clip() -> md.Clip:
    """Seven frames of a texture that moves to the right, blurred along its motion in all but the third."""
    texture = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    texture = F.interpolate(texture, scale_factor=4, mode="bilinear")[0]
    frames = []
    for index in range(7):
        shots = [texture[:, :64, 4 * index + shift : 4 * index + shift + 64] for shift in range(1 if index == 2 else 6)]
        frames.append(torch.stack(shots).mean(0))
    return md.Clip(torch.stack(frames))

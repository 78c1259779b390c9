"""CDVD-TSP: a video deblurrer for five frames, two cascaded stages guided by optical flow and temporal sharpness.

Pan, Bai and Tang, "Cascaded Deep Video Deblurring Using Temporal Sharpness Prior", CVPR 2020: PWC-Net estimates the
flow from a frame to its two neighbours, the neighbours are warped onto it, the temporal sharpness prior says where the
three agree (eq. 4), and an encoder-decoder restores the frame. The first stage does so for the three inner frames of
the window; the second, with the same weights, for the centre of these three (the cascade of figure 2).
PWC-Net: Sun, Yang, Liu and Kautz, "PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and Cost Volume", CVPR 2018.

Parameter names are those of the published checkpoints (a flat state dict): ``flow_net.moduleNetwork`` is PWC-Net with
its ``moduleExtractor`` (levels ``One`` to ``Six``), estimators ``moduleTwo`` to ``moduleSix`` and context network
``moduleRefiner``; ``recons_net`` is the encoder-decoder (``inBlock``, ``encoder_first``, ``encoder_second``,
``decoder_second``, ``decoder_first``, ``outBlock``). The weights were trained where ``grid_sample`` aligned corners,
and so it does here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FRAMES = 5
REACH = 4  # px of a pyramid level in each direction that the cost volume compares

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def cost_volume(first: Tensor, second: Tensor) -> Tensor:
    """Mean product over channels of each pixel with the 9 x 9 around the same place (PWC-Net, section 3).

    Args:
        first: features (B, C, H, W).
        second: features of the same shape; zero beyond the border.

    Returns:
        (B, 81, H, W); channel (dy + 4) * 9 + (dx + 4) compares with ``second`` at (y + dy, x + dx).

    >>> x = torch.zeros(1, 2, 3, 3); x[0, :, 1, 1] = 1
    >>> cost_volume(x, x.roll(1, 3)).nonzero().tolist()
    [[0, 41, 1, 1]]
    """
    height, width = first.shape[-2:]
    padded = F.pad(second, (REACH,) * 4)
    side = 2 * REACH + 1
    costs = [
        (first * padded[..., row : row + height, column : column + width]).mean(1)
        for row in range(side)
        for column in range(side)
    ]
    return torch.stack(costs, 1)


def fetch(x: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Fetch (B, C, H, W) from where the flow (B, 2, H, W), in px, points to; zero where that lies outside.

    Returns:
        The warped picture and the mask (B, 1, H, W), 1 inside and 0 outside.

    >>> picture = torch.arange(4.0).expand(1, 1, 2, 4)
    >>> fetch(picture, torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 4))[0][0, 0, 0].tolist()
    [1.0, 2.0, 3.0, 0.0]
    """
    height, width = x.shape[-2:]
    flow = flow.float()  # places in bf16 would be wrong by pixels
    places = [torch.linspace(-1, 1, side, device=x.device) for side in (height, width)]
    moves = flow * torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)], device=x.device).reshape(2, 1, 1)
    grid = torch.stack([places[1] + moves[:, 0], places[0][:, None] + moves[:, 1]], -1)
    fetched = F.grid_sample(torch.cat([x.float(), torch.ones_like(flow[:, :1])], 1), grid, align_corners=True)
    mask = (fetched[:, -1:] > 0.999).float()
    return fetched[:, :-1] * mask, mask


def convolutions(*layers: nn.Module) -> nn.Sequential:
    """The layers with a leaky ReLU after each."""
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.LeakyReLU(0.1))))


class Pyramid(nn.Module):
    """PWC-Net's feature pyramid: six levels, each half as large as the one before."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        names = ("moduleOne", "moduleTwo", "moduleThr", "moduleFou", "moduleFiv", "moduleSix")
        for name, taken, given in zip(names, (3, *widths), widths, strict=False):
            self.add_module(
                name,
                convolutions(
                    nn.Conv2d(taken, given, 3, stride=2, padding=1),
                    nn.Conv2d(given, given, 3, padding=1),
                    nn.Conv2d(given, given, 3, padding=1),
                ),
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of (B, 3, H, W) at 1/2 to 1/64 of the size."""
        levels = []
        for stage in self.children():
            x = stage(x)
            levels.append(x)
        return levels


class FlowEstimator(nn.Module):
    """PWC-Net's estimator of one level: cost volume, then densely connected convolutions.

    Args:
        width: channels of the pyramid on this level.
        coarser: channels of the coarser level's features; 0 on the coarsest.
        scale: from the flow's unit (20 px of the picture) to px of this level.
        narrow: by which the published widths are divided.
    """

    growth = (128, 128, 96, 64, 32)

    def __init__(self, width: int, coarser: int, scale: float, narrow: int = 1) -> None:
        super().__init__()
        self.scale = scale
        channels = (2 * REACH + 1) ** 2
        if coarser:
            self.moduleUpflow = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)
            self.moduleUpfeat = nn.ConvTranspose2d(coarser, 2, 4, stride=2, padding=1)
            channels += width + 4
        self.dense = ("moduleOne", "moduleTwo", "moduleThr", "moduleFou", "moduleFiv")
        for name, published in zip(self.dense, self.growth, strict=True):
            given = published // narrow
            self.add_module(name, convolutions(nn.Conv2d(channels, given, 3, padding=1)))
            channels += given
        self.moduleSix = nn.Sequential(nn.Conv2d(channels, 2, 3, padding=1))
        self.channels = channels  # of the features it hands on

    def forward(self, first: Tensor, second: Tensor, coarser: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Flow (B, 2, H, W) and features from both pyramids' level and the coarser level's flow and features."""
        if coarser is None:
            features = F.leaky_relu(cost_volume(first, second), 0.1)
        else:
            flow, passed = self.moduleUpflow(coarser[0]), self.moduleUpfeat(coarser[1])
            warped, _ = fetch(second, flow * self.scale)
            volume = F.leaky_relu(cost_volume(first, warped), 0.1)
            features = torch.cat([volume, first, flow, passed], 1)
        for name in self.dense:
            features = torch.cat([self.get_submodule(name)(features), features], 1)
        return self.moduleSix(features), features


class ContextNetwork(nn.Module):
    """PWC-Net's context network: dilated convolutions that refine the finest flow."""

    def __init__(self, channels: int, narrow: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for published, dilation in ((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1)):
            given = published // narrow
            layers += [nn.Conv2d(channels, given, 3, padding=dilation, dilation=dilation), nn.LeakyReLU(0.1)]
            channels = given
        self.moduleMain = nn.Sequential(*layers, nn.Conv2d(channels, 2, 3, padding=1))

    def forward(self, features: Tensor) -> Tensor:
        """What to add to the flow, (B, 2, H, W)."""
        result: Tensor = self.moduleMain(features)
        return result


class PWCNet(nn.Module):
    """Flow at a quarter of the size, in units of 20 px, from the pyramids of pictures with sides in multiples of 64.

    Args:
        narrow: by which the published widths are divided.
    """

    widths = (16, 32, 64, 96, 128, 196)

    def __init__(self, narrow: int = 1) -> None:
        super().__init__()
        widths = [width // narrow for width in self.widths]
        self.moduleExtractor = Pyramid(widths)
        six = FlowEstimator(widths[5], 0, 0.0, narrow)
        five = FlowEstimator(widths[4], six.channels, 20 / 32, narrow)
        four = FlowEstimator(widths[3], five.channels, 20 / 16, narrow)
        three = FlowEstimator(widths[2], four.channels, 20 / 8, narrow)
        two = FlowEstimator(widths[1], three.channels, 20 / 4, narrow)
        self.moduleTwo, self.moduleThr, self.moduleFou, self.moduleFiv, self.moduleSix = two, three, four, five, six
        self.moduleRefiner = ContextNetwork(two.channels, narrow)

    def forward(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """Flow (B, 2, H / 4, W / 4) from ``first`` to ``second``, both levels of the pyramid, finest first."""
        coarser: tuple[Tensor, Tensor] | None = None
        estimators = (self.moduleTwo, self.moduleThr, self.moduleFou, self.moduleFiv, self.moduleSix)
        for estimator, one, other in reversed(list(zip(estimators, first[1:], second[1:], strict=True))):
            coarser = estimator(one, other, coarser)
        assert coarser is not None
        refined: Tensor = coarser[0] + self.moduleRefiner(coarser[1])
        return refined


class FlowNetwork(nn.Module):
    """Optical flow in px between pictures of any size; they are resized to multiples of 64 for PWC-Net."""

    def __init__(self, narrow: int = 1) -> None:
        super().__init__()
        self.moduleNetwork = PWCNet(narrow)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """The pyramid of pictures (B, 3, H, W), to be compared by :meth:`between`."""
        size = [math.ceil(side / 64) * 64 for side in pictures.shape[-2:]]
        resized = F.interpolate(pictures, size, mode="bilinear")
        levels: list[Tensor] = self.moduleNetwork.moduleExtractor(resized)
        return levels

    def between(self, first: Sequence[Tensor], second: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Flow (B, 2, H, W) in px from one picture to the other, from both pyramids."""
        flow = F.interpolate(20 * self.moduleNetwork(first, second).float(), (height, width), mode="bilinear")
        resized = first[0].new_tensor([2 * first[0].shape[-1], 2 * first[0].shape[-2]], dtype=torch.float32)
        return flow * (flow.new_tensor([width, height]) / resized).reshape(1, 2, 1, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow (B, 2, H, W) in px from pictures (B, 3, H, W) to others: warping ``second`` by it gives ``first``."""
        return self.between(self.features(first), self.features(second), *first.shape[-2:])


class WideResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 5x5, shape kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 5, padding=2)
        self.conv2 = nn.Conv2d(channels, channels, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        branch: Tensor = self.conv2(F.relu(self.conv1(x), inplace=True))
        return branch + x


class Restoration(nn.Module):
    """The encoder-decoder: three aligned frames and the sharpness prior to the restored middle one.

    Args:
        channels: features at full size; twice as many on each of two coarser levels.
        blocks: residual blocks in each of the six parts.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()

        def residual(width: int) -> list[nn.Module]:
            return [WideResidualBlock(width) for _ in range(blocks)]

        def narrow(taken: int, given: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(taken, given, 5, stride=stride, padding=2), nn.ReLU(inplace=True))

        def widen(taken: int, given: int) -> nn.Sequential:
            layer = nn.ConvTranspose2d(taken, given, 3, stride=2, padding=1, output_padding=1)
            return nn.Sequential(layer, nn.ReLU(inplace=True))

        full, half, quarter = channels, 2 * channels, 4 * channels
        self.inBlock = nn.Sequential(narrow(10, full, 1), *residual(full))
        self.encoder_first = nn.Sequential(narrow(full, half, 2), *residual(half))
        self.encoder_second = nn.Sequential(narrow(half, quarter, 2), *residual(quarter))
        self.decoder_second = nn.Sequential(*residual(quarter), widen(quarter, half))
        self.decoder_first = nn.Sequential(*residual(half), widen(half, full))
        self.outBlock = nn.Sequential(*residual(full), nn.Conv2d(full, 3, 5, padding=2))
        self._start_as_middle_frame()

    def _start_as_middle_frame(self) -> None:
        """First weights with which the middle frame (channels 3 to 5 of the input) comes through nearly as it is.

        There is no skip from picture to picture, and a short training would be spent on learning one.
        """
        weights = dict(self.named_parameters())
        first, last = "inBlock.0.0", f"outBlock.{len(self.outBlock) - 1}"
        coarser = f"decoder_first.{len(self.decoder_first) - 1}.0"
        with torch.no_grad():
            for layer in (first, coarser, last):
                weights[f"{layer}.weight"].mul_(0.1)
                weights[f"{layer}.bias"].zero_()
            for colour in range(3):
                for weight, taken in ((weights[f"{first}.weight"], 3 + colour), (weights[f"{last}.weight"], colour)):
                    weight[colour] = 0
                    weight[colour, taken, 2, 2] = 1
            for module in self.modules():
                if isinstance(module, WideResidualBlock):
                    module.conv2.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 10, H, W) to a picture (B, 3, H, W)."""
        full = self.inBlock(x)
        half = self.encoder_first(full)
        features = self.decoder_second(self.encoder_second(half))
        result: Tensor = self.outBlock(self.decoder_first(features + half) + full)
        return result


def temporal_sharpness(previous: Tensor, middle: Tensor, following: Tensor) -> Tensor:
    """How well three aligned pictures (B, 3, H, W) agree, (B, 1, H, W), 1 where they are alike (paper, eq. 4).

    As in the published code the pictures are smoothed by a 5x5 mean first, no gradient passes, and the exponent is the
    distance itself, not its square.
    """
    before, here, after = (
        F.avg_pool2d(picture.detach().float(), 5, stride=1, padding=2) for picture in (previous, middle, following)
    )
    squared = ((before - here).square() + (after - here).square()) / 2
    return torch.exp(-squared.sum(1, keepdim=True).sqrt())


class CDVDTSP(nn.Module):
    """Video deblurrer (B, 5, 3, H, W) -> (B, 3, H, W), RGB about [0, 1], unclamped; H and W multiples of 4.

    Args:
        channels: features of the restoration network at full size.
        blocks: residual blocks in each of its parts.
        narrow: by which the published widths of PWC-Net are divided.

    Its training loss is taken of the four pictures of :meth:`outputs`, the last of which is the restored centre frame.

    >>> net = CDVDTSP(channels=4, blocks=1).eval()
    >>> with torch.no_grad(): tuple(net(torch.zeros(1, 5, 3, 64, 64)).shape)
    (1, 3, 64, 64)
    """

    frames = FRAMES
    multiple = 4
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "decoder": ("recons_net.decoder_second", "recons_net.decoder_first", "recons_net.outBlock"),
        "last": ("recons_net.outBlock",),
    }

    def __init__(self, channels: int = 32, blocks: int = 3, narrow: int = 1) -> None:
        super().__init__()
        self.flow_net = FlowNetwork(narrow)
        self.recons_net = Restoration(channels, blocks)

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor]) -> CDVDTSP:
        """Build the network that a state dict belongs to, sizes read from the weights, and load it.

        Raises:
            KeyError, RuntimeError: the weights are not those of a CDVD-TSP.
        """
        net = cls(
            channels=weights["recons_net.inBlock.0.0.weight"].shape[0],
            blocks=max(int(key.split(".")[2]) for key in weights if key.startswith("recons_net.inBlock.")),
            narrow=PWCNet.widths[-1] // weights["flow_net.moduleNetwork.moduleExtractor.moduleSix.0.weight"].shape[0],
        )
        net.load_state_dict({key: value.float() for key, value in weights.items()})
        return net

    def forward(self, window: Tensor) -> Tensor:
        """Deblur the centre of (B, 5, 3, H, W)."""
        return self.outputs(window)[-1]

    def outputs(self, window: Tensor) -> Outputs:
        """First-stage pictures of frames 1, 2 and 3 (counted from 0), and the final picture of frame 2."""
        first, second, third = self._stage(window.unbind(1))
        (final,) = self._stage((first, second, third))
        return first, second, third, final

    def _stage(self, frames: Sequence[Tensor]) -> list[Tensor]:
        """Restore the inner ones of some frames (B, 3, H, W) in a row."""
        levels = [self.flow_net.features(frame) for frame in frames]
        restored = []
        for index in range(1, len(frames) - 1):
            middle = frames[index]
            (previous, before), (following, after) = (
                fetch(frames[other], self.flow_net.between(levels[index], levels[other], *middle.shape[-2:]))
                for other in (index - 1, index + 1)
            )
            sharpness = temporal_sharpness(previous, middle, following) * before * after
            restored.append(self.recons_net(torch.cat([previous, middle, following, sharpness], 1)))
        return restored

"""What any deblurrer learns from a batch of patches: padding to its multiple, several outputs, its own loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metadeblur.imaging.tiles import pad_to_multiple
from metadeblur.models.registry import Loss, final, outputs, traits
from metadeblur.system.device import has_native_bf16


def own_loss(net: nn.Module, blurred: Tensor, sharp: Tensor, loss: Loss | None = None, *, bf16: bool = False) -> Tensor:
    """A deblurrer's loss on a batch, with gradient to its weights and to ``blurred``.

    Args:
        net: image or video deblurrer, on the device of the batch.
        blurred: (B, 3, H, W), or (B, N, 3, H, W) for a video deblurrer.
        sharp: (B, 3, H, W); or the sharp frames of the window, (B, N, 3, H, W), for a loss that takes them
            (:attr:`~metadeblur.models.registry.Traits.window_target`).
        loss: another one than the network's own; it is given what the own one would be given.
        bf16: run the network in mixed precision; the loss itself is always taken in float32.

    Returns:
        A scalar.

    >>> own_loss(nn.Identity(), torch.zeros(1, 3, 20, 20), torch.ones(1, 3, 20, 20)).item()
    1.0
    """
    wanted = traits(net)
    padded = pad_to_multiple(blurred, wanted.multiple)
    with torch.autocast(blurred.device.type, dtype=torch.bfloat16, enabled=bf16):
        output = outputs(net, padded) if wanted.all_outputs else final(net(padded))
    return (loss or wanted.loss)(_cropped(output, padded.shape[-2:], sharp.shape[-2:]), sharp)


def whole_picture(net: nn.Module, frames: Tensor) -> Tensor:
    """What a deblurrer gives for frames of any size: (B, 3, H, W) float32, unclamped.

    Args:
        net: image or video deblurrer, on the device of the frames.
        frames: (B, 3, H, W), or (B, N, 3, H, W) for a video deblurrer; padded to the network's multiple.
    """
    rows, columns = frames.shape[-2:]
    return final(net(pad_to_multiple(frames, traits(net).multiple)))[..., :rows, :columns].float()


def trainable(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimiser moves: the floating-point ones."""
    return [weight for weight in net.parameters() if weight.is_floating_point()]


def frozen(net: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose weights want no gradient."""
    return copy.deepcopy(net).eval().requires_grad_(False)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether gradient steps run in mixed precision: "bf16", or "auto" where the device does it natively."""
    return precision == "bf16" or (precision == "auto" and has_native_bf16(device))


def _cropped(output: Any, padded: Sequence[int], size: Sequence[int]) -> Any:
    """Cut the padding off pictures of any scale, and go back to float32."""
    if isinstance(output, Tensor):
        rows = round(size[0] * output.shape[-2] / padded[0])
        columns = round(size[1] * output.shape[-1] / padded[1])
        return output[..., :rows, :columns].float()
    return [_cropped(picture, padded, size) for picture in output]

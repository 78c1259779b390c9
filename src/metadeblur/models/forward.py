"""What any deblurrer learns from a batch of patches: padding to its multiple, several outputs, its own loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.tiles import pad_to_multiple
from metadeblur.models.registry import Loss, final, outputs, traits
from metadeblur.system.device import has_native_bf16
from metadeblur.system.memory import is_out_of_memory


def picture_of(output: Any, frames: Tensor) -> Tensor:
    """The restored picture (B, 3, H, W) of what a network made of frames.

    Args:
        output: of the network.
        frames: (B, C, H, W), or (B, N, 3, H, W), that it was given.

    Raises:
        MetadeblurError: it is none: another type, size or number of channels; says what it is.

    >>> tuple(picture_of([torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8)], torch.zeros(1, 3, 8, 8)).shape)
    (1, 3, 8, 8)
    """
    picture = final(output)
    if picture.shape == (len(frames), 3, *frames.shape[-2:]) and picture.is_floating_point():
        return picture
    made, given, hint = tuple(picture.shape), tuple(frames.shape), "name the restored picture with picture=..."
    if not picture.is_floating_point():
        hint = f"this is {str(picture.dtype).removeprefix('torch.')}; return floats, about [0, 1]"
    elif picture.ndim == 5:
        hint = "of a window it restores the middle frame: md.Deblurrer(net, picture=lambda every: every[:, N // 2])"
    elif picture.ndim == 4 and picture.shape[-1] % frames.shape[-1] == 0 and picture.shape[-1] > frames.shape[-1]:
        hint = "this one enlarges"
    raise MetadeblurError(
        f"the network made {made} of {given}: a deblurrer gives (B, 3, H, W) of the size it takes; {hint}"
    )


class FirstPassFailed(MetadeblurError, RuntimeError):
    """A network fails on the first frames that it is given."""


def failed(net: nn.Module, frames: Tensor, error: Exception) -> FirstPassFailed:
    """The error where a network's first pass, on frames (B, 3, H, W) or (B, N, 3, H, W), ends with one of its own."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return FirstPassFailed(
        f"{type(net).__name__} failed on its first pass, on {tuple(frames.shape)}, "
        f"{str(frames.dtype).removeprefix('torch.')} in [0, 1]: {reason}. If it wants several frames or other sides, "
        "say so: md.Deblurrer(net, frames=N, multiple=PX)"
    )


@torch.no_grad()
def try_network(net: nn.Module, frames: Tensor) -> None:
    """One pass of a network, to find out what does not work before any time is spent.

    Args:
        net: image or video deblurrer, on the device of the frames.
        frames: (B, 3, H, W), or (B, N, 3, H, W) for a video deblurrer.

    Raises:
        MetadeblurError: it fails, or gives no picture of the size of the frames.
    """
    padded = pad_to_multiple(frames, traits(net).multiple)
    try:
        output = net(padded)
    except MetadeblurError:
        raise
    except Exception as error:  # a network of somebody's own can fail in any way
        if is_out_of_memory(error):
            raise
        raise failed(net, padded, error) from error
    picture_of(output, padded)


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
        output = outputs(net, padded) if wanted.all_outputs else picture_of(net(padded), padded)
    return (loss or wanted.loss)(_cropped(output, padded.shape[-2:], sharp.shape[-2:]), sharp)


def whole_picture(net: nn.Module, frames: Tensor) -> Tensor:
    """What a deblurrer gives for frames of any size: (B, 3, H, W) float32, unclamped.

    Args:
        net: image or video deblurrer, on the device of the frames.
        frames: (B, 3, H, W), or (B, N, 3, H, W) for a video deblurrer; padded to the network's multiple.
    """
    rows, columns = frames.shape[-2:]
    padded = pad_to_multiple(frames, traits(net).multiple)
    return picture_of(net(padded), padded)[..., :rows, :columns].float()


def trainable(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimiser moves: the floating-point ones."""
    return [weight for weight in net.parameters() if weight.is_floating_point()]


def frozen(net: nn.Module) -> nn.Module:
    """A copy in evaluation mode, in float32, whose weights want no gradient."""
    return in_float32(copy.deepcopy(net)).eval().requires_grad_(False)


def in_float32(net: nn.Module) -> nn.Module:
    """The network itself, brought to float32 where its weights are of half or double precision.

    >>> in_float32(nn.Linear(1, 1).half()).weight.dtype
    torch.float32
    """
    return net.float() if any(weight.dtype != torch.float32 for weight in trainable(net)) else net


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

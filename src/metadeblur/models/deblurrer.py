"""Any network as a deblurrer: what restoring and adapting must know of it, declared in one place.

A module that maps (B, 3, H, W) to (B, 3, H, W) for sides in multiples of 16 px needs no wrapper. For any other,
:class:`Deblurrer` says what it wants. Networks that the package spandrel knows are wrapped by :func:`from_spandrel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.tiles import pad_to_multiple
from metadeblur.models.registry import Loss, final, outputs, traits

_SMALLEST_SIDE = 32  # px: of the patches and tiles that a network is ever given


class Deblurrer(nn.Module):
    """A network with what it wants: (B, 3, H, W), or (B, frames, 3, H, W), to the restored (B, 3, H, W).

    Any height and width may be given; they are padded and cropped.

    Args:
        net: takes RGB, usually in [0, 1]. What is not given here is taken from its attributes of the same names, or
            from what is known of the network.
        frames: that it takes, 1 or an odd number; the middle one is restored.
        multiple: height and width that it takes are multiples of this, in px.
        loss: its training loss on (restored, sharp), or with ``all_outputs`` on (all that it returns, sharp).
        all_outputs: the loss is given all that the network returns.
        picture: finds the restored picture in what the network returns; by default it is the largest.

    Raises:
        MetadeblurError: a number of frames or a multiple that cannot be.

    >>> import torch
    >>> net = Deblurrer(nn.Sequential(nn.PixelUnshuffle(4), nn.PixelShuffle(4)), multiple=4)
    >>> tuple(net(torch.zeros(1, 3, 30, 45)).shape)
    (1, 3, 30, 45)
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        frames: int | None = None,
        multiple: int | None = None,
        loss: Loss | None = None,
        all_outputs: bool | None = None,
        picture: Callable[[Any], Tensor] = final,
    ) -> None:
        super().__init__()
        default = traits(net)
        self.net = net
        self.frames = default.frames if frames is None else frames
        self.multiple = default.multiple if multiple is None else multiple
        self.loss = default.loss if loss is None else loss
        self.all_outputs = default.all_outputs if all_outputs is None else all_outputs
        self.picture = picture
        if self.frames < 1 or self.frames % 2 == 0:
            raise MetadeblurError(f"frames is {self.frames}; a deblurrer takes 1 or an odd number of frames")
        if self.multiple < 1:
            raise MetadeblurError(f"multiple is {self.multiple}; it is a number of pixels, 1 or more")

    def outputs(self, frames: Tensor) -> Any:
        """All that the network returns for frames whose sides it takes."""
        every = outputs(self.net, frames)
        return list(every.values()) if isinstance(every, Mapping) else every

    def forward(self, frames: Tensor) -> Tensor:
        """Restore the middle frame: (B, 3, H, W).

        Raises:
            MetadeblurError: the frames, or what the network made of them, have another shape.
        """
        height, width = frames.shape[-2:]
        shape = (self.frames, 3) if self.frames > 1 else (3,)
        if tuple(frames.shape[1:-2]) != shape:
            wanted = ", ".join(map(str, ("B", *shape, "H", "W")))
            raise MetadeblurError(f"the deblurrer was given {tuple(frames.shape)}: give it ({wanted})")
        padded = pad_to_multiple(frames, self.multiple)
        restored = self.picture(self.net(padded))
        if restored.shape != (len(frames), 3, *padded.shape[-2:]):
            raise MetadeblurError(
                f"the network made {tuple(restored.shape)} of {tuple(padded.shape)}: a deblurrer gives (B, 3, H, W) of "
                "the size it takes; name the restored picture with picture=..."
            )
        return restored[..., :height, :width]


def has_spandrel() -> bool:
    """Whether the package spandrel is installed; it is not needed for anything else."""
    return find_spec("spandrel") is not None


def from_spandrel(weights: dict[str, Tensor]) -> Deblurrer:
    """The network that spandrel recognises in a state dict, as a deblurrer.

    Args:
        weights: by name, as :func:`metadeblur.models.formats.checkpoints.read_checkpoint` gives them.

    Raises:
        MetadeblurError: spandrel is not installed, does not know the network, or it is no RGB restorer of one scale.
    """
    if not has_spandrel():
        raise MetadeblurError("the package spandrel is not installed: pip install spandrel")
    import spandrel

    try:
        described = spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(weights))
    except spandrel.UnsupportedModelError as error:
        raise MetadeblurError(f"spandrel knows no network of these {len(weights)} tensors") from error
    name = described.architecture.name
    if not isinstance(described, spandrel.ImageModelDescriptor):
        raise MetadeblurError(f"{name}: spandrel says that it does not map a picture to a picture")
    colours = (described.input_channels, described.output_channels)
    if described.scale != 1 or colours != (3, 3):
        raise MetadeblurError(
            f"{name}: it scales by {described.scale} and maps {colours[0]} channels to {colours[1]}; "
            "a deblurrer keeps the size and maps RGB to RGB"
        )
    wanted = described.size_requirements
    if wanted.square or wanted.minimum > _SMALLEST_SIDE:
        raise MetadeblurError(
            f"{name}: it wants {'square pictures' if wanted.square else f'sides of at least {wanted.minimum} px'}; "
            f"a deblurrer takes any sides of {_SMALLEST_SIDE} px or more"
        )
    return Deblurrer(described.model.float().eval(), multiple=max(wanted.multiple_of, 1))

"""Any network as a deblurrer: what restoring and adapting must know of it, declared in one place.

A module that maps (B, 3, H, W) to (B, 3, H, W) for sides in multiples of 16 px needs no wrapper. For any other,
:class:`Deblurrer` says what it wants. What the package spandrel loads is unwrapped by :func:`as_deblurrer`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.tiles import pad_to_multiple
from metadeblur.models.forward import picture_of
from metadeblur.models.registry import Loss, final, outputs, traits

_SMALLEST_SIDE = 32  # px: of the patches and tiles that a network is ever given


class Deblurrer(nn.Module):
    """A network with what it wants: (B, 3, H, W), or (B, frames, 3, H, W), to the restored (B, 3, H, W).

    Any height and width may be given; they are padded and cropped.

    Args:
        net: takes RGB, usually in [0, 1]; a module, or what spandrel loads. What is not given here is taken from its
            attributes of the same names, or from what is known of the network.
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
        net: Any,
        *,
        frames: int | None = None,
        multiple: int | None = None,
        loss: Loss | None = None,
        all_outputs: bool | None = None,
        picture: Callable[[Any], Tensor] = final,
    ) -> None:
        super().__init__()
        default = traits(as_deblurrer(net))
        self.net: nn.Module = net if isinstance(net, nn.Module) else net.model
        self.frames = default.frames if frames is None else frames
        self.multiple = default.multiple if multiple is None else multiple
        self.loss = default.loss if loss is None else loss
        self.all_outputs = default.all_outputs if all_outputs is None else all_outputs
        self.picture = picture
        if self.frames < 1 or self.frames % 2 == 0:
            raise MetadeblurError(f"frames is {self.frames}; a deblurrer takes 1 or an odd number of frames")
        if self.multiple < 1:
            raise MetadeblurError(f"multiple is {self.multiple}; it is a number of pixels, 1 or more")

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Save the network as a folder, see :func:`metadeblur.models.pretrained.save_pretrained`."""
        from metadeblur.models.pretrained import save_pretrained

        return save_pretrained(self, folder, **options)

    @classmethod
    def from_pretrained(cls, source: str | Path, net: nn.Module | None = None, **options: Any) -> Deblurrer:
        """A deblurrer from a folder or the hub, see :func:`metadeblur.models.pretrained.from_pretrained`."""
        from metadeblur.models.pretrained import from_pretrained

        loaded = from_pretrained(source, net, **options)
        return loaded if isinstance(loaded, Deblurrer) else cls(loaded).eval()

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
        return picture_of(self.picture(self.net(padded)), padded)[..., :height, :width]


def as_deblurrer(net: Any) -> nn.Module:
    """A network as everything takes it: a module is itself, of what spandrel loads the network inside is taken.

    Args:
        net: a module, or an object like spandrel's ``ImageModelDescriptor``, with the module as its ``model``.

    Raises:
        MetadeblurError: it is neither; says what it is, and what to do.

    >>> as_deblurrer("lite")
    Traceback (most recent call last):
    metadeblur.errors.MetadeblurError: 'lite' is a name, not a network: md.load_deblurrer('lite') loads it
    """
    if isinstance(net, nn.Module):
        return net
    if isinstance(net, str | os.PathLike):
        raise MetadeblurError(f"{str(net)!r} is a name, not a network: md.load_deblurrer({str(net)!r}) loads it")
    if isinstance(net, type):
        raise MetadeblurError(f"{net.__name__} is a class, not a network: make one, {net.__name__}()")
    if isinstance(net, Mapping):
        raise MetadeblurError("a state dict is no network: make the network and call net.load_state_dict(...)")
    if isinstance(getattr(net, "model", None), nn.Module):
        return _from_descriptor(net)
    raise MetadeblurError(
        f"a {type(net).__name__} is no network: give a torch.nn.Module that maps (B, 3, H, W) to (B, 3, H, W)"
    )


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
    if not isinstance(described, spandrel.ImageModelDescriptor):
        raise MetadeblurError(
            f"{described.architecture.name}: spandrel says that it does not map a picture to a picture"
        )
    return _from_descriptor(described).float().eval()


def _from_descriptor(described: Any) -> Deblurrer:
    """The network of what spandrel loads, with the sides that it wants; it is not changed.

    Raises:
        MetadeblurError: it is no RGB restorer of one scale, or does not take any size.
    """
    name = getattr(getattr(described, "architecture", None), "name", type(described.model).__name__)
    scale = getattr(described, "scale", 1)
    colours = (getattr(described, "input_channels", 3), getattr(described, "output_channels", 3))
    if scale != 1 or colours != (3, 3):
        raise MetadeblurError(
            f"{name}: it scales by {scale} and maps {colours[0]} channels to {colours[1]}; "
            "a deblurrer keeps the size and maps RGB to RGB"
        )
    wanted = getattr(described, "size_requirements", None)
    square, least, multiple = (
        getattr(wanted, what, usual) for what, usual in (("square", False), ("minimum", 0), ("multiple_of", 1))
    )
    if square or (least or 0) > _SMALLEST_SIDE:
        raise MetadeblurError(
            f"{name}: it wants {'square pictures' if square else f'sides of at least {least} px'}; "
            f"a deblurrer takes any sides of {_SMALLEST_SIDE} px or more"
        )
    return Deblurrer(described.model, multiple=max(multiple or 1, 1))

"""What there is to know of each model: what it takes, size and work, its speed here, its weights and their licence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metadeblur.errors import MetadeblurError
from metadeblur.models.building import Misfit, built
from metadeblur.models.formats.safetensors_files import read_shapes
from metadeblur.models.published import PUBLISHED
from metadeblur.models.registry import ARCHITECTURES, traits
from metadeblur.models.weights import BUILT_IN, VARIANTS, installed_path, load_deblurrer, model_card
from metadeblur.pipeline.speed import quickest
from metadeblur.restoration.restorer import Restorer, RestoreSettings

MEASURED_SIDE = 256  # px: of the frame whose restoration is timed
SIZES = {"256x256": (256, 256), "1280x720": (720, 1280)}  # height, width of the frames whose work is counted


@dataclass(frozen=True)
class Model:
    """One row of the table."""

    name: str
    kind: str  # "image" or "video"
    frames: int  # that it takes
    parameters: int
    multiply_adds: dict[str, int]  # of one frame, by size; convolutions and products of matrices
    seconds: float | None  # measured on this machine for one frame of 256x256; None: not measured
    weights: str  # "built in", "imported" or "not here"
    how: str  # how to get weights that are not here, otherwise the file
    licence: str  # of the weights
    paper: str


def names() -> list[str]:
    """Every name that ``--model`` knows, a network's faster settings after it."""
    listed = []
    for name, entry in ARCHITECTURES.items():
        listed += [name, *entry.variants]
    return listed


def describe(name: str, *, measure: bool = False) -> Model:
    """The row of one model.

    Args:
        name: one of :func:`names`.
        measure: time a frame.

    Raises:
        MetadeblurError: no such model.
    """
    network = VARIANTS.get(name, name)
    if network not in ARCHITECTURES:
        raise MetadeblurError(f"no model {name!r}; models are {', '.join(names())}")
    net = skeleton(name)
    if hasattr(net, "prepare_window"):  # it looks at the pictures themselves, so that there must be some
        net = filled(name)
    known, path = traits(net), installed_path(name)
    published, card = PUBLISHED.get(network), model_card(name)
    here = "built in" if name in BUILT_IN else "imported"
    return Model(
        name=name,
        kind="image" if known.frames == 1 else "video",
        frames=known.frames,
        parameters=sum(weight.numel() for weight in net.parameters()),
        multiply_adds={size: multiply_adds(net, *sides) for size, sides in SIZES.items()},
        seconds=seconds_a_frame(name) if measure else None,
        weights=here if path.is_file() else "not here",
        how=str(path) if path.is_file() or published is None else published.how(network),
        licence=published.licence if published else str(card.get("licence", "unknown")),
        paper=published.paper if published else "this project",
    )


def skeleton(name: str) -> nn.Module:
    """A model's network without its weights (on the meta device): in the sizes of those that are here, or published."""
    network, path = VARIANTS.get(name, name), installed_path(name)
    entry = ARCHITECTURES[network]
    with torch.device("meta"):
        if path.is_file():
            weights = {key: torch.empty(shape) for key, shape in read_shapes(path).items()}
        else:
            weights = entry.published().state_dict()
        try:
            return built(entry.variants.get(name, entry.build), weights).eval()
        except Misfit as error:
            raise MetadeblurError(f"{path}: not the weights of {network}: {error}") from error


def multiply_adds(net: nn.Module, height: int, width: int) -> int:
    """Multiplications (each with an addition) of one restored frame, in convolutions and products of matrices.

    >>> with torch.device("meta"): multiply_adds(nn.Conv2d(3, 3, 3, padding=1), 16, 32) == 16 * 32 * 3 * 3 * 9
    True
    """
    frames = traits(net).frames
    multiple = traits(net).multiple
    sides = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    device = next(net.parameters()).device
    window = torch.zeros((1, 3, *sides) if frames == 1 else (1, frames, 3, *sides), device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(window)
    return int(counter.get_total_flops()) // 2


def seconds_a_frame(name: str) -> float:
    """Measured: restoring one frame of 256x256 as ``restore`` does, in fp32, whole; the best of three."""
    settings = RestoreSettings(tile=0, precision="fp32", device="auto")
    restorer = Restorer(filled(name), MEASURED_SIDE, MEASURED_SIDE, settings)
    picture = torch.rand(3, MEASURED_SIDE, MEASURED_SIDE, generator=torch.Generator().manual_seed(0))
    return quickest(partial(restorer, picture.expand(restorer.frames, -1, -1, -1)), 3)


def filled(name: str) -> nn.Module:
    """A model with its weights, or where they are not here with random ones: it works as fast with any."""
    if installed_path(name).is_file():
        return load_deblurrer(name)
    entry = ARCHITECTURES[VARIANTS.get(name, name)]
    weights: dict[str, Tensor] = entry.published().state_dict()
    return entry.variants.get(name, entry.build)(weights).eval()

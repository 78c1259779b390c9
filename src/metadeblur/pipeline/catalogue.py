"""What there is to know of each model: what it takes, size and work, its speed here, its weights and their licence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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
class Counted:
    """Size and work of a network."""

    frames: int  # that it takes
    parameters: int
    multiply_adds: tuple[int, ...]  # of one frame of each of SIZES


KNOWN: dict[str, tuple[str, Counted]] = {
    "lite": ("689b6d2a20efa423", Counted(5, 2_948_988, (6_346_244_096, 89_244_057_600))),
    "lite-meta": ("689b6d2a20efa423", Counted(5, 2_948_988, (6_346_244_096, 89_244_057_600))),
    "mimo-unet": ("da55f2fe7d1e6ac2", Counted(1, 6_807_171, (63_732_842_496, 896_243_097_600))),
    "mimo-unet-plus": ("aef4dd4742bbcd68", Counted(1, 16_107_651, (150_705_930_240, 2_119_302_144_000))),
    "mprnet": ("062a533a13a11c4f", Counted(1, 20_127_073, (759_411_071_616, 10_679_206_763_136))),
    "restormer": ("3bab8fb7b840106b", Counted(1, 26_126_644, (154_882_031_616, 2_178_028_569_600))),
    "cdvd-tsp": ("b418ef45920a8f95", Counted(5, 16_187_045, (346_632_387_840, 4_961_881_117_440))),
    "nafnet-32": ("97f138cbe5a20392", Counted(1, 17_111_907, (15_956_027_392, 258_324_480_000))),
    "nafnet-64": ("e4c51c9e84f6530b", Counted(1, 67_888_835, (63_054_979_072, 1_022_482_022_400))),
    "maxim": ("ce9be93965a5d77f", Counted(1, 22_207_605, (149_363_062_784, 2_240_442_759_168))),
    "maxim-2": ("ce9be93965a5d77f", Counted(1, 14_170_988, (94_808_199_168, 1_422_120_865_792))),
    "maxim-1": ("ce9be93965a5d77f", Counted(1, 6_134_371, (40_253_335_552, 603_798_972_416))),
}
"""Of each model with its published or built-in weights: the name of these weights' sizes (:func:`sizes`), and what
:func:`count` gives, which takes most of a minute for all of them."""


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
    path, (known, counted) = installed_path(name), KNOWN[name]
    if path.is_file() and sizes(read_shapes(path)) != known:
        counted = count(name)
    published, card = PUBLISHED.get(network), model_card(name)
    here = "built in" if name in BUILT_IN else "imported"
    return Model(
        name=name,
        kind="image" if counted.frames == 1 else "video",
        frames=counted.frames,
        parameters=counted.parameters,
        multiply_adds=dict(zip(SIZES, counted.multiply_adds, strict=True)),
        seconds=seconds_a_frame(name) if measure else None,
        weights=here if path.is_file() else "not here",
        how=str(path) if path.is_file() or published is None else published.how(network),
        licence=published.licence if published else str(card.get("licence", "unknown")),
        paper=published.paper if published else "this project",
    )


def sizes(shapes: Mapping[str, Sequence[int]]) -> str:
    """A short name of the sizes of a network's tensors: another network, or one in other sizes, has another.

    >>> sizes({"a": [2, 3], "b": [1]}) == sizes({"b": (1,), "a": (2, 3)}) != sizes({"a": [3, 2], "b": [1]})
    True
    """
    listed = sorted((key, list(shape)) for key, shape in shapes.items())
    return hashlib.sha256(repr(listed).encode()).hexdigest()[:16]


def count(name: str) -> Counted:
    """Size and work of a model in the sizes of the weights that are here, or the published ones."""
    net = skeleton(name)
    if hasattr(net, "prepare_window"):  # it looks at the pictures themselves, so that there must be some
        net = filled(name)
    parameters = sum(weight.numel() for weight in net.parameters())
    return Counted(traits(net).frames, parameters, tuple(multiply_adds(net, *sides) for sides in SIZES.values()))


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

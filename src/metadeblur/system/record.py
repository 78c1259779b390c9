"""The record of a run: what was done to a clip, with what, on what; written as strict JSON."""

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
from typing import Any

import torch

from metadeblur.system.files import whole
from metadeblur.system.names import utf8
from metadeblur.version import __version__


def plain(value: Any) -> Any:
    """Any value as what JSON knows: dataclasses and mappings become objects, not-a-number and infinity null.

    Floats are rounded to 7 digits; tensors become lists; what has no better form becomes its text.

    >>> plain({"share": 0.5, "rate": Fraction(30, 1), "loss": float("nan"), "at": (1, 2)})
    {'share': 0.5, 'rate': 30.0, 'loss': None, 'at': [1, 2]}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | Fraction):
        number = float(value)
        return float(f"{number:.7g}") if math.isfinite(number) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):  # tensors and arrays
        return plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset):
        return [plain(entry) for entry in value]
    return str(value)


def to_json(record: Any) -> str:
    """The record as strict JSON text, indented, ending in a line feed."""
    text = json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Bytes of a name that are no UTF-8 are written as JSON escapes them, from which they can be had back.
    return utf8(text).decode()


def write_json(record: Any, path: Path | str) -> None:
    """Write the record to a file, whole or not at all; ``-`` is standard output."""
    text = to_json(record)
    if str(path) == "-":
        print(text, end="", flush=True)
    else:
        write_whole(Path(path), text.encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a crash or a full disk.

    Raises:
        MetadeblurError: see :func:`metadeblur.system.files.whole`.
    """
    with whole(path) as draft:
        draft.write_bytes(data)


def versions() -> dict[str, str]:
    """Versions of Python, this program (with its commit where it runs from a checkout) and the libraries that count."""
    found = {"metadeblur": __version__, "python": platform.python_version()}
    if (known := commit()) is not None:
        found["commit"] = known
    for name in ("torch", "numpy", "av", "opencv-python-headless", "scenedetect-headless", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    found["torch"] = str(torch.__version__)
    return found


@cache
def commit() -> str | None:
    """The commit of the checkout that this program runs from, ``+`` after it where files differ; None elsewhere."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

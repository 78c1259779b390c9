"""Records that later runs trust, with a checksum of what they say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metadeblur.errors import MetadeblurError
from metadeblur.plain_files import RECORD, read_object
from metadeblur.record import to_json, write_json

_SEAL = "checksum"


def write_sealed(record: Mapping[str, Any], path: Path) -> None:
    """Write a record, whole or not at all, with its checksum at the end."""
    write_json({**record, _SEAL: _digest(record)}, path)


def read_sealed(path: Path) -> dict[str, Any]:
    """What :func:`write_sealed` wrote.

    Raises:
        MetadeblurError: it is damaged, was changed, or is another file.
    """
    record = read_object(path, RECORD)
    said = record.pop(_SEAL, None)
    if said != _digest(record):
        raise MetadeblurError(f"{path}: is damaged, or was changed; remove it, and --resume measures that clip again")
    return record


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(record).encode("utf-8", "surrogatepass")).hexdigest()

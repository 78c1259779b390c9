"""Records with a checksum, so that a later run can trust them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metadeblur.errors import MetadeblurError
from metadeblur.system.identity import SEAL, is_whole, sealed
from metadeblur.system.json_files import plain, write_json
from metadeblur.system.plain_files import RECORD, read_object


def write_sealed(record: Any, path: Path) -> None:
    """Write a record, whole or not at all, with its checksum at the end."""
    write_json(sealed(plain(record)), path)


def read_sealed(path: Path) -> dict[str, Any]:
    """What :func:`write_sealed` wrote.

    Raises:
        MetadeblurError: it is damaged, was changed, or is another file.
    """
    record = read_object(path, RECORD)
    if not is_whole(record):
        raise MetadeblurError(f"{path}: is damaged, or was changed; remove it, and --resume measures that clip again")
    del record[SEAL]
    return record

"""Checksums: of input files, which must not change while they are read, and inside of records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from metadeblur.errors import MetadeblurError
from metadeblur.system.json_files import plain

SAMPLE_BYTES = 64 << 10
WHOLE_BYTES = 32 << 20  # of all files together that are read whole; of larger ones samples are read
LEAST_BYTES = 48 << 10  # of each file

SEAL = "checksum"  # the checksum of a record of JSON values, inside of it


class InputChanged(MetadeblurError):
    """The input was changed while it was being read."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} was changed while it was being read, so nothing was written; run it again when it is complete and "
            "nothing else writes to it"
        )


def refuse_change(path: Path, files: Iterable[Path], mark: str) -> None:
    """Refuse an input that was changed since it was identified.

    Args:
        path: the input, as it is called.
        files: of it.
        mark: what :func:`identify_files` said of them.

    Raises:
        InputChanged: it is not, or it is gone.
    """
    try:
        now = identify_files(files)
    except OSError:
        now = ""
    if now != mark:
        raise InputChanged(path)


def identify(source: Path) -> str:
    """Checksum of an input file or folder of frames: names, sizes, times of change, samples of the bytes."""
    return identify_files(sorted(source.iterdir()) if source.is_dir() else [source])


def identify_files(files: Iterable[Path]) -> str:
    """Checksum of files in order, as :func:`identify`; folders and missing files are skipped."""
    there = [path for path in files if path.is_file()]
    share = max(LEAST_BYTES, WHOLE_BYTES // max(1, len(there)))
    digest = hashlib.sha256()
    for path in there:
        status = path.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns} ".encode() + bytes(path.name, "utf-8", "surrogateescape"))
        _sample(path, status.st_size, share, digest.update)
    return digest.hexdigest()[:16]


def _sample(path: Path, size: int, share: int, take: Callable[[bytes], Any]) -> None:
    """Read ``share`` bytes of a file, from its start to its end."""
    with path.open("rb") as file:
        if size <= share:
            while piece := file.read(1 << 20):
                take(piece)
            return
        count = max(3, share // SAMPLE_BYTES)
        length = share // count
        for number in range(count):
            file.seek((size - length) * number // (count - 1))
            take(file.read(length))


def files_of(path: Path) -> Iterator[Path]:
    """The file, or the files in a folder at any depth, in order."""
    if path.is_dir():
        yield from sorted(entry for entry in path.rglob("*") if entry.is_file())
    else:
        yield path


def checksum_of(path: Path) -> str:
    """SHA-256 over all of a file, or over all files in a folder with their names.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    digest = hashlib.sha256()
    for entry in files_of(path):
        with entry.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").digest()
        digest.update(bytes(str(entry.relative_to(path)), "utf-8", "surrogateescape") + b"\0" + own)
    return digest.hexdigest()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as plain JSON values, with a checksum of them.

    >>> is_whole(sealed({"share": 0.5}))
    True
    >>> is_whole(sealed({"share": 0.5}) | {"share": 0.6})
    False
    """
    values: dict[str, Any] = plain({key: value for key, value in record.items() if key != SEAL})
    return {**values, SEAL: _seal(values)}


def is_whole(record: Any) -> bool:
    """Whether a record's values still match its checksum."""
    if not isinstance(record, dict) or SEAL not in record:
        return False
    return bool(record[SEAL] == _seal({key: value for key, value in record.items() if key != SEAL}))


def _seal(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

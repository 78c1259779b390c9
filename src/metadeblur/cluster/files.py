"""Files on their way through Ray's object store, between machines that do not see the same folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import ray

from metadeblur.system.identity import identify_files

CHUNK_BYTES = 32 << 20  # of a file that travel at once

Sent: TypeAlias = "dict[str, list[ray.ObjectRef[bytes]]]"
"""Files, by their names within a folder, with their pieces in Ray's object store."""


class ReadFiles:
    """Files on the driver's machine that tasks read, with ``sent`` once a worker has not found them on its own.

    A file is seen where it has the same path, size, time of change and samples, which ``mark`` sums up.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = {inside(path): path.absolute() for path in files}
        self.mark = identify_files(self.files.values())
        self.sent: Sent | None = None

    def are_here(self) -> bool:
        """Whether this machine sees the very same files."""
        try:
            return identify_files(self.files.values()) == self.mark
        except OSError:  # no permission, or a file system that is gone
            return False


def inside(path: Path) -> str:
    """The name that a file has in a folder of copies."""
    return path.absolute().relative_to(path.absolute().anchor).as_posix()


def send(files: Mapping[str, Path]) -> Sent:
    """Put files into Ray's object store, from where every machine takes them."""
    return {name: [ray.put(piece) for piece in pieces(path)] for name, path in files.items()}


def receive(sent: Sent, folder: Path) -> None:
    """Copy files out of Ray's object store into a folder."""
    for name, pieces in sent.items():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("wb") as file:
            file.writelines(ray.get(piece) for piece in pieces)


def pieces(path: Path) -> Iterator[bytes]:
    """A file in parts that travel at once."""
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            yield data

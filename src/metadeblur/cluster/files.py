"""Files that tasks read: sent through Ray's object store to the machines that cannot see them.

A file counts as seen where it has the same path, size, time of change and samples as for the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from metadeblur.system.identity import identify_files

if TYPE_CHECKING:
    from ray import ObjectRef

CHUNK_BYTES = 32 << 20  # of a file that travel at once

Locate: TypeAlias = Callable[[Path], Path]
"""Where a file of the driver's is on this machine."""


class Reads:
    """Files on the driver's machine that tasks read.

    Attributes:
        files: their absolute paths.
        mark: by which they are recognised.
        sent: for each file its pieces in Ray's object store, once a worker has asked for them; None before.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(path.absolute() for path in files)
        self.mark = identify_files(self.files)
        self.sent: list[tuple[Path, list[ObjectRef[bytes]]]] | None = None

    def are_here(self) -> bool:
        """Whether this machine sees the very same files."""
        try:
            return identify_files(self.files) == self.mark
        except OSError:  # no permission, or a file system that is gone
            return False

    def send(self) -> None:
        """Put the files into Ray's object store once, from where every machine takes them."""
        import ray

        if self.sent is None:
            self.sent = [(path, [ray.put(piece) for piece in pieces(path)]) for path in self.files]

    def receive(self, folder: Path) -> None:
        """Copy the files out of Ray's object store into a folder."""
        import ray

        for path, parts in self.sent or []:
            copy = folder / inside(path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("wb") as file:
                for part in parts:
                    file.write(ray.get(part))


def pieces(path: Path) -> Iterator[bytes]:
    """A file in pieces; an empty file has one."""
    with path.open("rb") as file:
        data = file.read(CHUNK_BYTES)
        yield data
        while data := file.read(CHUNK_BYTES):
            yield data


def inside(path: Path) -> Path:
    """An absolute path as one within a folder.

    >>> inside(Path("/films/a.mp4")).as_posix()
    'films/a.mp4'
    """
    return path.relative_to(path.anchor)

"""Files on their way: what a worker reads, shipped to it where it cannot see it; what it makes, sent back likewise.

A file counts as seen where it has the same path, size, time of change and samples as for the driver. A folder for
results has a name that nobody else makes: where it is there, it is the driver's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

from metadeblur.cluster.connection import folder_of
from metadeblur.system.identity import identify_files
from metadeblur.system.scratch import DELIVERY, sweep, using

if TYPE_CHECKING:
    from ray import ObjectRef

CHUNK_BYTES = 32 << 20  # of a file that travel at once

Move: TypeAlias = Callable[[Path], Path]
"""Where a file of the driver's is on this machine."""
Shipped: TypeAlias = "Sequence[tuple[Path, Sequence[ObjectRef[bytes]]]]"
"""Files with references to their pieces in Ray's object store."""


@dataclass(frozen=True)
class Cargo:
    """Files that a piece of work reads."""

    files: tuple[Path, ...]  # absolute
    mark: str  # by which they are recognised

    @classmethod
    def of(cls, files: Sequence[Path]) -> Cargo:
        """Files on this machine."""
        absolute = tuple(path.absolute() for path in files)
        return cls(absolute, identify_files(absolute))

    def ship(self) -> Shipped:
        """Put the files into Ray's object store, from where workers take them."""
        import ray

        return [(path, [ray.put(piece) for piece in pieces(path)]) for path in self.files]


class Depot:
    """A folder of one run on one machine, for copies of files that came from the driver and for unfinished results.

    Args:
        key: of the run; nobody else knows it.
    """

    def __init__(self, key: str) -> None:
        self.folder = folder_of(key)
        self._use: AbstractContextManager[Path] | None = None

    def find(self, cargo: Cargo) -> Move | None:
        """Where the files are on this machine; None where they are not."""
        try:
            if identify_files(cargo.files) == cargo.mark:
                return _stay
        except OSError:  # no permission, or a file system that is gone
            pass
        return self._copied(cargo) if (self.folder / cargo.mark).is_dir() else None

    def take(self, cargo: Cargo, shipped: Shipped) -> Move:
        """Copy files out of Ray's object store, once for all workers of this machine."""
        import ray

        draft = self.scratch()
        for path, parts in shipped:
            copy = draft / _inside(path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("wb") as file:
                for part in parts:
                    file.write(ray.get(part))
        try:
            draft.rename(self.folder / cargo.mark)
        except OSError:  # another worker was quicker
            shutil.rmtree(draft)
        return self._copied(cargo)

    def scratch(self) -> Path:
        """A new folder for unfinished things."""
        if not self.folder.exists():
            sweep(self.folder.parent)
        if self._use is None:
            self._use = using(self.folder)
            self._use.__enter__()  # until this process ends, however it does
        self.folder.mkdir(mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self.folder))

    @contextmanager
    def bench(self, folder: Path) -> Iterator[tuple[Path, bool]]:
        """Where to write results: the driver's folder and True, or where that cannot be seen one of our own and False.

        Args:
            folder: the driver's.
        """
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            yield folder, True
            return
        own = self.scratch()
        try:
            yield own, False
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def _copied(self, cargo: Cargo) -> Move:
        return lambda path: self.folder / cargo.mark / _inside(path)


def pieces(path: Path) -> Iterator[bytes]:
    """A file in pieces; an empty file has one."""
    with path.open("rb") as file:
        data = file.read(CHUNK_BYTES)
        yield data
        while data := file.read(CHUNK_BYTES):
            yield data


def files_in(folder: Path) -> list[str]:
    """The files below a folder, as paths within it; those in folders first."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(found, key=lambda name: ("/" not in name, name))


@contextmanager
def delivery(into: Path) -> Iterator[Path]:
    """The driver's folder for the results of one piece of work, inside of where they belong; removed in the end."""
    folder = into / f"{DELIVERY}{uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stay(path: Path) -> Path:
    return path


def _inside(path: Path) -> Path:
    """An absolute path as one within a folder.

    >>> _inside(Path("/films/a.mp4")).as_posix()
    'films/a.mp4'
    """
    return path.relative_to(path.anchor)

"""Temporary folders; those that a killed run has left are removed by the next run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from metadeblur.system.interrupts import undisturbed
from metadeblur.system.locks import try_lock, unlock

DELIVERY = ".work-"  # what names of folders begin with in which a cluster's workers leave what they made
_PREFIX, _MARK = "metadeblur-", "in-use"


@contextmanager
def scratch_folder(place: Path | None = None) -> Iterator[Path]:
    """A new temporary folder for this user alone; removed when the block ends, or by a later run.

    Args:
        place: where to; by default the system's folder for such things.

    Raises:
        OSError: it cannot be made.
    """
    place = place or Path(tempfile.gettempdir())
    sweep(place)
    with using(place / f"{_PREFIX}{uuid4().hex[:8]}") as folder:
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            with undisturbed():
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def using(folder: Path) -> Iterator[Path]:
    """Mark a folder as used while the block runs, so that no other run removes it; several processes may use it.

    Raises:
        OSError: there is no permission.
    """
    # The lock lies beside the folder and is made first: a folder without a held lock is unused.
    path = folder.with_name(f".{folder.name}.{os.getpid()}.{_MARK}")
    lock = None
    try:
        with undisturbed():
            lock = try_lock(path)
        yield folder
    finally:
        if lock is not None:
            with undisturbed():
                unlock(lock)


def sweep(place: Path) -> None:
    """Remove the temporary folders of killed runs: no process holds their locks."""
    for path in sorted(place.glob(f".{_PREFIX}*.{_MARK}")):
        name = path.name[1:].rsplit(".", 2)[0]
        remove_unused(place / name)


def remove_unused(folder: Path) -> None:
    """Remove a folder with its locks, unless a process uses it."""
    with ExitStack() as stack, suppress(OSError):
        for path in folder.parent.glob(f".{folder.name}.*.{_MARK}"):
            lock = try_lock(path)
            if lock is None:
                return
            stack.callback(unlock, lock)
        if folder.is_dir() and not folder.is_symlink() and _is_ours(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    return os.name == "nt" or folder.stat().st_uid == os.getuid()


def remove_deliveries(into: Path) -> None:
    """Remove what a killed driver of a cluster has left; no other process may use the folder."""
    for folder in into.glob(f"{DELIVERY}*"):
        shutil.rmtree(folder, ignore_errors=True)

"""Atomic writing of files and folders; clear messages where the system refuses to write."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metadeblur.errors import MetadeblurError
from metadeblur.system.interrupts import undisturbed
from metadeblur.system.locks import beside, held_while, remove_stale, writing
from metadeblur.system.names import refuse_long
from metadeblur.system.thread_limit import NO_MORE_THREADS, is_thread_limit

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


class Unfinished:
    """A temporary path beside ``target``; :meth:`finish` renames it to ``target``.

    Attributes:
        path: where to write.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = beside(target, "unfinished", target.suffix)
        self._replaced = beside(target, "replaced")
        remove(self.path)
        if self._replaced.exists() and not target.exists():  # a run was killed between two names
            self._replaced.rename(target)
        remove(self._replaced)

    def finish(self) -> None:
        """Flush it to the disk, then rename it to the target; an earlier target is replaced."""
        flush(self.path)
        with undisturbed():
            aside = self._target.is_dir()
            if aside:  # a folder cannot be replaced in one step
                self._target.rename(self._replaced)
            try:
                self.path.replace(self._target)
            except OSError:
                if aside:
                    self._replaced.rename(self._target)
                raise
            flush_names(self._target.parent)
            if aside:
                remove(self._replaced)

    def discard(self) -> None:
        """Remove the temporary path, unless :meth:`finish` has renamed it."""
        with undisturbed():
            remove(self.path)


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A temporary path that becomes ``target`` when the block ends well.

    On any exception, Ctrl-C included, it is removed and ``target`` stays as it was.

    Args:
        target: the file or folder to write; what is there is replaced.

    Raises:
        MetadeblurError: the disk is full, there is no permission, the folder to write to is missing, or somebody else
            is writing the same.
    """
    with refusals(target), writing(target):
        unfinished = Unfinished(target)
        try:
            yield unfinished.path
            unfinished.finish()
        finally:
            unfinished.discard()


@contextmanager
def refusals(target: Path) -> Iterator[None]:
    """Turn a refusal of the system to write ``target`` into one clear line."""
    try:
        yield
    except MetadeblurError:
        raise
    except _errors() as error:
        raise MetadeblurError(_reason(target, error)) from error


@contextmanager
def filling(folder: Path, what: str, flag: str = "-o") -> Iterator[None]:
    """Make a folder of results and lock it while the block runs, so that no other process writes into it.

    Locks that killed runs left in it are removed. It is taken away again if it was made for this and nothing has come
    into it.

    Args:
        folder: the folder.
        what: needs it, in an error's words.
        flag: that names it.

    Raises:
        MetadeblurError: somebody else is writing into it, it is a file, or may not be made or written to.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    make_folder(folder, what)
    try:
        with refusals(folder), held_while(folder / ".metadeblur-lock", folder, flag):
            remove_stale(folder)
            yield
    finally:
        with undisturbed():
            for place in missing:
                with suppress(OSError):  # something is in it
                    place.rmdir()


def make_folder(folder: Path, what: str) -> None:
    """Make a folder and its parents, where they are missing.

    Raises:
        MetadeblurError: it is a file, or may not be made or written to; ``what`` needs it.
    """
    refuse_long(folder)
    if folder.exists() and not folder.is_dir():
        raise MetadeblurError(f"{folder}: is a file; {what} needs a folder, which is made where it is missing")
    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MetadeblurError(f"{folder}: no permission to write there; choose another folder with -o")


def check_writable(target: Path) -> None:
    """Refuse early what :func:`whole` would refuse late.

    Raises:
        MetadeblurError: the folder to write to is missing or not writable.
    """
    refuse_long(target)
    folder = target.absolute().parent
    if not folder.is_dir():
        raise MetadeblurError(f"{target}: the folder {folder} is not there; create it or choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MetadeblurError(f"{target}: no permission to write to {folder}; choose another output with -o")


def _errors() -> tuple[type[Exception], ...]:
    """Exceptions of the system, and of FFmpeg if PyAV is loaded already, when they cannot write."""
    av = sys.modules.get("av")
    return (OSError,) if av is None else (OSError, av.FFmpegError)


def _reason(target: Path, error: Exception) -> str:
    number, said = getattr(error, "errno", None), getattr(error, "strerror", None)
    if number in _FULL_DISK:
        return f"{target}: the disk is full; free some space or choose an output on another disk (no file was written)"
    if number in _NO_PERMISSION:
        return f"{target}: no permission to write there ({said}); choose another output"
    if number == errno.ENOENT:
        return f"{target}: the folder {target.parent} is not there; create it or choose another output"
    if is_thread_limit(error):
        return f"{target}: {NO_MORE_THREADS} (no file was written)"
    return f"{target}: writing failed ({said or error}); no file was written"


def flush(path: Path) -> None:
    """Flush a file, or all files in a folder, to the disk, so that a full disk is noticed now."""
    if path.is_dir():
        for entry in path.iterdir():
            flush(entry)
        flush_names(path)
        return
    with path.open("rb+" if os.name == "nt" else "rb") as opened:
        os.fsync(opened.fileno())


def flush_names(folder: Path) -> None:
    """Flush the list of names in a folder to the disk, where the system can."""
    with suppress(OSError):  # Windows opens no folders, and some file systems cannot flush them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

"""Files that appear whole or not at all, and clear words where the system refuses to write one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from metadeblur.errors import MetadeblurError

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


class Unfinished:
    """A temporary path beside ``target`` to write a file or a folder to.

    Attributes:
        path: where to write.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(f".{target.stem}.unfinished{target.suffix}")
        _remove(self.path)

    def finish(self) -> None:
        """Give it its name; what was there before is replaced."""
        if self.path.is_file():
            _flush(self.path)
        if self._target.is_dir():
            shutil.rmtree(self._target)
        self.path.replace(self._target)

    def discard(self) -> None:
        """Remove what was written, if it has not got its name yet."""
        _remove(self.path)


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A temporary path that becomes ``target`` when the block ends well.

    On any exception, Ctrl-C included, it is removed and ``target`` stays as it was.

    Args:
        target: the file or folder to write; what is there is replaced.

    Raises:
        MetadeblurError: the disk is full, there is no permission, or the folder to write to is missing.
    """
    with refusals(target):
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
    except (OSError, av.FFmpegError) as error:
        raise MetadeblurError(_reason(target, error)) from error


def check_writable(target: Path) -> None:
    """Refuse early what :func:`whole` would refuse late.

    Raises:
        MetadeblurError: the folder to write to is missing or not writable.
    """
    folder = target.absolute().parent
    if not folder.is_dir():
        raise MetadeblurError(f"{target}: the folder {folder} is not there; create it or choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MetadeblurError(f"{target}: no permission to write to {folder}; choose another output with -o")


def _reason(target: Path, error: OSError | av.FFmpegError) -> str:
    if error.errno in _FULL_DISK:
        return f"{target}: the disk is full; free some space or choose an output on another disk (nothing was left)"
    if error.errno in _NO_PERMISSION:
        return f"{target}: no permission to write there ({error.strerror}); choose another output"
    if error.errno == errno.ENOENT:
        return f"{target}: the folder {target.parent} is not there; create it or choose another output"
    return f"{target}: writing failed ({error.strerror or error}); nothing was left"


def _flush(file: Path) -> None:
    """Have the system write everything now: a full disk must show before the file gets its name."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

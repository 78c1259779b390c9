"""Locks, so that one process at a time writes an output; the system frees a lock when its process ends."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from metadeblur.errors import MetadeblurError
from metadeblur.system.interrupts import undisturbed

LONGEST_NAME = 255  # bytes of a file's name

_MARK = "metadeblur-lock"  # what names of locks end with
_PATIENCE = 0.3  # seconds to wait for a run that is just ending
_held: dict[tuple[int, Path], _Hold] = {}  # by process and lock
_guard = threading.Lock()


@dataclass
class _Hold:
    """A lock that a thread of this process holds, and how many times it holds it."""

    lock: BaseFileLock
    thread: int
    depth: int = 1


def beside(target: Path, mark: str, suffix: str = "") -> Path:
    """A hidden name beside ``target``, shorter where the file system could not hold it.

    Args:
        target: a file or folder.
        mark: what the name ends with, before the suffix.
        suffix: one that the target has and the hidden name is to have too.

    >>> beside(Path("films/out.mp4"), "unfinished", ".mp4").as_posix()
    'films/.out.unfinished.mp4'
    """
    name = target.name.removesuffix(suffix)
    hidden = f".{name}.{mark}{suffix}"
    if len(os.fsencode(hidden)) > LONGEST_NAME:
        room = LONGEST_NAME - len(os.fsencode(f".~123456789abc.{mark}{suffix}"))
        start = os.fsencode(name)[:room].decode(errors="ignore")
        hidden = f".{start}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}.{mark}{suffix}"
    return target.with_name(hidden)


@contextmanager
def writing(target: Path, flag: str = "-o") -> Iterator[None]:
    """Lock an output while the block runs; the same thread may lock it again.

    Args:
        target: what is being made; its folder must be there.
        flag: that names it.

    Raises:
        MetadeblurError: somebody else is writing it.
        OSError: there is no permission, or the folder is missing.
    """
    with held_while(lock_path(target), target, flag):
        yield


def lock_path(target: Path) -> Path:
    """The file that is locked while ``target`` is being made.

    >>> lock_path(Path("films/out.mp4")).as_posix()
    'films/.out.mp4.metadeblur-lock'
    """
    return beside(target, _MARK)


def remove_stale(folder: Path) -> None:
    """Remove the lock files in a folder that no process holds, such as those of a killed run."""
    for path in folder.glob(f".*.{_MARK}"):
        with suppress(OSError):  # another user's
            lock = try_lock(path)
            if lock is not None:
                unlock(lock)


def try_lock(path: Path, patience: float = 0.0) -> BaseFileLock | None:
    """Take a lock; its file is made where it is missing. None: another process holds it.

    Raises:
        OSError: there is no permission, or the folder is missing.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    lock: BaseFileLock = FileLock(path, thread_local=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file system without locks, where the file itself is one
            lock.acquire(timeout=patience, poll_interval=0.05)
    except Timeout:
        return None
    soft = isinstance(lock, SoftFileLock)  # which has a note of its own
    if not soft:
        with suppress(OSError):  # it is only read to say who it is
            path.write_text(f"{os.getpid()}\n{platform.node()}\n", encoding="utf-8")
    return lock


def unlock(lock: BaseFileLock) -> None:
    """Free a lock and remove its file."""
    path = Path(lock.lock_file)
    soft = isinstance(lock, SoftFileLock)
    if not soft:
        with suppress(OSError):  # before it is freed, so that no process takes a lock whose file is being removed
            path.unlink()
    lock.release()
    if os.name == "nt":  # where open files stay
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def held_while(path: Path, target: Path, flag: str) -> Iterator[None]:
    """Hold a lock while the block runs; the same thread may take it again.

    Args:
        path: of the lock's file.
        target: what it is for, and the flag that names that: what an error says.
        flag: see there.

    Raises:
        MetadeblurError: somebody else holds it.
        OSError: there is no permission, or the folder is missing.
    """
    key, hold = (os.getpid(), path.parent.resolve() / path.name), None
    try:
        with undisturbed(), _guard:
            hold = _take(key, target, flag)
        yield
    finally:
        if hold is not None:
            with undisturbed(), _guard:
                hold.depth -= 1
                if hold.depth == 0:
                    del _held[key]
                    unlock(hold.lock)


def _take(key: tuple[int, Path], target: Path, flag: str) -> _Hold:
    """A lock, or once more the one that this thread holds."""
    hold = _held.get(key)
    if hold is None:
        hold = _held[key] = _Hold(_lock(key[1], target, flag), threading.get_ident())
    elif hold.thread == threading.get_ident():
        hold.depth += 1
    else:
        raise _busy(key[1], target, flag)
    return hold


def _lock(path: Path, target: Path, flag: str) -> BaseFileLock:
    try:
        lock = try_lock(path, _PATIENCE)
    except PermissionError as error:
        if not path.exists():
            raise
        raise MetadeblurError(
            f"{target}: is locked by another user; remove {path} if no program of theirs runs, or give another {flag}"
        ) from error
    if lock is None:
        raise _busy(path, target, flag)
    return lock


def _busy(path: Path, target: Path, flag: str) -> MetadeblurError:
    """An error that names the process that holds a lock, where its file tells."""
    try:
        process, host = path.read_text(encoding="utf-8").split("\n")[:2]
    except (OSError, ValueError):
        process = host = ""
    elsewhere = f" on {host}" if host not in ("", platform.node()) else ""
    who = f" (process {process}{elsewhere})" if process else ""
    return MetadeblurError(f"another metadeblur is writing {target}{who}; wait for it or give another {flag}")

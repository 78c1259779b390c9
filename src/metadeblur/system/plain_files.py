"""Checks of untrusted files: their kind and size; small ones are read as text or JSON."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from metadeblur.errors import MetadeblurError

SMALL = 4 << 20  # bytes: more than any card or settings file holds
RECORD = 256 << 20  # bytes: more than any record holds

_SPECIAL = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# How files begin that are taken for weights by mistake; the first that fits counts.
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the file; fetch the file itself with: git lfs pull"),
    (b"GGUF", "a GGUF model of a language network"),
    (b"\x89HDF", "an HDF5 file (Keras); it has to be converted first"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"ustar", "a tar archive; unpack it and give the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it and give the file inside"),
    (b"Rar!", "a RAR archive; unpack it and give the file inside"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it and give the file inside"),
    (b"\xfd7zXZ", "an xz archive; unpack it and give the file inside"),
    (b"BZh", "a bzip2 archive; unpack it and give the file inside"),
    (b"\x1f\x8b", "a gzip archive; unpack it and give the file inside"),
    (b"PK\x03\x04", "a PyTorch checkpoint or another zip archive"),
    (b"\x80\x02", "a PyTorch checkpoint or another pickle"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x1aE\xdf\xa3", "a video"),
)
_TAR_MAGIC = 257  # bytes into a tar archive


def check_plain(path: Path, most: int | None = None) -> int:
    """The size of a plain file in bytes. The file is not opened, so this cannot hang.

    Args:
        path: of the file, or of a link to it.
        most: bytes that it may have.

    Raises:
        MetadeblurError: it is not there, is no plain file (a folder, pipe, device or socket), or is too large.
    """
    try:
        status = path.stat()
    except ValueError as error:  # a zero byte in the name
        raise MetadeblurError(f"{str(path)!r} is no file name; give the name of a file") from error
    except OSError as error:
        raise MetadeblurError(f"{path}: cannot be read ({_refusal(error)}); give a file that is there") from error
    for is_kind, kind in _SPECIAL:
        if is_kind(status.st_mode):
            raise MetadeblurError(f"{path}: is {kind}, no plain file; give the name of a file on disk")
    if most is not None and status.st_size > most:
        raise MetadeblurError(f"{path}: has {sized(status.st_size)}; such a file has {sized(most)} at most")
    return status.st_size


def read_text(path: Path, most: int = SMALL) -> str:
    """A text file of bounded size.

    Raises:
        MetadeblurError: see :func:`check_plain`; or it is not text (UTF-8).
    """
    check_plain(path, most)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MetadeblurError(
            f"{path}: is not text (UTF-8, byte {error.start + 1}); it is damaged, or another"
        ) from error
    except OSError as error:
        raise MetadeblurError(f"{path}: cannot be read ({_refusal(error)})") from error


def read_object(path: Path, most: int = SMALL) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        MetadeblurError: see :func:`read_text`; or it is not JSON, nested too deep, or holds something else.
    """
    text = read_text(path, most)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise MetadeblurError(f"{path}: is not readable as JSON ({reason}); it is damaged, or another file") from error
    if not isinstance(content, dict):
        raise MetadeblurError(f"{path}: holds a {type(content).__name__}, not an object with names; it is another file")
    return content


def kind(head: bytes) -> str:
    """A guess, in a few words, what a file is that holds no weights, by its first 512 bytes; empty: unknown.

    >>> kind(b"<!DOCTYPE html><html>")
    'a web page, not the file itself: the download went wrong; fetch it again'
    """
    if not head:
        return "empty: the download or copy went wrong; fetch it again"
    if not head.strip(b"\0"):
        return "all zeros: the download or copy went wrong; fetch it again"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "a web page, not the file itself: the download went wrong; fetch it again"
    if head[_TAR_MAGIC : _TAR_MAGIC + 5] == b"ustar":
        head = b"ustar"
    named = next((name for start, name in _BEGINNINGS if head.startswith(start)), "")
    if named:
        return named
    readable = sum(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)
    return "text, not weights; a download may have brought a message in its place" if readable == len(head) else ""


def sized(count: int) -> str:
    """A number of bytes for people.

    >>> sized(3_200_000_000), sized(900)
    ('3.2 GB', '900 bytes')
    """
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def _refusal(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a link that leads to itself"
    return error.strerror or os.strerror(error.errno or 0)

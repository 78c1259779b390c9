"""Paths that keep the slash at their end: with it a user names a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

SLASHES = ("/", os.sep, os.altsep or os.sep)

if TYPE_CHECKING:
    _OwnPath = Path
else:
    _OwnPath = type(Path())  # before Python 3.12 only the kind of this system can be extended


class Folder(_OwnPath):
    """A path that was written with a slash at its end: a folder, there or not."""


def is_slashed(named: Path | str) -> bool:
    """Whether a path was written with a slash at its end.

    >>> is_slashed("films/"), is_slashed(Folder("films/")), is_slashed(Path("films/"))
    (True, True, False)
    """
    return isinstance(named, Folder) or (isinstance(named, str) and named.endswith(SLASHES))

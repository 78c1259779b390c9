"""Keep picture libraries from printing messages of their own about damaged files."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

_STANDARD_ERROR = 2
# How their lines begin; other threads may print at the same time.
_THEIRS = re.compile(rb"libpng |Corrupt JPEG|Premature end|Invalid |Unsupported |Inconsistent |\[ ?[A-Z]+:\d|\s*$")
_TURN = threading.Lock()  # the error stream is one for the whole process


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Hide what OpenCV, libpng and libjpeg print in the block; what others print is shown after it."""
    with _TURN:
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            shown = os.dup(_STANDARD_ERROR)
        except OSError:  # there is no error stream, so nothing is shown
            shown = None
        try:
            if shown is None:
                yield
                return
            with tempfile.TemporaryFile() as aside:
                os.dup2(aside.fileno(), _STANDARD_ERROR)
                try:
                    yield
                finally:
                    os.dup2(shown, _STANDARD_ERROR)
                    aside.seek(0)
                    for line in aside:
                        if not _THEIRS.match(line):
                            os.write(_STANDARD_ERROR, line)
        finally:
            if shown is not None:
                os.close(shown)
            cv2.utils.logging.setLogLevel(level)

"""What is said, in Python's logger "metadeblur"; and in a file, with the time of each line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metadeblur.errors import MetadeblurError
from metadeblur.system.explain import error_line
from metadeblur.system.names import shown

LOGGER = logging.getLogger("metadeblur")
LOGGER.addHandler(logging.NullHandler())  # nothing is printed of it unless somebody asks

_LOOKED_AT = 4096  # bytes of a file's beginning, to see whether it is text


def record(text: str, *, detail: bool = False) -> None:
    """Tell the logger what is said, line by line; ``detail``: what is said only to those who ask for reasons."""
    for line in text.splitlines():
        LOGGER.log(logging.DEBUG if detail else logging.INFO, "%s", shown(line))


@contextmanager
def logged_to(path: Path | None, title: str) -> Iterator[None]:
    """While the block runs, write all that is said to the end of a file, and at its end how it came out.

    Args:
        path: the file; None: there is none.
        title: its first line.

    Raises:
        MetadeblurError: the file cannot be written, or is none of text.
    """
    if path is None:
        yield
        return
    handler = _opened(path)
    before = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    try:
        record(title)
        yield
        record("done")
    except BaseException as error:
        record(error_line(error))
        raise
    finally:
        LOGGER.setLevel(before)
        LOGGER.removeHandler(handler)
        with suppress(OSError):  # of what could not be written; that has been said
            handler.close()


class _LogFile(logging.FileHandler):
    """A file of lines with the time; one that can no longer be written is said once and given up."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002 (the signature is Python's)
        """Go on without the file: what is being made is worth more than its log."""
        error = sys.exc_info()[1]
        LOGGER.removeHandler(self)
        if error is not None:
            print(f"metadeblur: --log-file ends here: {shown(error_line(error))}", file=sys.stderr)


def _opened(path: Path) -> _LogFile:
    from metadeblur.system.files import refusals

    if path.is_dir():
        raise MetadeblurError(f"{path}: is a folder; --log-file needs the name of a file")
    with refusals(path):
        if path.is_file():
            with path.open("rb") as file:
                if b"\0" in file.read(_LOOKED_AT):
                    raise MetadeblurError(f"{path}: is no text; --log-file would add to its end: choose another name")
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    return handler

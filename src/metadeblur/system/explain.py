"""What went wrong, in one line for the person who reads it."""

from __future__ import annotations

import errno

from metadeblur.errors import MetadeblurError
from metadeblur.system.thread_limit import NO_MORE_THREADS, is_thread_limit


def error_line(error: BaseException) -> str:
    """One line on what went wrong, with what to do next where that is known.

    >>> error_line(KeyboardInterrupt())
    'stopped'
    >>> error_line(OSError(28, "No space left on device", "out.mp4"))
    'error: out.mp4: the disk is full; free some room or choose another place for the output'
    """
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, KeyboardInterrupt):
        return f"stopped{notes}"
    return f"error: {_reason(error)}{notes}"


def _reason(error: BaseException) -> str:
    """The reason in plain words, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MetadeblurError):
        return text
    if is_thread_limit(error):
        return NO_MORE_THREADS
    number, place = getattr(error, "errno", None), getattr(error, "filename", None)
    about = f"{place}: " if place else ""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{about}the disk is full; free some room or choose another place for the output"
    if number == errno.EFBIG:
        return f"{about}the file would be larger than this system allows; choose another place for the output"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{about}no permission; choose another place, or change the permissions there"
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "out of memory; smaller tiles (--tile 256) or smaller patches need less"
    if isinstance(error, OSError):
        return f"{about}{getattr(error, 'strerror', None) or text}"
    return f"{text} ({type(error).__name__}; METADEBLUR_DEBUG=1 shows where)"

"""File names for FFmpeg, terminals and pages; durations and numbers of things in words."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from metadeblur.errors import MetadeblurError

USUAL_LIMIT = 255  # bytes of a name, where the system does not say
_JOINERS = "\u200c\u200d"  # between the parts of one letter or emoji
_BREAKS = "\u2028\u2029"  # separators of lines and paragraphs


def for_ffmpeg(path: Path | str) -> str:
    """A path as FFmpeg opens it: as a file, even if its name looks like an address.

    >>> for_ffmpeg(Path("12:30:05.mp4"))
    'file:12:30:05.mp4'
    """
    return f"file:{path}"


def shown(text: object) -> str:
    r"""A name, or a line with names, as printable characters on one line.

    Bytes of a name that are no UTF-8, and characters that would move the cursor, are shown by their number.

    >>> shown(os.fsdecode(b"caf\xe9 \xc3\xa9\n.mp4"))
    'caf\\xe9 é\\x0a.mp4'
    """
    return "".join(map(_shown, str(text)))


def _shown(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python keeps so (os.fsdecode)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or 0x7F <= code < 0xA0:
        return f"\\x{code:02x}"
    plain = character.isprintable() or character in _JOINERS or (character.isspace() and character not in _BREAKS)
    return character if plain else f"\\u{code:04x}"


def utf8(text: str) -> bytes:
    r"""Text as UTF-8; bytes of a name that are not UTF-8 are written as escapes, as in Python and JSON.

    >>> utf8(os.fsdecode(b"caf\xe9"))
    b'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace")


def joined(name: str, ending: str, limit: int = USUAL_LIMIT) -> str:
    """A name with an ending; a name that would be too long is cut and gets a checksum.

    >>> joined("shaky", "_deblurred.mp4")
    'shaky_deblurred.mp4'
    """
    if len(os.fsencode(name + ending)) <= limit:
        return name + ending
    mark = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    room = max(0, limit - len(os.fsencode(f"-{mark}{ending}")))
    # A character that is cut through is dropped whole; bytes that are none stay.
    kept = os.fsencode(name)[:room]
    while kept and name[: len(os.fsdecode(kept))] != os.fsdecode(kept):
        kept = kept[:-1]
    return f"{os.fsdecode(kept)}-{mark}{ending}"


def name_limit(folder: Path) -> int:
    """How many bytes a name in a folder may have."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, ValueError, OSError):
        return USUAL_LIMIT


def refuse_long(target: Path) -> None:
    """Refuse a name that the system does not take.

    Raises:
        MetadeblurError: says how long it may be.
    """
    limit, length = name_limit(target.absolute().parent), len(os.fsencode(target.name))
    if length > limit:
        raise MetadeblurError(
            f"{target.name[:40]}...: a name of {length} bytes is too long, {limit} are allowed here; "
            "choose a shorter one with -o"
        )


def natural(name: str) -> list[tuple[int, str]]:
    """Key that sorts the numbers in names by their value.

    >>> sorted(["blur_10", "blur_9"], key=natural)
    ['blur_9', 'blur_10']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def in_words(seconds: float) -> str:
    """A duration as a person would say it.

    >>> in_words(0.42), in_words(42), in_words(95), in_words(7400)
    ('0.4 s', '42 s', '1 min 35 s', '2 h 3 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(number: int, what: str) -> str:
    """A number of things, one or several.

    >>> counted(1, "clip"), counted(0, "clip"), counted(3, "finished shot")
    ('1 clip', '0 clips', '3 finished shots')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"

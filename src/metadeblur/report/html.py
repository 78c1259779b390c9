"""What report pages are written with: values put into words, values read from a record, small pieces of HTML.

A record is plain JSON and may lack any part, so reading from it never raises; everything that becomes part of a page
goes through :func:`text`, so that a file name that holds HTML stays a file name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from html import escape
from typing import Any

from metadeblur.system.names import shown

_NAMES = {
    "av": "PyAV",
    "ffmpeg": "FFmpeg",
    "fps": "Frames a second",
    "lr": "Learning rate",
    "metadeblur": "metadeblur",
    "numpy": "NumPy",
    "opencv": "OpenCV",
    "pix fmt": "Pixel format",
    "torch": "PyTorch",
}


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(0.042), duration(8.26), duration(95), duration(3720)
    ('0.04 s', '8.3 s', '1 min 35 s', '1 h 2 min')
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def figure_text(value: float) -> str:
    """A figure with three significant digits.

    >>> figure_text(0.41239), figure_text(31.258), figure_text(-0.0), figure_text(float("nan"))
    ('0.412', '31.3', '0', 'not a number')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "\u221e" if value > 0 else "\u2212\u221e"
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", "\u2212")
    rounded = f"{float(f'{value:.3g}'):g}" if abs(value) < 100 else f"{value:.0f}"
    return rounded.replace("-", "\u2212") if value else "0"


def title_of(name: object) -> str:
    """A field's name as a person would write it.

    >>> title_of("held_out_gain"), title_of("lr"), title_of("peak_memory_mb")
    ('Held out gain', 'Learning rate', 'Peak memory (MB)')
    """
    words = str(name).replace("_", " ").replace(".", ": ").strip()
    if words in _NAMES:
        return _NAMES[words]
    for ending, unit in ((" mb", "MB"), (" gb", "GB"), (" seconds", "s"), (" px", "px"), (" db", "dB")):
        if words.endswith(ending):
            words = f"{words[: -len(ending)]} ({unit})"
    return words[:1].upper() + words[1:]


def text(value: object) -> str:
    """Anything as text that is safe inside HTML, between tags and inside quotes."""
    # Names may hold what no page can be written with; lines are kept.
    return escape("\n".join(map(shown, str(value).split("\n"))), quote=True)


def sentence(words: object) -> str:
    """Words with a capital first letter and a full stop."""
    said = str(words).strip()
    return said[:1].upper() + said[1:] + ("" if said.endswith((".", "!", "?")) else ".")


def percent(share: float) -> str:
    """A share of 0 to 1 in per cent."""
    return f"{100 * share:.0f} %" if math.isfinite(share) else "unknown"


def as_number(value: object) -> float:
    """The value as a float, also from a text such as "24000/1001"; not-a-number where it is none."""
    try:
        return float(Fraction(value) if isinstance(value, str) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return math.nan


def as_table(value: object) -> dict[str, Any]:
    """The value if it is a table, else an empty one: a record may lack any part."""
    return dict(value) if isinstance(value, Mapping) else {}


def as_tables(value: object) -> list[dict[str, Any]]:
    """The tables of a list; empty where there is none."""
    return [dict(item) for item in value if isinstance(item, Mapping)] if isinstance(value, (list, tuple)) else []


def flat(table: Mapping[str, Any], skip: Sequence[str] = (), prefix: str = "") -> list[tuple[str, str]]:
    """A nested table as (dotted name, value in words), unset values left out."""
    facts: list[tuple[str, str]] = []
    for name, value in table.items():
        if name in skip or value is None or value == "":
            continue
        if isinstance(value, Mapping):
            facts += flat(value, prefix=f"{prefix}{name}.")
        else:
            facts.append((f"{prefix}{name}", _in_words(value)))
    return facts


def _in_words(value: object) -> str:
    """A JSON value as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else figure_text(value)
    if isinstance(value, (list, tuple)):
        first = ", ".join(_in_words(item) for item in value[:12])
        return f"{first}, … ({len(value)} in all)" if len(value) > 12 else first
    return str(value)


def section(title: str, explanation: str, body: str, *, wide: bool = False, first: bool = False) -> str:
    """A titled part of a page; ``explanation`` is plain text."""
    kind = "part" + (" wide" if wide else "") + (" plainly" if first else "")
    said = f"<p>{text(explanation)}</p>" if explanation else ""
    return f'<section class="{kind}"><header><h3>{text(title)}</h3>{said}</header><div>{body}</div></section>'


def fact_list(facts: Sequence[tuple[str, str]], *, long: bool = False) -> str:
    """Names and values as a list of definitions."""
    rows = "".join(f"<div><dt>{text(title_of(name))}</dt><dd>{text(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts{" long" if long else ""}">{rows}</dl>' if rows else ""


def plot_key(entries: Sequence[tuple[str, str]]) -> str:
    """What the lines and points of a plot stand for; "mark" and "hole" are points, others are lines."""
    items = []
    for kind, name in entries:
        dots = {"mark": '<path d="M12 6h0"/>', "hole": '<path d="M12 6h0"/><path class="hole" d="M12 6h0"/>'}
        drawn = dots.get(kind, f'<path class="{kind}" d="M0 6H24"/>')
        items.append(f'<li><svg viewBox="0 0 24 12" aria-hidden="true">{drawn}</svg>{text(name)}</li>')
    return f'<ul class="key">{"".join(items)}</ul>'

"""What report pages are written with: values put into words, and the pages' templates.

All markup stands in ``templates``, which
escape whatever they are given, so that a file name that holds HTML stays a file name.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from metadeblur.system.names import counted, in_words, shown
from metadeblur.version import __version__

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


def sentence(words: object) -> str:
    """Words with a capital first letter and a full stop."""
    line = str(words).strip()
    return line[:1].upper() + line[1:] + ("" if line.endswith((".", "!", "?")) else ".")


def percent(share: float) -> str:
    """A share of 0 to 1 in per cent."""
    return f"{100 * share:.0f} %" if math.isfinite(share) else "unknown"


def as_number(value: object) -> float:
    """The value as a float, also from a text such as "24000/1001"; not-a-number where it is none."""
    try:
        return float(Fraction(value) if isinstance(value, str) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return math.nan


def flat(table: Mapping[str, Any], skip: Sequence[str] = (), prefix: str = "") -> list[tuple[str, str]]:
    """A nested table as (dotted name, value in words), unset values left out.

    >>> flat({"marks": [], "colour": {"range": 1, "matrix": None}})
    [('colour.range', '1')]
    """
    facts: list[tuple[str, str]] = []
    for name, value in table.items():
        if name in skip or value is None or value in ("", [], ()):
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


def text(value: object) -> str:
    """Anything as text that is safe inside HTML, between tags and inside quotes; for pages without a template."""
    return str(escape(_writable(str(value))))


def _writable(value: object) -> object:
    """A value in characters that a page can be written with, its lines kept; HTML that a template made stays."""
    if hasattr(value, "__html__") or (isinstance(value, str) and value.isprintable()):
        return value  # as nearly all are: a picture's address, long as it is, need not be looked through
    return "\n".join(map(shown, str(value).split("\n")))


_TEMPLATES = Environment(
    loader=PackageLoader("metadeblur.report"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_writable,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {use.__name__: use for use in (counted, figure_text, in_words, percent, sentence, title_of)}


def fill(template: str, **values: object) -> Markup:
    """A template of ``report/templates`` with its values, which are escaped, as a piece of a page."""
    return Markup(_TEMPLATES.get_template(template).render(values))


def whole_page(template: str, scripts: Sequence[str] = ("report.js",), **values: object) -> str:
    """A page that carries its style and scripts, and lets no other script run.

    Args:
        template: which of ``report/templates``.
        scripts: names of assets.
        values: what the template shows; ``version`` where another one wrote what the page is about.
    """
    script = "".join(map(_asset, scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Style and scripts are our own files and no HTML: nothing in them is to be escaped.
    own = {"style": Markup(_asset("report.css")), "script": Markup(script), "script_hash": digest}
    return fill(template, **({"version": __version__} | values | own))


def _asset(name: str) -> str:
    return (files("metadeblur") / "assets" / name).read_text(encoding="utf-8")

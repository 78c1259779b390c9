"""Every line of documents, help and sources that installs something with pip, and the switch that turns them over."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from metadeblur.system.extras import PUBLISHED, requirement

ROOT = Path(__file__).parents[2]
OWN = re.compile(r"(?<=')(?:metadeblur|\.)\[(\w+)\](?=')")


@dataclass(frozen=True)
class Line:
    """A line that installs something."""

    place: str  # file and number
    words: tuple[str, ...]  # after pip install


def places() -> list[Path]:
    """The files that may tell how something is installed."""
    folders = ("src", "docs", "integrations", "containers", ".ci", ".github")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    kinds = ("", ".py", ".md", ".sh", ".yml", ".yaml", ".html", ".toml")
    found += [path for path in ROOT.iterdir() if path.is_file()]
    return sorted(path for path in found if path.suffix in kinds and path.name not in ("installs.py", "CHANGELOG.md"))


def lines() -> list[Line]:
    """All of them, with what the documents quote, one line each."""
    found = []
    for path in places():
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for rest in re.findall(r"pip install ((?:'[^']*'|[^'`\"#&|;,()…]|(?<=\w)\.)*)", text):
                words = tuple(re.sub(r"[.;:]$", "", word) or word for word in shlex.split(rest))
                if words and not any("{" in word or word == "..." for word in words):
                    found.append(Line(f"{path.relative_to(ROOT)}:{number}", words))
    return found


def turned(text: str, *, published: bool = PUBLISHED) -> str:
    """A document whose lines install the extras as they can be had now.

    >>> turned("pip install '.[app]'", published=True)
    "pip install 'metadeblur[app]'"
    """
    return OWN.sub(lambda found: requirement(found[1], published=published), text)


def documents() -> list[Path]:
    """The documents for those who use the program, which the switch turns over."""
    return [path for path in places() if path.is_relative_to(ROOT / "docs") and path.suffix == ".md"]


if __name__ == "__main__":
    for page in documents():
        page.write_text(turned(page.read_text(encoding="utf-8")), encoding="utf-8")

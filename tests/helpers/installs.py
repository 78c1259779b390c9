"""Every line of documents, help and sources that installs something with pip, and the switch that turns them over."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from metadeblur.system.extras import PUBLISHED, how_to_install, requirement
from metadeblur.system.nvidia import install_command
from metadeblur.types import Tracker

ROOT = Path(__file__).parents[2]
OWN = re.compile(r"(?<=')(?:metadeblur|\.)\[(\w+)\](?=')")


LINE = re.compile(r"""(uv )?\bpip"? install ((?:'[^']*'|[^'`"#&|;,()…]|(?<=\w)\.)*)""")
VALUED = {"-c", "--only-binary", "--torch-backend", "--python"}
"""Switches that are followed by a value."""


@dataclass(frozen=True)
class Line:
    """A line that installs something."""

    place: str  # file and number
    tool: str  # "pip" or "uv"
    words: tuple[str, ...]  # after pip install

    @property
    def switches(self) -> tuple[str, ...]:
        """The switches among the words, with their values."""
        return tuple(word for word, switch in _told_apart(self.words) if switch)

    @property
    def wanted(self) -> tuple[str, ...]:
        """What is to be installed."""
        return tuple(word for word, switch in _told_apart(self.words) if not switch)


def _told_apart(words: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Each word, and whether it belongs to a switch."""
    before = ""
    for word in words:
        yield word, word.startswith("-") or before in VALUED
        before = word


def places() -> list[Path]:
    """The files that may tell how something is installed."""
    folders = ("src", "docs", "integrations", "containers", "recipes", "benchmarks", ".ci", ".github")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    kinds = ("", ".py", ".ipynb", ".md", ".sh", ".yml", ".yaml", ".html", ".toml", ".Dockerfile")
    found += [path for path in ROOT.iterdir() if path.is_file()]
    return sorted(path for path in found if path.suffix in kinds and path.name != "CHANGELOG.md")


def read(text: str, place: str) -> list[Line]:
    """The lines of a text that install something; those whose words are only known when it runs are left out.

    >>> [(line.tool, line.words) for line in read("run uv pip install torch, then pip install '.[app]'.", "here")]
    [('uv', ('torch',)), ('pip', ('.[app]',))]
    """
    found = []
    for uv, rest in LINE.findall(text):
        words = tuple(re.sub(r"[.;:]$", "", word) or word for word in shlex.split(rest))
        if words and not any("{" in word or word == "..." for word in words):
            found.append(Line(place, "uv" if uv else "pip", words))
    return found


def lines() -> list[Line]:
    """All of them, with what the documents quote, one line each; those that the program puts together come last."""
    found = []
    for path in places():
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found += read(text, f"{path.relative_to(ROOT)}:{number}")
    return found + put_together()


def put_together() -> list[Line]:
    """What errors and help say once the program has put in the name of an extra, a tracker or a build of PyTorch."""
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    named = sorted(set(re.findall(r"how_to_install\(['\"](\w+)['\"]\)", sources)))
    told = [how_to_install(extra, published=published) for extra in named for published in (False, True)]
    told += [f"pip install {tracker}" for tracker in get_args(Tracker) if tracker != "none"]
    told += [install_command(build) for build in ("cu126", "cu128", "cu130")]
    return [line for text in told for line in read(text, "the program")]


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

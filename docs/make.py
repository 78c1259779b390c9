"""Build the site of the documents: first the page of all commands, out of the program's own help, then all pages.

    python docs/make.py [WORDS FOR ZENSICAL ...]

Without words it writes the whole site into site/ and fails at the first warning; ``serve`` shows it in the browser and
anew after each change of a page.
"""

from __future__ import annotations

import contextlib
import html
import io
import os
import re
import subprocess
import sys
from pathlib import Path

from metadeblur.cli.entry import COMMANDS, main, overview

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "commands.md"
WIDTH = "84"  # columns of the help
ENTRY = re.compile(r"[ │]{1,4}(-.*?)(?= {2}|$)")  # where the help explains a flag: its names, up to the explanation
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def build(words: list[str]) -> int:
    """Write the page of all commands, run Zensical, and return its exit code."""
    PAGE.write_text(commands(), encoding="utf-8")
    return subprocess.run([sys.executable, "-m", "zensical", *words], cwd=ROOT, check=False).returncode


def commands() -> str:
    """What each command takes, as ``--help`` says it; every flag has an anchor."""
    about = "As `metadeblur COMMAND --help` says it. A click on a flag gives its address, to link to."
    lines = ["# The commands", "", about, "", as_it_is("", overview()), ""]
    for name in COMMANDS:
        lines += [f"## metadeblur {name}", "", as_it_is(name, help_of(name)), ""]
    return "\n".join(lines)


def as_it_is(command: str, text: str) -> str:
    """The help of a command with its own lines and spaces, and with anchors."""
    seen: set[str] = set()
    lines = [linked(command, line, seen) for line in text.splitlines()]
    return "\n".join(['<pre class="help">' + lines[0], *lines[1:]]) + "</pre>"


def linked(command: str, line: str, seen: set[str]) -> str:
    """A line of the help as HTML; the flags that it introduces are anchors, each once (``seen``)."""
    entry = ENTRY.match(line)
    if not command or entry is None:
        return html.escape(line.rstrip())

    def anchor(flag: re.Match[str]) -> str:
        name = f"{command.replace(' ', '-')}{flag[0]}"
        if name in seen:
            return flag[0]
        seen.add(name)
        return f'<a id="{name}" href="#{name}">{flag[0]}</a>'

    return FLAG.sub(anchor, html.escape(entry[0])) + html.escape(line[entry.end() :].rstrip())


def help_of(command: str) -> str:
    """The help of one command."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            main([*command.split(), "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return printed.getvalue().strip()


if __name__ == "__main__":
    sys.exit(build(sys.argv[1:] or ["build", "--clean", "--strict"]))

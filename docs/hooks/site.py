"""What MkDocs calls while it builds the site: the page of all commands, out of the program's own help."""

from __future__ import annotations

import contextlib
import html
import io
import os
from typing import Any

from mkdocs.structure.files import File, Files

from metadeblur.cli.entry import COMMANDS, main, overview

PAGE = "reference/commands.md"
WIDTH = "84"  # columns of the help


def on_files(files: Files, config: Any) -> Files:
    """Add the page of all commands."""
    files.append(File.generated(config, PAGE, content=commands()))
    return files


def commands() -> str:
    """What each command takes, as ``--help`` says it."""
    lines = ["# The commands", "", "As `metadeblur COMMAND --help` says it.", "", as_it_is(overview()), ""]
    for name in COMMANDS:
        lines += [f"## metadeblur {name}", "", as_it_is(told(name)), ""]
    return "\n".join(lines)


def as_it_is(text: str) -> str:
    """Text with its own lines and spaces."""
    return f'<pre class="help">{html.escape(text)}</pre>'


def told(command: str) -> str:
    """The help of one command."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            main([*command.split(), "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return said.getvalue().strip()

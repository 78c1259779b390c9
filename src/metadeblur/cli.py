"""The command line ``metadeblur``: finds the command, runs it, turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import threading
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from metadeblur import __version__
from metadeblur.commands import UsageError, explain

DONE, FAILED, USAGE = 0, 1, 2


class Command(Protocol):
    """A parsed command line that can do its work."""

    def run(self) -> None:
        """Do it; whatever goes wrong is raised."""


@dataclass(frozen=True)
class Entry:
    """Where a command lives and what the list of commands says of it."""

    module: str
    arguments: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "restore": Entry("restore", "Restore", "restore motion-blurred video with a network adapted to it"),
    "demo": Entry("demo", "Demo", "make a shaky clip on the spot, restore it, compare with the truth"),
    "adapt": Entry("adapt", "Adapt", "adapt a network to a clip and save its weights"),
    "synth": Entry("synth", "Synth", "make blurred and sharp clips from sharp photographs and videos"),
    "train deblur": Entry("train", "TrainDeblur", "train a deblurring network on paired clips"),
    "train reblur": Entry("train", "TrainReblur", "train the paper's reblurring network and its critic"),
    "train meta": Entry("train", "TrainMeta", "meta-train both networks, so that adapting helps more"),
    "evaluate": Entry("evaluate", "Evaluate", "measure blurred, base, adapted and oracle against the truth"),
    "reproduce": Entry("reproduce", "Reproduce", "run the paper's tables and figures, its numbers beside ours"),
    "models": Entry("models", "Models", "list the models that --model knows"),
    "weights import": Entry("weights", "WeightsImport", "take a network's published weights over"),
    "weights list": Entry("weights", "WeightsList", "list all weights: which are here, and how to get the others"),
    "weights verify": Entry("weights", "WeightsVerify", "check the weights that are here against their checksums"),
    "app": Entry("app", "App", "show a page in the browser that does the same, for everybody"),
    "doctor": Entry("doctor", "Doctor", "say what this machine and installation can do"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 wrong usage.

    Args:
        argv: the words after ``metadeblur``; None: those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _ended_like_ctrl_c():
            return _dispatch(words)
    except SystemExit as stop:  # the parser has printed its help or what is wrong
        return stop.code if isinstance(stop.code, int) else USAGE
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("METADEBLUR_DEBUG"):
            raise
        print(f"metadeblur: {explain(error)}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else FAILED


def _dispatch(words: Sequence[str]) -> int:
    """Run one command line; whatever goes wrong is raised."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return DONE if words else USAGE
    if words[0] in ("-V", "--version"):
        print(f"metadeblur {__version__}")
        return DONE
    if words[1:] in (["-h"], ["--help"]) and _group(words[0]):
        print(overview(words[0]))
        return DONE
    parse(words).run()
    return DONE


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Have a polite request to end, or a closed terminal, clean up as Ctrl-C does."""
    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # A signal that is ignored (nohup) or handled by a program that uses this one stays so.
    ours = [name for name in names if signal.getsignal(name) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for name in ours:
        signal.signal(name, signal.default_int_handler)
    try:
        yield
    finally:
        for name in ours:
            signal.signal(name, signal.SIG_DFL)


def _group(word: str) -> list[str]:
    """The commands of two words that begin with this one.

    >>> _group("weights")
    ['weights import', 'weights list', 'weights verify']
    """
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


def overview(group: str = "") -> str:
    """The list of commands, or of those that begin with one word."""
    names = _group(group) if group else list(COMMANDS)
    width = max(map(len, names)) + 2
    lines = [f"  {name:<{width}}{COMMANDS[name].summary}" for name in names]
    if group:
        return "\n".join([f"usage: metadeblur {group} COMMAND ...", "", *lines])
    return "\n".join(
        [
            "usage: metadeblur COMMAND ... | --version | --help",
            "",
            "Restore motion-blurred video with a network that first adapts itself to it.",
            "",
            *lines,
            "",
            "metadeblur COMMAND --help tells what a command takes; the first thing to try is: metadeblur demo",
        ]
    )


def parse(words: Sequence[str]) -> Command:
    """The command that the words ask for, with its flags.

    Raises:
        UsageError: no such command.
        SystemExit: help was asked for (0), or the flags are wrong (2); the parser has said so.
    """
    import tyro

    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
    if name is None:
        raise UsageError(_unknown(words))
    entry = COMMANDS[name]
    arguments: Any = getattr(importlib.import_module(f"metadeblur.commands.{entry.module}"), entry.arguments)
    flags = list(words[len(name.split()) :])
    default = _from_file(arguments, flags)
    command: Command = tyro.cli(arguments, args=flags, prog=f"metadeblur {name}", default=default)
    return command


def _unknown(words: Sequence[str]) -> str:
    """What to say about a command that is none."""
    group = _group(words[0])
    asked = " ".join(words[: 2 if group else 1])
    meant = difflib.get_close_matches(words[0], {name.split()[0] for name in COMMANDS}, n=1)
    near = group or [name for name in COMMANDS if name.split()[0] in meant]
    return f"no command {asked!r}; {'did you mean: ' + ', '.join(near) if near else 'metadeblur --help lists them'}"


def _from_file(arguments: type[Any], flags: Sequence[str]) -> Any:
    """Defaults read from the TOML file that ``--config`` names, for commands that have this flag; None without it."""
    if not any(entry.name == "config" for entry in fields(arguments)):
        return None
    named = [value for flag, value in pairwise(flags) if flag == "--config"]
    named += [flag.partition("=")[2] for flag in flags if flag.startswith("--config=")]
    if not named:
        return None
    path = Path(named[-1])
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config {path}: {error}") from error
    values = {key.replace("-", "_"): value for key, value in table.items()}
    default = _filled(arguments(), values)
    if values:
        raise UsageError(f"--config {path}: no setting {next(iter(values))!r}; metadeblur COMMAND --help lists them")
    return default


def _filled(settings: Any, values: dict[str, Any]) -> Any:
    """Settings with the values of a TOML table; those that found their place are taken out of ``values``.

    Settings inside of settings are flags without a prefix, so their values may stand in the table or in one of its own.
    """
    changes: dict[str, Any] = {}
    for entry in fields(settings):
        now = getattr(settings, entry.name)
        if is_dataclass(now):
            values |= values.pop(entry.name, {})
            changes[entry.name] = _filled(now, values)
        elif entry.name in values:
            value = values.pop(entry.name)
            if isinstance(value, list):
                value = tuple(value)
            changes[entry.name] = Path(value) if isinstance(now, Path) else value
    return replace(settings, **changes)


if __name__ == "__main__":
    sys.exit(main())

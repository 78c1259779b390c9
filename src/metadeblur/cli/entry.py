"""The command line ``metadeblur``: finds the command, runs it, turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from metadeblur.cli.inputs import stray, there
from metadeblur.cli.settings_file import from_file
from metadeblur.errors import UsageError
from metadeblur.limits import OutOfRange, allowed, fits, is_numeric, kinds, length, number
from metadeblur.system.explain import error_line
from metadeblur.system.log import logged_to
from metadeblur.system.names import shown
from metadeblur.version import __version__

DONE, FAILED, USAGE = 0, 1, 2
UNHEARD = 141  # nobody reads what is printed: as of a command that the system ends for it
CLEANING_SECONDS = 3.0  # after a request to end, in which another one is not heard


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
    "pipe": Entry("pipe", "Pipe", "restore raw frames (y4m) from standard input to standard output"),
    "demo": Entry("demo", "Demo", "make a shaky clip on the spot, restore it, compare with the truth"),
    "adapt": Entry("adapt", "Adapt", "adapt a network to a clip and save its weights"),
    "synth": Entry("synth", "Synth", "make blurred and sharp clips from sharp photographs and videos"),
    "train deblur": Entry("train", "TrainDeblur", "train a deblurring network on paired clips"),
    "train reblur": Entry("train", "TrainReblur", "train the paper's reblurring network and its critic"),
    "train meta": Entry("train", "TrainMeta", "meta-train both networks, so that adapting helps more"),
    "evaluate": Entry("evaluate", "Evaluate", "measure blurred, base, adapted and oracle against the truth"),
    "reproduce": Entry("reproduce", "Reproduce", "run the paper's tables and figures, its numbers beside ours"),
    "presets": Entry("presets", "Presets", "list sets of settings by name, for restore --preset, or print one"),
    "models": Entry("models", "Models", "list the models that --model knows"),
    "weights import": Entry("weights", "WeightsImport", "take a network's published weights over"),
    "weights list": Entry("weights", "WeightsList", "list all weights: which are here, and how to get the others"),
    "weights verify": Entry("weights", "WeightsVerify", "check the weights that are here against their checksums"),
    "app": Entry("app", "App", "show a page in the browser that does the same, for everybody"),
    "doctor": Entry("doctor", "Doctor", "say what this machine and installation can do"),
    "completion": Entry("completion", "Completion", "print what makes Tab complete commands and flags in a shell"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 wrong usage.

    Args:
        argv: the words after ``metadeblur``; None: those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no name may stop a command because a terminal cannot write it
            stream.reconfigure(errors="backslashreplace")
    try:
        return _printed(_ended(words))
    except BrokenPipeError:  # the reader of a pipe has seen enough
        _silence()
        return UNHEARD


def _printed(code: int) -> int:
    """The exit code when all that is left to print has been printed.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # such as a full disk; a command that has failed has said why
        if code == DONE:
            print(f"metadeblur: {shown(error_line(error))}", file=sys.stderr)
        _silence()
        return code or FAILED
    return code


def _ended(words: Sequence[str]) -> int:
    """Run one command line, tell what goes wrong, and return the exit code."""
    try:
        with _ended_like_ctrl_c():
            return _dispatch(words)
    except BrokenPipeError:
        raise
    except SystemExit as stop:  # the parser has printed its help or what is wrong
        return stop.code if isinstance(stop.code, int) else USAGE
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("METADEBLUR_DEBUG"):
            raise
        print(f"metadeblur: {shown(error_line(error))}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else FAILED


def _silence() -> None:
    """Send what is still to be printed nowhere, so that Python does not complain of it at its end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _dispatch(words: Sequence[str]) -> int:
    """Run one command line; whatever goes wrong is raised."""
    if not words or words[0] in ("-h", "--help") or words == ["help"]:
        print(overview())
        return DONE if words else USAGE
    if words[0] == "help":
        words = [*words[1:], "--help"]
    if words[0] in ("-V", "--version"):
        print(f"metadeblur {__version__}")
        return DONE
    if words[1:] in (["-h"], ["--help"]) and _group(words[0]):
        print(overview(words[0]))
        return DONE
    command = parse(words)
    with logged_to(_log_file(command), f"metadeblur {__version__}: {shlex.join(words)}"):
        command.run()
    return DONE


def _log_file(command: Command) -> Path | None:
    """Where a command also writes what it says; of several processes of a training, the first one does."""
    talk = getattr(command, "talk", None)
    return None if talk is None or os.environ.get("RANK", "0") != "0" else talk.log_file


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Have a polite request to end, or a closed terminal, clean up as Ctrl-C does; once, however many there are."""
    usual = {signal.SIGINT: signal.default_int_handler}
    usual |= {getattr(signal, name): signal.SIG_DFL for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)}
    # A signal that is ignored (nohup) or handled by a program that uses this one stays so.
    ours = {number: before for number, before in usual.items() if signal.getsignal(number) is before}
    if threading.current_thread() is not threading.main_thread():
        ours = {}
    ended = -math.inf

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal ended
        # A closed terminal and a system that shuts down send several; the second must not cut the cleaning up short.
        if time.monotonic() - ended > CLEANING_SECONDS:
            ended = time.monotonic()
            raise KeyboardInterrupt

    for name in ours:
        signal.signal(name, end)
    try:
        yield
    finally:
        for name, before in ours.items():
            signal.signal(name, before)


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
    arguments: Any = getattr(importlib.import_module(f"metadeblur.cli.{entry.module}"), entry.arguments)
    flags = list(words[len(name.split()) :])
    _refuse_no_numbers(arguments, flags)
    default = from_file(arguments, flags)
    parser: Any = partial(tyro.cli, arguments, args=flags, prog=f"metadeblur {name}", default=default)
    try:
        command, rest = parser(return_unknown_args=True)
    except OutOfRange as error:
        raise UsageError(f"{_flag(error.name)} {error.fault}") from error
    if any(word.startswith("-") and not there(Path(word)) for word in rest):
        parser()  # says which flag may have been meant
    if rest:
        raise UsageError(stray(command, name, rest))
    parsed: Command = command
    return parsed


def _flag(name: str) -> str:
    """The flag of a setting.

    >>> _flag("learning_rate")
    '--learning-rate'
    """
    return f"--{name.replace('_', '-')}"


def _refuse_no_numbers(arguments: type[Any], flags: Sequence[str]) -> None:
    """Refuse words in the places of numbers; numbers out of range are found by the settings themselves."""
    types = dict(_flags(arguments))
    for place, flag in enumerate(flags):
        name, given, value = flag.partition("=")
        kind = types.get(_flag(name.removeprefix("--")) if name.startswith("--") else name)
        if kind is None or not is_numeric(kind):
            continue
        values = [value] if given else flags[place + 1 : place + 1 + length(kind)]
        for one in values:
            if one != "None" and not fits(one, kind) and isinstance(number(one, kind), str):
                raise UsageError(f"{name} is {one}; give {allowed(kind)}")


def _flags(arguments: type[Any]) -> Iterator[tuple[str, Any]]:
    """The flags of a command with their types; settings inside of it are flags without a prefix."""
    for name, kind in kinds(arguments).items():
        plain = getattr(kind, "__origin__", kind)
        if is_dataclass(plain) and isinstance(plain, type):
            yield from _flags(plain)
        else:
            yield _flag(name), kind


def _unknown(words: Sequence[str]) -> str:
    """What to say about a command that is none."""
    group = _group(words[0])
    asked = " ".join(words[: 2 if group else 1])
    meant = difflib.get_close_matches(words[0], {name.split()[0] for name in COMMANDS}, n=1)
    near = group or [name for name in COMMANDS if name.split()[0] in meant]
    return f"no command {asked!r}; {'did you mean: ' + ', '.join(near) if near else 'metadeblur --help lists them'}"


if __name__ == "__main__":
    sys.exit(main())

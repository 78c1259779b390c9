"""Settings from a TOML file: ``--config``."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from metadeblur.errors import MetadeblurError, UsageError
from metadeblur.limits import OutOfRange, kinds, with_paths
from metadeblur.system.plain_files import read_text


def from_file(arguments: type[Any], flags: Sequence[str]) -> Any:
    """Defaults read from the TOML file that ``--config`` names, for commands that have this flag; None without it.

    Raises:
        UsageError: the file cannot be read, is no TOML, or has a setting that is not known or out of range.
    """
    if "config" not in kinds(arguments):
        return None
    named = [value for flag, value in pairwise(flags) if flag == "--config"]
    named += [flag.partition("=")[2] for flag in flags if flag.startswith("--config=")]
    if not named:
        return None
    path = Path(named[-1])
    values = {key.replace("-", "_"): value for key, value in _table(path).items()}
    try:
        default = _filled(arguments(), values)
    except OutOfRange as error:
        raise UsageError(f"--config {path}: {error}") from error
    if values:
        raise UsageError(f"--config {path}: {_unknown(next(iter(values)), _names(arguments()))}")
    return default


def _table(path: Path) -> dict[str, Any]:
    """The file's table."""
    try:
        return tomllib.loads(read_text(path))
    except MetadeblurError as error:
        raise UsageError(f"--config {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config {path}: not TOML: {error}") from error
    except RecursionError as error:
        raise UsageError(f"--config {path}: not TOML of settings: nested too deep") from error


def _filled(settings: Any, values: dict[str, Any]) -> Any:
    """Settings with the values of a TOML table; those that found their place are taken out of ``values``.

    Settings inside of settings are flags without a prefix, so their values may stand in the table or in one of its own.
    """
    changes: dict[str, Any] = {}
    for name, kind in kinds(type(settings)).items():
        now = getattr(settings, name)
        if is_dataclass(now):
            inner = values.pop(name, {})
            if not isinstance(inner, dict):
                raise OutOfRange(name, "is a table of settings; write them below a line " + f"[{name}]")
            twice = sorted({key.replace("-", "_") for key in inner} & set(values))
            if twice:
                raise OutOfRange(twice[0], f"is there twice, once in [{name}]; give it once")
            values |= {key.replace("-", "_"): value for key, value in inner.items()}
            changes[name] = _filled(now, values)
        elif name in values:
            changes[name] = with_paths(values.pop(name), kind)
    return replace(settings, **changes)


def _names(settings: Any) -> list[str]:
    """The names of all settings, also of those inside of settings."""
    names = []
    for name in kinds(type(settings)):
        now = getattr(settings, name)
        names += [name, *_names(now)] if is_dataclass(now) else [name]
    return names


def _unknown(name: str, known: Sequence[str]) -> str:
    """What to say about a setting that is none."""
    meant = difflib.get_close_matches(name, known, n=1)
    return f"no setting {name!r}; " + (f"did you mean {meant[0]}?" if meant else f"there are {', '.join(known)}")

"""Settings from TOML files: ``--preset`` and ``--config``."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from metadeblur.cli.flags import PresetFlags
from metadeblur.cli.presets import preset_file
from metadeblur.errors import MetadeblurError, UsageError
from metadeblur.limits import OutOfRange, kinds, with_paths
from metadeblur.system.plain_files import read_text


def from_file(arguments: type[Any], flags: Sequence[str]) -> Any:
    """Defaults from ``--preset NAME`` and, above them, from the TOML file that ``--config`` names; None without both.

    Raises:
        UsageError: no such preset, the file cannot be read or is no TOML, or has a setting that is not known or out of
            range.
    """
    known, tables = names(arguments), []
    if _takes_presets(arguments) and (name := _given("--preset", flags)) is not None:
        title = f"--preset {name}"
        # A set is made for several commands, of which each takes what it has.
        fitting = {key: value for key, value in _table(title, preset_file(name)).items() if key in known}
        if not fitting:
            raise UsageError(f"{title}: it has no setting of this command")
        tables.append((title, fitting))
    if "config" in known and (path := _given("--config", flags)) is not None:
        tables.append((f"--config {path}", _table(f"--config {path}", Path(path))))
    default = arguments() if tables else None
    for title, table in tables:
        values = {key.replace("-", "_"): value for key, value in table.items()}
        try:
            default = _filled(default, values)
        except OutOfRange as error:
            raise UsageError(f"{title}: {error}") from error
        if values:
            raise UsageError(f"{title}: {_unknown(next(iter(values)), known)}")
    return default


def _takes_presets(arguments: type[Any]) -> bool:
    """Whether a command's --preset names a file of settings; that of evaluate is one of its own settings."""
    return any(getattr(kind, "__origin__", kind) is PresetFlags for kind in kinds(arguments).values())


def _given(flag: str, flags: Sequence[str]) -> str | None:
    """The value of a flag among the words of a command line; of several the last one counts."""
    found = [value for name, value in pairwise(flags) if name == flag]
    found += [word.partition("=")[2] for word in flags if word.startswith(f"{flag}=")]
    return found[-1] if found else None


def _table(title: str, path: Path) -> dict[str, Any]:
    """The file's table; ``title`` is what an error calls it."""
    try:
        return tomllib.loads(read_text(path))
    except MetadeblurError as error:
        raise UsageError(f"--config {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{title}: not TOML: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{title}: not TOML of settings: nested too deep") from error


def _filled(settings: Any, values: dict[str, Any]) -> Any:
    """Settings with the values of a TOML table; those that found their place are taken out of ``values``.

    Settings inside of settings are flags without a prefix, so their values may stand in the table or in one of its own.
    """
    changes: dict[str, Any] = {}
    for name, kind in kinds(type(settings)).items():
        now = getattr(settings, name)
        if is_dataclass(now):
            # A setting may be called as the group that it is in: workers.
            own = name in names(type(now)) and not isinstance(values.get(name), dict)
            inner = {} if own else values.pop(name, {})
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


def names(settings: type[Any]) -> list[str]:
    """The names of all settings of a command, also of those inside of settings, as its flags are called."""
    found = []
    for name, kind in kinds(settings).items():
        plain = getattr(kind, "__origin__", kind)
        inner = names(plain) if is_dataclass(plain) and isinstance(plain, type) else []
        found += inner or [name]
    return found


def _unknown(name: str, known: Sequence[str]) -> str:
    """What to say about a setting that is none."""
    meant = difflib.get_close_matches(name, known, n=1)
    return f"no setting {name!r}; " + (f"did you mean {meant[0]}?" if meant else f"there are {', '.join(known)}")

"""``metadeblur presets``: sets of settings that have a name, each a TOML file in the folder ``preset_files``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metadeblur.errors import UsageError

_FOLDER = Path(__file__).parent / "preset_files"


@dataclass(frozen=True)
class Presets:
    """List the sets of settings that --preset knows, or print one, to be kept and changed.

    metadeblur presets NAME > mine.toml, then metadeblur restore IN --config mine.toml.
    """

    name: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: all)")
    ] = None
    """The set to print, as a TOML file."""

    def run(self) -> None:
        """Print a line for each, or the file of one."""
        if self.name is not None:
            print(preset_file(self.name).read_text(encoding="utf-8"), end="")
            return
        width = max(map(len, preset_names())) + 2
        for name in preset_names():
            print(f"{name:<{width}}{purpose(name)}")
        print("\nmetadeblur restore IN --preset NAME uses one; metadeblur presets NAME prints its settings.")


def preset_names() -> list[str]:
    """The names of all sets, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def preset_file(name: str) -> Path:
    """The file of a set.

    Raises:
        UsageError: there is no such set.
    """
    if name not in preset_names():
        meant = difflib.get_close_matches(name, preset_names(), n=1)
        hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(preset_names())}"
        raise UsageError(f"no preset {name!r}; {hint}")
    return _FOLDER / f"{name}.toml"


def purpose(name: str) -> str:
    """What a set is for: the comment in the first line of its file."""
    return preset_file(name).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")

"""What a command is given to read and where it is to write: looked at before any work is done."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from metadeblur.errors import MetadeblurError, UsageError


def refuse_missing(inputs: Sequence[Path], output: Path | None, flag: str = "-o") -> None:
    """Refuse inputs that are not there, all of them at once.

    Args:
        inputs: files, folders or patterns; what matches nothing is refused where it is looked for.
        output: what ``flag`` was given.
        flag: what says where the result goes.

    Raises:
        UsageError: the last one is most likely the output.
        MetadeblurError: names what is missing.
    """
    missing = [path for path in inputs if not there(path) and not glob.has_magic(str(path))]
    if not missing:
        return
    if output is None and len(inputs) > 1 and missing == [inputs[-1]]:
        raise UsageError(f"{missing[0]} does not exist; did you mean {flag} {missing[0]}?")
    hint = ""
    if output is not None and len(inputs) == 1 and output.is_file():
        hint = f"; {flag} {output} is a file that is there: were the two swapped?"
    raise MetadeblurError("; ".join(f"{path}: there is no such file or folder" for path in missing) + hint)


def refuse_both(one: tuple[str, bool], other: tuple[str, bool]) -> None:
    """Refuse two flags of which one says the contrary of the other.

    Args:
        one: its name, and whether it was given.
        other: likewise.

    Raises:
        UsageError: both were given.
    """
    if one[1] and other[1]:
        raise UsageError(f"{one[0]} and {other[0]} contradict each other; give one of them")


def there(path: Path) -> bool:
    """Whether a file or folder is there; a name that the system does not even take is not."""
    try:
        return path.exists()
    except OSError:
        return False


def given(path: Path | None, what: str, example: str) -> Path:
    """The input of a command that cannot do without one.

    Raises:
        UsageError: none was given.
    """
    if path is None:
        raise UsageError(f"it needs {what}: {example}")
    return path


def needed(output: Path | None, example: str) -> Path:
    """The output of a command that cannot do without one.

    Raises:
        UsageError: none was given.
    """
    if output is None:
        raise UsageError(f"it needs to be told where the result goes: {example}")
    return output


def stray(command: object, name: str, words: Sequence[str]) -> str:
    """What to say about words that a command has no place for."""
    one = words[0]
    if one.startswith("-"):
        return f"{one} begins with -; write ./{one} where the file is meant"
    if getattr(command, "output", "") is None and len(words) == 1 and not there(Path(one)):
        return f"{one} does not exist; did you mean -o {one}?"
    if getattr(command, "output", "") is None and len(words) == 1:
        return f"{one} is one word too many for {name}; the result goes to -o"
    return f"{' '.join(words)}: more than {name} takes; metadeblur {name} --help tells what it takes"

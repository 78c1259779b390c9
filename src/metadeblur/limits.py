"""What a setting may be: its range stands in its type, its choices in a Literal, and one function checks them all.

Settings and commands call :func:`check` when they are made, so that a bad value is found before any work. A field says
its range as ``pairs: Pairs = 40`` or ``rounds: Annotated[int, Within(0, 100)] = 4``.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast, get_args, get_origin

from metadeblur.errors import MetadeblurError
from metadeblur.types import Matching

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Within:
    """The numbers that a setting may be.

    >>> Within(0, 1, above=True).words("a number")
    'a number above 0 and at most 1'
    >>> Within(64, 65536, also=0).words("a whole number")
    '0 or a whole number from 64 to 65536'
    """

    least: float
    most: float
    above: bool = False  # ``least`` itself is too little
    below: bool = False  # ``most`` itself is too much
    also: int | None = None  # a number outside of the range that has a meaning of its own

    def holds(self, number: float) -> bool:
        """Whether a number is one of them; not-a-number never is."""
        if self.also is not None and number == self.also:
            return True
        low = number > self.least if self.above else number >= self.least
        return bool(low and (number < self.most if self.below else number <= self.most))

    def words(self, what: str) -> str:
        """In words, after ``what`` a number is called."""
        least, most = _plain(self.least), _plain(self.most)
        if self.above or self.below:
            span = f"{'above' if self.above else 'at least'} {least} and {'below' if self.below else 'at most'} {most}"
        else:
            span = f"from {least} to {most}"
        return f"{'' if self.also is None else f'{self.also} or '}{what} {span}"


@dataclass(frozen=True)
class Rising:
    """A pair whose first number may not be above its second."""


RISING = Rising()

YEAR = 31_536_000  # seconds; longer than anybody waits

Pairs: TypeAlias = Annotated[int, Within(1, 10_000)]
Steps: TypeAlias = Annotated[int, Within(0, 1_000_000)]
LearningRate: TypeAlias = Annotated[float, Within(0, 1, above=True, below=True)]
Rate: TypeAlias = Annotated[float, Within(0, 1)]
"""A learning rate that may be 0: what it belongs to then stays as it is."""
TrainingBatch: TypeAlias = Annotated[int, Within(1, 65_536)]
TrainingPatch: TypeAlias = Annotated[int, Within(16, 8192)]
Patch: TypeAlias = Annotated[int, Within(32, 8192)]
Tile: TypeAlias = Annotated[int, Within(64, 65_536, also=0)]
Share: TypeAlias = Annotated[float, Within(0, 1)]
Past: TypeAlias = Annotated[float, Within(0, 1, below=True)]
"""Weight of the past in a running mean; with 1 nothing would ever be learnt."""
Weight: TypeAlias = Annotated[float, Within(0, 1_000_000)]
Seconds: TypeAlias = Annotated[float, Within(0, YEAR, above=True)]
Seed: TypeAlias = Annotated[int, Within(0, 2**32 - 1)]
Count: TypeAlias = Annotated[int, Within(1, 1_000_000)]
CountOrNone: TypeAlias = Annotated[int, Within(0, 1_000_000)]
Crop: TypeAlias = Annotated[int, Within(16, 65_536, also=0)]
Positive: TypeAlias = Annotated[float, Within(0, 1_000_000, above=True)]
Quality: TypeAlias = Annotated[int, Within(0, 63)]
"""Of encoders: 0 is best; some end at 51, which is looked at once the encoder is known."""
Pixels: TypeAlias = Annotated[int, Within(1, 1_000_000_000)]
Workers: TypeAlias = Annotated[int, Within(1, 100_000)]
"""Processes of a cluster."""
Processes: TypeAlias = Annotated[int, Within(1, 1024)]
Threads: TypeAlias = Annotated[int, Within(1, 4096)]
Gpus: TypeAlias = Annotated[float, Within(0, 1, above=True)]


class OutOfRange(MetadeblurError):
    """A setting that is none of the allowed values.

    Attributes:
        name: of the setting.
        fault: what is wrong with it, without its name.
    """

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(f"{name} {fault}")
        self.name, self.fault = name, fault

    def __reduce__(self) -> tuple[Any, ...]:
        """For processes that hand their errors on."""
        return OutOfRange, (self.name, self.fault)


class UnknownSetting(MetadeblurError, TypeError):
    """A setting that is not there: misspelt, or of something else."""


def meant(name: object, known: Iterable[str]) -> str:
    """What may have been meant by a name that is not known, for the end of a sentence; nothing where none is like it.

    >>> meant("Balancd", ["quick", "balanced", "best"]), meant("colour", ["quick"])
    (' (did you mean balanced?)', '')
    """
    plain = {one.lower(): one for one in known}
    alike = difflib.get_close_matches(str(name).lower(), plain, n=1)
    return f" (did you mean {plain[alike[0]]}?)" if alike else ""


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse the name of a setting that is not there.

    Raises:
        UnknownSetting: names the first such setting, and the one that is most like it or all that there are.
    """
    names = list(known)
    for name in given:
        if name not in names:
            hint = meant(name, names) or f"; there are {', '.join(names)}"
            raise UnknownSetting(f"{where} has no setting {name!r}{hint}")


def spelt(settings: type[Settings]) -> type[Settings]:
    """Let a dataclass of settings say of a name that it does not have which one may have been meant; a decorator."""
    make: Any = settings.__init__
    names = [entry.name for entry in fields(cast(Any, settings)) if entry.init]

    @wraps(make)
    def init(self: Any, *values: Any, **named: Any) -> None:
        refuse_unknown(named, names, settings.__name__)
        make(self, *values, **named)

    settings.__init__ = init  # type: ignore[method-assign]
    return settings


def check(settings: Any) -> None:
    """Refuse a dataclass one of whose values does not fit the type of its field, with its range.

    Raises:
        OutOfRange: names the first such field, with the value and what is allowed.
    """
    for name, kind in kinds(type(settings)).items():
        value = getattr(settings, name)
        if not fits(value, kind):
            alike = meant(value, _choices(kind)) if isinstance(value, str) else ""
            raise OutOfRange(name, f"is {told(value)}; give {allowed(kind)}{alike}")


def keep_plain(settings: Any, name: str = "device") -> None:
    """Keep a ``torch.device`` among frozen settings by its name, so that all of them stay plain values."""
    value = getattr(settings, name)
    if value is not None:
        object.__setattr__(settings, name, str(value))


def kinds(settings: type[Any]) -> dict[str, Any]:
    """The type of each field of a dataclass, with its range."""
    return _kinds(cast(Hashable, settings))


@cache
def _kinds(settings: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(settings, include_extras=True)
    return {entry.name: hints[entry.name] for entry in fields(settings)}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, within its range.

    >>> fits(3, Pairs), fits(0, Pairs), fits(float("nan"), Share), fits("auto", Literal["auto", "cpu"])
    (True, False, False, True)
    """
    kind, marks = _unwrapped(kind)
    if _is_union(kind):
        return any(fits(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return any(type(value) is type(one) and value == one for one in get_args(kind))
    if kind in (int, float):
        # A truth value is a number to Python, and to nobody else.
        if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
            return False
        return math.isfinite(value) and all(mark.holds(float(value)) for mark in marks if isinstance(mark, Within))
    if get_origin(kind) in (tuple, list):
        return _fits_several(value, get_args(kind), marks)
    if kind in (str, Path):
        patterns = [mark.pattern for mark in marks if isinstance(mark, Matching)]
        return isinstance(value, str | os.PathLike) and all(re.fullmatch(one, str(value)) for one in patterns)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _fits_several(value: Any, parts: tuple[Any, ...], marks: tuple[Any, ...]) -> bool:
    if not isinstance(value, tuple | list):
        return False
    each = parts * len(value) if len(parts) == 1 else parts[:1] * len(value) if parts[-1] is Ellipsis else parts
    if len(value) != len(each) or not all(map(fits, value, each)):
        return False
    return RISING not in marks or value[0] <= value[1]


def allowed(kind: Any) -> str:
    """What a type with its range allows, in words.

    >>> allowed(Pairs), allowed(Literal["auto", "cpu"] | None), allowed(tuple[Share, Share])
    ('a whole number from 1 to 10000', 'auto or cpu', '2 values, each a number from 0 to 1')
    """
    kind, marks = _unwrapped(kind)
    if _is_union(kind):
        return " or ".join(allowed(one) for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        *most, last = map(str, get_args(kind))
        return f"{', '.join(most)} or {last}" if most else last
    if kind in (int, float):
        what = "a whole number" if kind is int else "a number"
        return next((mark.words(what) for mark in marks if isinstance(mark, Within)), what)
    if get_origin(kind) in (tuple, list):
        parts = get_args(kind)
        number = f"{len(parts)} values" if len(parts) > 1 and parts[-1] is not Ellipsis else "a list"
        return f"{number}, {'the lower one first, ' if RISING in marks else ''}each {allowed(parts[0])}"
    if any(isinstance(mark, Matching) for mark in marks):
        return next(mark.words for mark in marks if isinstance(mark, Matching))
    simple: dict[Any, str] = {bool: "true or false", str: "text", Path: "a path"}
    return simple.get(kind) or f"a value of type {getattr(kind, '__name__', kind)}"


def _choices(kind: Any) -> list[str]:
    """The words that a type allows."""
    kind, _ = _unwrapped(kind)
    if get_origin(kind) is Literal:
        return [one for one in get_args(kind) if isinstance(one, str)]
    return [word for one in get_args(kind) for word in _choices(one)] if _is_union(kind) else []


def told(value: Any) -> str:
    """A value as it is told to a person.

    >>> told(2.50), told((3, 1)), told("many"), told(True)
    ('2.5', '3 1', "'many'", 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, tuple | list):
        return " ".join(map(told, value)) or "nothing"
    return "nothing" if value is None else repr(str(value) if isinstance(value, os.PathLike) else value)


def number(text: str, kind: Any) -> Any:
    """A word of a command line as the number of a type; the word itself where that takes other words, or it is none.

    >>> number("3", Pairs), number("1e-3", LearningRate | None), number("many", Pairs), number("x", str)
    (3, 0.001, 'many', 'x')
    """
    for plain, parse in ((int, int), (float, float)):
        if _mentions(kind, plain):
            try:
                return parse(text)
            except ValueError:
                continue
    return text


def with_paths(value: Any, kind: Any) -> Any:
    """A value of a settings file as a field holds it: a list as a tuple, text as a path where that is asked for."""
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and _mentions(kind, Path) and not _mentions(kind, str) else value


def length(kind: Any) -> int:
    """How many words of a command line a type takes, at least.

    >>> length(Pairs), length(Annotated[tuple[Share, Share], RISING])
    (1, 2)
    """
    kind, _ = _unwrapped(kind)
    parts = get_args(kind)
    return len(parts) if get_origin(kind) is tuple and parts[-1] is not Ellipsis else 1


def is_numeric(kind: Any) -> bool:
    """Whether a type is that of a number, or of several."""
    return _mentions(kind, int) or _mentions(kind, float)


def _mentions(kind: Any, wanted: Callable[..., Any]) -> bool:
    kind, _ = _unwrapped(kind)
    return kind is wanted or any(_mentions(part, wanted) for part in get_args(kind) if get_origin(kind) is not Literal)


def _unwrapped(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without its Annotated, and what stood there."""
    return (kind.__origin__, kind.__metadata__) if get_origin(kind) is Annotated else (kind, ())


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (typing.Union, types.UnionType)


def _plain(bound: float) -> str:
    return str(int(bound)) if float(bound).is_integer() else f"{bound:.15g}"

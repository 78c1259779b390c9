"""What others build on, as text: public names with their signatures, and the commands with their flags.

    python tests/helpers/api.py

writes it into ``tests/project/public_api.txt``. A test compares: whoever breaks something there decides it.
"""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import metadeblur
from metadeblur.cli.completion import Flag, words_of
from metadeblur.cli.entry import COMMANDS

SNAPSHOT = Path(__file__).parents[1] / "project" / "public_api.txt"
RENEW = "python tests/helpers/api.py"
LEFT_OUT = ("app", "cli", "cluster", "system")  # rooms of the program itself, whose commands are below


def api() -> str:
    """The snapshot."""
    parts = [f"# What others build on. Made by: {RENEW}"]
    for module in modules():
        parts += ["", f"## {module.__name__}", ""]
        for name in sorted(module.__all__):
            parts += described(name, getattr(module, name))
    for command in COMMANDS:
        parts += ["", f"## metadeblur {command}", ""]
        parts += sorted(map(told, words_of(command, "").flags))
    return "\n".join(parts) + "\n"


def modules() -> Iterator[ModuleType]:
    """The package and those of its rooms that say what is public of them."""
    yield metadeblur
    for found in sorted(pkgutil.iter_modules(metadeblur.__path__), key=lambda one: one.name):
        if found.ispkg and found.name not in LEFT_OUT:
            module = import_module(f"metadeblur.{found.name}")
            if getattr(module, "__all__", None):
                yield module


def described(name: str, value: Any) -> list[str]:
    """A name: a function with what it takes, a class with what it is made of and its methods, or what kind it is."""
    if inspect.isclass(value):
        return [f"class {name}{bases(value)}", *(f"    {line}" for line in members(value))]
    if inspect.isfunction(value):
        return [f"def {name}{signature(value)}"]
    return [f"{name}: {type(value).__name__ if not repr(value).startswith('typing.') else 'a type'}"]


def bases(value: type) -> str:
    own = [base.__name__ for base in value.__bases__ if base is not object]
    return f"({', '.join(own)})" if own else ""


def members(value: type) -> Iterator[str]:
    """The fields or the constructor of a class, and its own public methods."""
    if dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            yield f"{entry.name}: {annotation(entry.type)}{default(entry)}"
    elif "__init__" in vars(value) and not getattr(value, "_is_protocol", False):
        yield f"def __init__{signature(value.__init__)}"
    for name, member in sorted(vars(value).items()):
        if name.startswith("_"):
            continue
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if inspect.isfunction(plain) and plain.__module__.startswith("metadeblur"):  # others write theirs as they like
            yield f"def {name}{signature(plain)}"
        elif isinstance(member, property):
            yield f"{name}: property"


def signature(function: Any) -> str:
    """What a function takes and gives, in one way on every version of Python."""
    found = inspect.signature(function)
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty, default=inspect.Parameter.empty)
        for parameter in found.parameters.values()
    ]
    names = {parameter.name: parameter for parameter in found.parameters.values()}
    text = str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    words = [
        word if word in ("*", "/") else typed(names[word.lstrip("*")], word) for word in text[1:-1].split(", ") if word
    ]
    gives = "" if found.return_annotation is inspect.Signature.empty else f" -> {annotation(found.return_annotation)}"
    return f"({', '.join(words)}){gives}"


def typed(parameter: inspect.Parameter, word: str) -> str:
    kind = "" if parameter.annotation is inspect.Parameter.empty else f": {annotation(parameter.annotation)}"
    value = "" if parameter.default is inspect.Parameter.empty else f" = {shown(parameter.default)}"
    return f"{word}{kind}{value}"


def annotation(kind: Any) -> str:
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def default(entry: dataclasses.Field[Any]) -> str:
    if entry.default_factory is not dataclasses.MISSING:
        return " = ..."
    return "" if entry.default is dataclasses.MISSING else f" = {shown(entry.default)}"


def shown(value: Any) -> str:
    """A default; what has no repr of its own on every machine and version is left open."""
    plain = value is None or isinstance(value, bool | int | float | str | tuple)
    return repr(value) if plain and not re.search(r" at 0x|<", repr(value)) else "..."


def told(flag: Flag) -> str:
    """A flag: its names, and what it takes."""
    return f"{', '.join(flag.names)} {flag.takes}".strip()


if __name__ == "__main__":
    SNAPSHOT.write_text(api(), encoding="utf-8")

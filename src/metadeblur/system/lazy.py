"""Public names of a package that are fetched when they are first used, so that help does not wait for PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562).

    Args:
        package: its full name.
        modules: public names by the module of the package that has them.

    >>> lazy_names("metadeblur.system", {"names": ["counted"]})("counted")(2, "clip")
    '2 clips'
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def fetch(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return fetch

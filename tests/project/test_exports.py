"""What the packages export: every name is there, and PyTorch is not imported before one is used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

PACKAGES = (
    "adaptation",
    "data",
    "evaluation",
    "guard",
    "imaging",
    "models",
    "paper",
    "reblur",
    "restoration",
    "training",
)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_exported_name_is_there(name: str) -> None:
    package = import_module(f"metadeblur.{name}")
    assert package.__all__
    for exported in package.__all__:
        assert getattr(package, exported) is not None
    assert {*package.__all__} <= {*dir(package)}
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_importing_the_packages_imports_no_pytorch() -> None:
    words = f"import sys, {', '.join(f'metadeblur.{name}' for name in PACKAGES)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0

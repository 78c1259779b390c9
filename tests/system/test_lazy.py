"""Packages give their public names when they are first used, and import PyTorch no earlier."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = {"evaluation": "evaluate", "paper": "ReproduceSettings", "data": "open_benchmark"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package):
    module = importlib.import_module(f"metadeblur.{package}")
    assert callable(getattr(module, PACKAGES[package]))
    with pytest.raises(AttributeError, match=f"module 'metadeblur.{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_no_package_imports_torch():
    program = (
        "import sys; import metadeblur.evaluation, metadeblur.paper, metadeblur.data; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""What is released, built once for the tests of it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from installs import ROOT

from metadeblur import __version__


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """The wheel."""
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> list[str]:
    """The lines of the wheel's own description."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"metadeblur-{__version__}.dist-info/METADATA").decode().partition("\n\n")[0].splitlines()

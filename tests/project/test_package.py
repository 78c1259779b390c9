"""The package as a whole: public names, what importing costs, what ships."""

import subprocess
import sys
from pathlib import Path

import pytest

import metadeblur
from metadeblur.cli.entry import COMMANDS


@pytest.mark.parametrize("name", metadeblur.__all__)
def test_public_names_are_there(name):
    assert getattr(metadeblur, name).__module__.startswith("metadeblur.")


def test_no_module_bears_the_name_of_a_public_function():
    root = Path(metadeblur.__file__).parent
    assert not {path.stem for path in root.iterdir()} & set(metadeblur.__all__) - {"clip"}


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([*name.split(), "--help"] for name in COMMANDS)])
def test_help_does_not_load_torch(words):
    code = (
        f"import sys\nfrom metadeblur.cli.entry import main\nassert main({words!r}) == 0\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "metadeblur" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_importing_the_package_loads_no_heavy_library():
    code = "import sys, metadeblur\nprint(sorted({'torch', 'cv2', 'av', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

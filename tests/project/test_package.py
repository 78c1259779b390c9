"""The package as a whole: public names, what importing costs, what ships."""

import subprocess
import sys

import pytest

import metadeblur


@pytest.mark.parametrize("name", metadeblur.__all__)
def test_public_names_are_there(name):
    assert getattr(metadeblur, name).__module__.startswith("metadeblur.")


def test_functions_win_over_rooms_of_the_same_name():
    import metadeblur.adaptation.stages
    import metadeblur.restoration.restorer

    assert callable(metadeblur.adaptation.stages)
    assert callable(metadeblur.restoration.restorer)


@pytest.mark.parametrize("words", [["--help"], ["restore", "--help"], ["--version"]])
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

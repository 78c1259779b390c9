"""Every line of documents, help and errors that installs something is carried out, up to the installing itself.

pip and uv get the line's own words in an empty environment, with the wheel that was built in the place of the source
folder. What there is to choose from is what is installed here, or (marked long, and so each night) the package index.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from closures import bare, shelf
from installs import ROOT, VALUED, documents, lines, read, turned
from packaging.requirements import Requirement
from packaging.version import Version

from metadeblur.system.extras import PUBLISHED, how_to_install

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OTHERS = {"spandrel", "nox", "uv", "metadeblur", "opencv-contrib-python", "wandb", "mlflow"}
"""What lines install besides this package and what it asks for."""
PIP = [line for line in lines() if line.tool == "pip"]
UV = [line for line in lines() if line.tool == "uv"]
OWN = re.compile(r"(?:\.|metadeblur)(?:\[([\w,]+)\])?")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """The Python of an environment with nothing in it."""
    return bare(tmp_path_factory.mktemp("empty") / "venv")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Words that have an installer choose from what is installed here, and nothing else."""
    folder = tmp_path_factory.mktemp("here") / "shelf"
    shelf(folder)
    return ["--no-index", "--find-links", str(folder)]


@pytest.fixture(scope="module")
def uv():
    """The program uv."""
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return found or pytest.skip("uv is not installed: pip install '.[dev]'")


def from_wheel(words, wheel):
    """The words with the wheel for the source folder and for the name of the package: only a folder can be editable."""
    own = [(word, OWN.fullmatch(word)) for word in words if word != "-e"]
    return [word if found is None else f"{wheel}[{found[1]}]" if found[1] else str(wheel) for word, found in own]


def is_here(word):
    """Whether all that a word names is installed here, this package aside."""
    own = OWN.fullmatch(word)
    if own is None:
        return is_met(word)
    extras = PROJECT["optional-dependencies"]
    return all(is_met(text) for extra in (own[1] or "").split(",") for text in extras.get(extra, []))


def is_met(text):
    """Whether a requirement is met here."""
    wanted = Requirement(text)
    if wanted.marker is not None and not wanted.marker.evaluate():
        return True
    try:
        return wanted.name == "metadeblur" or Version(version(wanted.name)) in wanted.specifier
    except PackageNotFoundError:
        return False


def refused(words):
    """What an installer has against some words; empty where it would install all of it."""
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    good = done.returncode == 0 and not re.search("does not (provide|have) (the|an) extra", told)
    return "" if good else told or "failed"


def pip(python, *more):
    """Words that ask pip what it would put into an environment, whatever this machine has told it."""
    return [sys.executable, "-m", "pip", "--isolated", "--python", python, "install", "--dry-run", *more]


@pytest.mark.slow
def test_pip_finds_all_that_the_lines_install(wheel, empty, here):
    """All at once: what fits together fits alone."""
    wanted = sorted({word for line in PIP for word in line.wanted if is_here(word)})
    assert {".", ".[app]", "metadeblur[app]", ".[cluster]", ".[figures,train]", ".[hub]", ".[all]", ".[dev]"} <= {
        *wanted
    }
    assert refused([*pip(empty, *here), *from_wheel(wanted, wheel)]) == ""


@pytest.mark.parametrize("switches", sorted({line.switches for line in PIP}), ids=" ".join)
def test_pip_knows_the_switches_of_each_line(switches, wheel, empty, here):
    wanted = sorted({word for line in PIP if line.switches == switches for word in line.wanted})
    there = [word for word in wanted if OWN.fullmatch(word) or is_here(word)]
    told = refused([*pip(empty, *here), "--no-deps", *from_wheel([*switches, *(there or wanted)], wheel)])
    assert told == "" if there else "No matching distribution" in told


@pytest.mark.parametrize("line", {line.words: line for line in UV}.values(), ids=lambda line: " ".join(line.words[-3:]))
def test_uv_carries_out_each_of_its_lines(line, uv, empty, here):
    """Which builds of PyTorch there are it asks PyTorch's own index, which is left out here."""
    if not all(map(is_here, line.wanted)):
        pytest.skip(f"{line.wanted} is not installed")
    words = [
        empty if before == "--python" else word for before, word in zip(("", *line.words), line.words, strict=False)
    ]
    asked = words if "--python" in words else ["--python", empty, *words]
    assert refused([uv, "pip", "install", "--no-config", "--offline", "--dry-run", *here, *asked]) == ""


def test_wrong_lines_are_refused(wheel, uv, empty, here):
    for text in (
        "{wheel}[ap]",
        "--torch-backend cpu {wheel}",
        "-c no-such-file {wheel}",
        "torch==0.1",
        "no-such-package",
    ):
        assert refused([*pip(empty, *here), *text.format(wheel=wheel).split()]), text
    for text in ("torch --torch-backend cu1", "torch==0.1 --torch-backend cpu"):
        assert refused([uv, "pip", "install", "--offline", "--dry-run", "--python", empty, *here, *text.split()]), text


ASKED = sorted({(("-c", "constraints.txt") if "-c" in line.switches else (), line.wanted) for line in PIP})


@pytest.mark.long
@pytest.mark.parametrize(("limits", "wanted"), ASKED, ids=" ".join)
def test_the_package_index_has_what_each_line_installs(limits, wanted, wheel, uv, empty):
    """By uv, which asks only what packages say of themselves: pip would fetch gigabytes."""
    asked = [uv, "pip", "install", "--dry-run", "--python", empty]
    assert refused([*asked, *limits, *from_wheel(wanted, wheel)]) == ""


@pytest.mark.parametrize("line", lines(), ids=lambda line: f"{line.place} {' '.join(line.words)}")
def test_each_line_names_what_this_project_knows(line, metadata):
    known = {Requirement(text).name for part in PROJECT["optional-dependencies"].values() for text in part}
    known |= {Requirement(text).name for text in PROJECT["dependencies"]} | OTHERS
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for word in line.wanted:
        if own := OWN.fullmatch(word):
            assert {f"Provides-Extra: {extra}" for extra in (own[1] or "").split(",") if extra} <= set(metadata)
        else:
            assert Requirement(word).name in known
            assert "==" not in word or word in pins


def test_lines_are_found_however_they_are_written():
    text = """`pip install -q -c constraints.txt '.[dev]'`, "$bin/pip" install nox; uv pip install torch==2.13.0"""
    found = [(line.tool, line.switches, line.wanted) for line in read(text, "")]
    assert found == [
        ("pip", ("-q", "-c", "constraints.txt"), (".[dev]",)),
        ("pip", (), ("nox",)),
        ("uv", (), ("torch==2.13.0",)),
    ]
    assert {word for line in lines() for word in line.switches if word in VALUED} == VALUED


@pytest.mark.parametrize("page", documents(), ids=lambda path: path.name)
def test_documents_install_the_extras_as_they_can_be_had_now(page):
    text = page.read_text(encoding="utf-8")
    assert turned(text) == text, "run: nox -s published"
    assert turned(turned(text, published=not PUBLISHED)) == text


def test_one_switch_turns_errors_and_documents_over():
    for published in (False, True):
        line = how_to_install("app", published=published)
        assert turned("pip install '.[app]'", published=published) in line
        assert turned("pip install 'metadeblur[app]'", published=published) in line


def test_no_source_writes_such_a_line_by_itself():
    for path in (ROOT / "src").rglob("*.py"):
        if path.name != "extras.py":
            assert not re.search(r"pip install '(\.|metadeblur)\[", path.read_text(encoding="utf-8")), path

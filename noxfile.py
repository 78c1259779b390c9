"""Tasks for people who work on this project: ``nox -l`` lists them, ``nox -s fast`` runs one."""

import shutil
import sys
from pathlib import Path

import nox

CONSTRAINTS = Path("constraints.txt")

nox.options.sessions = ["fast"]
nox.options.reuse_existing_virtualenvs = True


def installed(session: nox.Session) -> None:
    """Install the package with what its tests need, in the versions that they ran with."""
    session.install("-c", "constraints.txt", "-e", ".[dev]")


@nox.session
def fast(session: nox.Session) -> None:
    """Style, types, layers, and the tests that are not slow."""
    installed(session)
    session.run("bash", "tests/run.sh", "fast", *session.posargs, external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Style, types, layers, and all tests."""
    installed(session)
    session.run("bash", "tests/run.sh", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The site of the documents, into site/."""
    session.install("-c", "constraints.txt", ".[docs]")
    session.run("python", "docs/make.py", *session.posargs)


@nox.session
def pages(session: nox.Session) -> None:
    """The pages and parts of pages that are made of the code: the tree, the table of difficult files, the cards."""
    installed(session)
    session.run("python", "tests/helpers/tree.py")
    session.run("python", "tests/helpers/cases.py")
    session.run("python", "tests/helpers/published_cards.py")


@nox.session
def api(session: nox.Session) -> None:
    """tests/project/public_api.txt anew: the public names and flags, once a change of them is decided."""
    installed(session)
    session.run("python", "tests/helpers/api.py")


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests that are not slow, with the lowest versions of all that is asked for; words go to pytest."""
    versions = Path(session.create_tmp()) / "lowest.txt"
    session.install("uv")
    asked = ["pyproject.toml", "--extra", "dev", "--python-version", f"{sys.version_info[0]}.{sys.version_info[1]}"]
    session.run("uv", "pip", "compile", "-q", "--resolution", "lowest-direct", *asked, "-o", str(versions))
    session.run("uv", "pip", "install", "-q", "-r", str(versions))
    session.run("uv", "pip", "install", "-q", "--no-deps", "-e", ".")
    session.run("python", "-m", "pytest", "-m", "not slow and not long", *session.posargs)


@nox.session
def constraints(session: nox.Session) -> None:
    """constraints.txt anew: the newest versions that the package allows. Then run all tests with them: nox -s tests."""
    session.install("uv")
    asked = ["pyproject.toml", "--extra", "dev", "--python-version", "3.11", "--no-annotate", "--no-header"]
    chosen = str(session.run("uv", "pip", "compile", "-q", *asked, silent=True))
    first = CONSTRAINTS.read_text(encoding="utf-8").splitlines()[0]
    builds = ("nvidia-", "cuda-", "triton==")  # they come with PyTorch's build for CUDA, and others with other builds
    pins = [line for line in chosen.splitlines() if "==" in line and not line.startswith(builds)]
    CONSTRAINTS.write_text("\n".join([first, *pins]) + "\n", encoding="utf-8")


@nox.session
def published(session: nox.Session) -> None:
    """Turn the documents over to the switch in src/metadeblur/system/extras.py."""
    installed(session)
    session.run("python", "tests/helpers/installs.py")


@nox.session
def release(session: nox.Session) -> None:
    """Wheel and source archive into dist/, checked, with the notes of the version beside them; nothing is uploaded."""
    installed(session)
    dist = Path("dist")
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "pytest", "tests/project/test_release.py")
    session.run("python", "-m", "hatchling", "build", "-d", str(dist))
    session.run("python", "-m", "twine", "check", "--strict", *map(str, dist.iterdir()))
    tags = str(session.run("git", "tag", "--points-at", "HEAD", external=True, silent=True) or "").split()
    notes = session.run("python", "tests/helpers/release_notes.py", *tags, silent=True)
    (dist / "NOTES.md").write_text(str(notes), encoding="utf-8")
    session.log("dist/ is ready: push the tag vVERSION of this commit, and the workflow publishes it")

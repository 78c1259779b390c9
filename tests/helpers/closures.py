"""Environments of Python that hold exactly what some requirements ask for, made of what is installed here."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement


def wanted(one: Distribution, extra: str) -> dict[str, Distribution]:
    """The distributions that one with an extra asks for, directly or not, by their plain names.

    Raises:
        PackageNotFoundError: one of them is not installed here.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(one, {"", extra})]
    while waiting:
        asking, extras = waiting.pop()
        for requirement in map(Requirement, asking.requires or []):
            if requirement.marker is not None and not any(
                requirement.marker.evaluate({"extra": each}) for each in extras
            ):
                continue
            name = re.sub(r"[-_.]+", "-", requirement.name).lower()
            other = found.setdefault(name, distribution(requirement.name))
            new = {each for each in {"", *requirement.extras} if (name, each) not in seen}
            seen |= {(name, each) for each in new}
            if new:
                waiting.append((other, new))
    return found


def link(site: Path, extra: str) -> None:
    """Link into a folder what the wheel that lies there asks for, with an extra."""
    (own,) = (Distribution.at(path) for path in site.glob("metadeblur-*.dist-info"))
    for one in wanted(own, extra).values():
        for top in {Path(str(file)).parts[0] for file in one.files or [] if not str(file).startswith(("..", "/"))}:
            place, goal = site / top, Path(str(one.locate_file(top)))
            if goal.exists() and not place.exists():
                place.symlink_to(goal, target_is_directory=goal.is_dir())


def shelf(folder: Path) -> None:
    """Wheels without content of all that is installed here: enough for pip to choose what it would install."""
    folder.mkdir()
    kind = "Wheel-Version: 1.0\nGenerator: closures\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    for one in distributions():
        if (description := one.read_text("METADATA")) and one.name != "metadeblur":
            base = f"{re.sub(r'[-_.]+', '_', one.name).lower()}-{one.version}"
            with zipfile.ZipFile(folder / f"{base}-py3-none-any.whl", "w") as archive:
                for name, text in (("METADATA", description), ("WHEEL", kind), ("RECORD", "")):
                    archive.writestr(f"{base}.dist-info/{name}", text)


def bare(folder: Path) -> Path:
    """A new environment with nothing in it, not even pip; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return next((folder / ("Scripts" if sys.platform == "win32" else "bin")).glob("python*"))


def environment(folder: Path, wheel: Path) -> Path:
    """A new environment with a wheel of this project and what it asks for; returns its Python."""
    python = bare(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = folder.rglob("site-packages")
    link(site, "")
    return python


def packages(folder: Path, wheel: Path, extra: str) -> list[str]:
    """A folder with a wheel of this project, and what it and one of its extras ask for.

    Returns:
        The words before a line of Python that runs with these packages and no others.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    link(folder, extra)
    start = f"import sys; sys.path.append({str(folder)!r}); exec(sys.argv[1])"
    return [sys.executable, "-I", "-S", "-c", start]

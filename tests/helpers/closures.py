"""Environments of Python that hold exactly what some requirements ask for, made of what is installed here."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def wanted(requirements: list[str]) -> dict[str, Distribution]:
    """The distributions that requirements ask for, directly or not, by their plain names."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        one = found.setdefault(name, distribution(requirement.name))
        for asked in {"", *requirement.extras}:
            if (name, asked) not in seen:
                seen.add((name, asked))
                waiting += [(Requirement(text), asked) for text in one.requires or []]
    return found


def environment(folder: Path, wheel: Path, extra: str) -> Path:
    """A new environment with a wheel of this project, and what it and one of its extras ask for; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    python = next(programs.glob("python*"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = folder.rglob("site-packages")
    (own,) = (Distribution.at(path) for path in site.glob("metadeblur-*.dist-info"))
    asked = [Requirement(text) for text in own.requires or []]
    chosen = [str(one) for one in asked if one.marker is None or one.marker.evaluate({"extra": extra})]
    for one in wanted([text.partition(";")[0] for text in chosen]).values():
        for path in {Path(str(file)).parts[0] for file in one.files or [] if not str(file).startswith(("..", "/"))}:
            link, goal = site / path, Path(str(one.locate_file(path)))
            if goal.exists() and not link.exists():
                link.symlink_to(goal, target_is_directory=goal.is_dir())
    return python

"""The notes of a release: the part of CHANGELOG.md about one version, once its tag and the package agree."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from metadeblur import __version__

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def notes(changelog: str, version: str) -> str:
    r"""What a changelog tells of a version.

    >>> notes("# Changelog\n\n## [1.1] - 2026-01-02\n\n- new\n\n## [1.0] - 2025-01-01\n\n- first\n", "1.1")
    '- new\n'

    Raises:
        SystemExit: it tells nothing.
    """
    found = re.search(rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE)
    if found is None or not found[1].strip():
        sys.exit(f"CHANGELOG.md has no section [{version}]; write one, with its date")
    return found[1].strip() + "\n"


def refuse_other(tags: list[str], version: str) -> None:
    """See that a commit that is tagged is tagged with the version of the package.

    Raises:
        SystemExit: it is not.
    """
    if tags and f"v{version}" not in tags:
        sys.exit(f"the commit is tagged {', '.join(tags)}, the package is {version}: change src/metadeblur/version.py")


if __name__ == "__main__":
    refuse_other(sys.argv[1:], __version__)
    print(notes(CHANGELOG.read_text(encoding="utf-8"), __version__), end="")

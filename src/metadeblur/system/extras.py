"""How an extra of this package is installed, told in one way by help, errors and documents."""

from __future__ import annotations

PUBLISHED = False  # whether package indexes have metadeblur; nox -s published turns the documents over too


def requirement(extra: str, *, published: bool = PUBLISHED) -> str:
    """What pip is to install for an extra.

    >>> requirement("app", published=False), requirement("app", published=True)
    ('.[app]', 'metadeblur[app]')
    """
    return f"{'metadeblur' if published else '.'}[{extra}]"


def how_to_install(extra: str, *, published: bool = PUBLISHED) -> str:
    """The line that installs an extra; until the package is published, the line for its source folder.

    >>> how_to_install("app", published=False)
    "pip install '.[app]' (in the source folder)"
    >>> how_to_install("app", published=True)
    "pip install 'metadeblur[app]'"
    """
    return f"pip install '{requirement(extra, published=published)}'{'' if published else ' (in the source folder)'}"

"""The tree in CONTRIBUTING is made of the code, and the places that CONTRIBUTING names are there."""

from __future__ import annotations

import re

from tree import ROOT, SOURCE, order, written


def test_the_tree_is_that_of_the_code():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert text == written(text), "run: python tests/helpers/tree.py"
    found = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found - {"__init__"} == set(order())


def test_the_places_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("## Where is what") : text.index("## Difficult files")]
    named = re.findall(r"`(\w+/[\w/]*(?:\.py)?|\w+\.py)`", table.replace("src/metadeblur/", ""))
    assert len(named) > 30
    places = [ROOT / name if name.startswith("docs") else SOURCE / name for name in named]
    assert [str(place) for place in places if not place.exists()] == []

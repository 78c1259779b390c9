"""What researchers read and copy: the short script of the page about Python, and the notebook."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import metadeblur as md

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "notebooks" / "adapt-your-network.ipynb"


def test_the_short_script_of_the_page_runs_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    section = text[text.index("## Your frames, your network") :]
    script = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    lines = [line for line in script.splitlines() if line.strip()]
    assert len(lines) <= 15
    assert not any(len(line) > 120 for line in lines)
    names = {"__name__": "script"}
    exec(compile(script, "python.md", "exec"), names)
    assert isinstance(names["sharp"], np.ndarray)
    assert names["sharp"].shape == names["frames"].shape == (12, 64, 96, 3)
    assert len(names["outcome"].history) == 40


def test_the_page_names_only_what_is_there():
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmd\.(\w+)", text))
    assert named <= {*md.__all__}, named - {*md.__all__}


@pytest.mark.slow
def test_the_notebook_runs_and_holds_no_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in book["cells"])
    names = {"__name__": "notebook"}
    for cell in cells:
        exec(compile(cell, NOTEBOOK.name, "exec"), names)
    assert len(names["losses"]) == 16
    figures = names["figures"]
    assert figures["adapted"] > figures["base"] + 1 > figures["blurred"] + 1
    assert (tmp_path / "mine.safetensors").is_file()

"""Any value as strict JSON; versions and the commit of a checkout."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from journey import names

from metadeblur.system import json_files
from metadeblur.system.json_files import plain, to_json, write_json


@dataclass(frozen=True)
class Sample:
    path: Path
    rate: Fraction
    tensor: torch.Tensor
    inner: dict


def test_a_checkout_says_its_commit_and_whether_files_differ(tmp_path, monkeypatch):
    folder = tmp_path / "checkout"
    file = folder / "src" / "metadeblur" / "system" / "json_files.py"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    monkeypatch.setattr(json_files, "__file__", str(file))
    monkeypatch.setattr(json_files, "commit", json_files.commit.__wrapped__)
    assert json_files.commit() is None
    assert "commit" not in json_files.versions()

    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        done = subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    assert json_files.versions()["commit"] == git("rev-parse", "HEAD")[:12]
    file.write_text("two")
    assert json_files.commit() == git("rev-parse", "HEAD")[:12] + "+"


def test_any_value_becomes_strict_json(tmp_path, capsys):
    sample = Sample(Path("a"), Fraction(1, 2), torch.tensor([1.0, math.inf]), {1: (np.float32(0.5), {3})})
    expected = {"path": "a", "rate": 0.5, "tensor": [1.0, None], "inner": {"1": [0.5, [3]]}}
    assert json.loads(to_json(sample)) == expected
    write_json(sample, tmp_path / "r.json")
    write_json(sample, "-")
    assert (tmp_path / "r.json").read_text() == capsys.readouterr().out
    assert names(tmp_path) == ["r.json"]


@given(st.floats())
def test_numbers_survive_to_seven_digits(value):
    kept = plain(value)
    assert (kept is None) if not math.isfinite(value) else math.isclose(kept, value, rel_tol=1e-6)

"""LPIPS, DISTS and NIQE: reported beside the others, never used to choose; pyiqa is a stand-in here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from evaluated import RESTORATION, Small

from metadeblur.cli.entry import main
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation import perceptual as module
from metadeblur.evaluation.protocol import EvaluateSettings, evaluate, read_summary
from metadeblur.evaluation.records import PERCEPTUAL

SETTINGS = EvaluateSettings(rows=("blurred", "base"), restoration=RESTORATION)


@pytest.fixture
def pyiqa(monkeypatch):
    """A stand-in: its figures are simple ones of the pictures that it is given."""
    asked = []

    def create_metric(name, device):
        asked.append((name, str(device)))

        def distance(one, other):
            assert one.shape == other.shape == (1, 3, 64, 96)
            return (one - other).abs().mean()

        def without_truth(one):
            return torch.tensor([[float(one.mean())]])

        return without_truth if name == "niqe" else distance

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric, __version__="0.0"))
    module.perceptual.cache_clear()
    yield asked
    module.perceptual.cache_clear()


def test_they_are_reported_and_change_nothing_else(clips, tmp_path, pyiqa):
    with_them = evaluate(clips, Small(), tmp_path / "with", replace(SETTINGS, perceptual=True))
    without = evaluate(clips, Small(), tmp_path / "without", SETTINGS)
    assert pyiqa == [(name, "cpu") for name in PERCEPTUAL]  # made once
    assert (with_them.psnr, with_them.ssim) == (without.psnr, without.ssim)
    assert with_them.lpips.keys() == with_them.psnr.keys()
    assert with_them.lpips["blurred"] > 0
    assert with_them.niqe["blurred"] != with_them.lpips["blurred"]
    records = [json.loads((tmp_path / name / "fast.json").read_text()) for name in ("with", "without")]
    assert set(PERCEPTUAL) <= records[0].keys()
    assert not set(PERCEPTUAL) & (
        records[1].keys() | json.loads((tmp_path / "without" / "summary.json").read_text()).keys()
    )
    assert read_summary(tmp_path / "with").dists == with_them.dists
    with pytest.raises(MetadeblurError, match="other settings"):
        evaluate(clips, Small(), tmp_path / "without", replace(SETTINGS, perceptual=True, resume=True))


def test_the_command_writes_them_into_tables(clips, tmp_path, pyiqa):
    words = [
        "evaluate",
        str(clips),
        "-o",
        str(tmp_path / "out"),
        "--rows",
        "blurred,base",
        "--perceptual",
        "--tile",
        "0",
    ]
    assert main([*words, "--device", "cpu", "--frames", "2"]) == 0
    assert "LPIPS" in (tmp_path / "out" / "index.html").read_text()
    for name in PERCEPTUAL:
        assert (tmp_path / "out" / f"{name}.md").read_text().startswith("| clip | blurred | base |")
    assert r"LPIPS $\downarrow$ & DISTS $\downarrow$ & NIQE" in (tmp_path / "out" / "paper.tex").read_text()
    assert pyiqa


@pytest.mark.usefixtures("pyiqa")
def test_what_goes_wrong_is_one_line(clips, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("cannot fetch\nits weights")

    monkeypatch.setattr(sys.modules["pyiqa"], "create_metric", refuse)
    with pytest.raises(MetadeblurError, match=r"pyiqa cannot make lpips: cannot fetch$"):
        evaluate(clips, Small(), tmp_path / "out", replace(SETTINGS, perceptual=True))
    monkeypatch.setattr(sys.modules["pyiqa"], "create_metric", lambda *_, **__: lambda *_: 1 / 0)
    with pytest.raises(MetadeblurError, match="pyiqa cannot take lpips of a frame of 96x64: division by zero"):
        evaluate(clips, Small(), tmp_path / "out", replace(SETTINGS, perceptual=True))
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert main(["evaluate", str(clips), "-o", str(tmp_path / "none"), "--perceptual"]) == 1
    told = capsys.readouterr().err
    assert "--perceptual needs the package pyiqa, which is not installed: pip install '" in told
    assert "[perceptual]'" in told
    assert not (tmp_path / "none").exists()


def test_a_package_that_does_not_start_is_one_line_too(tmp_path, monkeypatch):
    told = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "pyiqa.py").write_text(told, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    with pytest.raises(MetadeblurError, match=r"pyiqa is installed and does not start: operator .*CPU, CUDA"):
        module.describe()

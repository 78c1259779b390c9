"""Evaluation: every row measured by the same rule, records that resume, refusals that name what is wrong."""

import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from metadeblur.adapt import AdaptSettings
from metadeblur.data.layouts import plain_clips
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation import protocol
from metadeblur.evaluation.protocol import EvaluateSettings, evaluate, read_paired, summarize
from metadeblur.evaluation.tables import markdown, table
from metadeblur.metrics import psnr

SETTINGS = EvaluateSettings(adaptation=AdaptSettings(pairs=2, steps=2, patch=48, batch=2, precision="fp32"))


class Small(nn.Module):
    """Sharpens a little, and can learn."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
        self.conv.weight.data = torch.tensor([[0, -0.1, 0], [-0.1, 0.4, -0.1], [0, -0.1, 0]]).expand(3, 1, 3, 3).clone()

    def forward(self, x):
        return x + self.conv(x)


@pytest.fixture
def clips(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    texture = cv2.resize(coarse, (200, 120), interpolation=cv2.INTER_CUBIC)
    for name, speed in (("slow", 2), ("fast", 9)):
        for index in range(6):
            left = index * speed
            moments = [texture[10:74, left + k : left + k + 96] for k in range(speed if index % 2 else 1)]
            for side, frame in (("blur", np.mean(moments, axis=0)), ("sharp", moments[len(moments) // 2])):
                folder = tmp_path / "clips" / name / side
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{index:03d}.png"), frame.astype(np.uint8))
    return tmp_path / "clips"


def test_records_and_summary_hold_every_row(clips, tmp_path):
    summary = evaluate(clips, Small(), tmp_path / "out", SETTINGS, model="small")
    record = json.loads((tmp_path / "out" / "fast.json").read_text())
    rows = {"blurred", "base", "adapted", "adapted_unguarded", "oracle"}
    assert set(record["psnr"]) == set(record["ssim"]) == rows
    assert record["clip"] == "fast"
    assert 0 <= record["share"] <= 1
    pair = read_paired(plain_clips(clips)[0])
    by_hand = np.mean([float(psnr(one, other)) for one, other in zip(pair.blurred, pair.sharp, strict=True)])
    assert record["psnr"]["blurred"] == pytest.approx(by_hand, abs=1e-4)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["psnr"] == summary["psnr"]
    assert summary["psnr"]["base"] == pytest.approx(
        np.mean([json.loads((tmp_path / "out" / f"{n}.json").read_text())["psnr"]["base"] for n in ("fast", "slow")])
    )


def test_clips_can_be_reported_apart(clips, tmp_path):
    settings = EvaluateSettings(rows=("blurred", "base"), apart=("fast",))
    summary = evaluate(clips, Small(), tmp_path / "out", settings)
    records = [json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("fast", "slow")]
    assert summary["apart"]["psnr"] == records[0]["psnr"]
    assert summary["others"]["psnr"] == records[1]["psnr"]
    text = markdown(table(records, summary))
    assert "mean of fast" in text
    assert f"{records[0]['psnr']['base']:.2f}" in text
    with pytest.raises(MetadeblurError, match="no clip 'quick'"):
        evaluate(clips, Small(), tmp_path / "out", EvaluateSettings(apart=("quick",)))


def test_a_killed_evaluation_goes_on_and_gives_the_same_tables(clips, tmp_path, monkeypatch):
    settings = EvaluateSettings(rows=("blurred", "base"))
    whole = evaluate(clips, Small(), tmp_path / "whole", settings)
    one, measured = protocol.evaluate_clip, []

    def killed_at_the_second(clip, *arguments, **keywords):
        measured.append(clip.name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return one(clip, *arguments, **keywords)

    monkeypatch.setattr(protocol, "evaluate_clip", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(clips, Small(), tmp_path / "parts", settings)
    resumed = EvaluateSettings(rows=("blurred", "base"), resume=True)
    parts = evaluate(clips, Small(), tmp_path / "parts", resumed)
    assert measured == ["fast", "slow", "slow"]
    assert parts["psnr"] == whole["psnr"]
    other = EvaluateSettings(rows=("blurred",), resume=True)
    with pytest.raises(MetadeblurError, match="other settings"):
        evaluate(clips, Small(), tmp_path / "parts", other)


def test_oracle_learns_from_the_truth(clips):
    clip = read_paired(plain_clips(clips)[0])
    settings = AdaptSettings(pairs=8, steps=40, patch=48, lr=1e-2, precision="fp32")
    oracle = protocol.fit_oracle(Small(), clip, settings, 48)
    scores = [protocol._score(protocol._restored(net, clip.blurred, SETTINGS), clip.sharp) for net in (Small(), oracle)]
    assert scores[1]["psnr"] > scores[0]["psnr"]


def test_summary_counts_harm():
    def record(base, adapted):
        return {"psnr": {"base": base, "adapted": adapted, "oracle": base + 1}, "ssim": {}}

    summary = summarize([record(25, 25.5), record(25, 24.9), record(25, 24.96)])
    assert summary["harm_rate"] == pytest.approx(1 / 3)
    assert summary["gain"] == pytest.approx(0.36 / 3)
    assert summary["oracle_ratio"] == pytest.approx(0.12)


def test_unknown_rows_are_refused():
    with pytest.raises(MetadeblurError, match="no row 'best'"):
        EvaluateSettings(rows=("blurred", "best"))


def test_frames_of_different_sizes_are_refused(clips, tmp_path):
    for side in ("blur", "sharp"):
        cv2.imwrite(str(clips / "fast" / side / "000.png"), np.zeros((64, 80, 3), np.uint8))
    with pytest.raises(MetadeblurError, match="fast: frames of different sizes"):
        evaluate(clips, Small(), tmp_path / "out", SETTINGS)

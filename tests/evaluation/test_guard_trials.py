"""The guard on trial: adaptations that are spoilt as they claim to be, counted as they turned out."""

import pytest
import torch
from evaluated import Small, write_clip
from scenes import scene

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.data.layouts import open_benchmark
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation import guard_trials as trial
from metadeblur.evaluation.guard_trials import KINDS, spoilt, trial_table, verdict
from metadeblur.evaluation.records import GuardRecord
from metadeblur.restoration.restorer import RestoreSettings

SETTINGS = AdaptSettings(pairs=3, steps=2, patch=48, batch=2, precision="fp32", device="cpu")


def test_each_kind_is_spoilt_as_it_says():
    clip, _ = scene(quiet=False)
    other, _ = scene(speed=4)
    outcomes = {kind: spoilt(kind, Small(), clip, other, SETTINGS) for kind in KINDS}
    honest = outcomes["honest"]
    assert outcomes["rate"].history[0]["loss"] == honest.history[0]["loss"]
    start = Small().conv.weight.detach()
    moved = [outcomes[kind].adapted.conv.weight.sub(start).abs().mean().item() for kind in ("rate", "honest")]
    assert moved[0] > 20 * moved[1]
    cast = torch.stack([pair.centre - pair.sharp for pair in outcomes["colour"].pairs]).mean((0, 2, 3))
    assert cast == pytest.approx([8 / 255, 0, -8 / 255], abs=3e-3)
    elsewhere = outcomes["other clip"].pairs[0].sharp
    assert any(torch.equal(elsewhere, patch) for patch in _patches(other, 48))
    assert not any(torch.equal(elsewhere, patch) for patch in _patches(clip, 48))
    fields = [outcomes[kind].reblurrer.clip_motion.field(3).velocity for kind in ("honest", "direction")]
    across, down = ([float(abs(field[..., axis]).mean()) for axis in (0, 1)] for field in fields)
    assert across[0] > 5 * across[1]  # a pan to the side
    assert down[1] > 5 * down[0]  # turned
    with pytest.raises(MetadeblurError, match="kind 'evil'"):
        spoilt("evil", Small(), clip, other, SETTINGS)


def _patches(clip, side):
    for frame in clip:
        for top in range(clip.height - side + 1):
            for left in range(clip.width - side + 1):
                yield frame[:, top : top + side, left : left + side]


def test_the_trial_measures_and_goes_on_where_it_was(tmp_path, monkeypatch):
    for name, speed in (("a", 3), ("b", 7)):
        write_clip(tmp_path / "clips" / name, speed)
    benchmark = open_benchmark(tmp_path / "clips")
    arguments = {"kinds": ("honest", "rate"), "settings": SETTINGS, "restoration": RestoreSettings(precision="fp32")}
    records = trial.guard_trial(benchmark, Small(), tmp_path / "out", **arguments)
    assert [(record.clip, record.kind, record.seed) for record in records] == [
        ("a", "rate", 0),
        ("a", "honest", 0),
        ("b", "rate", 0),
        ("b", "honest", 0),
    ]
    for record in records:
        if record.share == 0:
            assert record.guarded == record.base
        if record.share == 1:
            assert record.guarded == record.whole
        assert record.reasons
    monkeypatch.setattr(trial, "spoilt", None)  # nothing is adapted again
    assert trial.guard_trial(benchmark, Small(), tmp_path / "out", **arguments) == records
    other = {**arguments, "settings": AdaptSettings(pairs=2)}
    with pytest.raises(MetadeblurError, match="other settings"):
        trial.guard_trial(benchmark, Small(), tmp_path / "out", **other)


def test_the_verdict_counts_what_happened():
    def record(kind, whole, guarded, share):
        return GuardRecord("a", kind, 0, 25.0, {}, whole, guarded, share, ())

    records = [
        record("honest", 26.0, 26.0, 1.0),
        record("honest", 25.5, 25.0, 0.0),
        record("honest", 24.98, 24.98, 1.0),  # within what does not count as harm
        record("rate", 20.0, 25.0, 0.0),
        record("rate", 24.0, 24.97, 0.25),
        record("colour", 24.0, 24.5, 0.5),
    ]
    counts = verdict(records)
    assert (counts.adaptations, counts.losing) == (6, 3)
    assert counts.rejected == pytest.approx(2 / 3)
    assert counts.dropped == pytest.approx(1 / 3)
    assert counts.kept == pytest.approx(1.0 / 1.5)
    assert counts.harm == pytest.approx(1 / 6)
    table = trial_table(records)
    assert [line[0] for line in table[1:]] == ["honest", "colour", "rate", "all"]
    assert table[-1][1:] == ["6", "-0.92", "+0.07", "3", "67 %", "33 %", "67 %"]
    assert verdict([]).rejected is None

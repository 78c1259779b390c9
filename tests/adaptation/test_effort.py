"""How much is spent on a clip: quick learns no weights, and is fused and corrected under the guard's votes."""

from __future__ import annotations

import json

import pytest
import torch
from journey import names, run, shaky_video, small_model

import metadeblur.adaptation.stages as stages
from metadeblur import adapt, load_deblurrer
from metadeblur.adaptation.budget import GuardPlan
from metadeblur.adaptation.settings import preset
from metadeblur.errors import MetadeblurError
from metadeblur.guard.votes import GuardSettings
from metadeblur.models.adapted import fusion_of
from metadeblur.pipeline.demo import DemoSettings, shaky_clip
from metadeblur.restoration.clips import restore


@pytest.fixture(scope="module")
def clip():
    return shaky_clip(DemoSettings(frames=12, width=192, height=144))


@pytest.fixture(scope="module")
def base():
    return load_deblurrer("lite")


def test_efforts_are_presets():
    steps = [preset(name).steps for name in ("quick", "balanced", "best")]
    assert steps[0] == 0 < steps[1] < steps[2]
    assert preset("balanced") == preset("flow")
    with pytest.raises(MetadeblurError, match=r"'fast' is not known; allowed: .*quick.*best"):
        preset("fast")


def test_quick_learns_no_weights_and_helps(clip, base):
    outcome = adapt(base, clip.blurred, effort="quick")
    assert outcome.adapted is None
    assert outcome.share == 0
    assert outcome.history == [] == outcome.pairs
    assert outcome.reasons
    assert all(reason.name.startswith(("fusion", "back-projection")) for reason in outcome.reasons)
    assert outcome.fused
    weights = base.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in outcome.model.state_dict().items())

    def error(net):
        pairs = zip(restore(net, clip.blurred), clip.sharp, strict=True)
        return sum(float((one - other).square().mean()) for one, other in pairs)

    assert error(outcome.model) < error(base)


def test_quick_without_votes_or_fusing(clip, base):
    unchecked = adapt(base, clip.blurred, effort="quick", guard=False)
    assert unchecked.fused
    assert unchecked.reasons == ()
    alone = adapt(base, clip.blurred, effort="quick", fuse=False)
    assert fusion_of(alone.model) is None
    assert alone.reasons == ()


def test_a_budget_too_small_to_learn_in_is_quick(clip, base):
    outcome = adapt(base, clip.blurred, budget_seconds=0.01)
    assert outcome.adapted is None
    assert outcome.history == []
    assert (outcome.reasons[0].name, outcome.reasons[0].passed) == ("time", False)
    assert outcome.reasons[0].text.startswith("nothing learnt in this time: learning and judging would take")
    assert all(reason.name.startswith(("fusion", "back-projection")) for reason in outcome.reasons[1:])
    assert outcome.fused


def test_time_that_is_over_after_a_step_or_two_is_quick(clip, base, monkeypatch):
    step = {"step": 0, "loss": 0.1, "seconds": 900.0}
    monkeypatch.setattr(stages, "inner_update", lambda net, *_, **__: (net, [step], None))
    outcome = adapt(base, clip.blurred, budget_seconds=1000.0, pairs=4, blurs=1)
    assert outcome.adapted is None
    assert outcome.share == 0
    assert outcome.history == []
    assert outcome.reasons[0].text == "nothing learnt in this time: it was over after 1 gradient step, of 8 at least"
    assert outcome.fused
    few = adapt(base, clip.blurred, budget_seconds=1000.0, pairs=4, blurs=1, steps=1)  # no more were wanted
    assert few.reasons[0].name != "time"


def test_the_guard_looks_at_less_where_there_is_less_time():
    plans = [GuardPlan.within(seconds, 0.5, 120_000, 192**2, fuse=True) for seconds in (0, 6, 12, 25, 1e9)]
    needs = [plan.fusing for plan in plans]
    assert needs == sorted(needs)
    assert needs[1:-1] <= [6, 12, 25]
    assert plans[-1].settings.fusion_radius == GuardSettings().fusion_radius
    assert plans[-1].judging(10) > plans[-1].judging(1) > plans[0].judging(1) > 0
    assert GuardPlan.within(0, 0.5, 120_000, 192**2, fuse=False).fusing == 0


def test_the_commands_take_an_effort(tmp_path, capsys):
    video, model = shaky_video(tmp_path / "a.mp4", (8,)), small_model(tmp_path / "m.safetensors")
    record = tmp_path / "a.json"
    words = ("--model", model, "--effort", "quick")
    assert run("restore", video, "-o", tmp_path / "b.mp4", "--json", record, *words) == 0
    (shot,) = json.loads(record.read_text())["shots"]
    assert (shot["outcome"], shot["adapted"], shot["losses"]) == ("base", False, [])
    assert "Quick: nothing was learnt from the clip." in capsys.readouterr().err
    assert run("adapt", video, "-o", tmp_path / "w.safetensors", *words) == 0
    assert "the base weights" in capsys.readouterr().err
    assert "w.safetensors" in names(tmp_path)
    assert run("restore", video, "-o", tmp_path / "c.mp4", "--effort", "fast") == 2
    assert "quick" in capsys.readouterr().err

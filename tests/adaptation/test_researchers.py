"""Adaptation for researchers: callbacks, optimisers, several clips, a cheap guard, what is said and shown."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_networks import Residual as Small
from small_networks import moving_clip

import metadeblur as md
from metadeblur.adaptation import stages
from metadeblur.models.weights import parameters_digest

QUICK = {"pairs": 2, "steps": 4, "patch": 32, "precision": "fp32", "seed": 0}


@pytest.fixture(scope="module")
def clip():
    return moving_clip()


@pytest.fixture(scope="module")
def judged(clip):
    """An outcome with the guard's votes."""
    return md.adapt(Small(), clip, **QUICK)


# --- callback and optimiser ----------------------------------------------------------------------------------------


def test_the_callback_sees_every_step_and_the_network(clip):
    seen = []

    def watch(step, loss, model):
        seen.append((step, loss, parameters_digest(model)))

    net = Small()
    outcome = md.adapt(net, clip, **QUICK, guard=False, callback=watch)
    assert [(step, loss) for step, loss, _ in seen] == [(row["step"], row["loss"]) for row in outcome.history]
    assert len({digest for _, _, digest in seen} | {parameters_digest(net)}) == 5
    plain = md.adapt(net, clip, **QUICK, guard=False)
    assert parameters_digest(plain.model) == parameters_digest(outcome.model)


@pytest.mark.parametrize("guard", [True, False])
def test_the_callback_ends_the_steps(clip, guard):
    outcome = md.adapt(Small(), clip, **QUICK, guard=guard, callback=lambda step, *_: step == 1)
    assert len(outcome.history) == 2
    assert outcome.adapted is not None


def test_a_callback_that_ends_early_is_no_lack_of_time(clip):
    settings = {**QUICK, "steps": 40, "budget_seconds": 600.0}
    outcome = md.adapt(Small(), clip, **settings, callback=lambda step, *_: step == 1)
    assert len(outcome.history) == 2
    assert not [reason for reason in outcome.reasons if reason.name == "time"]


def test_errors_of_a_callback_are_its_own(clip):
    def fail(*_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        md.adapt(Small(), clip, **QUICK, callback=fail)


def test_an_optimiser_of_ones_own(clip):
    net, made = Small(), []

    def sgd(parameters):
        made.append(torch.optim.SGD(parameters, lr=0.1))
        return made[0]

    outcome = md.adapt(net, clip, **{**QUICK, "average": 0.0}, guard=False, optimizer=sgd)
    usual = md.adapt(net, clip, **{**QUICK, "average": 0.0}, guard=False)
    assert len(made) == 1
    assert parameters_digest(outcome.model) != parameters_digest(usual.model)
    adam = md.adapt(
        net, clip, **{**QUICK, "average": 0.0}, guard=False, optimizer=lambda these: torch.optim.Adam(these, lr=2.2e-4)
    )
    assert parameters_digest(adam.model) == parameters_digest(usual.model)


MINE = Small()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"optimizer": lambda _: torch.optim.SGD(MINE.parameters(), lr=1e-3)}, "a copy of the network is adapted"),
        ({"optimizer": lambda _: None}, "optimizer gave a NoneType"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS"),
        ({"optimizer": torch.optim.SGD(MINE.parameters(), lr=1e-3)}, "optimizer is SGD.*give a function"),
        ({"optimizer": torch.optim.Adam, "lr": 1e-3}, "lr is for the built-in Adam"),
        ({"optimizer": torch.optim.Adam, "settings": stages.preset("release")}, "preset release is for the built-in"),
        ({"callback": 3}, "callback is 3; give a function"),
        ({"progress": True}, "progress is True; give a function"),
        ({"loss": "l1"}, "loss is 'l1'; give a function"),
    ],
)
def test_what_cannot_be_called_or_does_not_fit_is_refused(clip, how, said):
    with pytest.raises(md.MetadeblurError, match=said):
        md.adapt(MINE, clip, **({} if "settings" in how else {**QUICK}) | how)


# --- several clips -------------------------------------------------------------------------------------------------


def test_several_clips_are_learnt_from_together(clip):
    other = md.Clip(clip.frames.flip(-1))
    outcomes = md.adapt(Small(), [clip, other], **QUICK, guard=False)
    assert isinstance(outcomes, list)
    assert len(outcomes) == 2
    assert parameters_digest(outcomes[0].adapted) == parameters_digest(outcomes[1].adapted)
    assert outcomes[0].history == outcomes[1].history
    assert len(outcomes[0].history) == QUICK["steps"]
    assert [len(outcome.support.train) for outcome in outcomes] == [2, 2]
    assert not torch.equal(outcomes[0].pairs[0].sharp, outcomes[1].pairs[0].sharp)
    alone = md.adapt(Small(), clip, **QUICK, guard=False)
    assert parameters_digest(alone.adapted) != parameters_digest(outcomes[0].adapted)  # the other clip taught too


def test_one_clip_in_a_list_is_as_one_clip(clip):
    (listed,) = md.adapt(Small(), [clip], **QUICK, guard=False)
    assert parameters_digest(listed.model) == parameters_digest(md.adapt(Small(), clip, **QUICK, guard=False).model)


def test_the_guard_judges_each_clip(clip):
    frames = (clip.frames.movedim(1, -1).numpy() * 255).astype(np.uint8)
    short, smaller = frames[:3], frames[:, :48, :56]
    outcomes = md.adapt(Small(), [short, frames, smaller], **QUICK)
    assert outcomes[0].share == 0
    assert outcomes[0].reasons[0].name == "length"
    assert all(outcome.reasons and outcome.history for outcome in outcomes[1:])
    assert {outcome.support.patch for outcome in outcomes[1:]} == {32}
    assert [outcome.excerpt.height for outcome in outcomes] == [64, 64, 48]


def test_frames_with_an_axis_of_their_own_are_no_clips(clip):
    with pytest.raises(md.MetadeblurError, match=r"7 clips of one frame each: .*torch.cat\(frames\)"):
        md.adapt(Small(), [frame[None] for frame in clip], **QUICK)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"budget_seconds": 5.0}, "budget_seconds is for one clip"),
        ({"settings": stages.preset("release")}, "preset release is for one clip"),
    ],
)
def test_what_belongs_to_one_clip_is_refused_for_several(clip, how, said):
    with pytest.raises(md.MetadeblurError, match=said):
        md.adapt(Small(), [clip, clip], **how)


# --- a cheap guard -------------------------------------------------------------------------------------------------


def test_the_cheap_guard_asks_less_and_learns_the_same(clip, monkeypatch):
    asked = []

    def judge(*given, **named):
        asked.append((len(given[3]), named["settings"]))
        return real(*given, **named)

    real = stages.judge
    monkeypatch.setattr(stages, "judge", judge)
    settings = {**QUICK, "pairs": 12}
    usual, cheap = (md.adapt(Small(), clip, **settings, guard=guard) for guard in (True, "cheap"))
    assert asked[0] == (3, None)
    assert asked[1] == (2, stages.CHEAP)
    assert (stages.CHEAP.spots, stages.CHEAP.shares) == (1, (1.0, 0.5))
    assert parameters_digest(usual.adapted) == parameters_digest(cheap.adapted)
    assert {reason.name for reason in cheap.reasons} >= {"held-out pairs"}
    assert cheap.share in (0, 0.5, 1)


def test_other_guards_are_refused(clip):
    with pytest.raises(md.MetadeblurError, match=r"guard is 'cheep'; give true or false or cheap.*did you mean cheap"):
        md.adapt(Small(), clip, guard="cheep")


# --- misspelt settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda clip: md.adapt(Small(), clip, step=3), "steps"),
        (lambda clip: md.adapt(Small(), clip, efort="quick"), "effort"),
        (lambda clip: md.adapt(Small(), clip, calback=print), "callback"),
        (lambda clip: md.adapt(Small(), clip, effort="balancd"), "balanced"),
        (lambda clip: md.adapt(Small(), clip, parameters="low-rnk"), "low-rank"),
        (lambda clip: md.restore(Small(), clip, tiles=64), "tile"),
        (lambda _: md.AdaptSettings(pair=3), "pairs"),
        (lambda _: md.AdaptSettings().changed(sed=3), "seed"),
        (lambda _: md.RestoreSettings(overlapp=3), "overlap"),
        (lambda _: md.EncodeSettings(kodec="h264"), "codec"),
        (lambda _: md.EncodeSettings(codec="h256"), "h265"),
        (lambda _: md.load_deblurrer("lit"), "lite"),
        (lambda _: md.load_deblurrer("NAFNet32"), "nafnet-32"),
        (lambda _: md.restore_video("shaky.mp4", efort="quick"), "effort"),
        (lambda _: md.restore_video("shaky.mp4", tille=64), "tile"),
        (lambda _: md.restore_video("shaky.mp4", effort="bst"), "best"),
    ],
)
def test_did_you_mean(clip, call, meant):
    with pytest.raises(md.MetadeblurError, match=rf"did you mean {meant}\?"):
        call(clip)


def test_every_class_of_settings_says_what_was_meant():
    from metadeblur.data.settings import SynthSettings
    from metadeblur.evaluation import EvaluateSettings
    from metadeblur.guard import GuardSettings
    from metadeblur.models import FusionSettings
    from metadeblur.pipeline.run import RunSettings
    from metadeblur.reblur import CriticSettings, FlowSettings, ReblurUpdates
    from metadeblur.training import DeblurTraining, LoopSettings, MetaTraining, ReblurTraining

    kinds = [SynthSettings, EvaluateSettings, GuardSettings, FusionSettings, RunSettings, CriticSettings, FlowSettings]
    for kind in [*kinds, ReblurUpdates, DeblurTraining, LoopSettings, MetaTraining, ReblurTraining]:
        name = next(iter(kind.__dataclass_fields__))
        with pytest.raises(md.MetadeblurError, match=rf"{kind.__name__} has no setting .*did you mean {name}\?"):
            kind(**{f"{name}x": 1})
        with pytest.raises(TypeError):  # to who expects Python's own error
            kind(**{f"{name}x": 1})


def test_settings_without_a_likeness_are_listed():
    with pytest.raises(md.MetadeblurError, match="there are tile, overlap, precision, device"):
        md.RestoreSettings(zzz=1)


# --- what is said and shown ----------------------------------------------------------------------------------------


def test_it_says_what_it_does_to_the_log(clip, caplog):
    with caplog.at_level(logging.DEBUG, logger="metadeblur"):
        outcome = md.adapt(Small(), clip, **QUICK)
        md.restore(outcome.model, clip)
    said = [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name.startswith("metadeblur")
    ]
    assert ("INFO", f"clip: {outcome}") in said
    assert ("INFO", "clip: learning from 2 places of 32 px") in said
    assert sum("step" in text for level, text in said if level == "DEBUG") >= 4
    assert any("frames restored" in text for _, text in said)


def test_it_is_silent_by_default():
    code = (
        "import logging, numpy as np, metadeblur as md, torch\n"
        "net = torch.nn.Conv2d(3, 3, 3, padding=1)\n"
        "frames = np.random.default_rng(0).random((6, 40, 48, 3))\n"
        "md.restore(md.adapt(net, frames, steps=1, pairs=1).model, frames)\n"
        "assert logging.getLogger('metadeblur').handlers\n"
    )
    # PyTorch 2.6 leaves a temporary folder of its own to the end of the program.
    strict = ["-W", "error", "-W", "ignore:Implicitly cleaning up:ResourceWarning"]
    done = subprocess.run([sys.executable, *strict, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_outcomes_are_shown_in_short(judged, clip):
    shown = repr(judged)
    assert shown.startswith(f"Outcome(share={judged.share:g}, ")
    assert "4 steps, loss " in shown
    assert shown.endswith("checks passed)")
    assert len(shown) < 160
    assert repr(judged.pairs[0]) == "Pair(blurred (3, 32, 32), sharp (3, 32, 32))"
    short = md.adapt(Small(), clip.part(0, 3))
    assert repr(short) == "Outcome(share=0, fused=False, back_projected=False, 0 of 1 checks passed)"


def test_a_notebook_shows_before_and_after(judged, clip):
    for outcome in (judged, md.adapt(Small(), clip.part(0, 3)), md.adapt(Small(), clip, effort="quick", seed=0)):
        page = outcome._repr_html_()
        assert page.count("data:image/png;base64,") == 2
        assert page.index("before") < page.index("after")
        assert f"of {len(outcome.reasons)} checks passed" in page
        assert all(reason.name in page for reason in outcome.reasons)
        assert "<script" not in page
        assert "http" not in page
        assert len(page) < 1_000_000


def test_an_outcome_goes_to_another_process(judged):
    again = pickle.loads(pickle.dumps(judged))
    assert again.share == judged.share
    assert repr(again) == repr(judged)

"""How long a run takes: ranges, corrections, and what is counted of an adaptation; on a clock that the tests turn."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from listening import Lines
from torch import nn

import metadeblur.pipeline.time_left as forecast
from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.models.adapted import FusionSettings
from metadeblur.pipeline.events import FrameRestored, Position, ShotDecided, ShotStarted, StepDone, TimeLeft
from metadeblur.pipeline.time_left import (
    Costs,
    Forecast,
    Work,
    expected,
    fusing,
    range_in_words,
    rough_costs,
    step_seconds,
    too_short,
    tried_costs,
)

NOTHING = (0.0, 0.0)
RECORDED = json.loads((Path(__file__).parent / "recorded_runs.json").read_text())
"""Runs with one thread on a processor with AVX2, in seconds of the processor: what was measured before, and when what
happened."""


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is turned: ``clock(seconds)``."""
    now = [1000.0]
    monkeypatch.setattr(forecast.time, "monotonic", lambda: now[0])

    def turn(seconds):
        now[0] += seconds

    return turn


def frames(count, cost):
    return Forecast(Lines(), Work(frame=count), Costs(NOTHING, NOTHING, NOTHING, cost))


counts = st.integers(0, 1000)
seconds = st.floats(0, 100)


@given(st.builds(Work, counts, counts, counts, counts), seconds, st.integers(1, 10**7), seconds)
def test_more_work_never_takes_less(work, frame_seconds, area, budget):
    costs = rough_costs(frame_seconds, AdaptSettings(), area)
    low, high = expected(work, costs, budget)
    assert 0 <= low <= high
    for kind in ("fit", "step", "guard", "frame"):
        more = expected(work.less(**{kind: -1}), costs, budget)
        assert more[0] >= low
        assert more[1] >= high


@pytest.mark.parametrize("area", [320 * 180, 640 * 360, 1280 * 720, 3840 * 2160])
def test_frames_that_are_fused_are_expected_to_take_longer(area):
    fused, alone = (rough_costs(0.1, AdaptSettings(fuse=fuse), area).frame for fuse in (True, False))
    assert alone == (0.1, pytest.approx(0.13))
    assert fused[0] > alone[0]
    assert fused[1] - alone[1] >= 1.3 * (fused[0] - alone[0])


def test_a_run_at_the_pace_that_was_announced_is_not_announced_again(clock):
    run = frames(1000, (0.1, 0.2))
    run.announce()
    for _ in range(1000):
        clock(0.15)
        run.done("frame", 0.15)
    assert run._listener.lines == ["expected time: 1 min 40 s to 3 min 20 s (0.1 to 0.2 s a frame for 1000 frames)"]
    assert run.work == Work()


@pytest.mark.parametrize(("pace", "said"), [(1.0, "slower"), (0.02, "faster")])
def test_another_pace_is_said_once(clock, pace, said):
    run = frames(1000, (0.1, 0.2))
    run.announce()
    for _ in range(1000):
        clock(pace)
        run.done("frame", pace)
    assert len(run._listener.lines) == 2
    assert run._listener.lines[1].startswith(f"{said} than expected: ")
    assert run._listener.lines[1].endswith(" are left")


def test_a_machine_that_is_busy_for_a_while_is_not_told_of_again_and_again(clock):
    run = frames(300, (0.1, 0.2))
    run.announce()
    for number in range(300):
        pace = 30.0 if number < 4 else 0.15
        clock(pace)
        run.done("frame", pace)
    assert len(run._listener.lines) <= 5
    assert run.left()[1] == 0


def test_a_corrected_range_holds_what_is_left(clock):
    run = frames(500, (0.1, 0.2))
    run.announce()
    said_after = None
    for number in range(500):
        clock(0.8)
        run.done("frame", 0.8)
        if len(run._listener.lines) == 2 and said_after is None:
            said_after, (low, high) = number + 1, run.left()
    assert low < (500 - said_after) * 0.8 < high
    assert said_after * 0.8 <= 15


def test_a_short_run_is_announced_only_once_it_turns_out_to_be_long(clock):
    run = frames(20, (0.1, 0.2))
    run.announce()
    assert run._listener.lines == []
    for _ in range(19):
        clock(4)
        run.done("frame", 4)
    assert len(run._listener.lines) == 1
    assert run._listener.lines[0].startswith("slower than expected: ")


def test_an_adaptation_tells_what_its_pieces_took(clock):
    run = Forecast(Lines(), Work(fit=2, step=80, guard=2, frame=10), Costs((1, 9), (1, 9), (1, 9), (1, 2)))
    at = Position(0, 2, 0, 10)
    run(ShotStarted(at, True, 40))
    clock(50)
    run(StepDone(at, "fit the reblurrer", 1, 5))
    for step in range(40):
        run(StepDone(at, "adapt", step + 1, 40))
        clock(2)
    run(ShotDecided(at, untouched=False, length=5))
    assert run.work == Work(fit=1, step=40, guard=1, frame=10)
    assert run.costs.step[0] < 2 < run.costs.step[1] < 3
    assert run.costs.fit[0] < 50 < run.costs.fit[1]
    assert run.costs.guard[0] <= 2 <= run.costs.guard[1]
    run(ShotStarted(at, True, 40))
    run(StepDone(at, "adapt", 1, 30))  # another number of steps than was thought
    assert run.work.step == 29
    run(ShotDecided(at, untouched=False, length=5))  # and it ended early
    assert run.work == Work(frame=10)
    three = Forecast(Lines(), Work(fit=1, step=40, guard=1, frame=9), run.costs)
    three(ShotStarted(at, True, 40))
    three(ShotDecided(at, untouched=True, length=6))  # a shot that was sharp already
    assert three.work == Work(frame=3)
    three(ShotStarted(at, False, 0))  # one that is too short to adapt to
    three(ShotDecided(at, untouched=False, length=3))
    for _ in range(3):
        three(FrameRestored(at, 0.1, None))
        three(FrameRestored(at, None, None))  # a frame that passes as it is
    assert three.work == Work()


def test_a_gradient_step_is_timed_for_any_network_and_changes_nothing():
    class Video(nn.Module):
        frames = 3

        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(9, 3, 1)

        def forward(self, x):
            return self.inner(x.flatten(1, 2))

    settings = AdaptSettings(patch=48, device="cpu", precision="fp32")
    for net in (Video(), nn.Conv2d(3, 3, 1), nn.Identity()):
        before = [weight.clone() for weight in net.parameters()]
        assert 0 < step_seconds(net, settings, 40, 60) < 60
        assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, net.parameters(), strict=True))


@given(st.floats(0.1, 1e5), st.floats(1, 10))
def test_ranges_are_short_and_have_units(low, factor):
    said = range_in_words(low, low * factor)
    assert said.count(" to ") <= 1
    assert said.split()[-1] in ("s", "min", "h")


# --- recorded runs once more ---------------------------------------------------------------------------------------


def replayed(run, clock, pace=lambda _: 1.0):
    """What is announced of a recorded run, each with the seconds since its beginning; and when it ends.

    ``pace`` says for a moment of the recording how many times slower the machine is then.
    """
    settings, now, told = replace(AdaptSettings(), **run["settings"]), 0.0, []
    rough = rough_costs(run["network"], settings, run["area"])
    costs = tried_costs(rough, run["frame"], run["step"], fusing(settings, run["area"]))
    wait = FusionSettings().radius + 1
    forecast = Forecast(lambda event: told.append((now, event)), Work(**run["work"]), costs, wait=wait)
    forecast.announce()
    before, at = 0.0, Position(0, 1, 0, run["work"]["frame"])
    for moment, kind, *values in run["events"]:
        spent = (moment - before) * pace(moment)
        before, now = moment, now + spent
        clock(spent)
        if kind == "shot":
            forecast(ShotStarted(at, *values))
        elif kind == "step":
            forecast(StepDone(at, "adapt", *values))
        elif kind == "decided":
            forecast(ShotDecided(at, *values))
        elif kind == "frame":
            at = replace(at, frames_done=at.frames_done + 1)
            forecast(FrameRestored(at, spent, None))
    return told, now


def name_of(run):
    return f"{run['clip']}, {run['effort']}"


@pytest.mark.parametrize("run", RECORDED, ids=name_of)
@pytest.mark.parametrize("slower", [1.0, 1.2])
def test_the_time_told_is_within_half_of_the_truth(run, clock, slower):
    told, end = replayed(run, clock, lambda _: slower)  # than it was when it was measured
    assert told
    for moment, event in told:
        assert (end - moment) / 1.5 <= (event.least + event.most) / 2 <= 1.5 * (end - moment)
        if slower == 1:
            assert (end - moment) / 1.5 <= event.least <= event.most <= 1.5 * (end - moment)


@pytest.mark.parametrize("run", RECORDED, ids=name_of)
@pytest.mark.parametrize("busy", [(0.2, 0.4, 4.0), (0.1, 0.9, 3.0), (0.5, 0.7, 8.0), (0.3, 1.0, 0.3)])
def test_no_announcement_takes_back_more_than_a_quarter(run, clock, busy):
    begin, stop, slower = busy
    length = run["events"][-1][0]
    told, _ = replayed(run, clock, lambda moment: slower if begin * length < moment < stop * length else 1.0)
    totals = [moment + (event.least + event.most) / 2 for moment, event in told]
    assert all(isinstance(event, TimeLeft) for _, event in told)
    turns = [event.changed for _, event in told]
    for (before, after), (one, other) in zip(pairwise(totals), pairwise(turns), strict=True):
        if one and one != other:
            assert 0.74 <= after / before <= 1.26


@given(st.floats(0, 10), seconds, seconds, st.integers(1, 40), st.integers(0, 9))
def test_every_frame_counts_whatever_was_measured(network, least, most, count, wait):
    # On a busy machine the network alone may have taken longer than a whole frame is to take.
    costs = Costs(NOTHING, NOTHING, NOTHING, tuple(sorted((least, most))), network)
    run, at = Forecast(Lines(), Work(frame=count), costs, wait=wait), Position(0, 1, 0, count)
    run(ShotDecided(at, False, count))
    for number in range(count):
        left = run.work.frame
        run(FrameRestored(replace(at, frames_done=number + 1), 1.0, None))
        assert run.work.frame < left
    assert run.work.frame == 0


@given(st.floats(0.01, 100), st.integers(1, 10**7), st.integers(1, 20))
def test_a_time_limit_that_is_too_short_is_said(frame_seconds, area, shots):
    assert too_short(AdaptSettings(), shots, frame_seconds, area) is None
    assert too_short(AdaptSettings(budget_seconds=3e7), shots, frame_seconds, area) is None
    assert too_short(AdaptSettings(budget_seconds=1.0), 0, frame_seconds, area) is None
    said = too_short(AdaptSettings(budget_seconds=1.0), shots, frame_seconds, area)
    assert said.startswith("1.0 s for adapting is less than the least that makes sense, about ")

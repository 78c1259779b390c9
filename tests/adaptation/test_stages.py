"""Adaptation: it learns from the clip alone, never harms the network it was given, and says why when it gives up."""

import inspect

import cv2
import numpy as np
import pytest
import torch
from small_networks import Residual as Small
from torch import nn

from metadeblur.adaptation import budget
from metadeblur.adaptation.budget import LEAST_PLACES
from metadeblur.adaptation.pairs import make_pairs
from metadeblur.adaptation.stages import AdaptSettings, Pair, adapt, inner_update, preset
from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.guard.already_sharp import sharp_at_times
from metadeblur.imaging.optical_flow import window_flows
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.models.adapted import fusion_of
from metadeblur.models.weights import parameters_digest
from metadeblur.reblur.flow import fit_flow_reblurrer
from metadeblur.reblur.place import place_window
from metadeblur.reblur.reblurrer import Reblurrer

QUICK = {"pairs": 4, "steps": 6, "patch": 48, "batch": 2, "precision": "fp32"}


class SmallVideo(Small):
    """The same for the centre of three frames."""

    frames = 3

    def forward(self, x):
        return x[:, 1] + self.conv(x.mean(1))


@pytest.fixture(scope="module")
def clip():
    """A camera that pans fast over noise-like texture, then stands: blurred and sharp frames in turn."""
    coarse = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    texture = cv2.resize(coarse, (240, 160), interpolation=cv2.INTER_CUBIC)
    frames, left = [], 10
    for index in range(10):
        speed = 8 if index % 4 == 1 else 1
        steps = [texture[20:116, left + k : left + k + 128] for k in range(speed)]
        frames.append(np.mean(steps, axis=0).astype(np.uint8))
        left += speed
    return Clip(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous())


def test_it_learns_from_the_pairs(clip):
    outcome = adapt(Small(), clip, **{**QUICK, "steps": 30, "lr": 5e-3}, guard=False)
    losses = [entry["loss"] for entry in outcome.history]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert outcome.share == 1
    assert len(outcome.pairs) == 4 * AdaptSettings().blurs


def test_the_network_given_is_never_changed(clip):
    net = Small().train()
    before, digest = {key: value.clone() for key, value in net.state_dict().items()}, parameters_digest(net)
    outcome = adapt(net, clip, **QUICK, lr=1e-2, guard=False)
    assert parameters_digest(net) == digest
    assert net.training
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert parameters_digest(outcome.model) != digest


def test_same_seed_same_weights_other_seed_other_weights(clip):
    one, two, other = (
        parameters_digest(adapt(Small(), clip, **QUICK, seed=seed, guard=False).model) for seed in (3, 3, 4)
    )
    assert one == two != other


def test_there_is_no_way_to_hand_it_sharp_frames():
    names = set(inspect.signature(adapt).parameters) | set(AdaptSettings.__dataclass_fields__)
    assert not {name for name in names if any(word in name for word in ("sharp", "truth", "target", "gt"))}


def test_a_short_clip_gets_the_base_and_a_reason(clip):
    outcome = adapt(Small(), clip.part(0, 3), **QUICK)
    assert outcome.share == 0
    assert "3 frames are too few" in outcome.reasons[0].text
    assert parameters_digest(outcome.model) == parameters_digest(Small())


def test_an_exploding_loss_ends_with_the_base_and_a_reason(clip):
    outcome = adapt(Small(), clip, **{**QUICK, "steps": 30}, lr=0.99)
    assert outcome.share == 0
    assert outcome.reasons[0].name == "diverged"
    assert parameters_digest(outcome.model) == parameters_digest(Small())
    # Frames help each other all the same: as without learning.
    assert outcome.fused
    assert fusion_of(outcome.model) == fusion_of(adapt(Small(), clip, effort="quick").model)
    assert not adapt(Small(), clip, **{**QUICK, "steps": 30}, lr=0.99, fuse=False).fused


def test_a_loss_that_is_not_finite_ends_with_the_base_and_a_reason(clip):
    outcome = adapt(Small(), clip, **QUICK, loss=lambda output, sharp: (output - sharp).mean() * float("nan"))
    assert (outcome.share, outcome.reasons[0].name) == (0, "diverged")


def test_weights_that_become_nan_in_the_last_step_are_not_used():
    pair = Pair(torch.rand(3, 16, 16), torch.rand(3, 16, 16))
    settings = AdaptSettings(pairs=1, blurs=1, steps=1, batch=1, precision="fp32")

    def loss(output, sharp):
        output.register_hook(lambda gradient: gradient * float("nan"))
        return (output - sharp).abs().mean()

    net, _, failure = inner_update(Small(), [pair], settings, torch.Generator(), loss=loss)
    assert failure is not None
    assert all(weight.isfinite().all() for weight in net.parameters())


class Brighter(Reblurrer):
    """A reblurrer that knows of no motion."""

    name = "brighter"

    def reblur(self, clip, place, generator):
        del generator
        return (place_window(clip, place, 1)[0] + 0.01).clamp(0, 1)

    def describe(self):
        return {"name": self.name}


def test_video_deblurrers_get_the_window_with_its_centre_replaced(clip):
    outcome = adapt(SmallVideo(), clip, reblurrer=Brighter(), **QUICK, guard=False)
    pair = outcome.pairs[0]
    assert pair.blurred.shape == (3, 3, 48, 48)
    place = outcome.support.train[0]
    cut = (..., slice(place.top, place.top + 48), slice(place.left, place.left + 48))
    assert torch.equal(pair.sharp, clip[place.frame][cut])
    assert torch.equal(pair.blurred[0], clip[clip.clamp(place.frame - 1)][cut])
    assert torch.equal(pair.blurred[1], (pair.sharp + 0.01).clamp(0, 1))


def test_flow_pairs_of_video_deblurrers_have_neighbours_that_move_as_the_blur_does(clip):
    reblurrer = fit_flow_reblurrer(clip, generator=torch.Generator().manual_seed(0), exposure=0.8)
    outcome = adapt(SmallVideo(), clip, reblurrer=reblurrer, **QUICK, guard=False)
    moved = [window_flows(pair.blurred)[1, :2].mean((1, 2)) for pair in outcome.pairs]
    assert max(float(flow.norm()) for flow in moved) > 0.5


def still(pairs):
    """How many of the windows have a sharp centre between other neighbours."""
    return sum(torch.equal(one.blurred[1], one.sharp) and not torch.equal(one.blurred[0], one.sharp) for one in pairs)


def panned(speeds):
    """A camera over texture that moves on by 6 px a frame, or not where it is averaged over 0 px."""
    coarse = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    texture = cv2.resize(coarse, (240, 160), interpolation=cv2.INTER_CUBIC)
    starts = 6 * np.cumsum([0, *(speed > 0 for speed in speeds[:-1])])
    pieces = [
        [texture[20:116, start + k : start + k + 128] for k in range(max(speed, 1))]
        for start, speed in zip(starts, speeds, strict=True)
    ]
    frames = np.stack([np.mean(steps, axis=0).astype(np.uint8) for steps in pieces])
    return Clip(torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous())


def test_some_flow_pairs_stay_sharp_where_sharp_and_blurred_frames_take_turns():
    turns, alike = panned([8, 8, 1, 8, 8, 8, 1, 8, 8, 8]), panned([8] * 10)
    assert (sharp_at_times(turns), sharp_at_times(alike)) == (True, False)
    how = {**QUICK, "pairs": 12, "steps": 1, "still": 0.3, "guard": False}

    def pairs_of(net, clip, **changed):
        reblurrer = fit_flow_reblurrer(clip, generator=torch.Generator().manual_seed(0), exposure=0.8)
        return adapt(net, clip, reblurrer=reblurrer, **{**how, **changed}).pairs

    found = pairs_of(SmallVideo(), turns)
    assert 1 <= still(found) < len(found) / 2
    assert still(pairs_of(SmallVideo(), turns, still=0.0)) == 0
    assert still(pairs_of(SmallVideo(), alike)) == 0
    assert not any(torch.equal(pair.blurred, pair.sharp) for pair in pairs_of(Small(), turns))


@pytest.mark.parametrize("net", [Small(), SmallVideo()])
def test_patches_that_are_blurred_themselves_are_shrunk(net):
    """Targets of a clip that is blurred throughout are sharper by it; those of one with still moments are its own."""

    def made(clip, least):
        outcome = adapt(net, clip, **{**QUICK, "pairs": 12, "steps": 1}, shrink_from=least, guard=False)
        record = [place["shrunk"] for place in outcome.to_record()["pairs"]]
        return record, np.mean([float(self_shift_score(pair.sharp)) for pair in outcome.pairs])

    alike, stopping = panned([8] * 10), panned([0, 0, 0, 0, 8, 8, 8, 8, 8, 8])
    shrunk, score = made(alike, 1.2)
    untouched, own = made(alike, 0.0)
    assert all(shrunk)
    assert not any(untouched)
    assert score < own - 0.5
    assert not any(made(alike, 20.0)[0])
    assert not any(made(stopping, 1.2)[0])


def test_networks_that_need_a_multiple_and_give_several_outputs_adapt(clip):
    class Several(Small):
        multiple = 32

        def forward(self, x):
            assert x.shape[-1] % 32 == 0
            full = super().forward(x)
            return [nn.functional.avg_pool2d(full, 2), full]

    outcome = adapt(Several(), clip, **{**QUICK, "patch": 40}, guard=False)
    assert outcome.history[-1]["loss"] > 0


def test_the_budget_ends_the_steps(clip):
    outcome = adapt(Small(), clip, **{**QUICK, "steps": 5000}, budget_seconds=0.2, guard=False)
    assert 0 < len(outcome.history) < 5000


def test_a_budget_leaves_places_out_and_keeps_the_guard(clip, monkeypatch):
    monkeypatch.setattr(budget, "PAIRS_SHARE", 0.0)  # no time for more than the least
    asked = []

    def noted(clip, places, *how):
        asked.extend(places)
        return make_pairs(clip, places, *how)

    outcome = adapt(Small(), clip, **{**QUICK, "pairs": 12, "steps": 3}, budget_seconds=3600, pair_source=noted)
    used = len(outcome.support.train)
    assert used == LEAST_PLACES
    assert list(outcome.support.train) == asked
    assert len(outcome.pairs) == used * AdaptSettings().blurs
    assert len(outcome.history) == 3
    assert outcome.reasons[0].name == "held-out pairs"
    assert len(outcome.to_record()["pairs"]) == used


def test_time_is_shared_out(monkeypatch):
    now = 100.0
    monkeypatch.setattr(budget.time, "monotonic", lambda: now)
    limited, endless = budget.Budget(10.0), budget.Budget(0.0)

    def make(places):
        nonlocal now
        now += 1.0  # s, for a call
        return [f"{place}a" for place in places]

    assert limited.places(range(20), make) == (range(4), ["0a", "1a", "2a", "3a"])
    limited.kept_back = 2.5
    assert limited.left() == pytest.approx(3.5)
    now += 50
    assert 0 < limited.left() < 0.01
    assert endless.places(range(3), make) == (range(3), ["0a", "1a", "2a"])
    assert now == 155.0  # all at once
    assert budget.Budget(100.0).places(range(20), make)[0] == range(20)


def test_the_record_is_plain(clip):
    import json

    record = adapt(Small(), clip, **QUICK).to_record()
    text = json.dumps(record)
    assert {"share", "reasons", "pairs", "scores", "losses", "reblurrer", "seconds"} <= json.loads(text).keys()


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"pairs": 0}, "pairs is 0"),
        ({"lr": -1.0}, "lr is -1"),
        ({"reblur": "magic"}, "reblur is 'magic'"),
        ({"patch": 8}, "patch is 8"),
        ({"still": 1.5}, "still is 1.5"),
        ({"shrink_from": -0.5}, "shrink_from is -0.5"),
    ],
)
def test_settings_out_of_range_are_named(clip, wrong, line):
    with pytest.raises(MetadeblurError, match=line):
        adapt(Small(), clip, **wrong)


def test_unknown_settings_are_refused(clip):
    with pytest.raises(TypeError, match="colour"):
        adapt(Small(), clip, colour="red")


class Steeper(nn.Module):
    """Raises contrast: what it restores can be told from what it was given."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.2))

    def forward(self, x):
        return 0.5 + self.gain * (x - 0.5)


@pytest.mark.parametrize("restored", [True, False])
def test_pseudo_sharp_patches_are_restored_first(clip, restored):
    outcome = adapt(Steeper(), clip, **QUICK, restore_first=restored, shrink_from=0.0)
    for place, pair in zip(outcome.support.train, outcome.pairs[::2], strict=True):
        seen = place_window(clip, place, 1)[0]
        expected = (0.5 + 1.2 * (seen - 0.5)).clamp(0, 1) if restored else seen
        assert torch.allclose(pair.sharp, expected, atol=1e-5)
        if not restored:
            continue
        # The blur is of the restored patch too: on the mean as bright and as contrasted as that.
        assert pair.blurred.std() > 0.6 * pair.sharp.std()


def test_the_paper_reblurs_the_clip_as_it_is():
    assert [preset(name).restore_first for name in ("flow", "paper", "release")] == [True, False, False]

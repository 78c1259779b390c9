"""The inner update with the reblurring network: its switches, and what must not move."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from journey import run
from torch import nn
from torch.nn import functional as F

from metadeblur.adaptation import stages, steps
from metadeblur.adaptation.places import choose_support
from metadeblur.adaptation.stages import AdaptSettings, adapt, preset
from metadeblur.cli.entry import parse
from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.pictures import encode_png, to_uint8
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.models.critic import Critic
from metadeblur.models.forward import own_loss
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.weights import parameters_digest
from metadeblur.reblur.fitting import NetworkReblurrer, ReblurStage, collect, fit_stage
from metadeblur.reblur.flow import FlowReblurrer
from metadeblur.reblur.settings import CriticSettings, ReblurUpdates
from metadeblur.reblur.weights import load_reblurrer, save_reblurrer
from metadeblur.system.json_files import plain


class TinyReblurrer(nn.Module):
    """Centre plus a convolution of the window's mean."""

    frames = 5

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 5, padding=2)
        nn.init.normal_(self.conv.weight, std=0.02)

    def forward(self, window):
        return window[:, 2] + self.conv(window.mean(1))


class TinyDeblurrer(nn.Module):
    """Picture plus a convolution of it; counts the frames that it was fed."""

    def __init__(self, frames: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.drop = nn.Dropout2d(0.5)
        self.frames = frames
        self.fed: list[torch.Tensor] = []

    def forward(self, x):
        self.fed.append(x.detach())
        centre = x if self.frames == 1 else x[:, self.frames // 2] + 0 * x.mean(1)
        return centre + self.drop(self.conv(centre))


@pytest.fixture
def reblurrer():
    torch.manual_seed(0)
    return NetworkReblurrer(TinyReblurrer().eval(), Critic(channels=(4, 4)).eval())


@pytest.fixture(scope="module")
def clip():
    """Nine frames of noise of growing smoothness: every place has a sharpest and a most blurred frame."""
    frames = torch.rand(9, 3, 72, 96, generator=torch.Generator().manual_seed(0))
    for index in range(9):
        for _ in range(index):
            frames[index] = F.avg_pool2d(frames[index], 3, stride=1, padding=1)
    return Clip(frames)


QUICK = {"reblur": "network", "pairs": 3, "patch": 48, "precision": "fp32", "guard": False}


def changed(before: dict, net: nn.Module) -> bool:
    return any(not torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("losses", ["both", "gan", "cycle", "none"])
def test_the_losses_can_be_switched(clip, reblurrer, losses):
    start = copy.deepcopy(reblurrer.network.state_dict())
    settings = preset("paper").changed(**QUICK)
    settings = replace(settings, updates=replace(settings.updates, losses=losses))
    outcome = adapt(TinyDeblurrer(), clip, settings=settings, reblurrer=reblurrer)
    terms = set(outcome.reblur_history[0]) if outcome.reblur_history else set()
    assert ("adversarial" in terms, "cycle" in terms) == (losses in ("both", "gan"), losses in ("both", "cycle"))
    assert len(outcome.reblur_history) == (0 if losses == "none" else 3)
    assert changed(start, outcome.reblurrer.network) == (losses != "none")
    assert not changed(start, reblurrer.network)
    assert len(outcome.history) == 3
    assert outcome.share == 1


def test_the_deblurrer_does_not_move_in_the_reblurring_stage_but_passes_gradient(clip, reblurrer):
    net = TinyDeblurrer().eval()
    before = copy.deepcopy(net.state_dict())
    updates = ReblurUpdates(losses="cycle", lr_reblurrer=1e-3)
    stage = ReblurStage(reblurrer, net, updates)
    items = items_of(clip)
    start = copy.deepcopy(stage.reblurrer.state_dict())
    fit_stage(stage, items)
    assert changed(start, stage.reblurrer)  # only the gradient through the deblurrer can have moved it
    assert not changed(before, net)
    assert not changed(before, stage.deblurrer)
    moved = ReblurStage(reblurrer, net, replace(updates, shared_adam=True))
    fit_stage(moved, items)
    assert changed(before, moved.deblurrer)
    assert not changed(before, net)


def items_of(clip: Clip, real: str = "blurriest", count: int = 2) -> list:
    support = choose_support(clip, pairs=count, patch=48, method="random", generator=torch.Generator().manual_seed(1))
    return collect(clip, support.train, 5, real, torch.Generator().manual_seed(2))


def test_the_critic_is_held_within_its_bound_and_the_one_given_stays(clip, reblurrer):
    stage = ReblurStage(reblurrer, TinyDeblurrer().eval(), ReblurUpdates(critic=CriticSettings(critic_clip=0.003)))
    stage.step(items_of(clip)[0])
    assert max(float(weight.detach().abs().max()) for weight in stage.critic.parameters()) <= 0.003 + 1e-9
    assert all(weight.requires_grad for weight in stage.critic.parameters())
    assert max(float(weight.detach().abs().max()) for weight in reblurrer.critic.parameters()) > 0.003


def test_all_pairs_are_made_once_after_the_reblurrer_has_adapted(clip, reblurrer, monkeypatch):
    order = []
    step, blur = ReblurStage.step, NetworkReblurrer.blur
    monkeypatch.setattr(ReblurStage, "step", lambda self, item: order.append("step") or step(self, item))
    monkeypatch.setattr(NetworkReblurrer, "blur", lambda self, window: order.append("blur") or blur(self, window))
    monkeypatch.setattr(steps, "own_loss", lambda *a, **k: order.append("train") or own_loss(*a, **k))
    settings = preset("paper").changed(**{**QUICK, "held_out": 0.0, "passes": 2})
    outcome = adapt(TinyDeblurrer(), clip, settings=settings, reblurrer=reblurrer)
    assert order == ["step"] * 3 + ["blur"] * 3 + ["train"] * 6
    places = outcome.support.train
    assert all(
        torch.equal(pair.blurred, outcome.reblurrer.reblur(clip, place, torch.Generator()))
        for pair, place in zip(outcome.pairs, places, strict=True)
    )
    assert all(
        not pair.blurred.requires_grad and 0 <= pair.blurred.min() <= pair.blurred.max() <= 1 for pair in outcome.pairs
    )


def test_pairs_are_made_in_evaluation_mode_even_where_steps_are_not(clip):
    class Noisy(TinyReblurrer):
        def forward(self, window):
            return super().forward(window) + (torch.rand(()) if self.training else 0.0)

    settings = preset("release").changed(**QUICK)
    settings = replace(settings, updates=replace(settings.updates, losses="cycle", train_mode=True))
    outcome = adapt(TinyDeblurrer(), clip, settings=settings, reblurrer=NetworkReblurrer(Noisy().eval()))
    assert not outcome.reblurrer.network.training
    place, made = outcome.support.train[0], outcome.pairs[0].blurred
    assert torch.equal(made, outcome.reblurrer.reblur(clip, place, torch.Generator()))
    assert not outcome.model.training


def test_video_deblurrers_get_the_window_with_its_centre_replaced(clip, reblurrer):
    net = TinyDeblurrer(frames=3)
    stage = ReblurStage(reblurrer, net, ReblurUpdates(losses="cycle"))
    item = items_of(clip)[0]
    stage.deblurrer.fed.clear()
    stage.step(item)
    fed = stage.deblurrer.fed[0][0]
    assert torch.equal(fed[0], item.window[1])
    assert torch.equal(fed[2], item.window[3])
    assert not torch.equal(fed[1], item.window[2])
    outcome = adapt(net, clip, **QUICK, reblurrer=reblurrer)
    assert outcome.pairs[0].blurred.shape == (3, 3, 48, 48)


def test_the_real_sample_is_the_blurriest_patch_or_a_neighbour(clip):
    support = choose_support(clip, pairs=4, patch=48, method="random", generator=torch.Generator().manual_seed(1))
    for place, item in zip(support.train, items_of(clip, "blurriest", 4), strict=True):
        cut = (slice(None), slice(place.top, place.top + 48), slice(place.left, place.left + 48))
        patches = torch.stack([frame[cut] for frame in clip])
        scores = torch.stack([self_shift_score(patch) for patch in patches])
        assert torch.equal(item.real, patches[scores.argmax()])
        assert torch.equal(item.window[2], patches[place.frame])
    for place, item in zip(support.train, items_of(clip, "neighbour", 4), strict=True):
        cut = (slice(None), slice(place.top, place.top + 48), slice(place.left, place.left + 48))
        near = [t for t in range(place.frame - 2, place.frame + 3) if t != place.frame and 0 <= t < len(clip)]
        assert any(torch.equal(item.real, clip[t][cut]) for t in near)


def test_the_paper_is_the_default_for_the_network_and_single_settings_can_be_changed(clip, reblurrer):
    paper = preset("paper")
    assert (paper.pairs, paper.patch, paper.batch, paper.passes, paper.lr) == (20, 256, 1, 1, 2.5e-6)
    assert (paper.updates.lr_reblurrer, paper.updates.critic.lr_critic) == (1e-6, 1e-6)
    assert (paper.updates.adversarial, paper.updates.cycle, paper.updates.critic.critic_clip) == (1.0, 0.01, 0.01)
    outcome = adapt(TinyDeblurrer(), clip, **QUICK, reblurrer=reblurrer)
    assert len(outcome.history) == len(outcome.pairs) == 3
    assert len(adapt(TinyDeblurrer(), clip, **QUICK, steps=7, reblurrer=reblurrer).history) == 7
    assert len(adapt(TinyDeblurrer(), clip, **QUICK, passes=2, reblurrer=reblurrer).history) == 6


def test_the_release_leaves_out_two_frames_at_each_end(clip, reblurrer):
    settings = preset("release").changed(**{**QUICK, "pairs": 12})
    outcome = adapt(TinyDeblurrer(), clip, settings=settings, reblurrer=reblurrer)
    frames = {place.frame for place in (*outcome.support.train, *outcome.support.held_out)}
    assert frames <= set(range(2, 7))
    whole = adapt(TinyDeblurrer(), clip, **{**QUICK, "pairs": 12}, reblurrer=reblurrer)
    assert {place.frame for place in whole.support.train} & {0, 1}  # here the first frames are the sharpest


def test_short_clips_get_the_base_and_a_reason(clip, reblurrer):
    outcome = adapt(TinyDeblurrer(), clip.part(0, 4), **QUICK, reblurrer=reblurrer)
    assert outcome.share == 0
    assert "4 frames are too few" in outcome.reasons[0].text
    five = adapt(TinyDeblurrer(), clip.part(0, 5), **QUICK, reblurrer=reblurrer)
    assert len(five.history) == 3


def test_without_weights_it_says_what_to_do(clip):
    with pytest.raises(MetadeblurError, match=r"train reblur.*--reblur flow"):
        adapt(TinyDeblurrer(), clip, **QUICK, settings=AdaptSettings(reblurrer="missing.safetensors"))
    with pytest.raises(MetadeblurError, match="no critic"):
        adapt(TinyDeblurrer(), clip, **QUICK, reblurrer=NetworkReblurrer(TinyReblurrer()))


def test_weights_with_critic_come_back_from_their_file(tmp_path, clip):
    torch.manual_seed(1)
    net = ReblurNetwork(channels=4, units=1, width=16, blocks=2, heads=2, window=4, order="published")
    nn.init.normal_(net.decode.weight, std=0.1)
    saved = NetworkReblurrer(net.eval(), Critic(channels=(4,)).eval())
    path = tmp_path / "reblurrer.safetensors"
    save_reblurrer(saved, path, {"steps": "3"})
    again = load_reblurrer(path)
    item = items_of(clip)[0]
    assert torch.equal(again.blur(item.window), saved.blur(item.window))
    assert torch.equal(again.critic(item.real[None]), saved.critic(item.real[None]))
    assert again.network.order == "published"
    settings = preset("paper").changed(**QUICK)
    outcome = adapt(TinyDeblurrer(), clip, settings=replace(settings, reblurrer=str(path)))
    assert (outcome.reblurrer.name, outcome.reblurrer.network.order) == ("network", "published")


def test_terms_that_are_not_finite_end_with_the_base_and_a_reason(clip, reblurrer):
    nn.init.constant_(reblurrer.network.conv.bias, float("nan"))
    outcome = adapt(TinyDeblurrer(), clip, **QUICK, reblurrer=reblurrer)
    assert (outcome.share, outcome.reasons[0].name) == (0, "diverged")
    assert "not finite at step 0" in outcome.reasons[0].text


def test_the_time_budget_is_shared_by_both_stages(clip, reblurrer):
    settings = preset("paper").changed(**QUICK)
    settings = replace(settings, budget_seconds=0.4, steps=10**6, passes=0, updates=ReblurUpdates(passes=10**5))
    outcome = adapt(TinyDeblurrer(), clip, settings=settings, reblurrer=reblurrer)
    assert 0 < len(outcome.reblur_history) < 10**5
    assert outcome.reblur_history[-1]["seconds"] < 0.4
    assert 0 < outcome.history[-1]["seconds"] < 0.4


def test_the_record_has_the_cost_of_each_stage(clip, reblurrer):
    record = adapt(TinyDeblurrer(), clip, **{**QUICK, "guard": True}, reblurrer=reblurrer).to_record()
    assert record["seconds"].keys() >= {"select", "fit reblurrer", "reblur", "adapt"}
    assert record["reblurrer"]["updates"]["cycle"] == 0.01
    assert len(record["reblur_losses"]) == 3
    json.dumps(plain(record))
    if Path("/proc/self/statm").exists():
        assert all(50 < megabytes < 1e5 for megabytes in record["stage_memory_mb"].values())


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: ReblurUpdates(losses="all"), "losses is 'all'"),
        (lambda: ReblurUpdates(real="sharpest"), "real is 'sharpest'"),
        (lambda: ReblurUpdates(passes=0), "passes is 0"),
        (lambda: ReblurUpdates(cycle=-1.0), "cycle is -1"),
        (lambda: CriticSettings(adversarial_kind="l3"), "adversarial_kind is 'l3'"),
        (lambda: preset("paperlike"), "'paperlike'"),
    ],
)
def test_settings_out_of_range_are_named(make, line):
    with pytest.raises(MetadeblurError, match=line):
        make()


def test_same_seed_same_weights(clip, reblurrer):
    one, two, other = (
        parameters_digest(adapt(seeded_deblurrer(), clip, **QUICK, seed=seed, reblurrer=reblurrer).model)
        for seed in (3, 3, 4)
    )
    assert one == two != other


def seeded_deblurrer() -> TinyDeblurrer:
    torch.manual_seed(5)
    return TinyDeblurrer()


def test_flags_choose_the_network_its_preset_and_its_losses():
    words = "restore a.mp4 --reblur network --reblurrer w.safetensors"
    adaptation = parse(words.split()).run_settings().adaptation
    assert adaptation == replace(preset("paper"), reblurrer="w.safetensors", device="auto")
    words += " --preset release --reblur-losses gan --pairs 7 --steps 30 --lr 1e-5"
    adaptation = parse(words.split()).run_settings().adaptation
    assert (adaptation.pairs, adaptation.steps_on(7), adaptation.lr, adaptation.margin) == (7, 30, 1e-5, 2)
    assert (adaptation.updates.losses, adaptation.updates.shared_adam) == ("gan", True)


def test_the_command_line_says_what_to_do_without_weights(tmp_path, clip, capsys):
    for index, frame in enumerate(clip):
        (tmp_path / f"{index:03d}.png").write_bytes(encode_png(to_uint8(frame)))
    target = tmp_path / "out.safetensors"
    assert run("adapt", str(tmp_path), "-o", str(target), "--reblur", "network", "--reblurrer", "no.safetensors") == 1
    assert "metadeblur train reblur" in capsys.readouterr().err
    assert not target.exists()


def test_the_guard_judges_the_networks_pairs_by_the_clips_own_motion(clip, reblurrer, monkeypatch):
    judge, seen = stages.judge, []

    def heard(base, adapted, clip, held_out, **keywords):
        seen.append(keywords["reblurrer"])
        pairs = keywords["motion_pairs"]
        assert len(pairs) == len(held_out) > 0
        assert all((own != by_motion).any() for (own, _), (by_motion, _) in zip(held_out, pairs, strict=True))
        return judge(base, adapted, clip, held_out, **keywords)

    monkeypatch.setattr(stages, "judge", heard)
    net = TinyDeblurrer()
    outcome = adapt(net, clip, **{**QUICK, "guard": True}, held_out=0.5, reblurrer=reblurrer)
    assert isinstance(seen[0], FlowReblurrer)
    assert isinstance(outcome.reblurrer, NetworkReblurrer)
    unjudged = adapt(net, clip, **{**QUICK, "guard": False}, held_out=0.5, reblurrer=reblurrer)
    assert [row["loss"] for row in unjudged.history] == [row["loss"] for row in outcome.history]

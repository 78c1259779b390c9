"""Inner and outer updates equal the golden ones, step by step: both presets, both token orders, several rates."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from golden_updates import ALLOWED, LOSSES, Comparison, Golden, gradients_of, worst_of_nearest
from torch import nn

from metadeblur.adaptation.stages import AdaptSettings, Moved, Pair, fit_network, inner_update, preset
from metadeblur.reblur.fitting import Item, NetworkReblurrer, ReblurStage
from metadeblur.training.outer import MetaLearner, Query
from metadeblur.training.settings import OuterUpdate
from metadeblur.training.workers import TrainingProcess

CASES = (
    "paper_x1",
    "release_x1",
    "paper_x10",
    "release_x10",
    "paper_x100",
    "release_x100",
    "paper_publishedorder_x100",
    "release_publishedorder_x100",
)
LONG = pytest.mark.long  # cases between two others, and the longest


@pytest.fixture(scope="module")
def inner(shared):
    return Golden(shared / "golden", "inner_update")


@pytest.fixture(scope="module")
def outer(shared):
    return Golden(shared / "golden", "outer_update")


def settings_of(case: dict[str, Any]) -> AdaptSettings:
    """The preset that a case was made with, its learning rates times the case's factor, items in order."""
    known = case["settings"]
    chosen, factor = preset(known["preset"]), known["scale"]
    critic = replace(chosen.updates.critic, lr_critic=chosen.updates.critic.lr_critic * factor)
    updates = replace(chosen.updates, critic=critic, lr_reblurrer=chosen.updates.lr_reblurrer * factor)
    assert (updates.adversarial, updates.cycle) == (known["w_adv"], known["w_cycle"])
    return replace(chosen, lr=chosen.lr * factor, updates=updates, shuffle=False, precision="fp32")


@dataclass
class Begun:
    """A case after its critic and reblurrer steps, each compared: what the later stages need."""

    check: Comparison
    settings: AdaptSettings
    nets: dict[str, nn.Module]
    items: list[Item]
    stage: ReblurStage


def first_stage(golden: Golden, name: str) -> Begun:
    check = Comparison(golden, name)
    settings = settings_of(check.known)
    nets = golden.networks(check.known["settings"]["order"])
    nets["deblurrer"].loss = loss = LOSSES[check.known["settings"]["loss"]]
    check.begin(nets)
    items = golden.items(golden.values["data"]["support"])
    reblurrer = NetworkReblurrer(nets["reblurrer"], nets["critic"])
    stage = ReblurStage(reblurrer, nets["deblurrer"], settings.updates, loss=loss, lr_deblurrer=settings.lr)
    for number, item in enumerate(items):
        critic, reblur = check.known["steps"][2 * number : 2 * number + 2]
        terms = stage.step(item)
        place = f"item {number}"
        check.losses(place, {"d_real": terms["real"], "d_fake": terms["made"]}, critic)
        check.losses(f"{place}, critic", {"loss": terms["critic"]}, critic)
        check.losses(place, {"l_adv": terms["adversarial"], "l_cycle": terms["cycle"], "loss": terms["loss"]}, reblur)
        check.delta(place, "critic", stage.critic, critic["delta"]["critic"])
        check.delta(place, "reblurrer", stage.reblurrer, reblur["delta"]["reblurrer"])
        check.delta(place, "deblurrer", stage.deblurrer, reblur["delta"]["deblurrer"])
        bound = sum(int((weight.detach().abs() == 0.01).sum()) for weight in stage.critic.parameters())
        check.note(f"{place}: at bound", abs(bound - critic["at_bound"]), check.limit("at_bound"))
        check.gradient(place, "critic", gradients_of(stage.critic), critic["gradient"])
        check.gradient(place, "reblurrer", gradients_of(stage.reblurrer), reblur["gradient"]["reblurrer"])
    return Begun(check, settings, nets, items, stage)


def play_inner(name: str, golden: Golden) -> dict[str, float]:
    """A whole inner update."""
    begun = first_stage(golden, name)
    check, settings, stage = begun.check, begun.settings, begun.stage
    fitted = stage.result()
    pairs = [Pair(fitted.blur(item.window), item.window[2]) for item in begun.items]
    made = torch.stack([pair.blurred for pair in pairs])
    check.values("pseudo-blurred", made, golden.arrays[f"{name}/pseudo_blurred"], "pseudo_blurred")
    before = copy.deepcopy(stage.reblurrer.state_dict())

    moved = Moved(stage.deblurrer, stage.optimizer) if settings.updates.shared_adam else None
    adapted, history, failure = inner_update(begun.nets["deblurrer"], pairs, settings, torch.Generator(), moved=moved)
    assert failure is None
    for number, (entry, step) in enumerate(zip(history, check.known["steps"][6:], strict=True)):
        check.losses(f"deblurring step {number}", {"loss": entry["loss"]}, step)
    check.delta("end", "deblurrer", adapted, check.known["steps"][-1]["delta"]["deblurrer"])
    for network, net in (("reblurrer", stage.reblurrer), ("deblurrer", adapted), ("critic", stage.critic)):
        check.stored(network, net, name)
    # What made the pairs is not moved by training on them, not even by a shared Adam.
    assert all(torch.equal(value, before[key]) for key, value in stage.reblurrer.state_dict().items())
    with torch.no_grad():
        probe = adapted(golden.tensor(golden.values["data"]["probe"]))[2]
    check.values("probe", probe, golden.arrays[f"{name}/probe_full"], "probe_full")
    return check.apart


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=LONG if "x10_" in f"{name}_" or name == "release_x1" else ()) for name in CASES]
)
@pytest.mark.slow
def test_every_step_equals_the_golden_update(inner, name):
    figure, apart = worst_of_nearest(inner, partial(play_inner, name))
    assert apart <= ALLOWED, figure


@pytest.mark.long
@pytest.mark.slow
def test_a_small_mistake_is_further_away_than_is_allowed(inner, monkeypatch):
    right = settings_of

    def mistaken(case: dict[str, Any]) -> AdaptSettings:
        settings = right(case)
        return replace(settings, updates=replace(settings.updates, adversarial=0.99))

    monkeypatch.setattr(f"{__name__}.settings_of", mistaken)
    assert worst_of_nearest(inner, lambda golden: first_stage(golden, "paper_x1").check.apart)[1] > ALLOWED


def play_deblurring(count: int, golden: Golden) -> dict[str, float]:
    """So many steps of the deblurrer on the pairs of the golden case."""
    check = Comparison(golden, "paper_x1")
    settings, nets = settings_of(check.known), golden.networks("own")
    check.begin(nets)
    made = torch.from_numpy(golden.arrays["paper_x1/pseudo_blurred"])
    sharp = [item.window[2] for item in golden.items(golden.values["data"]["support"])]
    pairs = [Pair(blurred, target) for blurred, target in zip(made, sharp, strict=True)][:count]
    adapted, _, _ = inner_update(nets["deblurrer"], pairs, settings, torch.Generator(), loss=LOSSES["mimo_upstream"])
    check.delta("end", "deblurrer", adapted, check.known["steps"][5 + count]["delta"]["deblurrer"])
    return check.apart


@pytest.mark.parametrize("count", [1, 2])
def test_each_deblurring_step_equals_the_golden_one(inner, count):
    figure, apart = worst_of_nearest(inner, partial(play_deblurring, count))
    assert apart <= ALLOWED, figure


def play_a_thousand(golden: Golden) -> dict[str, float]:
    """The steps at a thousand times the rates that can be compared."""
    begun = first_stage(golden, "paper_x1000")
    check = begun.check
    pair = Pair(begun.stage.result().blur(begun.items[0].window), begun.items[0].window[2])
    adapted, history, _ = inner_update(begun.nets["deblurrer"], [pair], begun.settings, torch.Generator())
    step = check.known["steps"][6]
    check.losses("deblurring", {"loss": history[0]["loss"]}, step)
    check.delta("end", "deblurrer", adapted, step["delta"]["deblurrer"])
    return check.apart


@pytest.mark.long
@pytest.mark.slow
def test_the_paper_at_a_thousand_times_the_rates_while_it_can_be_compared(inner):
    figure, apart = worst_of_nearest(inner, play_a_thousand)
    assert apart <= ALLOWED, figure


def play_one_term(losses: str, golden: Golden) -> dict[str, float]:
    """The first gradient of one term alone."""
    check = Comparison(golden, "paper_x1")
    nets, settings = golden.networks("own"), settings_of(check.known)
    check.begin(nets)
    updates = replace(settings.updates, losses=losses, cycle=1.0)
    stage = ReblurStage(
        NetworkReblurrer(nets["reblurrer"], nets["critic"]), nets["deblurrer"], updates, loss=LOSSES["mimo_upstream"]
    )
    terms = stage.step(golden.items(golden.values["data"]["support"])[0])
    assert ("adversarial" in terms, "cycle" in terms) == (losses == "gan", losses == "cycle")
    name = {"gan": "gradient_of_l_adv", "cycle": "gradient_of_l_cycle"}[losses]
    check.gradient("item 0", "reblurrer", gradients_of(stage.reblurrer), check.known["steps"][1][name])
    return check.apart


@pytest.mark.parametrize("losses", ["gan", "cycle"])
def test_gradients_of_one_term_alone_equal_the_golden_ones(inner, losses):
    figure, apart = worst_of_nearest(inner, partial(play_one_term, losses))
    assert apart <= ALLOWED, figure


def play_outer(name: str, golden: Golden) -> dict[str, float]:
    """Outer steps, each after an inner update."""
    check = Comparison(golden, name)
    factor = check.known["settings"]["scale"]
    settings = settings_of(check.known)
    nets = golden.networks("own")
    check.begin(nets)
    nets["deblurrer"].loss = LOSSES["mimo_upstream"]
    outer = OuterUpdate(lr_deblurrer=2.5e-6 * factor, lr_reblurrer=1e-6 * factor)
    reblurrer = NetworkReblurrer(nets["reblurrer"], nets["critic"])
    learner = MetaLearner(reblurrer, nets["deblurrer"], outer, TrainingProcess(torch.device("cpu")))
    tasks = list(zip(golden.values["data"]["tasks"], check.known["tasks"], strict=True))
    for number, (data, known) in enumerate(tasks[:1] if factor == 100 else tasks):
        place = f"task {number}"
        reblurrer, deblurrer = learner.start()
        begun = {"reblurrer": reblurrer.network, "deblurrer": deblurrer, "critic": reblurrer.critic}
        items = golden.items(data["support"])
        fitted, _, _ = fit_network(reblurrer, deblurrer, items, settings)
        pairs = [Pair(fitted.blur(item.window), item.window[2]) for item in items]
        adapted, _, _ = inner_update(deblurrer, pairs, settings, torch.Generator())
        inner = Comparison(golden, name)
        inner.begin(begun)
        for kind, net in (("reblurrer", fitted.network), ("deblurrer", adapted), ("critic", fitted.critic)):
            inner.delta(f"{place}, inner", kind, net, known["inner_delta"][kind])
        check.apart |= inner.apart

        queries = []
        for entry in data["query"]:
            queries.append(Query(golden.tensor(entry["sharp_window"])[0], golden.tensor(entry["blurred_centre"])))
        learner.clear()
        found = learner.learn(fitted.network, adapted, queries)
        means = {
            "query_reblur": float(np.mean(known["reblurrer_charbonnier"])),
            "query_deblur": float(np.mean([entry["loss"] for entry in known["deblurrer_loss"]])),
        }
        check.losses(place, found, means)
        for kind, net in (("reblurrer", learner.reblurrer), ("deblurrer", learner.deblurrer)):
            check.gradient(place, kind, gradients_of(net), known["gradient"][kind])
        learner.step()
        for kind, net in (("reblurrer", learner.reblurrer), ("deblurrer", learner.deblurrer)):
            check.delta(place, kind, net, known["meta_delta"][kind])
            check.stored(kind, net, f"{name}/task{number}")
    if factor != 100:
        with torch.no_grad():
            probe = learner.deblurrer(golden.tensor(golden.values["data"]["probe"]))[2]
        check.values("probe", probe, golden.arrays[f"{name}/probe_full"], "probe_full")
    return check.apart


@pytest.mark.parametrize("name", ["outer_paper_x1", pytest.param("outer_paper_x10", marks=LONG), "outer_paper_x100"])
@pytest.mark.slow
def test_outer_steps_equal_the_golden_ones(outer, name):
    figure, apart = worst_of_nearest(outer, partial(play_outer, name))
    assert apart <= ALLOWED, figure

"""Meta-training for flow pairs: the inner update of ``adapt``, first order, and rates that layers learn."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import cv2
import numpy as np
import pytest
import torch
from golden_updates import gradients_of
from torch import nn

import metadeblur as md
from metadeblur.cli.entry import main
from metadeblur.errors import MetadeblurError
from metadeblur.models.forward import own_loss
from metadeblur.models.lite import Lite
from metadeblur.models.rates import step_rates
from metadeblur.models.registry import traits
from metadeblur.models.weights import load_deblurrer, parameters_digest, save_deblurrer
from metadeblur.restoration.clips import restore
from metadeblur.training import meta
from metadeblur.training.meta import MetaTrainee, train_meta
from metadeblur.training.outer import LayerRates
from metadeblur.training.settings import LoopSettings, MetaTraining, OuterUpdate
from metadeblur.training.workers import TrainingProcess

ALONE = TrainingProcess(torch.device("cpu"))
HOW = {"pairs": 2, "patch": 32, "precision": "fp32"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two paired clips: textures that pan at speeds of their own, and the same blurred."""
    root = tmp_path_factory.mktemp("clips")
    for number, speed in enumerate((3, 6)):
        coarse = np.random.default_rng(number).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        texture = cv2.resize(coarse, (120, 72), interpolation=cv2.INTER_CUBIC)
        for index in range(6):
            sharp = texture[8:64, speed * index : speed * index + 64]
            for side, picture in (("sharp", sharp), ("blur", cv2.blur(sharp, (speed + 2 * (index % 2), 1)))):
                folder = root / f"clip{number}" / side
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{index:06d}.png"), picture)
    return root


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Weights of a tiny deblurrer of three frames."""
    torch.manual_seed(0)
    net = Lite(channels=(8, 8), encoder=(1, 1), decoder=(1,), fold=2, frames=3)
    nn.init.normal_(net.head.weight, std=0.01)
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_deblurrer(net, path, {})
    return str(path)


@pytest.fixture
def small(clips, start):
    loop = LoopSettings(steps=2, warmup=0, log_steps=1, validate_steps=2, checkpoint_minutes=0.0)
    outer = OuterUpdate(lr_deblurrer=1e-3)
    return MetaTraining(
        clips=(str(clips),), model=start, inner="flow", inner_steps=3, query_frames=2, outer=outer, loop=loop, **HOW
    )


def trainee_of(settings):
    return MetaTrainee(None, load_deblurrer(settings.model), settings, ALONE)


def learning_rates(settings, lr=0.1, **outer):
    return replace(settings, outer=replace(settings.outer, lr_rates=lr, **outer))


def task_of(trainee, number):
    """The clip, the seed and the query frames of a task of the first step."""
    seed = meta._seed(0, 0, number)
    pair = trainee._task(trainee._clip(number), seed)
    return pair, seed, trainee._queries(pair, seed)


def test_the_inner_update_is_what_adapt_does_by_default(small, monkeypatch):
    trainee = trainee_of(small)
    pair, seed, _ = task_of(trainee, 0)
    expected = md.adapt(load_deblurrer(small.model), pair.blurred, steps=3, seed=seed, guard=False, **HOW).adapted
    adapted = []
    learn = trainee.learner.learn

    def watched(reblurrer, deblurrer, *args, **how):
        assert reblurrer is None
        adapted.append(parameters_digest(deblurrer))
        return learn(reblurrer, deblurrer, *args, **how)

    monkeypatch.setattr(trainee.learner, "learn", watched)
    trainee.step(0, 1.0)
    assert adapted == [parameters_digest(expected)]
    assert adapted != [parameters_digest(load_deblurrer(small.model))]


def test_nothing_is_set_that_adapt_does_not_do_by_default():
    chosen, usual = MetaTraining(inner="flow", inner_steps=10).adaptation(7), md.AdaptSettings(steps=10, seed=7)
    assert chosen == replace(usual, guard=False)


def test_the_outer_gradient_is_the_mean_over_tasks_of_query_gradients_at_the_adapted_weights(small):
    both = trainee_of(replace(small, tasks=2))
    both.learner.clear()
    for number in range(2):
        both._learn(both._clip(number), meta._seed(0, 0, number), 1.0)
    total = {}
    for number in range(2):
        pair, seed, queries = task_of(both, number)
        net = md.adapt(load_deblurrer(small.model), pair.blurred, steps=3, seed=seed, guard=False, **HOW).adapted
        net = net.net.requires_grad_(True)
        net.zero_grad()
        for query in queries:
            (own_loss(net, query.blurred[None], query.sharp[None, 1]) / 2).backward()
        for name, value in gradients_of(net).items():
            total[name] = total.get(name, 0) + value
    found = gradients_of(both.learner.deblurrer)
    assert found.keys() == total.keys()
    for name, value in found.items():
        assert torch.allclose(value, total[name], rtol=1e-3, atol=1e-6 * float(value.abs().max() + 1)), name


def test_the_query_loss_falls(small):
    settings = learning_rates(replace(small, inner_steps=1), lr=0.02)
    trainee = trainee_of(settings)
    losses = [trainee.step(number, 1.0)["query_deblur"] for number in range(8)]
    assert fmean(losses[-2:]) < fmean(losses[:2])


def test_a_stopped_run_goes_on_to_the_same_weights_and_rates(small, clips, tmp_path, monkeypatch):
    settings = learning_rates(replace(small, ema=0.9, validation=(str(clips),), validation_clips=1, crop=48))
    beside, whole = train_meta(settings, tmp_path / "whole", quiet=True)
    assert beside is None
    assert not (tmp_path / "whole" / "reblurrer.safetensors").exists()
    step = MetaTrainee.step

    def stop_at_one(self, number, rate):
        if number == 1:
            raise KeyboardInterrupt
        return step(self, number, rate)

    monkeypatch.setattr(MetaTrainee, "step", stop_at_one)
    with pytest.raises(KeyboardInterrupt):
        train_meta(settings, tmp_path / "parts", quiet=True)
    monkeypatch.setattr(MetaTrainee, "step", step)
    _, parts = train_meta(settings, tmp_path / "parts", resume=True, quiet=True)
    nets = [load_deblurrer(path) for path in (whole, parts)]
    assert parameters_digest(nets[0]) == parameters_digest(nets[1])
    assert step_rates(nets[0]) == step_rates(nets[1])
    assert any(rate != 1 for rate in step_rates(nets[0]).values())
    head = (tmp_path / "whole" / "log.csv").read_text().splitlines()[0]
    assert {"query_deblur", "step_rate_mean", "rate_deblurrer"} <= set(head.split(","))
    assert "psnr_reblurred" not in (tmp_path / "whole" / "validation.csv").read_text()


def test_the_gradient_of_a_layers_rate_is_the_query_gradient_along_the_way_that_it_went():
    torch.manual_seed(0)
    begun, adapted = (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)) for _ in range(2))
    rates = LayerRates(begun, 1.0)
    adapted(torch.rand(1, 3, 4, 4)).square().sum().backward()
    rates.learn(begun, adapted, 0.5)
    for place, layer in enumerate(adapted):
        ways = [
            (end.grad * (end - way)).sum()
            for end, way in zip(layer.parameters(), begun[place].parameters(), strict=True)
        ]
        assert rates.logs.grad[place].item() == pytest.approx(0.5 * sum(way.item() for way in ways), rel=1e-4)


def test_rates_grow_where_going_further_would_help_and_shrink_where_it_harms(small):
    trainee = trainee_of(learning_rates(small))
    pair, seed, queries = task_of(trainee, 0)
    _, net = trainee.learner.start()
    trainee.learner.clear()
    adapted = md.adapt(net, pair.blurred, steps=3, seed=seed, guard=False, **HOW).adapted.net
    trainee.learner.learn(None, adapted, queries)
    rates = trainee.learner.networks["step_rates"]

    def loss(layer, factor):
        """What the query frames say where one layer has gone another share of its way."""
        moved = load_deblurrer(small.model)
        with torch.no_grad():
            for (name, weight), end in zip(moved.named_parameters(), adapted.parameters(), strict=True):
                weight.copy_(weight + (factor if name.rpartition(".")[0] == layer else 1) * (end - weight))
            return sum(float(own_loss(moved, one.blurred[None], one.sharp[None, 1])) for one in queries)

    place = int(rates.logs.grad.abs().argmax())
    slope = (loss(rates.layers[place], 1.1) - loss(rates.layers[place], 0.9)) / 0.2
    assert rates.logs.grad[place].item() == pytest.approx(slope, rel=0.1)


def test_a_rate_to_begin_with_is_a_factor_of_what_adapt_uses(small):
    settings = learning_rates(replace(small, inner_lr=4.4e-4))
    assert settings.adaptation(0).lr == md.AdaptSettings().lr
    _, net = trainee_of(settings).learner.start()
    assert list(step_rates(net).values()) == pytest.approx([2.0] * len(step_rates(net)))
    assert replace(small, inner_lr=4.4e-4).adaptation(0).lr == 4.4e-4


def test_fused_frames_are_judged_as_they_ship(small):
    settings = replace(small, outer=OuterUpdate(fused=True))
    trainee = trainee_of(settings)
    trainee.learner.clear()
    figures = trainee._learn(trainee._clip(0), meta._seed(0, 0, 0), 1.0)
    pair, seed, _ = task_of(trainee, 0)
    adapted = md.adapt(load_deblurrer(small.model), pair.blurred, steps=3, seed=seed, guard=False, **HOW).adapted
    fused = restore(adapted, pair.blurred)
    queries = trainee._queries(pair, seed, fused)
    losses = [float(traits(adapted).loss(one.fused[None], one.sharp[None, 1])) for one in queries]
    assert figures["query_deblur"] == pytest.approx(fmean(losses), rel=1e-5)
    assert any(bool(weight.grad.any()) for weight in trainee.learner.deblurrer.parameters())


def test_tasks_take_pieces_of_their_clips_at_places_of_their_own(small):
    trainee = trainee_of(replace(small, crop=48))
    folder = trainee._clip(0)
    whole, pieces = meta._read(folder), [trainee._task(folder, seed) for seed in range(4)]
    assert {(piece.blurred.height, piece.blurred.width) for piece in pieces} == {(48, 48)}
    corners = {tuple(piece.sharp[0][:, 0, 0].tolist()) for piece in pieces}
    assert len(corners) > 1
    seen = {tuple(whole.sharp[0][:, row, column].tolist()) for row in range(9) for column in range(17)}
    assert corners <= seen


def test_only_a_part_of_the_weights_moves_where_that_is_asked_for(small):
    trainee = trainee_of(learning_rates(replace(small, inner_parameters="last")))
    trainee.step(0, 1.0)
    rates = trainee.learner.networks["step_rates"].rates()
    assert {layer for layer, rate in rates.items() if rate != 1} <= {
        name for name in rates if name.startswith(("decoder", "head"))
    }
    assert rates["head"] != 1


def test_the_command_writes_a_deblurrer_that_adapts_at_its_own_rates(small, clips, tmp_path, capsys):
    words = [
        "--inner",
        "flow",
        "--inner-steps",
        "2",
        "--pairs",
        "2",
        "--patch",
        "32",
        "--lr-rates",
        "0.1",
        "--steps",
        "1",
    ]
    start = ["--clips", str(clips), "--model", small.model, "--query-frames", "1", "-o", str(tmp_path / "run")]
    assert main(["train", "meta", *start, *words, "--validate-steps", "5"]) == 0
    assert "restore --model" in capsys.readouterr().err
    net = load_deblurrer(tmp_path / "run" / "weights.safetensors")
    assert step_rates(net)["head"] != 1


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: MetaTraining(inner="flow", reblurrer="some.safetensors"),
            r"reblurrer is 'some.safetensors'.*leave it out",
        ),
        (lambda: OuterUpdate(lr_rates=0.1, algorithm="reptile"), r"lr_rates is 0.1; .*first-order"),
        (lambda: OuterUpdate(lr_rates=0.1, outer_step="frame"), r"lr_rates is 0.1; .*outer_step clip"),
        (lambda: OuterUpdate(fused=True, algorithm="plain"), "algorithm is 'plain'; fused"),
        (
            lambda: MetaTraining(inner="release", inner_parameters="last"),
            "inner_parameters is 'last'; the preset release",
        ),
        (lambda: MetaTraining(patch=8), "patch is 8; give 0 or a whole number from 32"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(make, line):
    with pytest.raises(MetadeblurError, match=line):
        make()

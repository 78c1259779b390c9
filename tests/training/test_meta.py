"""Meta-training: meta-weights that nothing contaminates, one critic for all tasks, resuming."""

from __future__ import annotations

import csv
from dataclasses import replace
from statistics import fmean

import cv2
import numpy as np
import pytest
import torch
from golden_updates import gradients_of
from torch import nn

from metadeblur.cli.entry import main
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation import forms
from metadeblur.models.critic import Critic
from metadeblur.models.lite import Lite
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.weights import load_deblurrer, parameters_digest, save_deblurrer
from metadeblur.reblur.fitting import NetworkReblurrer, ReblurStage
from metadeblur.reblur.weights import load_reblurrer, save_reblurrer
from metadeblur.training import meta, outer
from metadeblur.training.meta import MetaTrainee, train_meta
from metadeblur.training.settings import LoopSettings, MetaTraining, OuterUpdate
from metadeblur.training.workers import TrainingProcess

ALONE = TrainingProcess(torch.device("cpu"))


@pytest.fixture
def clips(tmp_path):
    """Three paired clips: a texture that pans, and the same blurred."""
    for number in range(3):
        write_clip(tmp_path / "clips" / f"clip{number}", number, 6)
    return tmp_path / "clips"


def write_clip(folder, seed, count):
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    texture = cv2.resize(coarse, (120, 72), interpolation=cv2.INTER_CUBIC)
    for index in range(count):
        sharp = texture[8:64, 4 * index : 4 * index + 64]
        for side, picture in (("sharp", sharp), ("blur", cv2.blur(sharp, (5 + 2 * (index % 2), 1)))):
            (folder / side).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / side / f"{index:06d}.png"), picture)


@pytest.fixture
def files(tmp_path):
    """Weight files of a tiny deblurrer, and of a tiny reblurrer with its critic."""
    torch.manual_seed(0)
    deblurrer = Lite(channels=(8, 8), encoder=(1, 1), decoder=(1,), fold=2)
    nn.init.normal_(deblurrer.head.weight, std=0.01)
    reblurrer = ReblurNetwork(channels=4, units=1, width=8, blocks=1, heads=2, window=4)
    nn.init.normal_(reblurrer.decode.weight, std=0.05)
    save_deblurrer(deblurrer, tmp_path / "deblurrer.safetensors", {})
    save_reblurrer(NetworkReblurrer(reblurrer, Critic(channels=(4,))), tmp_path / "start.safetensors", {})
    return str(tmp_path / "deblurrer.safetensors"), str(tmp_path / "start.safetensors")


@pytest.fixture
def small(clips, files):
    loop = LoopSettings(steps=3, warmup=0, log_steps=1, validate_steps=3, checkpoint_minutes=0.0)
    return MetaTraining(
        clips=(str(clips),), model=files[0], reblurrer=files[1], pairs=2, patch=32, precision="fp32", loop=loop
    )


def trainee_of(settings):
    return MetaTrainee(load_reblurrer(settings.reblurrer), load_deblurrer(settings.model), settings, ALONE)


def digests(trainee):
    learner = trainee.learner
    return [parameters_digest(net) for net in (learner.reblurrer, learner.deblurrer, learner.critic)]


def test_an_outer_rate_of_zero_leaves_the_meta_weights_as_they_are_over_three_tasks(small):
    fast = replace(small, inner_lr=1e-3, inner_lr_reblurrer=1e-3)
    still = trainee_of(replace(fast, outer=OuterUpdate(lr_deblurrer=0.0, lr_reblurrer=0.0)))
    before = digests(still)
    rows = [still.step(number, 1.0) for number in range(3)]
    assert digests(still) == before
    assert all(row["query_deblur"] > 0 and row["diverged"] == 0 for row in rows)
    moving = trainee_of(replace(fast, outer=OuterUpdate(lr_deblurrer=1e-3, lr_reblurrer=1e-3)))
    moving.step(0, 1.0)
    after = digests(moving)
    assert after[0] != before[0]
    assert after[1] != before[1]
    assert after[2] == before[2]  # the critic is no part of the outer update


def test_every_task_begins_with_the_meta_weights_and_the_same_critic(small, monkeypatch):
    begun = []
    make = ReblurStage.__init__

    def watched(self, reblurrer, deblurrer, *args, **options):
        make(self, reblurrer, deblurrer, *args, **options)
        begun.append([parameters_digest(net) for net in (self.reblurrer, self.deblurrer, self.critic)])

    monkeypatch.setattr(ReblurStage, "__init__", watched)
    trainee = trainee_of(replace(small, outer=OuterUpdate(lr_deblurrer=1e-3, lr_reblurrer=1e-3)))
    for number in range(3):
        expected = digests(trainee)
        trainee.step(number, 1.0)
        assert begun[number] == expected
    assert begun[0][2] == begun[2][2]
    assert begun[0][1] != begun[2][1]


def test_the_gradient_of_a_clip_is_the_sum_over_its_frames_whatever_the_parts(small):
    trainee = trainee_of(small)
    queries = trainee._queries(meta._read(trainee.clips[0]), 0)
    assert len(queries) == 6
    found = []
    for size in (1, 4, 6):
        learner = trainee_of(replace(small, outer=OuterUpdate(query_batch=size))).learner
        reblurrer, deblurrer = learner.start()
        learner.clear()
        learner.learn(reblurrer.network, deblurrer, queries)
        found.append(gradients_of(learner.deblurrer) | gradients_of(learner.reblurrer))
    one = trainee_of(small).learner
    total = {name: torch.zeros_like(value) for name, value in found[0].items()}
    for query in queries:
        reblurrer, deblurrer = one.start()
        one.clear()
        one.learn(reblurrer.network, deblurrer, [query])
        for name, value in (gradients_of(one.deblurrer) | gradients_of(one.reblurrer)).items():
            total[name] += value
    for other in (*found[1:], total):
        for name, value in found[0].items():
            assert torch.allclose(value, other[name], rtol=1e-3, atol=1e-6 * float(value.abs().max() + 1)), name


def test_gradients_of_several_tasks_are_added_up_before_one_step(small):
    both = trainee_of(replace(small, tasks=2))
    both.step(0, 1.0)
    apart = trainee_of(small).learner
    apart.clear()
    for number in range(2):
        reblurrer, deblurrer = apart.start()
        seed = meta._seed(0, 0, number)
        pair = meta._read(both._clip(number))
        outcome = meta.adapt(deblurrer, pair.blurred, settings=both._adaptation(seed), reblurrer=reblurrer)
        queries = both._queries(pair, seed)
        apart.learn(outcome.reblurrer.network, outcome.adapted, queries, share=0.5)
    apart.step()
    assert parameters_digest(apart.deblurrer) == parameters_digest(both.learner.deblurrer)
    assert parameters_digest(apart.reblurrer) == parameters_digest(both.learner.reblurrer)


@pytest.mark.parametrize(
    ("algorithm", "tasks", "world", "frames"),
    [("first-order", 2, 4, 0), ("first-order", 1, 2, 1), ("plain", 1, 4, 0), ("reptile", 1, 2, 0)],
)
def test_processes_that_share_a_task_learn_together_what_one_learns_alone(small, algorithm, tasks, world, frames):
    settings = replace(small, tasks=tasks, query_frames=frames, outer=OuterUpdate(algorithm=algorithm))
    found = []
    for count in (1, world):
        parts, figures = [], []
        for rank in range(count):
            workers = TrainingProcess(torch.device("cpu"), rank, count)
            trainee = MetaTrainee(load_reblurrer(settings.reblurrer), load_deblurrer(settings.model), settings, workers)
            trainee.learner.clear()
            rows = [trainee._learn(trainee._clip(task), meta._seed(0, 0, task), 1.0) for task in trainee.share]
            figures.append([fmean(row[name] for row in rows) for name in ("query_deblur", "query_reblur")])
            parts.append(gradients_of(trainee.learner.deblurrer) | gradients_of(trainee.learner.reblurrer))
        gradients = {name: sum(part[name] for part in parts) / count for name in parts[0]}
        found.append((gradients, [fmean(column) for column in zip(*figures, strict=True)]))
    (alone, told), (together, told_together) = found
    assert told == pytest.approx(told_together, rel=1e-4)
    for name, value in alone.items():
        assert torch.allclose(value, together[name], rtol=1e-3, atol=1e-6 * float(value.abs().max() + 1)), name


def test_tasks_that_cannot_be_shared_are_refused():
    with pytest.raises(MetadeblurError, match=r"3 tasks a step cannot be shared evenly by 4 processes.*--tasks"):
        TrainingProcess(torch.device("cpu"), 0, 4).team(3)


def test_a_loss_of_the_whole_window_is_given_its_sharp_frames():
    net, sharp = nn.Identity(), torch.rand(1, 5, 3, 4, 4)
    net.frames = 3
    assert torch.equal(outer._targets(net, sharp), sharp[:, 2])
    net.window_target = True
    assert torch.equal(outer._targets(net, sharp), sharp[:, 1:4])


def test_moments_last_over_the_tasks(small):
    trainee = trainee_of(small)
    for number in range(2):
        trainee.step(number, 1.0)
    state = trainee.learner.optimizers["deblurrer"].state_dict()["state"]
    assert {int(entry["step"]) for entry in state.values()} == {2}


def test_an_outer_step_for_each_frame_is_a_switch(small):
    trainee = trainee_of(replace(small, outer=OuterUpdate(outer_step="frame")))
    trainee.step(0, 1.0)
    state = trainee.learner.optimizers["deblurrer"].state_dict()["state"]
    assert {int(entry["step"]) for entry in state.values()} == {6}
    with pytest.raises(MetadeblurError, match="cannot be shared"):
        MetaTrainee(
            load_reblurrer(small.reblurrer),
            load_deblurrer(small.model),
            replace(small, tasks=2, outer=OuterUpdate(outer_step="frame")),
            TrainingProcess(torch.device("cpu"), 0, 2),
        )


def test_reptile_goes_a_share_of_the_way_to_the_adapted_weights(small):
    fast = replace(small, inner_lr=1e-3, inner_lr_reblurrer=1e-3, outer=OuterUpdate(algorithm="reptile", reptile=0.25))
    trainee = trainee_of(fast)
    reblurrer, deblurrer = trainee.learner.start()
    seed, folder = meta._seed(0, 0, 0), trainee._clip(0)
    outcome = meta.adapt(deblurrer, meta._read(folder).blurred, settings=trainee._adaptation(seed), reblurrer=reblurrer)
    trainee.step(0, 1.0)
    goals = zip(
        deblurrer.parameters(), outcome.adapted.parameters(), trainee.learner.deblurrer.parameters(), strict=True
    )
    for start, adapted, moved in goals:
        assert torch.allclose(moved, start + 0.25 * (adapted - start), atol=1e-7)


def test_plain_training_takes_the_gradient_at_the_meta_weights_themselves(small, monkeypatch):
    monkeypatch.setattr(meta, "adapt", None)
    trainee = trainee_of(replace(small, outer=OuterUpdate(algorithm="plain")))
    start = trainee.learner.start()
    queries = trainee._queries(meta._read(trainee._clip(0)), meta._seed(0, 0, 0))
    trainee.step(0, 1.0)
    other = trainee_of(small).learner
    other.clear()
    other.learn(start[0].network, start[1], queries)
    other.step()
    assert parameters_digest(other.deblurrer) == parameters_digest(trainee.learner.deblurrer)


def test_a_task_that_diverges_teaches_nothing(small):
    trainee = trainee_of(replace(small, inner_lr=0.9, inner_steps=30))
    before = digests(trainee)
    row = trainee.step(0, 1.0)
    assert row["diverged"] == 1
    assert digests(trainee) == before


def test_windows_at_clip_ends_repeat_the_end_frame(small):
    trainee = trainee_of(small)
    pair = meta._read(trainee.clips[0])
    queries = trainee._queries(pair, 3)
    first, last = queries[0], queries[-1]
    assert torch.equal(first.sharp[0], first.sharp[2])
    assert torch.equal(first.sharp[1], first.sharp[2])
    assert torch.equal(last.sharp[2], last.sharp[4])
    assert not torch.equal(queries[2].sharp[0], queries[2].sharp[2])


def test_short_clips_are_refused_by_name(small, clips):
    write_clip(clips / "brief", 9, 4)
    with pytest.raises(MetadeblurError, match="brief has 4 frames"):
        trainee_of(small)


def test_every_epoch_takes_each_clip_once(small):
    trainee = trainee_of(small)
    epochs = [[trainee._clip(3 * epoch + place).name for place in range(3)] for epoch in range(5)]
    assert all(sorted(names) == ["clip0", "clip1", "clip2"] for names in epochs)
    assert len({tuple(names) for names in epochs}) > 1


def test_a_stopped_run_goes_on_to_the_same_weights_and_the_same_log(small, tmp_path, monkeypatch):
    settings = replace(small, outer=OuterUpdate(lr_deblurrer=1e-3, lr_reblurrer=1e-3), ema=0.9)
    whole = train_meta(settings, tmp_path / "whole", quiet=True)
    step = MetaTrainee.step

    def stop_at_two(self, number, rate):
        if number == 2:
            raise KeyboardInterrupt
        return step(self, number, rate)

    monkeypatch.setattr(MetaTrainee, "step", stop_at_two)
    with pytest.raises(KeyboardInterrupt):
        train_meta(settings, tmp_path / "parts", quiet=True)
    monkeypatch.setattr(MetaTrainee, "step", step)
    parts = train_meta(settings, tmp_path / "parts", resume=True, quiet=True)
    assert parameters_digest(load_deblurrer(parts[1])) == parameters_digest(load_deblurrer(whole[1]))
    pairs = [load_reblurrer(path) for path in (parts[0], whole[0])]
    assert parameters_digest(pairs[0].network) == parameters_digest(pairs[1].network)
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")


def logged(run):
    with (run / "log.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds_a_step"} for row in csv.DictReader(file)]


def test_validation_adapts_to_held_out_clips_and_leaves_the_meta_weights_alone(small, clips, tmp_path):
    settings = replace(small, validation=(str(clips),), validation_clips=2)
    trainee = trainee_of(settings)
    before = digests(trainee)
    figures = trainee.validate(0)
    assert figures["gain"] == pytest.approx(figures["psnr_after"] - figures["psnr_before"])
    assert 10 < figures["psnr_blurred"] < 50
    assert digests(trainee) == before
    assert trainee.pictures(0)["blurred_before_after_sharp"].shape == (32, 32 * 4 + 12, 3)
    train_meta(replace(settings, loop=replace(small.loop, steps=1)), tmp_path / "run", quiet=True)
    assert len(list((tmp_path / "run" / "pictures").glob("*.png"))) == 1


def test_the_weights_are_those_of_the_last_step(small, tmp_path):
    settings = replace(small, outer=OuterUpdate(lr_deblurrer=1e-3, lr_reblurrer=1e-3))
    paths = train_meta(settings, tmp_path / "run", quiet=True)
    trainee = trainee_of(settings)
    for number in range(3):
        trainee.step(number, 1.0)
    assert parameters_digest(load_deblurrer(paths[1])) == parameters_digest(trainee.learner.deblurrer)
    reblurrer = load_reblurrer(paths[0])
    assert parameters_digest(reblurrer.network) == parameters_digest(trainee.learner.reblurrer)
    critic = load_reblurrer(small.reblurrer).critic
    assert parameters_digest(reblurrer.critic) == parameters_digest(critic)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: OuterUpdate(algorithm="maml"), "algorithm is 'maml'"),
        (lambda: OuterUpdate(reblur_loss="l1"), "reblur_loss is 'l1'"),
        (lambda: OuterUpdate(query_batch=0), "query_batch is 0"),
        (lambda: MetaTraining(inner="mine"), "inner is 'mine'"),
        (lambda: MetaTraining(tasks=0), "tasks is 0"),
    ],
)
def test_settings_out_of_range_are_named(make, line):
    with pytest.raises(MetadeblurError, match=line):
        make()


@pytest.mark.parametrize("reduced", [True, False])
def test_a_reblurring_network_that_is_not_the_papers_is_named(small, files, reduced, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(meta, "train_meta", lambda *_, **__: (tmp_path / "reblurrer", tmp_path / "weights"))
    if not reduced:
        network = load_reblurrer(files[1]).network
        monkeypatch.setattr(forms, "ReblurNetwork", lambda: network)
    assert main(["train", "meta", "--clips", *small.clips, "--reblurrer", files[1], "-o", str(tmp_path / "run")]) == 0
    assert ("note: the reblurring network is reduced (0.03 M parameters)" in capsys.readouterr().err) is reduced

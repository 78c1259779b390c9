"""Pre-training of the reblurrer: it learns the blur, tells its gain on clips it never saw, and resumes."""

from __future__ import annotations

import csv
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from training_clips import write_clip

from metadeblur.data.ahead import Ahead
from metadeblur.data.layouts import plain_clips
from metadeblur.data.windows import WindowSampler
from metadeblur.errors import MetadeblurError
from metadeblur.models.told_reblurring import ToldReblurNetwork
from metadeblur.models.weights import parameters_digest
from metadeblur.reblur.fitting import NetworkReblurrer
from metadeblur.reblur.settings import CriticSettings
from metadeblur.reblur.weights import load_reblurrer
from metadeblur.training.loop import rate
from metadeblur.training.reblur import ReblurTrainee, new_network, train_reblur
from metadeblur.training.settings import LoopSettings, ReblurTraining
from metadeblur.training.workers import TrainingProcess

ALONE = TrainingProcess(torch.device("cpu"))


@pytest.fixture
def clips(tmp_path):
    for number in range(3):
        write_clip(tmp_path / "train" / f"clip{number}", number)
    write_clip(tmp_path / "held_out" / "clip", 7)
    return tmp_path


@pytest.fixture
def small(clips):
    loop = LoopSettings(steps=6, warmup=0, schedule="cosine", log_steps=2, validate_steps=3, checkpoint_minutes=0.0)
    return ReblurTraining(
        clips=(str(clips / "train"),),
        validation=(str(clips / "held_out"),),
        validation_windows=8,
        channels=8,
        units=1,
        width=16,
        blocks=1,
        heads=2,
        batch=2,
        patch=32,
        learning_rate=2e-3,
        critic_channels=(4, 4),
        ema=0.9,
        precision="fp32",
        loop=loop,
    )


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_it_learns_to_blur_clips_it_never_saw(small, clips, tmp_path):
    loop = replace(small.loop, steps=40, validate_steps=20)
    settings = replace(small, rotate=False, batch=4, learning_rate=4e-3, loop=loop)
    path = train_reblur(settings, tmp_path / "run", quiet=True)
    last = rows(tmp_path / "run" / "validation.csv")[-1]
    assert float(last["gain"]) > 0.8
    assert float(last["gain"]) == pytest.approx(float(last["psnr_made"]) - float(last["psnr_centre"]), abs=1e-4)
    reblurrer = load_reblurrer(path)
    sampler = WindowSampler(plain_clips(clips / "held_out"), patch=32, seed=5, rotate=False)
    batch = sampler(0, range(8))
    made = torch.stack([reblurrer.blur(window) for window in batch.sharp])
    assert (made - batch.blurred).square().mean() < 0.85 * (batch.centre - batch.blurred).square().mean()
    pictures = sorted((tmp_path / "run" / "pictures").glob("*.png"))
    assert [picture.name for picture in pictures] == [f"{step:08d}_sharp_made_blurred.png" for step in (20, 40)]
    page = (tmp_path / "run" / "curves.html").read_text()
    assert "Critic gap" in page
    assert page.count('class="plot"') >= 7


def test_a_stopped_run_goes_on_to_the_same_weights_and_the_same_log(small, tmp_path, monkeypatch):
    whole = train_reblur(small, tmp_path / "whole", quiet=True)
    step = ReblurTrainee.step

    def stop_at_three(self, number, factor):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number, factor)

    monkeypatch.setattr(ReblurTrainee, "step", stop_at_three)
    with pytest.raises(KeyboardInterrupt):
        train_reblur(small, tmp_path / "parts", quiet=True)
    monkeypatch.setattr(ReblurTrainee, "step", step)
    # Lines that a killed run wrote after its checkpoint are written anew, not twice.
    with (tmp_path / "parts" / "log.csv").open("a") as file:
        file.write("4,0,0,0,0,0,0\n")
    parts = train_reblur(small, tmp_path / "parts", resume=True, quiet=True)
    nets = [load_reblurrer(path) for path in (whole, parts)]
    assert parameters_digest(nets[0].network) == parameters_digest(nets[1].network)
    assert parameters_digest(nets[0].critic) == parameters_digest(nets[1].critic)
    for name in ("log", "validation"):
        tables = [rows(tmp_path / run / f"{name}.csv") for run in ("whole", "parts")]
        for table in tables:
            for row in table:
                row.pop("seconds_a_step", None)
        assert tables[0] == tables[1]
        assert [int(row["step"]) for row in tables[0]] == {"log": [2, 4, 6], "validation": [3, 6]}[name]


def test_the_critic_moves_within_its_bound_and_is_left_out_without_an_adversarial_loss(small):
    clipped = replace(small, critic=CriticSettings(critic_bound="clip"))
    trainee = ReblurTrainee(NetworkReblurrer(new_network(small)), clipped, ALONE)
    before = parameters_digest(trainee.critic)
    figures = trainee.step(0, 1.0)
    assert figures.keys() >= {"loss", "critic", "critic_gap", "adversarial", "gradient"}
    assert parameters_digest(trainee.critic) != before
    assert max(float(weight.detach().abs().max()) for weight in trainee.critic.parameters()) <= 0.01 + 1e-9
    without = ReblurTrainee(NetworkReblurrer(new_network(small)), replace(small, adversarial=0.0), ALONE)
    assert without.critic is None
    assert "critic" not in without.step(0, 1.0)
    assert without.validate(1).keys() == {"psnr_made", "psnr_centre", "gain"}
    assert without.result().critic is None


def test_how_hard_both_losses_pull_is_logged_and_told_once_where_one_drowns_the_other(small, tmp_path, capsys):
    loud = replace(small, adversarial=1e5, critic_input="gradients", critic=CriticSettings(critic_bound="spectral"))
    train_reblur(loud, tmp_path / "loud")
    told = [line for line in capsys.readouterr().err.splitlines() if "pulls" in line]
    assert len(told) == 1
    assert "the adversarial loss pulls" in told[0]
    assert "give --adversarial" in told[0]
    assert all(float(row["gradient_ratio"]) > 50 for row in rows(tmp_path / "loud" / "log.csv"))
    even = replace(loud, adversarial=1.0, critic=replace(loud.critic, balance=True))
    train_reblur(even, tmp_path / "even")
    assert "pulls" not in capsys.readouterr().err
    assert all(0.02 < float(row["gradient_ratio"]) < 50 for row in rows(tmp_path / "even" / "log.csv"))
    train_reblur(replace(even, adversarial=0.005), tmp_path / "faint")  # as faint as was asked for
    assert "pulls" not in capsys.readouterr().err
    critic = load_reblurrer(tmp_path / "even" / "reblurrer.safetensors").critic
    assert (critic.sees, critic.bound) == ("gradients", "spectral")


def test_a_network_that_is_told_the_motion_goes_on_from_the_published_form(small, tmp_path):
    short = replace(small, loop=replace(small.loop, steps=1))
    plain = train_reblur(short, tmp_path / "plain", quiet=True)
    told = train_reblur(replace(short, motion=True, start=str(plain)), tmp_path / "told", quiet=True)
    kinds = [load_reblurrer(path) for path in (plain, told)]
    assert [isinstance(kind.network, ToldReblurNetwork) for kind in kinds] == [False, True]
    assert isinstance(new_network(replace(small, motion=True)), ToldReblurNetwork)
    # The critic of the weights stays, unless another one is asked for.
    assert [kind.critic.sees for kind in kinds] == ["gradients"] * 2
    again = replace(short, start=str(told), new_critic=True, critic_input="highpass", patch=48)
    trainee = ReblurTrainee(load_reblurrer(told), again, ALONE)
    assert trainee.critic.sees == "highpass"


def test_both_rates_fall_along_the_whole_run(small):
    settings = replace(small, critic=CriticSettings(lr_critic=1e-3))
    trainee = ReblurTrainee(NetworkReblurrer(new_network(settings)), settings, ALONE)
    for step, factor in ((0, 1.0), (3, 0.5), (5, 0.067)):
        trainee.step(step, rate(step, settings.loop))
        assert trainee.optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * factor, rel=1e-2)
        assert trainee.critic_optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * factor, rel=1e-2)


def test_the_papers_settings_are_the_defaults():
    paper = ReblurTraining()
    assert (paper.batch, paper.patch, paper.learning_rate, paper.flip, paper.rotate) == (8, 256, 1e-4, True, True)
    assert (paper.loop.steps, paper.loop.schedule) == (1000 * round(2103 / 8), "cosine")
    assert sum(weight.numel() for weight in new_network(paper).parameters()) == 10_436_979
    assert paper.learning_rate * rate(paper.loop.steps, paper.loop) == pytest.approx(1e-8)


def test_windows_are_cut_alike_and_clamped_at_clip_ends(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 44, 3), dtype=np.uint8)
    for side in ("sharp", "blur"):
        (tmp_path / "clip" / side).mkdir(parents=True)
        for index, frame in enumerate(noise):
            cv2.imwrite(str(tmp_path / "clip" / side / f"{index}.png"), frame[..., ::-1])
    sampler = WindowSampler(plain_clips(tmp_path), patch=38, seed=0, flip=False, rotate=False)
    batch = sampler(0, range(30))
    seen = set()
    for window, blurred in zip(batch.sharp, batch.blurred, strict=True):
        frames = (window * 255).round().byte().permute(0, 2, 3, 1).numpy()
        places = [(index, top, left) for index in range(6) for top in range(3) for left in range(7)]
        index, top, left = next(
            place
            for place in places
            if np.array_equal(noise[place[0], place[1] : place[1] + 38, place[2] : place[2] + 38], frames[2])
        )
        around = [min(max(index + offset, 0), 5) for offset in range(-2, 3)]
        assert np.array_equal(frames, noise[around, top : top + 38, left : left + 38])
        assert torch.equal(blurred, window[2])
        seen.add(index)
    assert seen == set(range(6))


def test_rotations_and_flips_are_uniform(clips):
    plain = WindowSampler(plain_clips(clips / "train"), patch=32, seed=0, flip=False, rotate=False)
    turned = WindowSampler(plain_clips(clips / "train"), patch=32, seed=0)
    counts: dict[tuple[int, bool], int] = {}
    one, other = plain(0, range(400)).blurred, turned(0, range(400)).blurred
    for straight, changed in zip(one, other, strict=True):
        for turns in range(4):
            for mirror in (False, True):
                tried = torch.rot90(straight, turns, (1, 2))
                if torch.equal(tried.flip(2) if mirror else tried, changed):
                    counts[turns, mirror] = counts.get((turns, mirror), 0) + 1
    assert len(counts) == 8
    assert min(counts.values()) > 400 / 8 * 0.55


def test_batches_depend_on_seed_step_and_number_alone(clips):
    sampler, again = (WindowSampler(plain_clips(clips / "train"), patch=16, seed=3) for _ in range(2))
    whole = sampler(4, range(4))
    for numbers in (range(0, 4, 2), range(1, 4, 2)):
        part = again(4, numbers)
        assert torch.equal(part.sharp, whole.sharp[numbers.start :: 2])
        assert torch.equal(part.blurred, whole.blurred[numbers.start :: 2])
    assert not torch.equal(sampler(5, range(4)).sharp, whole.sharp)


def test_batches_made_ahead_are_the_same_and_in_order():
    asked = []

    def make(number):
        asked.append(number)
        return number * 10

    ahead = Ahead(make)
    assert [ahead(number) for number in (5, 6, 7, 2, 3)] == [50, 60, 70, 20, 30]
    assert [number for number in asked if number != 8][:5] == [5, 6, 7, 2, 3]  # 8 was not wanted any more


def test_several_threads_make_the_same_batches_in_order():
    made, gate = [], threading.Barrier(3, timeout=30)

    def make(number):
        if number <= 3:
            gate.wait()  # passes only when three are made at the same time
        made.append(number)
        return number * 10

    ahead = Ahead(make, threads=3)
    assert [ahead(number) for number in range(1, 20)] == list(range(10, 200, 10))
    assert len(set(made)) == len(made)


def test_wrong_settings_are_named(small, tmp_path):
    with pytest.raises(MetadeblurError, match="no training clips"):
        train_reblur(replace(small, clips=()), tmp_path / "a", quiet=True)
    with pytest.raises(MetadeblurError, match="precision is 'fp16'"):
        train_reblur(replace(small, precision="fp16"), tmp_path / "b", quiet=True)
    with pytest.raises(MetadeblurError, match="lower --patch from 64"):
        train_reblur(replace(small, patch=64), tmp_path / "c", quiet=True)
    with pytest.raises(MetadeblurError, match="schedule is 'steep'"):
        train_reblur(replace(small, loop=replace(small.loop, schedule="steep")), tmp_path / "d", quiet=True)
    train_reblur(replace(small, loop=replace(small.loop, steps=1)), tmp_path / "e", quiet=True)
    with pytest.raises(MetadeblurError, match="--resume"):
        train_reblur(small, tmp_path / "e", quiet=True)


def test_figures_go_to_tensorboard_where_it_is_asked_for(small, tmp_path, monkeypatch):
    settings = replace(small, loop=replace(small.loop, steps=2, tensorboard=True))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(MetadeblurError, match=r"pip install .*\[train\]"):
            train_reblur(settings, tmp_path / "no", quiet=True)
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            assert (folder, purge_step) == (str(tmp_path / "run" / "tensorboard"), 1)

        def add_scalar(self, name, value, step):
            written.append((name, step))
            assert np.isfinite(value)

        def flush(self):
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    train_reblur(settings, tmp_path / "run", quiet=True)
    assert {("log/loss", 2), ("log/critic_gap", 2), ("validation/gain", 2)} <= set(written)

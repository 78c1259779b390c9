"""Several processes: the outcome is that of one with the same global batch, by the command that torchrun runs."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from train_together import train_all
from training_clips import write_clip

from metadeblur.cli.entry import main
from metadeblur.errors import MetadeblurError
from metadeblur.models.critic import Critic
from metadeblur.models.lite import Lite
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.weights import save_deblurrer
from metadeblur.reblur.fitting import NetworkReblurrer
from metadeblur.reblur.weights import load_reblurrer, save_reblurrer
from metadeblur.training import deblur, workers
from metadeblur.training.loop import run
from metadeblur.training.settings import LoopSettings
from metadeblur.training.workers import TrainingProcess, join

TESTS = Path(__file__).parents[1]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def together(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent / 'src'}:{TESTS / 'helpers'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*TORCHRUN, *words], capture_output=True, text=True, check=False, env=environment, timeout=500
    )


@pytest.fixture
def material(tmp_path):
    torch.manual_seed(0)
    for number in range(2):
        write_clip(tmp_path / "train" / f"clip{number}", number)
    deblurrer = Lite(channels=(8, 8), encoder=(1, 1), decoder=(1,), fold=2)
    nn.init.normal_(deblurrer.head.weight, std=0.01)
    save_deblurrer(deblurrer, tmp_path / "deblurrer.safetensors", {})
    network = ReblurNetwork(channels=4, units=1, width=8, blocks=1, heads=2, window=4)
    nn.init.normal_(network.decode.weight, std=0.05)
    save_reblurrer(NetworkReblurrer(network, Critic(channels=(4,))), tmp_path / "reblurrer.safetensors", {})
    return tmp_path


@pytest.mark.slow
def test_two_processes_train_as_one_does_with_the_same_global_batch(material, monkeypatch):
    monkeypatch.setattr(deblur, "new_network", deblur.new_network)  # train_all replaces it
    torch.manual_seed(0)
    train_all(material, material / "one")
    done = together(str(TESTS / "helpers" / "train_together.py"), str(material), str(material / "two"))
    assert done.returncode == 0, done.stderr[-2000:]
    names = ("deblur/weights", "reblur/reblurrer", "meta/reblurrer", "meta/weights", "meta_shared/weights")
    for name in names:
        one, two = (load_file(material / run / f"{name}.safetensors") for run in ("one", "two"))
        for key, value in one.items():
            assert torch.allclose(value.float(), two[key].float(), rtol=2e-3, atol=2e-5), (name, key)
    for name in ("deblur", "reblur", "meta", "meta_shared"):
        one, two = (rows(material / run / name / "log.csv") for run in ("one", "two"))
        assert len(one) == len(two) == (2 if "meta" in name else 3)
        for row, other in zip(one, two, strict=True):
            # Each process looks at its own part of a batch for the ratio of the losses' gradients.
            for figure in row.keys() - {"seconds_a_step", "gradient_ratio"}:
                assert float(row[figure]) == pytest.approx(float(other[figure]), rel=1e-3, abs=2e-6), (name, figure)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_command_is_the_same_under_torchrun(material):
    words = "train reblur --channels 4 --units 1 --width 8 --blocks 1 --heads 2 --batch 2 --patch 32"
    words += f" --critic-channels 4 --precision fp32 --clips {material / 'train'} -o {material / 'run'}"
    assert main([*words.split(), "--steps", "1"]) == 0
    done = together("-m", "metadeblur.cli.entry", *words.split(), "--steps", "2", "--resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_reblurrer(material / "run" / "reblurrer.safetensors").critic is not None
    assert torch.load(material / "run" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert done.stderr.count("the weights") == 1  # one of them talks


def test_all_processes_stop_when_the_first_finds_a_run_that_is_there_already(tmp_path, monkeypatch):
    def from_the_first(values, src, **_):
        assert (values, src) == ([None], 0)  # this process has not looked itself
        values[0] = MetadeblurError("checkpoint.pt is there already")

    monkeypatch.setattr(workers.distributed, "broadcast_object_list", from_the_first)
    other = TrainingProcess(torch.device("cpu"), rank=1, world=2)
    with pytest.raises(MetadeblurError, match="there already"):
        run(None, LoopSettings(), tmp_path, workers=other)


def test_a_batch_is_shared_evenly_or_refused():
    shares = [list(TrainingProcess(torch.device("cpu"), rank, 3).share(6)) for rank in range(3)]
    assert sorted(number for share in shares for number in share) == list(range(6))
    with pytest.raises(MetadeblurError, match="multiple of 4"):
        TrainingProcess(torch.device("cpu"), 0, 4).share(6)


def test_alone_nothing_is_averaged(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = join(torch.device("cpu"))
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    alone.average_gradients(layer.parameters())
    assert torch.equal(layer.weight.grad, before)
    assert alone.average({"loss": 2.0}) == {"loss": 2.0}
    assert (alone.leads, alone.agree("x"), alone.world) == (True, "x", 1)


def test_a_pytorch_without_processes_says_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(workers.distributed, "is_available", lambda: False)
    with pytest.raises(MetadeblurError, match="train with one process"):
        join(torch.device("cpu"))

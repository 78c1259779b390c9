"""Figures of a training reach a function, W&B and MLflow; a tracker that fails does not end the training."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from metadeblur.errors import MetadeblurError
from metadeblur.training.loop import Trainee, run
from metadeblur.training.settings import LoopSettings


@dataclass(frozen=True)
class Settings:
    """Of the training below."""

    learning_rate: float = 0.1
    loop: LoopSettings = field(default_factory=LoopSettings)


class Counting(Trainee):
    """Learns nothing, in no time."""

    settings = Settings()

    def __init__(self, stop: int = -1) -> None:
        self.net, self.stop = nn.Linear(1, 1), stop

    def step(self, number, rate):
        del rate
        if number == self.stop:
            raise KeyboardInterrupt
        return {"loss": 1.0 / (number + 1)}

    def validate(self, number):
        return {"base": 20.0 + number}

    def pictures(self, number):
        del number
        return {}

    def parts(self):
        return {"net": self.net}


def loop(**changes) -> LoopSettings:
    usual = {"steps": 4, "warmup": 0, "log_steps": 2, "validate_steps": 4, "checkpoint_minutes": 0.0}
    return LoopSettings(**usual | changes)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in of wandb that keeps what it is told."""
    told = SimpleNamespace(begun=[], logged=[], ended=[], fails=None)

    def log(figures, step):
        if told.fails:
            raise told.fails
        told.logged.append((step, figures))

    def init(**options):
        told.begun.append(options)
        return SimpleNamespace(log=log, finish=lambda exit_code: told.ended.append(exit_code))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return told


@pytest.fixture
def mlflow(monkeypatch):
    """A stand-in of mlflow that keeps what it is told."""
    told = SimpleNamespace(begun=[], parameters=[], logged=[], ended=[])

    def start_run(run_id=None, run_name=None):
        told.begun.append(run_id or run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    module = SimpleNamespace(
        set_experiment=lambda _: None,
        start_run=start_run,
        log_params=told.parameters.append,
        log_metrics=lambda figures, step: told.logged.append((step, figures)),
        end_run=lambda status: told.ended.append(status),
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return told


def test_a_function_is_told_every_line_of_the_log_and_every_validation(tmp_path):
    told = []
    run(Counting(), loop(), tmp_path / "run", quiet=True, callback=told.append)
    assert [(one["event"], one["step"]) for one in told] == [("log", 2), ("log", 4), ("validation", 4)]
    written = [float(row["loss"]) for row in rows(tmp_path / "run" / "log.csv")]
    assert [one["loss"] for one in told[:2]] == pytest.approx(written, abs=1e-6)
    assert told[2]["base"] == 24.0


def test_what_a_function_raises_ends_the_training(tmp_path):
    def stop(_):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        run(Counting(), loop(), tmp_path / "run", quiet=True, callback=stop)


def test_wandb_is_told_and_a_run_that_goes_on_is_the_same_run(wandb, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Counting(stop=3), loop(track="wandb"), tmp_path / "run", quiet=True)
    assert wandb.ended == [1]
    run(Counting(), loop(track="wandb"), tmp_path / "run", resume=True, quiet=True)
    first, second = wandb.begun
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["resume"]) == ("metadeblur", "run", "allow")
    assert first["config"]["learning_rate"] == 0.1
    assert first["config"]["loop.steps"] == 100_000
    assert [step for step, _ in wandb.logged] == [2, 4, 4]
    assert wandb.logged[-1][1] == {"validation/base": 24.0}
    assert wandb.ended == [1, 0]


def test_mlflow_is_told_and_a_run_that_goes_on_is_the_same_run(mlflow, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Counting(stop=3), loop(track="mlflow"), tmp_path / "run", quiet=True)
    run(Counting(), loop(track="mlflow"), tmp_path / "run", resume=True, quiet=True)
    assert mlflow.begun == ["run", "abc"]
    assert len(mlflow.parameters) == 1  # they cannot be given twice
    assert [step for step, _ in mlflow.logged] == [2, 4, 4]
    assert set(mlflow.logged[0][1]) == {"log/loss", "log/seconds_a_step"}
    assert mlflow.ended == ["KILLED", "FINISHED"]
    assert json.loads((tmp_path / "run" / "tracking.json").read_text()) == {"mlflow": "abc"}


def test_a_tracker_that_fails_is_told_once_and_the_training_goes_on(wandb, tmp_path, capsys):
    wandb.fails = OSError("no network\nat all")
    run(Counting(), loop(track="wandb"), tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("wandb failed (no network); training goes on without it") == 1
    assert len(rows(tmp_path / "run" / "log.csv")) == 2


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_one_line_and_leaves_nothing(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MetadeblurError, match=f"{name} is not installed: pip install {name}; or leave --track"):
        run(Counting(), loop(track=name), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(MetadeblurError, match="track is 'tensorboard'"):
        loop(track="tensorboard")

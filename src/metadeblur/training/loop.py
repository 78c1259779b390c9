"""The loop that every training shares: schedule, checkpoints, log, progress, resuming."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metadeblur.errors import MetadeblurError
from metadeblur.video.output import whole


@dataclass(frozen=True)
class LoopSettings:
    """How long, how fast and how safely a training runs."""

    steps: int = 100_000  # gradient steps in all
    warmup: int = 200  # steps over which the learning rate rises
    decay: int = 0  # last steps over which it falls to zero; before, it stays level (so a run can be prolonged)
    checkpoint_minutes: float = 4.0  # time between checkpoints
    validate_steps: int = 1000  # steps between validations
    log_steps: int = 50  # steps whose mean makes one line of log.csv
    seed: int = 0  # the randomness of the whole run


class Trainee(Protocol):
    """What is being trained: knows its networks, data and optimisers."""

    def step(self, number: int, rate: float) -> dict[str, float]:
        """One gradient step, its learning rates multiplied by ``rate``; returns figures for the log."""
        ...

    def validate(self, number: int) -> dict[str, float]:
        """Figures on held-out data."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, tensors and plain values only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        ...


def rate(step: int, settings: LoopSettings) -> float:
    """Factor of the learning rate at ``step``: linear rise, level, linear fall over the last ``decay`` steps.

    >>> [rate(s, LoopSettings(steps=100, warmup=10, decay=20)) for s in (4, 50, 90)]
    [0.5, 1.0, 0.5]
    """
    rise = min(1.0, (step + 1) / max(settings.warmup, 1))
    fall = min(1.0, (settings.steps - step) / settings.decay) if settings.decay else 1.0
    return min(rise, fall)


def run(trainee: Trainee, settings: LoopSettings, out: Path, *, resume: bool = False, quiet: bool = False) -> int:
    """Train until ``settings.steps``, writing ``out/checkpoint.pt``, ``log.csv`` and ``validation.csv``.

    Args:
        trainee: what is trained; left in its final state.
        settings: see :class:`LoopSettings`.
        out: the run's folder.
        resume: go on from ``out/checkpoint.pt`` where it exists.
        quiet: no progress bar.

    Returns:
        The number of the last step.

    Raises:
        MetadeblurError: ``out`` holds a checkpoint and ``resume`` was not asked for, or the loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        if not resume:
            raise MetadeblurError(f"{checkpoint} is there already; go on with --resume, or give another folder with -o")
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        trainee.load_state_dict(saved["trainee"])
        first = saved["step"]
    saved_at = time.monotonic()
    sums: dict[str, float] = {}
    counted = 0
    since = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=quiet) as bar:
        task = bar.add_task("training", total=settings.steps, completed=first)
        for step in range(first, settings.steps):
            figures = trainee.step(step, rate(step, settings))
            bad = [name for name, value in figures.items() if value != value or abs(value) == float("inf")]
            if bad:
                raise MetadeblurError(
                    f"step {step}: {', '.join(bad)} is not finite; lower the learning rate and go on with --resume"
                )
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
            done, counted = step + 1, counted + 1
            bar.update(task, completed=done)
            if done % settings.log_steps == 0:
                seconds = (time.monotonic() - since) / counted
                means = {name: value / counted for name, value in sums.items()}
                _append(out / "log.csv", {"step": done, "seconds_a_step": seconds, **means})
                sums, counted, since = {}, 0, time.monotonic()
            if done % settings.validate_steps == 0 or done == settings.steps:
                _append(out / "validation.csv", {"step": done, **trainee.validate(done)})
                since = time.monotonic()
            due = time.monotonic() - saved_at > settings.checkpoint_minutes * 60
            if due or done == settings.steps:
                with whole(checkpoint) as partial:
                    torch.save({"step": done, "trainee": trainee.state_dict()}, partial)
                saved_at = time.monotonic()
    return settings.steps


def _append(path: Path, row: dict[str, float]) -> None:
    """Add one line to a CSV file, with a head line when it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow({name: round(value, 6) for name, value in row.items()})

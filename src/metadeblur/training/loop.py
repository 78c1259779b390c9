"""The loop that every training shares: schedule, checkpoints, log, pictures, progress, resuming."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.pictures import Picture, encode_png
from metadeblur.pipeline.console import Terminal, stderr_console
from metadeblur.system.extras import how_to_install
from metadeblur.system.files import filling, whole
from metadeblur.system.log import record
from metadeblur.training.checkpoint import keep_checkpoint, saved_state, write_checkpoint
from metadeblur.training.curves import write_curves
from metadeblur.training.settings import LoopSettings
from metadeblur.training.tracking import Callback, tracking
from metadeblur.training.workers import TrainingProcess


class Trainee(Protocol):
    """What is being trained: knows its networks, data and optimisers."""

    def step(self, number: int, rate: float) -> dict[str, float]:
        """One gradient step, its learning rates multiplied by ``rate``; returns figures for the log."""
        ...

    def validate(self, number: int) -> dict[str, float]:
        """Figures on held-out data."""
        ...

    def pictures(self, number: int) -> dict[str, Picture]:
        """Pictures of held-out data to look at, by name; none where there is none."""
        ...

    def rates(self, rate: float) -> dict[str, float]:
        """Learning rates at a factor ``rate``, for the log."""
        del rate
        return {}

    def parts(self) -> dict[str, Any]:
        """Networks and optimisers whose state a resumed run needs, by their names in the checkpoint."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state of every part, tensors and plain values only."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])


def rate(step: int, settings: LoopSettings) -> float:
    """Factor of the learning rate at ``step``.

    A linear rise, then level with a linear fall over the last ``decay`` steps, half a cosine over all steps, or a
    stair that goes down by a factor every so many steps.

    >>> [rate(s, LoopSettings(steps=100, warmup=10, decay=20)) for s in (4, 50, 90)]
    [0.5, 1.0, 0.5]
    >>> [round(rate(s, LoopSettings(steps=100, warmup=0, schedule="cosine")), 3) for s in (0, 50, 99)]
    [1.0, 0.5, 0.0]
    >>> [rate(s, LoopSettings(steps=100, warmup=0, schedule="step", step_every=40)) for s in (39, 40, 80)]
    [1.0, 0.5, 0.25]
    """
    rise = min(1.0, (step + 1) / max(settings.warmup, 1))
    if settings.schedule == "cosine":
        fall = settings.floor + (1 - settings.floor) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    elif settings.schedule == "step":
        fall = settings.step_factor ** (step // settings.step_every)
    else:
        fall = min(1.0, (settings.steps - step) / settings.decay) if settings.decay else 1.0
    return min(rise, fall)


def follow(mean: nn.Module, net: nn.Module, decay: float, number: int) -> None:
    """Move the running mean of a network's weights (EMA) one step on, after step ``number``, from 0.

    ``decay`` is the weight of the past, 0 to 1; in the first steps it is less, so that the first weights are soon
    forgotten.
    """
    decay = min(decay, (1 + number) / (10 + number))
    with torch.no_grad():
        # Not by the state dict, where a weight that layers share stands under several names.
        both = [(value, current.to(value)) for value, current in zip(_values(mean), _values(net), strict=True)]
        floats = [pair for pair in both if pair[0].is_floating_point()]
        get_ema_multi_avg_fn(decay)(*map(list, zip(*floats, strict=True)), None)  # type: ignore[no-untyped-call]
        for value, current in both:
            if not value.is_floating_point():
                value.copy_(current)


def _values(net: nn.Module) -> list[Tensor]:
    return [*net.parameters(), *net.buffers()]


def run(
    trainee: Trainee,
    settings: LoopSettings,
    out: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    workers: TrainingProcess | None = None,
    items: int = 0,
    callback: Callback | None = None,
) -> int:
    """Train until ``settings.steps``.

    Writes ``out/checkpoint.pt`` (and keeps the one before it, and those of every ``keep_steps`` in ``checkpoints/``),
    ``log.csv``, ``validation.csv``, ``curves.html`` and ``pictures/``; with several processes the first one does. A run
    that was stopped goes on to the same weights and the same log.

    Args:
        trainee: what is trained; left in its final state.
        settings: see :class:`LoopSettings`.
        out: the run's folder.
        resume: go on from ``out/checkpoint.pt`` where it exists, or from the one before where it is damaged.
        quiet: no progress bar.
        workers: the processes that train together; this one alone if not given.
        items: patches a step, for the throughput that is shown.
        callback: called with the figures of each line of the log and of each validation, by the first process: a
            dictionary with ``event`` ("log" or "validation"), ``step`` and numbers by name. What it raises ends all.

    Returns:
        The number of the last step.

    Raises:
        MetadeblurError: ``out`` holds a checkpoint and ``resume`` was not asked for, it was made with other settings,
            none is whole, somebody else trains there, a schedule that is not known, figures that are not finite, or a
            tracker that is not installed.
    """
    workers = workers or TrainingProcess(torch.device("cpu"))
    with ExitStack() as stack:
        tell: Callback | None = None
        saved: Any = None
        if workers.leads:
            about = getattr(trainee, "settings", settings)
            say = Terminal(quiet=quiet).say
            tracked = tracking(settings.track, out, about, callback=callback, say=say)
            saved, tell = _begin(out, stack, tracked, resume, say)
        saved = workers.agree(saved)
        if isinstance(saved, MetadeblurError):
            raise saved
        return _steps(trainee, settings, out, saved, quiet=quiet, workers=workers, items=items, tell=tell)


def _steps(
    trainee: Trainee,
    settings: LoopSettings,
    out: Path,
    saved: Any,
    *,
    quiet: bool,
    workers: TrainingProcess,
    items: int,
    tell: Callback | None,
) -> int:
    """Train from a checkpoint, or from the start where there is none; returns the number of the last step."""
    first, meter = 0, _Meter()
    if saved is not None:
        first, meter = _go_on(trainee, saved, out)
    if first > settings.steps:
        raise MetadeblurError(f"{out / 'checkpoint.pt'} is at step {first} already; give --steps {first} or more")
    book = _Book(out, settings, first, tell) if workers.leads and tell else None
    saved_at = time.monotonic()
    with _bar(quiet or not workers.leads) as bar:
        task = bar.add_task("training", total=settings.steps, completed=first, speed="")
        for step in range(first, settings.steps):
            # The randomness of a step (dropout) depends on its number alone, so that a resumed run draws alike.
            torch.manual_seed((settings.seed * 1_000_003 + step) * 4_099 + workers.rank)
            began = time.monotonic()
            figures = workers.average(trainee.step(step, rate(step, settings)))
            meter.add(figures, time.monotonic() - began)
            bad = [name for name, value in figures.items() if not math.isfinite(value)]
            if bad:
                raise MetadeblurError(
                    f"step {step}: {', '.join(bad)} is not finite; lower the learning rate and go on with --resume"
                )
            done = step + 1
            bar.update(task, completed=done, speed=_speed(meter, items))
            if book is None:
                meter.clear_if(done % settings.log_steps == 0)
                continue
            if done % settings.log_steps == 0:
                book.log({"step": done, **meter.means(), **trainee.rates(rate(step, settings))})
            meter.clear_if(done % settings.log_steps == 0)
            if done % settings.validate_steps == 0 or done == settings.steps:
                book.validation({"step": done, **trainee.validate(done)}, trainee.pictures(done))
            due = time.monotonic() - saved_at > settings.checkpoint_minutes * 60
            kept = settings.keep_steps > 0 and done % settings.keep_steps == 0
            if due or kept or done == settings.steps:
                state = {"step": done, "trainee": trainee.state_dict(), "meter": meter.state()}
                write_checkpoint(state, out)
                saved_at = time.monotonic()
            if kept:
                keep_checkpoint(out, done)
    return settings.steps


@dataclass
class _Meter:
    """Sums of the figures of the steps that make the next line of the log."""

    sums: dict[str, float] | None = None
    seconds: float = 0.0
    count: int = 0

    def add(self, figures: Mapping[str, float], seconds: float) -> None:
        self.sums = {name: (self.sums or {}).get(name, 0.0) + value for name, value in figures.items()}
        self.seconds, self.count = self.seconds + seconds, self.count + 1

    def means(self) -> dict[str, float]:
        means = {name: value / self.count for name, value in (self.sums or {}).items()}
        return {"seconds_a_step": self.seconds / self.count, **means}

    def clear_if(self, full: bool) -> None:
        if full:
            self.sums, self.seconds, self.count = None, 0.0, 0

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "seconds": self.seconds, "count": self.count}


def _begin(
    out: Path,
    stack: ExitStack,
    tracked: AbstractContextManager[Callback],
    resume: bool,
    say: Callable[[str], None],
) -> tuple[Any, Callback | None]:
    """The checkpoint to go on from, None for a new run, or what stands against either; and whom the figures go to.

    Others are kept out of the folder. An error is returned: the other processes must hear of it.
    """
    try:
        stack.enter_context(filling(out, "training"))
        return saved_state(out, resume=resume, say=say), stack.enter_context(tracked)
    except MetadeblurError as error:
        return error, None


def _go_on(trainee: Trainee, saved: Any, out: Path) -> tuple[int, _Meter]:
    """Take up a checkpoint: the number of its last step, and the figures since the last line of the log.

    Raises:
        MetadeblurError: it is not one of this training.
    """
    try:
        step, meter = int(saved["step"]), _Meter(**saved.get("meter", {}))
        trainee.load_state_dict(saved["trainee"])
    except Exception as error:  # what is not a checkpoint of this training can fail anywhere in it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MetadeblurError(
            f"{out / 'checkpoint.pt'}: is no checkpoint of this training ({reason}); give another folder with -o"
        ) from error
    return step, meter


def _bar(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(quiet=True) if quiet else stderr_console(),  # before 14.3 rich ends a disabled bar with a line
        disable=quiet,
    )


def _speed(meter: _Meter, items: int) -> str:
    if meter.count == 0:
        return ""
    seconds = meter.seconds / meter.count
    patches = f", {items / seconds:.1f} patches/s" if items and seconds > 0 else ""
    return f"{seconds:.3g} s a step{patches}"


class _Book:
    """The run's figures on disk; lines after the step that a run goes on from are dropped, for it writes them again."""

    def __init__(self, out: Path, settings: LoopSettings, first: int, tell: Callback) -> None:
        self._out, self._tell = out, tell
        for name in ("log", "validation"):
            _drop_after(out / f"{name}.csv", first)
        self._board = _tensorboard(out, first) if settings.tensorboard else None

    def log(self, row: dict[str, float]) -> None:
        """One line of ``log.csv``."""
        self._write("log", row)

    def validation(self, row: dict[str, float], pictures: Mapping[str, Picture]) -> None:
        """One line of ``validation.csv``, its pictures, and the curves as a page."""
        if len(row) > 1:
            self._write("validation", row)
        for name, picture in pictures.items():
            folder = self._out / "pictures"
            folder.mkdir(exist_ok=True)
            with whole(folder / f"{int(row['step']):08d}_{name}.png") as partial:
                partial.write_bytes(encode_png(picture))
        write_curves(self._out)

    def _write(self, name: str, row: dict[str, float]) -> None:
        _append(self._out / f"{name}.csv", row)
        record(f"{name}: {', '.join(f'{figure} {value:g}' for figure, value in row.items())}", detail=True)
        if self._board is not None:
            for figure, value in row.items():
                if figure != "step":
                    self._board.add_scalar(f"{name}/{figure}", value, int(row["step"]))
            self._board.flush()
        self._tell({"event": name, **row})


def _tensorboard(out: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MetadeblurError(
            f"TensorBoard is not installed: {how_to_install('train')}; or leave --tensorboard out"
        ) from error
    return SummaryWriter(str(out / "tensorboard"), purge_step=first + 1)


def _append(path: Path, row: dict[str, float]) -> None:
    """Add one line to a CSV file, with a head line when it is new; an older one gets the columns that it lacks."""
    names = _head(path)
    if names and not set(row) <= set(names):
        names += [name for name in row if name not in names]
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        _rewrite(path, names, rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=names or list(row))
    if not names:
        writer.writeheader()
    writer.writerow({name: round(value, 6) for name, value in row.items()})
    with path.open("a", newline="") as file:
        file.write(text.getvalue())


def _drop_after(path: Path, step: int) -> None:
    """Keep the lines of a CSV file up to a step; one that was cut short by the end of a run is none."""
    if not path.exists():
        return
    with path.open(newline="", errors="replace") as file:
        reader = csv.DictReader(line.replace("\0", "") for line in file)
        names, rows = list(reader.fieldnames or []), [row for row in reader if _is_whole(row) and _step(row) <= step]
    if not rows:
        path.unlink()
        return
    _rewrite(path, names, rows)


def _head(path: Path) -> list[str]:
    """The names of a CSV file's columns; none where there is no such file, or nothing in it."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file).fieldnames or [])


def _rewrite(path: Path, names: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file anew, whole or not at all; what a line lacks stays empty."""
    with whole(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(rows)


def _is_whole(row: Mapping[str | None, Any]) -> bool:
    """Whether a line of figures has all its columns, and a step."""
    return None not in row and None not in row.values() and str(row.get("step", "")).replace(".", "").isdigit()


def _step(row: Mapping[str, Any]) -> float:
    return float(row["step"])

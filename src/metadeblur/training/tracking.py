"""Figures of a training for whoever follows it: a function of the caller's, Weights & Biases, or MLflow."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metadeblur.errors import MetadeblurError
from metadeblur.system.files import whole
from metadeblur.system.json_files import plain, to_json
from metadeblur.system.plain_files import read_object
from metadeblur.types import Tracker

Figures = dict[str, Any]
Callback = Callable[[Figures], object]
"""Is given the figures of each line of the log and of each validation: ``event`` ("log" or "validation"), ``step``, and
numbers by name, such as ``loss``."""

PROJECT = "metadeblur"  # how the run is filed: a project of W&B, an experiment of MLflow
_REMEMBERED = "tracking.json"  # in the run's folder: by what a run that goes on finds its earlier part


@contextmanager
def tracking(
    tracker: Tracker,
    out: Path,
    settings: Any,
    *,
    callback: Callback | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Iterator[Callback]:
    """Whom the figures of a training go to, while it runs.

    A tracker that fails in the middle is told once, and the training goes on without it; what ``callback`` raises ends
    the training.

    Args:
        tracker: "none", "wandb" or "mlflow".
        out: the run's folder; the run is called as it is.
        settings: of the training, a dataclass, which the tracker shows beside the figures.
        callback: a function of the caller's.
        say: is told if the tracker fails.

    Raises:
        MetadeblurError: the tracker is not installed, or does not begin.
    """
    with ExitStack() as stack:
        listeners: list[Callback] = [callback] if callback else []
        if tracker != "none":
            begin = {"wandb": _wandb, "mlflow": _mlflow}[tracker]
            listeners.append(_patient(stack.enter_context(begin(out, flat(settings))), tracker, say))

        def tell(figures: Figures) -> None:
            for listener in listeners:
                listener(dict(figures))

        yield tell


def flat(settings: Any) -> dict[str, Any]:
    """Settings as plain values by name, those of settings inside as ``loop.steps``.

    >>> from metadeblur.training.settings import DeblurTraining
    >>> flat(DeblurTraining())["loop.warmup"]
    200
    """

    def entries(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from entries(value, f"{before}{name}.")
            else:
                yield f"{before}{name}", value

    return dict(entries(plain(asdict(settings)), ""))


def _patient(listener: Callback, name: str, say: Callable[[str], object]) -> Callback:
    """A listener that is not asked again once it has failed."""
    failed = False

    def tell(figures: Figures) -> None:
        nonlocal failed
        if failed:
            return
        try:
            listener(figures)
        except Exception as error:
            failed = True
            say(f"{name} failed ({_reason(error)}); training goes on without it")

    return tell


def _named(figures: Figures) -> dict[str, float]:
    """Figures by the names that TensorBoard has too, such as ``log/loss``."""
    return {f"{figures['event']}/{name}": value for name, value in figures.items() if name not in ("event", "step")}


@contextmanager
def _wandb(out: Path, settings: Mapping[str, Any]) -> Iterator[Callback]:
    wandb, known = _library("wandb"), _remembered(out, "wandb")
    identifier = known or uuid.uuid4().hex[:8]
    with _beginning("wandb"):
        run = wandb.init(
            project=PROJECT, name=out.name, dir=str(out), config=dict(settings), id=identifier, resume="allow"
        )
    _remember(out, "wandb", identifier)

    def finish(code: int) -> None:
        with suppress(Exception):  # the training is over, whatever becomes of its copy
            run.finish(exit_code=code)

    with _ended(lambda: finish(0), lambda _: finish(1)):
        yield lambda figures: run.log(_named(figures), step=int(figures["step"]))


@contextmanager
def _mlflow(out: Path, settings: Mapping[str, Any]) -> Iterator[Callback]:
    mlflow, known = _library("mlflow"), _remembered(out, "mlflow")
    with _beginning("mlflow"):
        mlflow.set_experiment(PROJECT)
        run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=out.name)
        if not known:  # a parameter cannot be given twice
            mlflow.log_params(dict(settings))
    _remember(out, "mlflow", run.info.run_id)

    def finish(status: str) -> None:
        with suppress(Exception):
            mlflow.end_run(status=status)

    def stop(error: BaseException) -> None:
        finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    with _ended(lambda: finish("FINISHED"), stop):
        yield lambda figures: mlflow.log_metrics(_named(figures), step=int(figures["step"]))


@contextmanager
def _ended(well: Callable[[], object], badly: Callable[[BaseException], object]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        badly(error)
        raise
    well()


@contextmanager
def _beginning(name: str) -> Iterator[None]:
    """Turn what a tracker refuses to begin with into one line."""
    try:
        yield
    except Exception as error:
        raise MetadeblurError(f"{name} does not begin: {_reason(error)}; or leave --track out") from error


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MetadeblurError(f"{name} is not installed: pip install {name}; or leave --track {name} out") from error


def _remembered(out: Path, name: str) -> str | None:
    """By what a tracker knows the run of this folder; None: it does not yet."""
    path = out / _REMEMBERED
    known = read_object(path).get(name) if path.is_file() else None
    return known if isinstance(known, str) else None


def _remember(out: Path, name: str, identifier: str) -> None:
    path = out / _REMEMBERED
    known = read_object(path) if path.is_file() else {}
    with whole(path) as partial:
        partial.write_text(to_json({**known, name: identifier}), encoding="utf-8")


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

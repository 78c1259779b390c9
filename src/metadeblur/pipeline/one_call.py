"""A whole file restored by one call from Python, as the command ``restore`` does it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from metadeblur.adaptation.settings import AdaptSettings, preset
from metadeblur.errors import MetadeblurError
from metadeblur.limits import refuse_unknown
from metadeblur.models.deblurrer import as_deblurrer
from metadeblur.models.forward import frozen
from metadeblur.models.weights import load_deblurrer
from metadeblur.pipeline.archive import find_inputs
from metadeblur.pipeline.console import Terminal
from metadeblur.pipeline.events import (
    Detail,
    Event,
    FrameRestored,
    FrameScanned,
    Listener,
    Note,
    PhaseEnded,
    PhaseStarted,
    StepDone,
    TimeLeft,
)
from metadeblur.pipeline.outputs import Job, existing, plan
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.report.record import RunRecord
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.json_files import write_json
from metadeblur.types import Effort
from metadeblur.video import EncodeSettings

FileProgress = Callable[[int, int, str], object]
"""Called with (done, in all, stage): "scan", "preview" and "restore" count frames, other stages gradient steps."""

_log = logging.getLogger(__name__)


def restore_video(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    effort: Effort = "balanced",
    model: Any = "lite",
    progress: FileProgress | bool | None = None,
    adapt: bool = True,
    side_by_side: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    json: str | os.PathLike[str] | None = None,
    preview_seconds: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: RunSettings | None = None,
    **overrides: Any,
) -> RunRecord:
    """Restore a video, a folder of frames or a picture, as ``metadeblur restore`` does.

    It is cut into shots, each gets a network of its own where that helps, sound and tags are kept, and no more than a
    few frames are in memory. What it says goes to the logger ``metadeblur``.

    Args:
        path: the input.
        out: where the result goes, as ``--output``; None: beside the input, named NAME_deblurred.
        effort: "quick", "balanced" or "best"; where settings are given, they decide.
        model: a model's name, a weight file, or a network as :func:`metadeblur.adapt` takes it; it is not changed.
        progress: True shows bars; a function is called with (done, in all, stage), where stage is "scan", "preview" or
            "restore" (frames), or what gradient steps are taken for.
        adapt: adapt to each shot; without, the network is used as it is.
        side_by_side: also write blurred and restored next to each other to this file.
        report: write a page with pictures and reasons into this folder.
        json: write the record to this file.
        preview_seconds: first restore so many seconds to a file named OUT_preview.
        resume: go on where an earlier call was stopped.
        overwrite: replace an output that is there already.
        settings: all settings in one.
        **overrides: single fields of :class:`~metadeblur.AdaptSettings`, :class:`~metadeblur.RestoreSettings` and
            :class:`~metadeblur.EncodeSettings`, such as ``steps=40, tile=512, codec="h265"``.

    Returns:
        The record: verdict, shots, scores, losses, seconds.

    Raises:
        MetadeblurError: the input cannot be read, the output is there already or cannot be written, no such model or
            setting, or a setting is out of range.
    """
    if not isinstance(path, str | os.PathLike):
        raise MetadeblurError(
            f"restore_video takes the path of one file or folder, not a {type(path).__name__}; md.restore(net, clip) "
            "restores frames"
        )
    run = _run_settings(settings, effort, overrides)
    run = replace(run, adapt=adapt and run.adapt, preview_seconds=preview_seconds or run.preview_seconds)
    run = replace(run, resume=resume or run.resume)
    listener = _listener(progress)
    job = _job(Path(path), out, side_by_side, report, json)
    if existing([job], resume=run.resume) and not overwrite:
        raise MetadeblurError(f"{job.output}: there already; overwrite=True replaces it")
    net, name = _network(model)
    record = restore_file(job, net, run, model=name, listener=listener)
    if json is not None:
        write_json(record, Path(json))
    return record


def _run_settings(settings: RunSettings | None, effort: Effort, overrides: dict[str, Any]) -> RunSettings:
    """All settings, with single fields changed; device and precision are those of adapting and of restoring."""
    parts = {"adaptation": AdaptSettings, "restoration": RestoreSettings, "encoding": EncodeSettings}
    names = {part: [entry.name for entry in fields(kind)] for part, kind in parts.items()}
    own = [entry for entry in restore_video.__annotations__ if entry not in ("overrides", "return")]
    refuse_unknown(
        overrides, dict.fromkeys([*(name for some in names.values() for name in some), *own]), "restore_video"
    )
    if settings is None:
        by_network = overrides.get("reblur") == "network" and effort != "quick"
        settings = RunSettings(adaptation=preset("paper" if by_network else effort))
    given = {part: {key: overrides[key] for key in overrides if key in names[part]} for part in parts}
    return replace(
        settings,
        adaptation=settings.adaptation.changed(**given["adaptation"]),
        restoration=replace(settings.restoration, **given["restoration"]),
        encoding=replace(settings.encoding, **given["encoding"]),
    )


def _job(path: Path, out: Any, side_by_side: Any, report: Any, json: Any) -> Job:
    """The input and the files to make of it."""
    inputs = find_inputs([path])
    if len(inputs) != 1 or inputs[0].found:
        raise MetadeblurError(f"{path}: holds several videos; restore_video takes one at a time")
    named = {"side_by_side": side_by_side, "report": report, "json": json}
    paths = {name: None if value is None else Path(value) for name, value in named.items()}
    return plan(inputs, None if out is None else str(out), **paths)[0]


def _network(model: Any) -> tuple[nn.Module, str]:
    """The network, and what the record calls it."""
    if isinstance(model, str | os.PathLike):
        return load_deblurrer(Path(model) if not isinstance(model, str) else model), str(model)
    net = as_deblurrer(model)
    inside = getattr(net, "net", net)
    return frozen(net), type(inside if isinstance(inside, nn.Module) else net).__name__


def _listener(progress: FileProgress | bool | None) -> Listener | None:
    """Who listens to the run; None where nobody does, so that nothing is measured to be told."""
    listeners: list[Listener] = [_log_event] if _log.isEnabledFor(logging.INFO) else []
    if progress is True:
        listeners.append(_Bars())
    elif progress not in (None, False):
        if not callable(progress):
            raise MetadeblurError(f"progress is {progress!r:.80}; give True, or a function of (done, in all, stage)")
        listeners.append(_Calls(progress))
    if not listeners:
        return None

    def everybody(event: Event) -> None:
        for listen in listeners:
            listen(event)

    return everybody


def _log_event(event: Event) -> None:
    match event:
        case Note(text) | TimeLeft(text=text):
            _log.info("%s", text)
        case Detail(text):
            _log.debug("%s", text)


@dataclass
class _Calls:
    """Calls a function with how far the work is."""

    call: FileProgress
    _phases: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        match event:
            case PhaseStarted(phase):
                self._phases.append(phase)
            case PhaseEnded():
                self._phases.pop()
            case FrameScanned(done, total):
                self.call(done, total, "scan")
            case StepDone(stage=stage, done=done, total=total):
                self.call(done, total, stage)
            case FrameRestored(at=at) if self._phases and self._phases[-1] != "measure":
                self.call(at.frames_done, at.frames, self._phases[-1])


class _Bars:
    """Bars in a terminal; elsewhere, as in a notebook, a line for each tenth of the frames."""

    def __init__(self) -> None:
        self._terminal = Terminal()
        self._tenths = _Calls(self._tell)
        self._told = 0

    def __call__(self, event: Event) -> None:
        self._terminal(event)
        self._tenths(event)

    def _tell(self, done: int, total: int, stage: str) -> None:
        console = self._terminal.console
        tenth = 10 * done // max(total, 1)
        if stage == "restore" and tenth > self._told and console is not None and not console.is_terminal:
            self._told = tenth
            self._terminal.say(f"restoring: {done} of {total} frames")

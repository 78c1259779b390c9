"""The state of a training on disk: the last checkpoint and the one before it, of which one is always whole."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metadeblur.errors import MetadeblurError
from metadeblur.models.formats.checkpoints import load_pickled
from metadeblur.system.files import flush, whole

LAST, BEFORE = "checkpoint.pt", "checkpoint-before.pt"
KEPT = "checkpoints"


def write_checkpoint(state: dict[str, Any], out: Path) -> None:
    """Write a checkpoint into a run's folder; the last one becomes the one before.

    Raises:
        MetadeblurError: the disk is full, or there is no permission.
    """
    last = out / LAST
    with whole(last) as draft:
        torch.save(state, draft)
        flush(draft)
        if last.exists():
            last.replace(out / BEFORE)


def keep_checkpoint(out: Path, step: int) -> Path:
    """Keep the last checkpoint for good, as ``checkpoints/STEP.pt``.

    Copied to the folder of a new run as ``checkpoint.pt``, it is gone on with by ``--resume``.

    Raises:
        MetadeblurError: the disk is full, or there is no permission.
    """
    target = out / KEPT / f"{step:08d}.pt"
    target.parent.mkdir(exist_ok=True)
    with whole(target) as draft:
        shutil.copyfile(out / LAST, draft)
        flush(draft)
    return target


def saved_state(out: Path, *, resume: bool, say: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
    """The checkpoint to go on from, None for a new run; ``say`` is told of a damaged one.

    Raises:
        MetadeblurError: there is a checkpoint and ``resume`` was not asked for, or none that is there is whole.
    """
    there = [path for path in (out / LAST, out / BEFORE) if os.path.lexists(path)]
    if there and not resume:
        raise MetadeblurError(f"{there[0]} is there already; go on with --resume, or give another folder with -o")
    faults = []
    for path in there:
        try:
            return _read(path)
        except MetadeblurError as error:
            faults.append(error)
            if path != there[-1]:
                say(f"{error}; going on from the one before it")
    if faults:
        raise MetadeblurError(
            f"{faults[0]}; there is nothing whole to go on from: give another folder with -o, or remove "
            f"{' and '.join(path.name for path in there)} to begin anew"
        ) from faults[0]
    return None


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint.

    Raises:
        MetadeblurError: it is not what was written. PyTorch alone would not see a damaged tensor.
    """
    state = load_pickled(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise MetadeblurError(f"{path}: is damaged ({error})") from error
    if damaged is not None or not isinstance(state, dict) or not {"step", "trainee"} <= state.keys():
        raise MetadeblurError(f"{path}: is damaged, or no checkpoint of a training")
    return state

"""What the tests of whole runs share: small shaky videos with cuts, a small model, the command in process or apart."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from media import make_video, moving_picture
from numpy.typing import NDArray

from metadeblur.cli.entry import main
from metadeblur.models.lite import Lite
from metadeblur.models.weights import save_deblurrer

QUICK = ("--steps", "2", "--pairs", "2")
PLAIN = ("--no-adapt", "--no-guard")


def shaky(counts: Sequence[int] = (12,), size: tuple[int, int] = (64, 96)) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3) of shots of so many frames each: another scene in each, blurred along its motion."""
    shots = []
    for seed, count in enumerate(counts):
        fine = moving_picture(count * 3, *size, seed=seed, step=1.0).reshape(count, 3, *size, 3)
        brightness = 0.75 + 0.5 * (seed % 2)
        shots.append((fine.mean(1) * brightness).clip(16, 235).round().astype(np.uint8))
    return np.concatenate(shots)


def shaky_video(path: Path, counts: Sequence[int] = (12,), **options: Any) -> Path:
    """The same as a video file; more options as :func:`media.make_video`."""
    return make_video(path, shaky(counts), **options)


def small_model(path: Path) -> Path:
    """Weights of a very small network that changes pictures a little."""
    torch.manual_seed(0)
    net = Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,))
    torch.nn.init.normal_(net.head.weight, std=0.002)
    save_deblurrer(net, path, {"architecture": "lite"})
    return path


def command() -> str:
    """The installed command."""
    found = shutil.which("metadeblur", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert found, "the package is not installed: pip install -e ."
    return found


def start(words: Iterable[object], **options: Any) -> subprocess.Popen[str]:
    """Start the installed command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([command(), *map(str, words)], env=environment, **pipes, **options)


def run(*words: object) -> int:
    """The command in this process; returns its exit code."""
    return main([str(word) for word in words])


def decoded(path: Path) -> NDArray[np.uint8]:
    """All frames of a video as (T, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden things too."""
    return sorted(path.name for path in folder.iterdir())

"""How fast frames are restored on this machine: measured on a patch of a photograph, scaled to the sizes of video."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metadeblur.clip import Clip
from metadeblur.data.pairs import read_picture
from metadeblur.models.registry import traits
from metadeblur.models.weights import load_deblurrer
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.system.machine import usable_cpus
from metadeblur.system.scratch import scratch_folder
from metadeblur.video import read_clip, write_clip

SIZES = {"480p": (480, 854), "720p": (720, 1280), "1080p": (1080, 1920)}  # height, width, px
SECONDS = 2.0  # that one model may take, loading included
SIDES = (64, 128, 256, 512, 1024)  # px, of the patches tried: the larger the truer, as long as there is time
_STEP = 3  # px that the picture moves from frame to frame
_ROUNDS = 2  # the first one also sets up what the others use again
_CODED = (8, 360, 640)  # frames, height, width of the video whose decoding and encoding is timed


@dataclass(frozen=True)
class Speed:
    """What a model was measured to take for one patch, and what to expect from that."""

    model: str
    precision: str  # "fp32" or "bf16", as restoring chooses
    side: int  # px, of the square patch
    seconds: float  # for one patch
    frames_a_second: dict[str, float]  # to expect of a restoration without adapting, by the names of SIZES


def quickest(run: Callable[[], object], rounds: int, limit: float = math.inf) -> float:
    """Seconds of the quickest of several runs; none begins after one that took more than ``limit`` seconds.

    >>> 0 <= quickest(lambda: None, 3) < 1
    True
    """
    best = math.inf
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        spent = time.perf_counter() - began
        best = min(best, spent)
        if spent > limit:
            break
    return best


def measure(model: str, coding: float, limit: float = SECONDS) -> Speed:
    """How fast a model restores frames here, estimated in about ``limit`` seconds.

    Ever larger patches are restored as :func:`metadeblur.restoration.clips.restore` does it, until the next one
    would take too long; the time of the last is proportional to its pixels.

    Args:
        model: one whose weights are here.
        coding: see :func:`coding_seconds`.
        limit: s.

    Raises:
        MetadeblurError: the weights are damaged, or memory does not hold the smallest patch.
    """
    began = time.monotonic()
    net = load_deblurrer(model)
    multiple, frames = traits(net).multiple, traits(net).frames
    settings, side, seconds, threads = RestoreSettings(tile=0, device="auto"), 0, 0.0, 0
    for wanted in SIDES:
        side = padded(wanted, multiple)
        restorer = Restorer(net, side, side, settings)
        seconds = quickest(partial(restorer, moving(frames, side, side)), _ROUNDS, limit / 4)
        chosen: Any = restorer.precision  # on the smallest patch, once
        settings = replace(settings, precision=chosen)
        threads = torch.get_num_threads() if restorer.device.type == "cpu" else 0
        if time.monotonic() - began + 4 * (_ROUNDS + 0.5) * seconds > limit:  # twice as wide, four times the work
            break
    expected = {}
    for size, (height, width) in SIZES.items():
        network = seconds * padded(height, multiple) * padded(width, multiple) / side**2
        expected[size] = 1 / frame_seconds(network, coding * height * width, threads, usable_cpus())
    return Speed(model, settings.precision, side, seconds, expected)


def frame_seconds(network: float, coding: float, threads: int, processors: int) -> float:
    """Seconds from one restored frame to the next, where frames are decoded and encoded beside the network.

    Args:
        network: seconds that the network takes for a frame.
        coding: processor seconds that decoding and encoding it take.
        threads: of the network on the processor; 0 where it works on a GPU.
        processors: that there are.

    >>> frame_seconds(1.0, 0.5, 1, 2), frame_seconds(1.0, 0.5, 2, 2), frame_seconds(0.1, 0.5, 0, 2)
    (1.0, 1.25, 0.25)
    """
    return max(network, (network * threads + coding) / processors)


def coding_seconds() -> float:
    """Processor seconds that decoding and encoding take for one pixel of a video, as ``restore`` writes it: measured.

    Raises:
        MetadeblurError: no video can be written here.
    """
    count, height, width = _CODED
    clip = Clip(moving(count, height, width), fps=30)
    with scratch_folder() as folder:
        path = folder / "coded.mp4"

        def code() -> float:
            began = time.process_time()
            write_clip(clip, path)
            read_clip(path).in_memory()
            return time.process_time() - began

        return min(code() for _ in range(_ROUNDS)) / (count * height * width)


def moving(frames: int, height: int, width: int) -> Tensor:
    """A photograph that moves by a few px a frame, (T, 3, H, W), in [0, 1]; mirrored where it is too small.

    >>> tuple(moving(3, 64, 2000).shape)
    (3, 3, 64, 2000)
    """
    pixels = read_picture(Path(str(resources.files("metadeblur") / "assets" / "demo.jpg")))
    picture = torch.from_numpy(pixels).permute(2, 0, 1).float()[None] / 255
    while picture.shape[-2] < height or picture.shape[-1] < width + _STEP * frames:
        rows, columns = picture.shape[-2:]
        picture = F.pad(picture, (0, columns - 1, 0, rows - 1), mode="reflect")
    return torch.stack([picture[0, :, :height, _STEP * index : _STEP * index + width] for index in range(frames)])


def padded(side: int, multiple: int) -> int:
    """A side as the network gets it, px."""
    return -(-side // multiple) * multiple

"""Figures of how pictures look to people: LPIPS, DISTS and NIQE, where the package pyiqa is installed.

They are reported beside PSNR and SSIM and choose nothing: nothing that adapts, votes or restores can see them. pyiqa
fetches the weights of its networks when they are first used.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.records import PERCEPTUAL
from metadeblur.system.device import choose_device
from metadeblur.system.extras import how_to_install

_WITHOUT_TRUTH = ("niqe",)


class Perceptual:
    """LPIPS and DISTS against the truth, and NIQE, which needs none; of all three, lower is better.

    Args:
        device: what computes them.

    Raises:
        MetadeblurError: pyiqa is not installed or does not start, or cannot have its networks.
    """

    def __init__(self, device: str = "auto") -> None:
        library, self.device = _library(), choose_device(device)
        self.metrics: dict[str, Any] = {}
        for name in PERCEPTUAL:
            try:
                self.metrics[name] = library.create_metric(name, device=self.device)
            except Exception as error:  # of the network that its weights are fetched over, or the disk
                raise MetadeblurError(f"--perceptual: pyiqa cannot make {name}: {_reason(error)}") from error

    @torch.inference_mode()
    def __call__(self, restored: Tensor, truth: Tensor) -> dict[str, float]:
        """The figures of one frame (3, H, W) in [0, 1].

        Raises:
            MetadeblurError: pyiqa refuses the frame, such as one that is too small.
        """
        pair = [picture[None].to(self.device, torch.float32) for picture in (restored, truth)]
        figures = {}
        for name, metric in self.metrics.items():
            given = pair[:1] if name in _WITHOUT_TRUTH else pair
            try:
                figures[name] = float(metric(*given))
            except Exception as error:
                height, width = restored.shape[-2:]
                raise MetadeblurError(
                    f"--perceptual: pyiqa cannot take {name} of a frame of {width}x{height}: {_reason(error)}"
                ) from error
        return figures


@cache
def perceptual(device: str) -> Perceptual:
    """The figures on a device; the networks are loaded once a process.

    Raises:
        MetadeblurError: see :class:`Perceptual`.
    """
    return Perceptual(device)


def describe() -> str:
    """Which figures, by which version of pyiqa, for records.

    Raises:
        MetadeblurError: pyiqa is not installed, or does not start.
    """
    return f"{', '.join(PERCEPTUAL)} of pyiqa {getattr(_library(), '__version__', 'of an unknown version')}"


def _library() -> Any:
    try:
        return importlib.import_module("pyiqa")
    except ImportError as error:
        raise MetadeblurError(
            f"--perceptual needs the package pyiqa, which is not installed: {how_to_install('perceptual')}"
        ) from error
    except Exception as error:  # such as of a torchvision that was built for another PyTorch
        raise MetadeblurError(
            f"--perceptual: pyiqa is installed and does not start: {_reason(error)}; its torchvision may be of another "
            "build than PyTorch (CPU, CUDA)"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""The device that does the work, and what it can do."""

from __future__ import annotations

import torch

from metadeblur.errors import MetadeblurError


def choose_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" stands for on this machine.

    Raises:
        MetadeblurError: "cuda" where there is none.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise MetadeblurError("device 'cuda': this machine or this PyTorch has none; use --device cpu or auto")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 numbers in hardware (emulated bf16 is slower than fp32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # No public question exists for the CPU; a PyTorch without these functions counts as "no".
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)

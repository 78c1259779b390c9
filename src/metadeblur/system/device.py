"""The device that does the work, and what it can do."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from metadeblur.errors import MetadeblurError
from metadeblur.types import Device


def choose_device(name: Device | None, net: nn.Module | None = None) -> torch.device:
    """The device that a name stands for on this machine.

    Args:
        name: "auto" is a CUDA GPU where there is one, otherwise the processor; None: where the network is.
        net: the network that computes.

    Raises:
        MetadeblurError: this machine does not have it.

    >>> choose_device("cpu"), choose_device(None, nn.Linear(1, 1, device="meta"))
    (device(type='cpu'), device(type='meta'))
    """
    if name is None:
        here = None if net is None else next((part.device for part in (*net.parameters(), *net.buffers())), None)
        name = here or ("auto" if net is None else "cpu")
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _missing(name) from error
    if device.type != "meta" and not _is_there(device):
        raise _missing(name)
    return device


def _is_there(device: torch.device) -> bool:
    return device.type == "cpu" or (device.index or 0) < _count(device.type)


def _count(kind: str) -> int:
    """How many devices of a kind this machine and this PyTorch have."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = {"cuda": torch.cuda, "xpu": torch.xpu}.get(kind)
    return int(module.device_count()) if module is not None and module.is_available() else 0


def present_devices() -> list[str]:
    """The names of all devices that can be asked for on this machine, besides "auto".

    >>> present_devices()[0]
    'cpu'
    """
    names = ["cpu"]
    for kind in ("cuda", "xpu"):
        names += [f"{kind}:{number}" for number in range(_count(kind))]
    return names + ["mps"] * _count("mps")


def _missing(name: Device) -> MetadeblurError:
    return MetadeblurError(
        f"device {str(name)!r}: this machine or this PyTorch has none; choose auto or one that is here: "
        f"{', '.join(present_devices())}"
    )


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 numbers in hardware (emulated bf16 is slower than fp32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "xpu":
        return bool(torch.xpu.is_bf16_supported())
    if device.type != "cpu":
        return False
    # No public question exists for the CPU; a PyTorch without these functions counts as "no".
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)


def mixed_precision(device: torch.device, *, enabled: bool) -> AbstractContextManager[object]:
    """bf16 where it is enabled, and fp32 whatever is around where it is not; on devices without either, nothing."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)

"""Build a network for untrusted weights: never larger than the weights, whatever their names and shapes claim."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

_CONSTANTS = 1 << 22  # values of tables that a network works out for itself, so that files need not hold them
_SMALLEST = 64  # an index that a name may hold even in a file of few tensors
_TAKEN = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_LONGEST = 300  # letters of a tensor's name, and of a reason


class Misfit(ValueError):
    """Weights that make no network; says why."""


def built(build: Callable[[dict[str, Tensor]], nn.Module], weights: dict[str, Tensor]) -> nn.Module:
    """The network of some weights, sizes read from them.

    It is built without memory first: absurd sizes, and numbers of layers, end there.

    Args:
        build: makes the network and loads the weights, as ``from_weights`` of every network does.
        weights: by name.

    Raises:
        Misfit: they are not weights of such a network.
    """
    try:
        check_indices(weights)
        with torch.device("meta"), no_larger_than(weights):
            plan = build({name: torch.empty_like(value, device="meta") for name, value in weights.items()})
        state = plan.state_dict()
        _check_formats(weights, state)
        return build(weights)
    except Exception as error:  # names and shapes from a stranger can fail anywhere in a builder
        raise Misfit(_reason(error)) from error


def check_values(weights: Mapping[str, Tensor]) -> None:
    """Refuse names and values that no network has.

    Raises:
        Misfit: a name is not printable or very long, a tensor is of a format that is not taken, or holds values that
            are not finite.
    """
    for name, value in weights.items():
        if len(name) > _LONGEST or not name.isprintable():
            raise Misfit(f"the name of a tensor is {len(name)} letters long or not printable ({name!r:.60})")
        if value.layout != torch.strided or value.device.type == "meta" or value.dtype not in (*_TAKEN, *_WHOLE):
            kind = "sparse or without values" if value.dtype in _TAKEN else str(value.dtype).removeprefix("torch.")
            raise Misfit(f"{name} is stored as {kind}; save it as float32, float16 or bfloat16")
        # As float32, for so it is used: of a float64 that is too large for it, infinity would be left.
        if value.is_floating_point() and not value.float().isfinite().all():
            raise Misfit(f"{name} holds values that are not finite (NaN); use another weight file")


def check_indices(weights: Mapping[str, Tensor]) -> None:
    """Refuse names that count to more layers than there are tensors: builders count as far as a name says.

    Raises:
        Misfit: there is one.
    """
    most = max(len(weights), _SMALLEST)
    for name in weights:
        for word in name.split("."):
            if word.isdecimal() and (len(word) > 9 or int(word) >= most):
                raise Misfit(f"{name!r:.80} counts to more layers than its {len(weights)} tensors can make")


@contextmanager
def no_larger_than(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """While it lasts, a network built in this thread must not have more tensors or values than some weights.

    Raises:
        Misfit: as soon as it does.
    """
    thread, most = threading.get_ident(), sum(value.numel() for value in weights.values()) + _CONSTANTS
    values = tensors = 0

    def count(_module: nn.Module, _name: str, value: Tensor | None) -> None:
        nonlocal values, tensors
        if threading.get_ident() != thread or value is None:
            return
        values, tensors = values + value.numel(), tensors + 1
        if values > most or tensors > 2 * len(weights) + _SMALLEST:
            raise Misfit(f"they ask for a network that is larger than its {len(weights)} tensors")

    removers = [
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for remover in removers:
            remover.remove()


def _check_formats(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Whole numbers stand only where the network has whole numbers."""
    for name, value in weights.items():
        wanted: Any = state.get(name)
        if wanted is not None and wanted.is_floating_point() and not value.is_floating_point():
            raise Misfit(f"{name} is stored as {str(value.dtype).removeprefix('torch.')}, not as float32 or float16")


def _reason(error: Exception) -> str:
    """The first line of an error that tells something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."

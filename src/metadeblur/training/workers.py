"""The processes that train together: one, or several on one or more machines (``torchrun``), through Lightning Fabric.

Each process takes its share of a step's batch; gradients are averaged in one message after the backward pass, so that
all keep the same weights and the outcome is that of one process with the whole batch. Averaging after the pass, rather
than wrapping each network, is one rule for all trainings: a critic that is run twice a step, and the outer update,
whose gradients come from copies of the weights, need no exception.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metadeblur.errors import MetadeblurError


@dataclass(frozen=True)
class Workers:
    """One process among those that train together.

    Attributes:
        device: what this process computes on.
        rank: its number, from 0.
        world: how many there are.
        fabric: Lightning's Fabric where there are several.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    fabric: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """The numbers, of a batch's items, that are this process's part.

        Raises:
            MetadeblurError: the batch cannot be shared evenly.

        >>> list(Workers(torch.device("cpu"), rank=1, world=2).share(4))
        [1, 3]
        """
        if batch % self.world:
            raise MetadeblurError(
                f"a batch of {batch} cannot be shared evenly by {self.world} processes; give a multiple of {self.world}"
            )
        return range(self.rank, batch, self.world)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes; a missing one counts as zero."""
        if self.fabric is None:
            return
        wanted = [parameter for parameter in parameters if parameter.requires_grad]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
        mean: Tensor = self.fabric.all_reduce(torch.cat([part.reshape(-1) for part in parts]), reduce_op="mean")
        place = 0
        for parameter in wanted:
            parameter.grad = mean[place : place + parameter.numel()].view_as(parameter).clone()
            place += parameter.numel()

    def average(self, figures: dict[str, float]) -> dict[str, float]:
        """The mean of each figure over the processes."""
        if self.fabric is None or not figures:
            return figures
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.device)
        mean = self.fabric.all_reduce(values, reduce_op="mean")
        return dict(zip(figures, mean.tolist(), strict=True))

    def agree(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        return value if self.fabric is None else self.fabric.broadcast(value, src=0)


def join(device: torch.device) -> Workers:
    """The workers that this process belongs to: those that ``torchrun`` started, or this one alone.

    Args:
        device: its kind is kept; of several GPUs each process gets its own.

    Raises:
        MetadeblurError: there are several processes, and Lightning Fabric is not installed.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Workers(device)
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise MetadeblurError(
            f"{world} processes train together through Lightning Fabric, which is not installed; "
            "pip install 'metadeblur[train]'"
        ) from error
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    fabric = Fabric(accelerator=device.type, devices=local, num_nodes=world // local, strategy="ddp")
    fabric.launch()
    return Workers(fabric.device, fabric.global_rank, fabric.world_size, fabric)

"""The processes that train together: one, or several on one or more machines, that ``torchrun`` starts.

Each process takes its share of a step's batch; gradients are averaged in one message after the backward pass, so that
all keep the same weights and the outcome is that of one process with the whole batch. Averaging after the pass, rather
than wrapping each network, is one rule for all trainings: a critic that is run twice a step, and the outer update,
whose gradients come from copies of the weights, need no exception.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from metadeblur.errors import MetadeblurError


@dataclass(frozen=True)
class TrainingProcess:
    """One process among those that train together.

    Attributes:
        device: what this process computes on.
        rank: its number, from 0.
        world: how many there are.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """The numbers, of a batch's items, that are this process's part.

        Raises:
            MetadeblurError: the batch cannot be shared evenly.

        >>> list(TrainingProcess(torch.device("cpu"), rank=1, world=2).share(4))
        [1, 3]
        """
        if batch % self.world:
            raise MetadeblurError(
                f"a batch of {batch} cannot be shared evenly by {self.world} processes; give a multiple of {self.world}"
            )
        return range(self.rank, batch, self.world)

    def team(self, tasks: int) -> tuple[range, int, int]:
        """This process's part of so many tasks: their numbers, its place among those that share one, and their number.

        With at least as many tasks as processes each takes some for itself; with fewer, several share each one.

        Raises:
            MetadeblurError: the tasks cannot be shared evenly.

        >>> TrainingProcess(torch.device("cpu"), rank=3, world=4).team(2)
        (range(1, 2), 1, 2)
        """
        if tasks >= self.world and tasks % self.world == 0:
            return self.share(tasks), 0, 1
        if self.world % tasks:
            raise MetadeblurError(
                f"{tasks} tasks a step cannot be shared evenly by {self.world} processes; give a number that divides "
                f"{self.world}, or a multiple of it (--tasks)"
            )
        return range(self.rank % tasks, self.rank % tasks + 1), self.rank // tasks, self.world // tasks

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes; a missing one counts as zero."""
        if self.world == 1:
            return
        wanted = [parameter for parameter in parameters if parameter.requires_grad]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
        mean = self._mean(torch.cat([part.reshape(-1) for part in parts]))
        place = 0
        for parameter in wanted:
            parameter.grad = mean[place : place + parameter.numel()].view_as(parameter).clone()
            place += parameter.numel()

    def average(self, figures: dict[str, float]) -> dict[str, float]:
        """The mean of each figure over the processes."""
        if self.world == 1 or not figures:
            return figures
        mean = self._mean(torch.tensor(list(figures.values()), dtype=torch.float64, device=self.device))
        return dict(zip(figures, mean.tolist(), strict=True))

    def agree(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        values = [value]
        if self.world > 1:
            distributed.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def _mean(self, values: Tensor) -> Tensor:
        distributed.all_reduce(values)
        return values.div_(self.world)


def join(device: torch.device) -> TrainingProcess:
    """The workers that this process belongs to: those that ``torchrun`` started, or this one alone.

    Args:
        device: its kind is kept; of several GPUs each process gets its own.

    Raises:
        MetadeblurError: there are several processes, and this PyTorch was built without them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return TrainingProcess(device)
    if not distributed.is_available():
        raise MetadeblurError("this PyTorch was built without torch.distributed: train with one process")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)
    return TrainingProcess(device, distributed.get_rank(), distributed.get_world_size())

"""Free memory, and the memory and time that a piece of work takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metadeblur.system.thread_limit import starting

_CPU_SHARE = 0.5  # of the free memory; the system kills a process that takes too much
_GPU_SHARE = 0.8  # of the free memory; a full GPU raises an error
_CPU_SCRATCH = 1.5  # convolution libraries take buffers that PyTorch does not see


def available_bytes(device: torch.device) -> int:
    """Bytes that a computation may take on a device without crowding out what else runs there."""
    if _counts_memory(device):
        module: Any = torch.get_device_module(device)
        free, _ = module.mem_get_info(device)
        reusable = module.memory_reserved(device) - module.memory_allocated(device)
        return int((free + reusable) * _GPU_SHARE)
    # A GPU of Apple's shares the main memory.
    free = min(int(psutil.virtual_memory().available), _container_bytes())
    return int(free * _CPU_SHARE)


def _counts_memory(device: torch.device) -> bool:
    """Whether PyTorch counts the memory that it holds on a device: on CUDA's and Intel's GPUs."""
    return device.type in ("cuda", "xpu")


def give_back_memory(device: torch.device) -> None:
    """Give the memory that PyTorch keeps for later back to a GPU."""
    if device.type in ("cuda", "xpu", "mps"):
        torch.get_device_module(device).empty_cache()


def _container_bytes(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that a container's limit leaves (control groups, version 2 or 1); a very large number without a limit."""
    for limit, used in (
        (root / "memory.max", root / "memory.current"),
        (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"),
    ):
        # "max" (no limit) is no number; the used bytes count the page cache too, so this errs on the safe side.
        with suppress(OSError, ValueError):
            return max(int(limit.read_text()) - int(used.read_text()), 0)
    return 1 << 62


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("shapes do not match"))
    False
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        phrase in text for phrase in ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
    )


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the tensors that operations make, and the most bytes that were alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[StorageWeakRef, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled while memory is measured, so PyTorch need not load its compiler for that: seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._alive = {storage: size for storage, size in self._alive.items() if not storage.expired()}  # type: ignore[no-untyped-call]
        # A view of something older, such as a weight that checkpointing detaches, takes no memory.
        older = self._storages((args, kwargs)).keys() - self._alive.keys()
        self._alive |= {storage: size for storage, size in self._storages(result).items() if storage not in older}
        self.peak = max(self.peak, sum(self._alive.values()))
        return result

    @staticmethod
    def _storages(values: Any) -> dict[StorageWeakRef, int]:
        """Where the tensors among some values are kept, and how many bytes each takes."""
        storages = [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        return {StorageWeakRef(storage): storage.nbytes() for storage in storages}  # type: ignore[no-untyped-call]


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Most bytes that a piece of work holds at once on a device, beyond what was there before.

    >>> peak_bytes(lambda: torch.zeros(1000) + 1, torch.device("cpu")) >= 8000
    True
    """
    if _counts_memory(device):
        module: Any = torch.get_device_module(device)
        before = module.memory_allocated(device)
        module.reset_peak_memory_stats(device)
        work()
        return max(int(module.max_memory_allocated(device) - before), 1)
    with _LiveBytes() as live:
        work()
    return max(int(live.peak * _CPU_SCRATCH), 1)


class StageMeter:
    """Seconds and peak memory of the stages of a piece of work.

    Memory is what PyTorch holds on a GPU; on the CPU it is that of the whole process, looked at 50 times a second, so
    that what earlier stages have left behind counts too.

    Attributes:
        seconds: by stage.
        memory_mb: by stage, the most held at once.

    >>> costs = StageMeter(torch.device("cpu"))
    >>> with costs.stage("work"):
    ...     pass
    >>> list(costs.seconds)
    ['work']
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.memory_mb: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the work inside the ``with`` as (a part of) the stage ``name``."""
        began = time.monotonic()
        peak = _GpuPeak(self.device) if _counts_memory(self.device) else _ProcessPeak()
        try:
            yield
        finally:
            most = peak.end()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            self.memory_mb[name] = max(self.memory_mb.get(name, 0.0), round(most / 2**20, 1))


class _GpuPeak:
    """Most bytes that PyTorch holds on a GPU until :meth:`end`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module: Any = torch.get_device_module(device)
        self._module.reset_peak_memory_stats(device)

    def end(self) -> int:
        """The most since the beginning."""
        return int(self._module.max_memory_allocated(self._device))


class _ProcessPeak:
    """Most bytes of main memory that this process holds until :meth:`end`."""

    _SECONDS = 0.02  # between two looks

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._most = 0
        self._look()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        with starting():
            self._watcher.start()

    def _watch(self) -> None:
        while not self._over.wait(self._SECONDS):
            self._look()

    def _look(self) -> None:
        self._most = max(self._most, int(self._process.memory_info().rss))

    def end(self) -> int:
        """The most since the beginning."""
        self._over.set()
        self._watcher.join()
        self._look()
        return self._most

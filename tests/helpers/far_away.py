"""Workers of a cluster that behave as if on another machine: one sees no file of the driver's, others cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metadeblur.cluster.files import Cargo, Depot, Move
from metadeblur.cluster.worker import Worker


class FarDepot(Depot):
    """Knows nothing but what was shipped to it."""

    def find(self, cargo: Cargo) -> Move | None:
        return self._copied(cargo) if (self.folder / cargo.mark).is_dir() else None

    @contextmanager
    def bench(self, folder: Path) -> Iterator[tuple[Path, bool]]:
        with super().bench(folder / "not here") as found:
            yield found


class FarWorker(Worker):
    """Works out of such a depot."""

    def __init__(self, net, threads, device, key):
        super().__init__(net, threads, device, key)
        self._depot = FarDepot(key)


class OtherWorker:
    """A machine where another version of the program is."""

    def __init__(self, *_):
        pass

    def introduce(self):
        return {"host": "elsewhere", "versions": {"metadeblur": "0.0.1", "torch": "2.6.0"}, "bf16": False}


class NoWorker(OtherWorker):
    """A machine where it is not installed."""

    def __init__(self, *_):
        raise ModuleNotFoundError("No module named 'metadeblur'")

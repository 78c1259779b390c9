"""Workers of a cluster that behave as if on another machine: one sees no file of the driver's, others cannot work."""

from __future__ import annotations

import os

from metadeblur.cluster.worker_pool import Worker


class FarWorker(Worker):
    """Has nothing but what was sent to it."""

    def sees(self, _reads):
        return False

    def can_write(self, _folder):
        return False


class DyingWorker(Worker):
    """Dies of every task."""

    def do(self, *_):
        os._exit(1)
        yield


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

"""The machine that the work runs on: processors, memory, names."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import psutil
import torch


def describe_machine() -> dict[str, Any]:
    """The machine: system, processor, threads, memory in MB, accelerator."""
    return {
        "system": platform.platform(),
        "processor": _processor_name(),
        "cpus": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_mb": total_memory_mb(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor_name() -> str:
    """The processor's name where the system tells it, otherwise its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def usable_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def total_memory_mb() -> int:
    """Main memory in MB."""
    return int(psutil.virtual_memory().total) // 2**20


def peak_memory_mb() -> int | None:
    """The most main memory that this process has held so far in MB, None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))

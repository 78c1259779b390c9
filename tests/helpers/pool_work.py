"""Work for the processes of a pool: they find it by the name of this module."""

import os
import signal
import time
from pathlib import Path

import torch

from metadeblur.errors import MetadeblurError
from metadeblur.system.identity import InputChanged


def add(shared, item):
    return shared + item


def slower_first(_, item):
    time.sleep(0.4 if item == 0 else 0)
    return item


def threads(_, __):
    return os.getpid(), torch.get_num_threads()


def fail_on_two(_, item):
    if item == 2:
        raise MetadeblurError("item 2: is odd; give another")
    return item


def fail_oddly(_, item):
    raise InputChanged(Path("clip.mp4")) if item else ValueError("a", lambda: 0)


def killed(_, item):
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def with_a_draft(folder, item):
    """Keeps an unfinished file while it works."""
    draft = Path(folder) / f"{item}.unfinished"
    draft.write_text(str(os.getpid()))
    try:
        while True:
            time.sleep(0.02)
    finally:
        draft.unlink()

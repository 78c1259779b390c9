"""What several tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A merge must not hang on which examples are drawn that day; by hand, new ones are looked for.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

# No test sees or changes the weights that whoever runs it has imported; those who import give a folder of their own.
os.environ["METADEBLUR_WEIGHTS"] = str(Path(__file__).parent / "no-imported-weights")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The measuring material beside the repository; tests that use it skip where it is not there."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here: the golden values and measuring clips are not part of the package")
    return SHARED


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads here as a worker has: with another number the last digits may differ."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _usual_scheduling() -> Iterator[None]:
    """As root, SVT-AV1 leaves whoever encodes at real-time priority: a test must not starve the others."""
    yield
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

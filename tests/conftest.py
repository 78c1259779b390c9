"""What several tests share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The measuring material beside the repository; tests that use it skip where it is not there."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here: the golden values and measuring clips are not part of the package")
    return SHARED

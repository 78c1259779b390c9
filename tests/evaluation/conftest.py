"""What tests of evaluating share."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluated import write_clip


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with one short clip, fast."""
    write_clip(tmp_path / "clips" / "fast", 9)
    return tmp_path / "clips"

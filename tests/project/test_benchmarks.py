"""The benchmarks of speed run from end to end, in tiny sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed.py"
PARTS = ["support", "pipeline", "threads", "precision", "tiles", "checkpointing", "peak"]


def measure(folder: Path, *flags: str) -> dict[str, dict]:
    words = [sys.executable, SPEED, "--small", "--rounds", "1", "--threads", "1", "-o", folder, *flags]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return json.loads((folder / "speed.json").read_text())


@pytest.mark.slow
@pytest.mark.long
def test_every_part_is_measured_and_an_earlier_one_is_kept(tmp_path):
    parts = measure(tmp_path)
    assert list(parts) == PARTS
    page = (tmp_path / "speed.md").read_text()
    for part in parts.values():
        assert {"machine", "versions", "commit", "threads", "rounds"} <= part.keys()
        assert f"## {part['title']}\n" in page
        assert all(len(line) == len(table[0]) for table in part["tables"] for line in table)
    assert page.count("figures mean nothing") == len(PARTS)
    for run in parts["pipeline"]["runs"]:
        assert 0 < run["layers"] < run["frames"] < run["restore"] < run["total"]
    sizes = parts["checkpointing"]["memory_mb"]
    assert sizes["checkpointed"] <= sizes["whole"]
    assert parts["checkpointing"]["gradients_apart"] < 1e-2
    for found in parts["peak"]["rates"].values():
        assert found["peak"] > 0
        assert set(map(len, found["turns"])) == {3}
    again = measure(tmp_path, "--parts", "tiles", "--note", "once more")
    assert list(again) == PARTS
    assert again["tiles"]["note"] == "once more"
    assert {name: part for name, part in again.items() if name != "tiles"} == {
        name: part for name, part in parts.items() if name != "tiles"
    }


@pytest.mark.slow
@pytest.mark.long
def test_two_checkouts_take_turns(tmp_path):
    here = SPEED.parents[1]
    words = [sys.executable, SPEED, "--before", here, "--lines", "adapt", "quick", "--small", "--rounds", "1"]
    done = subprocess.run([*words, "-o", tmp_path], check=True, capture_output=True, text=True)
    found = json.loads((tmp_path / "speed_before_after.json").read_text())
    page = (tmp_path / "speed_before_after.md").read_text()
    for line in ("adapting, all of it", "a frame: network", "a frame: corrected and fused too", "quick, frames too"):
        assert {len(series) for series in found["figures"][line].values()} == {1}
        assert f"| {line} |" in page
        assert line in done.stdout
    stages = sum(found["figures"][f"adapting: {stage}"]["after"][0] for stage in ("select", "reblur", "adapt", "guard"))
    assert stages == pytest.approx(found["figures"]["adapting, all of it"]["after"][0], rel=0.1)
    assert found["commits"]["before"] == found["commits"]["after"]


@pytest.mark.long
@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_the_processor_and_leaves_the_documents_alone(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    page = script.parents[1] / "docs" / "results" / "gpu.md"
    before = page.read_bytes()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, script, "--smoke", "-o", tmp_path]
    subprocess.run(words, check=True, capture_output=True, env=environment)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {"results", "restore", "adapt", "stages", "train"} <= found.keys()
    assert all(way["frames_a_second"] > 0 for way in found["restore"]["ways"])
    assert found["stages"]["processor"].keys() == found["stages"]["device"].keys()
    assert "these figures mean nothing" in (tmp_path / "gpu.md").read_text()
    over = subprocess.run([*words[:-1], page.parent], capture_output=True, env=environment, text=True)
    assert over.returncode == 2
    assert "give another folder" in over.stderr
    assert page.read_bytes() == before

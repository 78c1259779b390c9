"""Whole archives through the command: expanded, mirrored, gone on with, told in a table."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from pathlib import Path

import pytest
from journey import run, shaky, shaky_video, small_model, start
from media import make_video

from metadeblur.pipeline.resume import parts_folder
from metadeblur.system.locks import lock_path, writing
from metadeblur.video import VideoReader

PLAIN = ("--no-adapt", "--no-guard", "--precision", "fp32")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return small_model(tmp_path / "m.safetensors")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Five clips at three depths and a broken one."""
    folder = tmp_path / "clips"
    for name in ("a", "trip/b", "trip/c", "trip/day/d", "walk/e"):
        path = folder / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shaky_video(path, (3,))
    (folder / "trip" / "broken.mp4").write_text("no video")
    return folder


def made(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one process", "two processes"])
def test_an_archive_is_mirrored_and_only_the_rest_is_done_again(tmp_path, archive, model, capsys, workers, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    out, words = tmp_path / "out", (archive / "**" / "*.mp4", "--model", model, *PLAIN, *workers)
    assert run("restore", *words, "-o", out, "--csv", tmp_path / "table.csv") == 1
    told = capsys.readouterr().err
    assert "6 inputs: 5 restored, 1 failed" in told
    assert "1 of 6 inputs failed: broken.mp4" in told
    results = ["a", "trip/b", "trip/c", "trip/day/d", "walk/e"]
    assert made(out) == [f"{name}_deblurred.mp4" for name in results]
    rows = list(csv.DictReader((tmp_path / "table.csv").open(encoding="utf-8")))
    assert [row["kind"] for row in rows].count("restored") == 5
    assert next(row["result"] for row in rows if row["kind"] == "failed").startswith("Failed: ")

    assert run("restore", *words, "-o", out) == 1  # nothing is replaced silently
    assert "--overwrite replaces it" in capsys.readouterr().err
    (out / "trip" / "c_deblurred.mp4").unlink()
    before = {name: (out / name).stat().st_mtime_ns for name in made(out)}
    assert run("restore", *words, "-o", out, "--skip-existing") == 1
    assert "6 inputs: 1 restored, 4 left out, 1 failed" in capsys.readouterr().err
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert "trip/c_deblurred.mp4" in made(out)


def test_jobs_share_an_archive_out(tmp_path, archive, model, capsys):
    (archive / "trip" / "broken.mp4").unlink()
    for part in ("1/2", "2/2"):
        assert run("restore", archive, "-o", tmp_path / "out", "--model", model, *PLAIN, "--shard", part) == 0
    assert len(made(tmp_path / "out")) == 5
    assert run("restore", archive, "--shard", "3/2") == 2
    assert "--shard 1/4" in capsys.readouterr().err


def test_one_output_is_replaced_only_when_asked(tmp_path, model, capsys):
    video = shaky_video(tmp_path / "a.mp4", (3,))
    words = ("restore", video, "--model", model, *PLAIN)
    assert run(*words) == 0
    first = (tmp_path / "a_deblurred.mp4").stat().st_mtime_ns
    assert run(*words) == 1
    assert run(*words, "--skip-existing") == 0
    assert "left as it is" in capsys.readouterr().err
    assert (tmp_path / "a_deblurred.mp4").stat().st_mtime_ns == first
    assert run(*words, "--overwrite") == 0
    assert (tmp_path / "a_deblurred.mp4").stat().st_mtime_ns > first


def test_quiet_and_verbose(tmp_path, model, capsys):
    video = shaky_video(tmp_path / "a.mp4", (6,))
    words = ("restore", video, "--model", model, "--steps", "1", "--pairs", "2", "--overwrite")
    assert run(*words, "-q") == 0
    assert capsys.readouterr().err == ""
    assert run(*words, "-v") == 0
    assert "passed: " in (told := capsys.readouterr().err) or "failed: " in told
    assert run(*words) == 0
    assert "passed: " not in (told := capsys.readouterr().err)
    assert "failed: " not in told


def test_settings_from_a_file(tmp_path, model, capsys):
    video, file = shaky_video(tmp_path / "a.mp4", (3,)), tmp_path / "mine.toml"
    file.write_text(
        f'model = "{model.as_posix()}"\nadapt = false\nguard = false\nquality = "lossless"\neffort = "quick"\n'
    )
    assert run("restore", video, "--config", file, "--json", tmp_path / "r.json") == 0
    settings = json.loads((tmp_path / "r.json").read_text())["settings"]
    assert settings["encoding"]["quality"] == "lossless"
    assert settings["adapt"] is False
    file.write_text('effrt = "quick"\n')
    assert run("restore", video, "--config", file) == 2
    assert "did you mean effort" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_archive_is_gone_on_with(tmp_path, archive, model):
    """Six clips, one broken, two processes; killed in the middle, then run again: only the rest is done."""
    (archive / "walk" / "e.mp4").unlink()
    make_video(archive / "walk" / "long.mp4", shaky((24, 24), (128, 192)))
    out = tmp_path / "out"
    words = ("restore", archive / "**" / "*.mp4", "-o", out, "--model", model, *PLAIN, "--workers", "2")
    process = start([*words, "--skip-existing"])
    good = ["a", "trip/b", "trip/c", "trip/day/d", "walk/long"]
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until and not (out.is_dir() and finished(out)):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    before = finished(out)
    assert 1 <= len(before) < len(good)
    assert all(len(VideoReader(out / name).times) == 3 for name in before if "long" not in name)  # each is whole
    stamps = {name: (out / name).stat().st_mtime_ns for name in before}

    again = start([*words, "--skip-existing"])
    _, error = again.communicate(timeout=240)
    assert again.returncode == 1
    assert f"6 inputs: {len(good) - len(before)} restored, {len(before)} left out, 1 failed" in error
    assert "1 of 6 inputs failed: broken.mp4" in error
    assert made(out) == sorted(f"{name}_deblurred.mp4" for name in good)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == stamps
    assert len(VideoReader(out / "walk" / "long_deblurred.mp4").times) == 48
    assert [path.name for path in out.rglob(".*")] == []  # nothing half-written is left


def test_what_a_kill_leaves_beside_a_whole_result_is_cleared(tmp_path, model):
    """Killed after the result had its name and before the parts were gone; then left out."""
    video, out = shaky_video(tmp_path / "a.mp4", (3, 3)), tmp_path / "out.mp4"
    assert run("restore", video, "-o", out, "--model", model, *PLAIN) == 0
    whole = out.read_bytes()
    parts, lock = parts_folder(out), lock_path(out)

    def leave(age: int) -> None:
        (parts / "shot-00000").mkdir(parents=True)
        (parts / "state.json").write_text("{}")
        os.utime(parts / "state.json", ns=(moment := out.stat().st_mtime_ns - age, moment))
        lock.touch()

    for flag in ("--skip-existing", "--resume"):
        leave(1_000)
        assert run("restore", video, "-o", out, "--model", model, *PLAIN, flag) == 0
        assert not parts.exists()
        assert not lock.exists()
    leave(-1_000)  # of a run that was to replace the result
    assert run("restore", video, "-o", out, "--model", model, *PLAIN, "--skip-existing") == 0
    assert parts.exists()
    assert not lock.exists()
    with writing(out):  # somebody is at work on it
        os.utime(parts / "state.json", ns=(0, 0))
        process = start(["restore", video, "-o", out, "--model", model, *PLAIN, "--skip-existing"])
        process.communicate(timeout=240)
        assert (process.returncode, parts.exists()) == (0, True)
    assert out.read_bytes() == whole


def finished(folder: Path) -> list[str]:
    """The results that are there under their own names."""
    return [name for name in made(folder) if name.endswith("_deblurred.mp4") and "/." not in f"/{name}"]

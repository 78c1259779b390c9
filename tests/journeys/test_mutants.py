"""Files damaged at random: a result or one line, never anything else; and what picture libraries say is not shown."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from cases import case

from metadeblur.cli.entry import main
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.sealed import read_sealed, write_sealed
from metadeblur.system.quiet import silent_libraries
from metadeblur.video.stills import read_picture

MUTANTS = Path(__file__).parents[2] / "benchmarks" / "mutants.py"


@case(
    "Files and streams",
    "two dozen files of all kinds with flipped, missing, added or swapped bytes (500 by benchmarks/mutants.py)",
    "restored, measured or imported where what is left can be read; refused otherwise",
    "one line that says why; no traceback, no crash, no library's own words, nothing half-written",
)
@pytest.mark.slow
def test_damaged_files_give_a_result_or_one_line(tmp_path):
    words = [sys.executable, MUTANTS, "-o", tmp_path, "--count", "24", "--seed", "7"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "mutants.json").read_text())
    assert found["outcomes"]["wrong"] == 0
    assert min(found["outcomes"]["result"], found["outcomes"]["refused"]) >= 5
    assert sum(found["outcomes"].values()) == 24


def test_changes_are_the_same_for_the_same_seed_and_change_something(monkeypatch):
    monkeypatch.syspath_prepend(str(MUTANTS.parent))
    from mutants import changed

    good = bytes(range(256)) * 20
    for text in (False, True):
        one, other = (changed(good, random.Random("0 1"), text=text) for _ in range(2))
        assert one == other
        assert sum(changed(good, random.Random(seed), text=text)[1] != good for seed in range(40)) >= 35


def test_an_answer_of_a_crash_or_a_hang_is_wrong(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(MUTANTS.parent))
    import mutants

    assert mutants.in_child(lambda: 3, tmp_path) == mutants.Ended(3, "")
    assert mutants.in_child(lambda: os.kill(os.getpid(), 9), tmp_path).signal == 9
    monkeypatch.setattr(mutants, "PROCESSOR_SECONDS", 1)
    assert mutants.in_child(lambda: [None for _ in iter(int, 1)], tmp_path).code is None
    raised = mutants.in_child(lambda: 1 // 0, tmp_path)
    assert "ZeroDivisionError" in raised.said
    assert raised.code == 70


@case(
    "Files and streams",
    "a PNG or JPEG whose bytes are damaged",
    "refused, or read as far as its format can tell",
    "one line; what libpng, libjpeg and OpenCV print about it is not shown",
)
def test_libraries_are_silent_about_damaged_pictures(tmp_path, capfd):
    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8), (120, 80))
    for suffix in (".png", ".jpg"):
        data = bytearray(cv2.imencode(suffix, picture)[1].tobytes())
        data[len(data) // 2] ^= 255
        del data[len(data) // 2 + 9 : len(data) // 2 + 90]
        (tmp_path / f"a{suffix}").write_bytes(data)
    with pytest.raises(MetadeblurError, match=r"a\.png: not a picture"):
        read_picture(tmp_path / "a.png")
    read_picture(tmp_path / "a.jpg")
    said = capfd.readouterr()
    assert said.err == said.out == ""


def test_what_others_print_meanwhile_is_kept(capfd):
    with silent_libraries():
        other = threading.Thread(target=lambda: os.write(2, b"libpng error: bad\n12 of 30 frames\n"))
        other.start()
        other.join()
    assert capfd.readouterr().err == "12 of 30 frames\n"


@case(
    "Numbers and words",
    "a settings file (--config) that is a pipe, a folder, huge, nested without end, or no text",
    "refused before anything is done, with exit code 2",
    "one line that names the file",
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "huge", "deep", "bytes"])
def test_settings_files_that_are_none(tmp_path, capsys, kind):
    path = tmp_path / "train.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        data = {"huge": b"#" * (5 << 20), "deep": b"a = " + b"[" * 100_000, "bytes": b"steps = 1\xff\n"}[kind]
        path.write_bytes(data)
    assert main(["train", "deblur", "--clips", "x", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "train.toml" in said


@case(
    "Interrupted runs",
    "a record that evaluate --resume would keep, damaged or changed since it was written",
    "the run stops; the record is left alone",
    "one line: remove it, and --resume measures that clip again",
)
def test_records_carry_a_checksum(tmp_path):
    record = {"clip": "a", "psnr": {"base": 25.125, "none": None}, "names": ["ä", "\udcff"]}
    path = tmp_path / "a.json"
    write_sealed(record, path)
    assert read_sealed(path) == record
    good = path.read_text(encoding="utf-8", errors="surrogateescape")
    for changed in (good.replace("25.125", "35.125"), good.replace('"base"', '"case"'), good[:-9], "[1]", "[" * 10**5):
        path.write_text(changed, encoding="utf-8")
        with pytest.raises(MetadeblurError, match=r"a\.json: "):
            read_sealed(path)

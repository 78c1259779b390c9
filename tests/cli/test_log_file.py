"""--log-file: all that is said, with times and reasons, at the end of a file; and the logger that it comes from."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from journey import QUICK, run, shaky_video, small_model

from metadeblur.data.pairs import write_png
from metadeblur.errors import MetadeblurError
from metadeblur.system.log import LOGGER, logged_to, record

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


def lines(path: Path) -> list[str]:
    """What a log says; each line has its time, and no colours."""
    text = path.read_text(encoding="utf-8")
    assert "\x1b" not in text
    found = [LINE.fullmatch(line) for line in text.splitlines()]
    assert None not in found, text
    return [match[1] for match in found if match]


def test_all_that_is_said_and_every_reason_is_in_the_file(tmp_path, model, capsys):
    video, log = shaky_video(tmp_path / "a b.mp4", (6,)), tmp_path / "run.log"
    words = ("restore", video, "--model", model, *QUICK, "--overwrite", "--log-file", log)
    assert run(*words) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    told = lines(log)
    assert told[0].startswith("metadeblur ")
    assert "restore" in told[0]
    assert set(said) <= set(told)
    assert any(re.match(r" *(passed|failed): ", line) for line in told)
    assert told[-1] == "done"
    assert run(*words, "-q") == 0
    assert capsys.readouterr().err == ""
    again = lines(log)
    assert again[: len(told)] == told
    assert sum(line == "done" for line in again) == 2
    assert any(line.startswith(("Sharper", "Hardly", "Already")) for line in again[len(told) :])


def test_errors_and_tables_are_in_the_file(tmp_path, model, capsys):
    video, log = shaky_video(tmp_path / "a.mp4", (3,)), tmp_path / "run.log"
    (tmp_path / "broken.mp4").write_text("no video")
    words = ("restore", video, tmp_path / "broken.mp4", "-o", tmp_path / "out", "--model", model)
    assert run(*words, "--no-adapt", "--no-guard", "-q", "--log-file", log) == 1
    told = lines(log)
    assert any("broken.mp4: not a video" in line for line in told)
    assert any(re.match(r"a\.mp4 +\S", line) for line in told)
    assert "2 inputs: 1 restored, 1 failed" in told
    assert told[-1] == "error: 1 of 2 inputs failed: broken.mp4"
    error = capsys.readouterr().err
    assert "1 of 2 inputs failed" in error  # errors are always said


@pytest.mark.parametrize("place", ["missing/run.log", ".", "picture.png"])
def test_a_file_that_cannot_be_written_is_one_line(tmp_path, place, capsys):
    import numpy as np

    write_png(tmp_path / "picture.png", np.zeros((8, 8, 3), np.uint8))
    before = (tmp_path / "picture.png").read_bytes()
    assert run("restore", tmp_path / "picture.png", "-o", tmp_path / "out.png", "--log-file", tmp_path / place) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path / place) in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png"]
    assert (tmp_path / "picture.png").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("adapt", "a.mp4", "-o", "w.safetensors", "--steps", "1", "--pairs", "2"),
        ("evaluate", "clips", "-o", "out", "--rows", "blurred"),
        ("synth", "picture.png", "-o", "made", "--clips", "1", "--frames", "2", "--width", "48", "--height", "48"),
        ("train", "deblur", "--clips", "clips", "-o", "net", "--network", "mimo-unet-plus", "--size", "small",
         "--batch", "1", "--patch", "32", "--steps", "2", "--log-steps", "1", "--warmup", "0", "--precision", "fp32"),
        ("demo", "practice", "--film", "--frames", "3", "--width", "64", "--height", "48"),
    ],
    ids=lambda words: " ".join(words[:2]),
)  # fmt: skip
def test_every_long_command_keeps_a_log(tmp_path, monkeypatch, model, words, capsys):
    import numpy as np

    monkeypatch.chdir(tmp_path)
    shaky_video(tmp_path / "a.mp4", (6,))
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    for place in ("picture.png", *(f"clips/c/{kind}/{n}.png" for kind in ("blur", "sharp") for n in (1, 2, 3))):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / place, picture)
    more = ("--model", model) if words[0] in ("adapt", "evaluate") else ()
    assert run(*words, *more, "-q", "--log-file", "run.log") == 0
    assert capsys.readouterr().err == ""
    told = lines(tmp_path / "run.log")
    assert len(told) > 2
    assert told[-1] == "done"


def test_the_logger_is_pythons_and_silent_by_itself(caplog, capsys):
    with caplog.at_level(logging.DEBUG, "metadeblur"):
        record("one\ntwo")
        record("why", detail=True)
    assert [(entry.levelname, entry.message) for entry in caplog.records] == [
        ("INFO", "one"), ("INFO", "two"), ("DEBUG", "why")
    ]  # fmt: skip
    assert LOGGER.name == "metadeblur"
    assert capsys.readouterr().err == ""


def test_a_log_that_can_no_longer_be_written_stops_nothing(tmp_path, capsys):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no full disk at hand")
    with logged_to(full, "a run"):
        record("a line")
        record("another")
    error = capsys.readouterr().err
    assert error.count("--log-file ends here") == 1
    assert "the disk is full" in error
    with pytest.raises(MetadeblurError, match="is a folder"), logged_to(tmp_path, "a run"):
        pass

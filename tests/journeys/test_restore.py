"""Whole journeys through the installed command, as a user would make them."""

from __future__ import annotations

import json
import subprocess

import cv2
import numpy as np
import pytest
from journey import PLAIN, QUICK, decoded, names, run, shaky, shaky_video, small_model, start
from media import make_frames, video_packets
from safetensors import safe_open


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


def finished(words, **options) -> tuple[str, str]:
    """Run the installed command to its end: (stdout, stderr)."""
    process = start(words, **options)
    try:
        out, error = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, error
    return out, error


@pytest.mark.slow
def test_a_video_with_all_that_belongs_to_it(tmp_path):
    """The built-in model, adaptation, guard, report, preview, side by side and record in one run."""
    video = shaky_video(
        tmp_path / "shaky.mkv", (16, 10), vfr=True, audio_tracks=2, subtitles=1, metadata={"title": "a walk"}
    )
    words = ["restore", "shaky.mkv", *QUICK, "--report", "report", "--side-by-side", "side.mkv", "--preview", "0.3"]
    out, error = finished([*words, "--json", "-"], cwd=tmp_path)
    result = tmp_path / "shaky_deblurred.mkv"
    assert names(tmp_path) == ["report", "shaky.mkv", "shaky_deblurred.mkv", "shaky_deblurred_preview.mkv", "side.mkv"]
    before, after = video_packets(video), video_packets(result)
    assert sorted(packet[0] for packet in before[0]) == sorted(packet[0] for packet in after[0])
    assert all(before[index] == after[index] for index in (1, 2, 3))
    assert decoded(result).shape == decoded(video).shape
    assert decoded(tmp_path / "side.mkv").shape == (26, 64, 192, 3)
    record = json.loads(out)
    assert record["input"] == "shaky.mkv"
    assert [(shot["start"], shot["stop"]) for shot in record["shots"]] == [(0, 16), (16, 26)]
    for shot in record["shots"]:
        assert shot["reasons"] or shot["note"]
        assert len(shot["scores"]) == shot["stop"] - shot["start"]
    page = (tmp_path / "report" / "index.html").read_text()
    assert "shaky.mkv" in page
    assert "data:image" in page
    assert "preview" in error
    assert "\x1b" not in error + out
    assert "━" not in error


def test_adapted_weights_restore_the_clip(tmp_path, model):
    video = shaky_video(tmp_path / "a.mp4", (12,))
    weights, record = tmp_path / "a.safetensors", tmp_path / "a.json"
    quick = (*QUICK, "--no-guard", "--precision", "fp32", "--model", model)
    assert run("adapt", video, "-o", weights, *quick, "--json", record) == 0
    with safe_open(weights, framework="pt") as file:
        about = file.metadata()
    assert about["architecture"] == "lite"
    assert about["clip"] == "a.mp4"
    assert about["share"] == "1"
    assert len(about["base_checksum"]) == 64
    assert len(json.loads(record.read_text())["losses"]) == 2
    outputs = [tmp_path / "by-weights.mp4", tmp_path / "at-once.mp4"]
    assert run("restore", video, "--model", weights, *PLAIN, "--precision", "fp32", "-o", outputs[0]) == 0
    assert run("restore", video, *quick, "-o", outputs[1]) == 0
    assert np.array_equal(decoded(outputs[0]), decoded(outputs[1]))


def test_adapting_to_too_little_writes_nothing(tmp_path, model, capsys):
    video = shaky_video(tmp_path / "a.mp4", (3,))
    assert run("adapt", video, "-o", tmp_path / "w.safetensors", "--model", model) == 1
    assert "no weights were written" in capsys.readouterr().err
    assert run("adapt", video, "-o", tmp_path / "w.pth", "--model", model) == 1
    assert "w.safetensors" in capsys.readouterr().err
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(("suffix", "bits"), [(".png", 16), (".png", 8), (".jpg", 8), (".tiff", 8)])
def test_a_folder_of_frames_becomes_one(tmp_path, model, suffix, bits):
    folder = make_frames(tmp_path / "walk", shaky((7,)), suffix=suffix, bits=bits)
    assert run("restore", folder, "--model", model, *QUICK, "--no-guard") == 0
    result = tmp_path / "walk_deblurred"
    assert len(names(result)) == 7
    assert all(name.endswith(suffix) for name in names(result))
    picture = cv2.imread(str(result / names(result)[3]), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (64, 96, 3)
    assert picture.dtype == (np.uint16 if bits == 16 else np.uint8)


def test_a_picture_and_several_inputs(tmp_path, model, capsys):
    picture = make_frames(tmp_path / "f", 1) / "frame1.png"
    video = shaky_video(tmp_path / "a.mp4", (6,))
    words = ("restore", picture, video, "-o", tmp_path / "out", "--model", model, *PLAIN)
    assert run(*words, "--report", tmp_path / "report", "--json", tmp_path / "r.json") == 0
    assert names(tmp_path / "out") == ["a_deblurred.mp4", "frame1_deblurred.png"]
    assert names(tmp_path / "report") == ["a_deblurred", "frame1_deblurred"]
    assert [len(record["shots"]) for record in json.loads((tmp_path / "r.json").read_text())] == [1, 1]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("size", [(45, 67), (33, 130)])
def test_odd_sizes(tmp_path, model, size):
    folder = make_frames(tmp_path / "f", shaky((6,), size))
    assert run("restore", folder, "-o", tmp_path / "f.mp4", "--model", model, *PLAIN, "--quality", "lossless") == 0
    assert decoded(tmp_path / "f.mp4").shape == (6, *size, 3)
    assert run("restore", tmp_path / "f.mp4", "--model", model, *QUICK, "--side-by-side", tmp_path / "s.mp4") == 0
    assert decoded(tmp_path / "f_deblurred.mp4").shape == (6, *size, 3)
    assert decoded(tmp_path / "s.mp4").shape == (6, size[0], 2 * size[1], 3)


def test_a_budget_ends_the_steps(tmp_path, model):
    video = shaky_video(tmp_path / "a.mp4", (8, 8))
    words = ("restore", video, "--model", model, "--no-guard", "--pairs", "2", "--steps", "5000", "--budget", "1")
    assert run(*words, "--json", tmp_path / "r.json") == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert all(0 < len(shot["losses"]) < 5000 for shot in record["shots"])
    assert sum(shot["seconds"]["adapt"] for shot in record["shots"]) < 4


def test_synthesised_clips_are_trained_on_and_evaluated(tmp_path, model, capsys):
    photographs = make_frames(tmp_path / "photographs", 2, size=(200, 260), suffix=".jpg")
    clips = tmp_path / "clips"
    made = ("synth", photographs, "-o", clips, "--clips", "2", "--frames", "6", "--width", "128", "--height", "96")
    assert run(*made) == 0
    assert len(list(clips.glob("*/blur/*.png"))) == 12
    capsys.readouterr()
    measure = ("evaluate", clips, "-o", tmp_path / "out", "--model", model, *QUICK)
    assert run(*measure) == 0
    assert "| mean |" in capsys.readouterr().out
    assert {"blurred", "base", "adapted", "oracle"} <= json.loads((tmp_path / "out" / "summary.json").read_text())[
        "psnr"
    ].keys()
    assert run(*measure, "--resume") == 0
    training = ("train", "deblur", "--clips", clips, "--patch", "32", "--batch", "1", "--steps", "2")
    assert run(*training, "-o", tmp_path / "run", "--precision", "fp32") == 0
    assert "weights.safetensors" in names(tmp_path / "run")

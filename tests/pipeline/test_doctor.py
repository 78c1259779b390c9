"""What the doctor finds and says, what it measures, and what it makes of a machine that is not well."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from journey import run, small_model

import metadeblur.models.weights as weights
import metadeblur.pipeline.doctor as doctor
import metadeblur.pipeline.speed as speed
from metadeblur.pipeline.doctor import Extra, examine, sections
from metadeblur.pipeline.speed import SIZES, Speed, coding_seconds, frame_seconds, measure, moving, quickest
from metadeblur.system.extras import how_to_install
from metadeblur.system.nvidia import NvidiaCard, install_command, pytorch_build

CARD = NvidiaCard("NVIDIA GeForce RTX 3060", 12 << 30, "551.23", 8.6)


@pytest.fixture(autouse=True)
def well(monkeypatch):
    """A machine without problems of its own, whatever the tests run on."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(doctor, "available_bytes", lambda _: 8 << 30)
    monkeypatch.setattr(doctor, "encoders", lambda: {"libx264": True})
    monkeypatch.setattr(doctor, "nvidia_cards", tuple)


@pytest.fixture
def imported(monkeypatch, tmp_path):
    """A folder for imported weights."""
    monkeypatch.setenv("METADEBLUR_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def told(capsys):
    return capsys.readouterr().out


def test_everything_that_the_machine_has_is_told(capsys):
    assert run("doctor", "--no-speed") == 0
    lines = told(capsys).splitlines()
    for start in (
        "versions: torch: ",
        "this machine: processor: ",
        "this machine: memory: ",
        "this machine: gpu: ",
        "this machine: native bf16: ",
        "FFmpeg: libraries: libavcodec ",
        "FFmpeg: encoders: libx264",
        "FFmpeg: decoders: h264, hevc, av1",
        "extras: app: ",
        "weights: lite: built in, good",
        "weights: reblurrer: built in, good",
    ):
        assert any(line.startswith(start) for line in lines), start
    assert not any("to expect" in line for line in lines)
    assert lines[-1] == "no problems found"


def test_json_holds_the_same_and_nothing_else(tmp_path, capsys):
    assert run("doctor", "--no-speed", "--json", "-") == 0
    record = json.loads(told(capsys))
    assert record["versions"]["torch"] == str(torch.__version__)
    assert record["problems"] == record["speed"] == []
    assert [file["fault"] for file in record["weights"]] == [""] * 5
    assert run("doctor", "--no-speed", "--json", tmp_path / "doctor.json") == 0
    assert "no problems found" in told(capsys)
    written = json.loads((tmp_path / "doctor.json").read_text())
    assert written.keys() == record.keys()


def test_a_terminal_gets_tables(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(doctor, "available_bytes", lambda _: 100 << 20)
    assert run("doctor", "--no-speed") == 0
    out = told(capsys)
    assert "this machine: gpu" not in out
    assert "problem: only 0.1 GB of memory are free" in out
    assert "what to do: close other programs" in out
    assert all(len(line) < 100 for line in out.splitlines())


@pytest.mark.parametrize("kept", ["damaged", "no card", "nothing"])
def test_broken_built_in_weights_are_the_one_failure(kept, tmp_path, monkeypatch, capsys):
    original = weights.built_in_path("lite")
    for name in ("lite.safetensors", "lite.json", "reblurrer.safetensors", "reblurrer.json"):
        (tmp_path / name).write_bytes(original.with_name(name).read_bytes())
    lite = tmp_path / "lite.safetensors"
    if kept == "damaged":
        lite.write_bytes(lite.read_bytes()[:-4] + b"\0\0\0\1")
    else:
        (lite if kept == "nothing" else lite.with_suffix(".json")).unlink()
    monkeypatch.setattr(weights, "built_in_path", lambda name: tmp_path / f"{name}.safetensors")
    assert run("doctor") == 1
    said = capsys.readouterr()
    assert "this machine: memory: " in said.out  # all the rest is told first
    assert "weights: reblurrer: built in, good" in said.out
    fault = {"damaged": "its checksum is", "no card": "its card lite.json is missing", "nothing": "missing"}[kept]
    assert f"the built in weights of lite: {fault}" in said.err
    assert "install metadeblur again" in said.err


def test_broken_imported_weights_are_a_problem_that_is_told(imported, capsys):
    small_model(imported / "mimo-unet.safetensors")
    (imported / "mimo-unet.json").write_text(json.dumps({"sha256": "0" * 64}))
    assert run("doctor", "--no-speed") == 0
    out = told(capsys)
    assert "problem: the imported weights of mimo-unet: its checksum is" in out
    assert "metadeblur weights import mimo-unet FILE" in out


def test_each_problem_says_what_to_do(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(doctor, "usable_cpus", lambda: torch.get_num_threads() + 1)
    monkeypatch.setattr(doctor, "available_bytes", lambda _: 1 << 20)
    monkeypatch.setattr(doctor, "encoders", lambda: {"libx264": True, "libx265": False})
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    monkeypatch.setattr(doctor, "choose_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(doctor, "nvidia_cards", lambda: (CARD,))
    monkeypatch.setattr(torch.version, "cuda", None)
    problems = {problem.what: problem.remedy for problem in examine(speed=False).problems}
    for what, remedy in (
        ("because OMP_NUM_THREADS says so", "unset OMP_NUM_THREADS"),
        ("only 0.0 GB of memory", "close other programs"),
        ("there is an NVIDIA GPU", "pip install"),
        ("99.0 programs want", "wait or end some"),
        ("FFmpeg has no encoder libx265", "pip install"),
    ):
        assert remedy in next(text for said, text in problems.items() if what in said)
    assert len(problems) == 5


def card_problem(monkeypatch, *, card=CARD, version="2.13.0+cpu", cuda=None):
    """What the doctor says of a card that PyTorch does not use, and what to do."""
    monkeypatch.setattr(doctor, "nvidia_cards", lambda: (card,))
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr("metadeblur.system.nvidia._has_pip", lambda: True)  # an environment of uv's has none
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = examine(speed=False)
    assert found.unused_cards == (card,)
    (problem,) = found.problems
    return problem


def test_a_card_beside_a_pytorch_without_cuda_gets_the_exact_next_command(monkeypatch, capsys):
    problem = card_problem(monkeypatch)
    assert "there is an NVIDIA GPU (NVIDIA GeForce RTX 3060)" in problem.what
    assert "this PyTorch (2.13.0+cpu) is built without CUDA" in problem.what
    command = " --reinstall torch --torch-backend cu126"
    assert " -m pip install uv, then " in problem.remedy
    assert problem.remedy.endswith(command)
    python = problem.remedy.rpartition("again: ")[2].split()[0]
    assert subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True).stdout == (
        f"{sys.prefix}\n"
    )
    assert run("doctor", "--no-speed") == 0
    lines = told(capsys).splitlines()
    assert "this machine: gpu: NVIDIA GeForce RTX 3060, 12.0 GB, which PyTorch cannot use (see problem)" in lines
    assert any(line.startswith("problem: there is an NVIDIA GPU") and line.endswith(command) for line in lines)


def test_the_command_is_one_for_uv_where_there_is_no_pip(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    command = install_command("cu130")
    assert command.startswith("uv pip install --python ")
    assert command.endswith(" --reinstall torch --torch-backend cu130")


@pytest.mark.parametrize(
    ("driver", "capability", "build"),
    [
        ("581.29", 8.6, "cu130"),
        ("581.29", 6.1, "cu126"),  # Pascal: no longer in CUDA 13
        ("572.16", 12.0, "cu128"),  # Blackwell: not yet in CUDA 12.6
        ("535.104.05", 0.0, "cu126"),
        ("", 0.0, "cu130"),
        ("470.82", 3.5, ""),
    ],
)
def test_the_build_fits_the_card_and_its_driver(driver, capability, build):
    assert pytorch_build(NvidiaCard("card", driver=driver, capability=capability)) == build


def test_a_driver_that_is_missing_or_too_old_comes_first(monkeypatch):
    problem = card_problem(monkeypatch, card=NvidiaCard("NVIDIA card", driven=False))
    assert "no driver of NVIDIA's runs" in problem.what
    assert "nvidia.com/drivers" in problem.remedy
    old = NvidiaCard("GTX 970", driver="470.82")
    problem = card_problem(monkeypatch, card=old)
    assert "its driver 470.82 is too old for PyTorch" in problem.what
    assert "install driver 525 or newer" in problem.remedy
    assert "pip install" not in problem.remedy
    problem = card_problem(monkeypatch, version="2.13.0+cu130", cuda="13.0")
    assert "its driver 551.23 is too old for PyTorch for CUDA 13.0" in problem.what
    assert "install driver 580 or newer" in problem.remedy
    assert problem.remedy.endswith(" --torch-backend cu126")


def test_a_card_that_is_hidden_or_does_not_answer_is_told_as_such(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "current_device", lambda: (_ for _ in ()).throw(RuntimeError("No CUDA GPUs are available"))
    )
    problem = card_problem(monkeypatch, version="2.13.0+cu126", cuda="12.6")
    assert "cannot use it: No CUDA GPUs are available" in problem.what
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    (problem,) = examine(speed=False).problems
    assert "CUDA_VISIBLE_DEVICES is '-1'" in problem.what
    assert "unset CUDA_VISIBLE_DEVICES" in problem.remedy


@pytest.mark.parametrize(
    ("capability", "codes", "build"),
    [
        ((12, 0), ["sm_80", "sm_90"], "cu130"),
        ((6, 1), ["sm_75", "sm_90", "compute_90"], "cu126"),
        ((8, 6), ["sm_80"], None),
    ],
)
def test_a_card_without_code_in_this_pytorch_is_told(capability, codes, build, monkeypatch):
    monkeypatch.setattr(doctor, "_gpu", lambda: doctor.Gpu("a card", 8 << 30, True))
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: codes)
    problems = examine(speed=False).problems
    if build is None:
        assert problems == ()
    else:
        (problem,) = problems
        assert "has no code for a card" in problem.what
        assert problem.remedy.endswith(f" --torch-backend {build}")


def test_devices_that_are_only_used_when_asked_for_are_told(monkeypatch):
    monkeypatch.setattr(doctor, "present_devices", lambda: ["cpu", "mps"])
    assert dict(sections(examine(speed=False))["this machine"])["gpu"] == "mps, with --device mps only"


def test_extras_are_those_of_the_package_and_say_what_they_lack(monkeypatch):
    real = {extra.name for extra in examine(speed=False).extras}
    assert {"app", "cluster", "docs", "figures", "train"} <= real
    asked = ["torch>=2.6", 'torch>=2; extra == "app"', "no-such-package>=6; extra == 'app'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: asked)
    found = examine(speed=False)
    app = next(extra for extra in found.extras if extra.name == "app")
    assert app == Extra("app", {"torch": doctor.metadata.version("torch")}, ("no-such-package",))
    said = dict(sections(found)["extras"])["app"]
    assert said == f"without no-such-package; where it is wanted: {how_to_install('app')}"
    assert found.problems == ()


def test_a_model_that_does_not_run_is_told_and_the_others_are_measured(monkeypatch, capsys):
    def fails(model, _):
        if model == "lite":
            raise RuntimeError("no such instruction\nand more")
        return Speed(model, "fp32", 64, 0.5, dict.fromkeys(SIZES, 2.0))

    monkeypatch.setattr(doctor, "measure", fails)
    monkeypatch.setattr(doctor, "names", lambda: ["lite", "other"])
    monkeypatch.setattr(doctor, "installed_path", lambda _: weights.built_in_path("lite"))
    assert run("doctor") == 0
    out = told(capsys)
    assert "problem: lite does not run here: no such instruction; choose a smaller --model" in out
    assert "other: 480p 2, 720p 2, 1080p 2 (fp32, from 64x64 in 0.5 s)" in out
    assert doctor.ABOUT_SPEED in out


def test_larger_frames_are_expected_to_take_longer_in_the_ratio_of_their_pixels():
    found = measure("lite", coding=0.0, limit=0.3)
    assert found.side in (64, 128, 256)
    slower = found.frames_a_second["720p"] / found.frames_a_second["1080p"]
    assert slower == pytest.approx(1920 * 1088 / (1280 * 720))
    assert 0 < found.seconds < 5
    with_coding = frame_seconds(1 / found.frames_a_second["720p"], 1e6, 1, 1)
    assert with_coding > 1e6


def test_decoding_and_encoding_take_some_time_but_not_much():
    assert 1e-9 < coding_seconds() < 1e-5  # s a pixel


@given(st.floats(0, 10), st.floats(0, 10), st.integers(0, 8), st.integers(1, 8))
def test_a_frame_takes_no_less_than_its_network_or_its_share_of_the_processors(network, coding, threads, processors):
    found = frame_seconds(network, coding, threads, processors)
    assert found >= network
    assert found * processors >= coding * (1 - 1e-9)
    assert found <= network * max(threads / processors, 1) + coding + 1e-9


def test_no_round_begins_after_one_that_was_too_long(monkeypatch):
    now, rounds = [0.0], []
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

    def work():
        rounds.append(len(rounds))
        now[0] += (5.0, 1.0, 3.0, 1.0)[len(rounds) - 1]

    assert quickest(work, 4) == 1.0
    now[0], rounds[:] = 0.0, []
    assert quickest(work, 4, limit=4.0) == 5.0
    assert len(rounds) == 1


def test_the_photograph_moves():
    frames = moving(2, 40, 50)
    assert torch.equal(frames[1, :, :, :-3], frames[0, :, :, 3:])
    assert frames.std() > 0.05

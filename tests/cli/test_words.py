"""What commands say of pipes that are closed, inputs that are none, limits of the system, and counts of one."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from cases import case
from journey import PLAIN, command, names, run, shaky_video, small_model

import metadeblur as md
from metadeblur.data.ahead import Ahead
from metadeblur.data.pairs import write_png
from metadeblur.data.settings import SynthSettings
from metadeblur.data.synthesis import synthesize
from metadeblur.errors import MetadeblurError
from metadeblur.restoration.prefetching import BackgroundWriter, prefetch
from metadeblur.system.explain import error_line
from metadeblur.system.memory import StageMeter
from metadeblur.system.thread_limit import NO_MORE_THREADS
from metadeblur.training.deblur import train_deblur
from metadeblur.training.settings import DeblurTraining, LoopSettings
from metadeblur.video.info import decoder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photo.png"
    write_png(path, np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    return path


# --- pipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "closed"),
    [
        (["--help"], "stdout"),
        (["restore", "--help"], "stdout"),
        (["weights", "list"], "stdout"),
        (["doctor", "--no-speed"], "stdout"),
        (["restore", "in.mp4", "--no-adapt", "--no-guard", "-q", "--json", "-"], "stdout"),
        (["restore", "in.mp4", "--no-adapt", "--no-guard", "--workers", "2"], "stderr"),
        (["nonsense"], "stderr"),
        (["restore", "--stpes", "3"], "stderr"),
        (["restore", "missing.mp4"], "stderr"),
        (["synth", "photo.png", "-o", "out", "--clips", "1", "--width", "16", "--height", "16"], "stderr"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else one,
)
@case(
    "Numbers and words",
    "a pipe whose reader has seen enough (metadeblur ... | head), on standard output or error",
    "the command ends with exit code 141, as others do",
    "nothing",
)
def test_closed_pipes_end_quietly(words, closed, photograph):
    shaky_video(photograph.parent / "in.mp4", (3,))
    ours, theirs = os.pipe()
    os.close(ours)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {closed: theirs}
    done = subprocess.run([command(), *words], cwd=photograph.parent, check=False, **streams)
    os.close(theirs)
    assert done.returncode == 141
    assert not done.stdout
    assert not done.stderr


def test_a_closed_standard_output_is_no_fault(tmp_path):
    words = f"'{command()}' models lite --json >&-"
    done = subprocess.run(["sh", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with videos, a photograph and a paired clip."""
    folder = tmp_path_factory.mktemp("room")
    for name in ("in.mp4", "-in.mp4"):
        shaky_video(folder / name, (2,))
    for place in ("photo.png", "folder/clip/blur/1.png", "folder/clip/sharp/1.png"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_png(folder / place, np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    return folder


# --- inputs and outputs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["restore", "in.mp4", "out.mp4"], 2, "out.mp4 does not exist; did you mean -o out.mp4?"),
        (["restore", "in.mp4", "in.mp4", "out"], 2, "did you mean -o out?"),
        (["restore", "no.mp4", "in.mp4", "nor.mp4"], 1, "no.mp4: there is no such file or folder; nor.mp4: there is"),
        (["restore", "out.mp4", "-o", "in.mp4"], 1, "-o in.mp4 is a file that is there: were the two swapped?"),
        (["restore", "in.mp4", "-o", "in.mp4"], 1, "the output is the input itself"),
        (["restore", "in.mp4", "in.mp4", "-o", "photo.png"], 1, "photo.png"),
        (["restore", "in.mp4", "--json", "folder"], 1, "folder: is a folder"),
        (["restore", "in.mp4", "-o", "nowhere/out.mp4"], 1, "nowhere"),
        (["restore", "-in.mp4"], 2, "-in.mp4 begins with -; write ./-in.mp4"),
        (["adapt", "in.mp4", "w.safetensors"], 2, "did you mean -o w.safetensors?"),
        (["adapt", "in.mp4"], 2, "-o WEIGHTS.safetensors"),
        (["adapt", "in.mp4", "-o", "folder"], 1, "folder: is a folder"),
        (["synth", "photo.png", "out"], 2, "did you mean -o out?"),
        (["synth", "photo.png"], 2, "-o DIR"),
        (["synth", "folder", "-o", "folder/out"], 1, "lies inside of the input folder"),
        (["synth", "photo.png", "-o", "in.mp4"], 1, "in.mp4: is a file; synth needs a folder"),
        (["synth", "no.png", "-o", "out"], 1, "no.png: there is no such file"),
        (["evaluate", "folder", "out"], 2, "did you mean -o out?"),
        (["evaluate", "folder", "-o", "folder"], 1, "lies inside of the input folder"),
        (["evaluate", "nowhere", "-o", "out"], 1, "nowhere: there is no such file"),
        (["evaluate", "folder"], 2, "-o DIR"),
        (["evaluate", "builtin", "-o", "out", "--clips", "nosuch"], 1, "no clip 'nosuch' to measure; clips are shake"),
        (["evaluate", "builtin", "-o", "out", "--apart", "nosuch"], 1, "no clip 'nosuch' to report apart"),
        (["evaluate", "builtin", "-o", "out", "--crop", "300"], 1, "crop is 300; the built-in clips are 320x240"),
        (["demo", "in.mp4"], 1, "in.mp4: is a file"),
        (["demo", "one", "two"], 2, "two: more than demo takes"),
        (["train", "deblur", "--clips", "folder", "-o", "in.mp4"], 1, "in.mp4: is a file"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)
@case(
    "Numbers and words",
    "an output in the place of an input (restore IN OUT), the two swapped, one inside the other, a file for a folder",
    "refused before any work; nothing is written",
    "one line: what was most likely meant",
)
def test_inputs_and_outputs_that_cannot_be_meant(words, code, said, room, capsys, monkeypatch):
    monkeypatch.chdir(room)
    before = sorted(room.rglob("*"))
    assert run(*words) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert sorted(room.rglob("*")) == before


def test_inputs_that_cannot_be_read_are_named_before_the_others_are_worked_on(tmp_path, model, capsys):
    good, bad = shaky_video(tmp_path / "a.mp4", (3,)), tmp_path / "bad.mp4"
    bad.write_text("no video")
    assert run("restore", good, bad, "-o", tmp_path / "out", "--model", model, *PLAIN) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "bad.mp4: not a video" in lines[0]
    assert "1 of 2 inputs failed: bad.mp4" in lines[-1]
    assert names(tmp_path / "out") == ["a_deblurred.mp4"]


# --- numbers of things ---------------------------------------------------------------------------------------------


@case(
    "Numbers and words",
    "synth: a video shorter than the frames to be averaged",
    "refused, no folder is left behind",
    "how many frames it has and how many are needed",
)
def test_synth_counts_what_it_makes(photograph, tmp_path, capsys):
    small = ("--frames", "1", "--width", "32", "--height", "32")
    assert run("synth", photograph, "-o", tmp_path / "out", "--clips", "1", *small) == 0
    assert capsys.readouterr().err == f"1 clip written to {tmp_path / 'out'}\n"
    assert run("synth", photograph, "-o", tmp_path / "out", "--clips", "3", *small) == 0
    assert capsys.readouterr().err == f"2 clips written to {tmp_path / 'out'}, 1 kept that were there\n"
    video = shaky_video(tmp_path / "v.mp4", (3,))
    assert run("synth", video, "-o", tmp_path / "none", "--average", "5", "--frames", "2") == 1
    assert "v.mp4: has 3 frames; 2 frames a clip, each the mean of 5, need 10" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_synth_that_fails_leaves_no_folder_behind(photograph, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("metadeblur.data.synthesis.write_png", broken)
    settings = SynthSettings(clips=2, frames=1, width=32, height=32)
    with pytest.raises(MetadeblurError, match="the disk is full"):
        synthesize([photograph], tmp_path / "out", settings)
    assert names(tmp_path) == ["photo.png"]


def test_a_training_that_is_further_than_asked_for_is_not_offered_as_finished(tmp_path):
    photograph = tmp_path / "photo.png"
    write_png(photograph, np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    synthesize([photograph], tmp_path / "clips", SynthSettings(clips=1, frames=2, width=48, height=48))
    settings = DeblurTraining(
        clips=(str(tmp_path / "clips"),),
        network="mimo-unet-plus",
        size="small",
        batch=1,
        patch=32,
        easy=1.0,
        precision="fp32",
        loop=LoopSettings(steps=2, warmup=0, log_steps=1, validate_steps=2),
    )
    train_deblur(settings, tmp_path / "run", quiet=True)
    fewer = DeblurTraining(**{**vars(settings), "loop": LoopSettings(steps=1)})
    with pytest.raises(MetadeblurError, match="is at step 2 already; give --steps 2 or more"):
        train_deblur(fewer, tmp_path / "run", resume=True, quiet=True)


# --- threads -------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_threads(monkeypatch):
    """A system that allows no further thread."""

    def refused(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)


@pytest.mark.usefixtures("no_threads")
@case(
    "Numbers and words",
    "a system or container that allows no further thread or process",
    "decoding ahead and encoding behind are done without; what needs one ends",
    "one line: what is the matter, and what can be done",
)
def test_limits_of_threads_are_said_plainly():
    done = []
    with BackgroundWriter() as background:
        for number in range(4):
            background.do(done.append, number)
        background.finish()
    assert done == [0, 1, 2, 3]
    assert list(prefetch(range(3), 2)) == [0, 1, 2]
    with pytest.raises(MetadeblurError, match="allows no further thread or process; end other programs"):
        Ahead(lambda number: number)(0)
    with pytest.raises(MetadeblurError, match="ulimit -u"), StageMeter(torch.device("cpu")).stage("work"):
        pass
    for error in (RuntimeError("can't start new thread"), BlockingIOError(errno.EAGAIN, "Resource unavailable")):
        assert error_line(error) == f"error: {NO_MORE_THREADS}"


def test_a_decoder_that_gets_no_threads_is_no_damaged_file():
    def refused():
        raise av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    stream = SimpleNamespace(metadata={}, codec_context=SimpleNamespace(name="h264"))
    with pytest.raises(MetadeblurError, match="allows no further thread"):
        decoder(stream)(SimpleNamespace(decode=refused, size=1))


def test_the_python_names_refuse_the_same(tmp_path):
    clip = md.read_clip(shaky_video(tmp_path / "a.mp4", (2,)))
    with pytest.raises(MetadeblurError, match="lr is nan; give a number above 0 and below 1"):
        md.adapt(torch.nn.Identity(), clip, lr=float("nan"))
    with pytest.raises(MetadeblurError, match=r"steps is 2\.5; give a whole number"):
        md.adapt(torch.nn.Identity(), clip, steps=2.5)

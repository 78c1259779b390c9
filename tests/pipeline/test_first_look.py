"""The first look: a restored frame within seconds, before anything else, in a picture that goes with the run."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from journey import PLAIN, names, run, shaky, shaky_video, small_model
from media import ROTATED_90, make_frames, make_video, moving_picture
from torch import nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.imaging.pictures import is_whole_png
from metadeblur.pipeline import first_look
from metadeblur.pipeline.events import FirstLook, FrameRestored, Note, ShotStarted, StepDone
from metadeblur.pipeline.first_look import showing_first_look, take_first_look, try_first_look
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.video import VideoReader

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = RestoreSettings(device="cpu", precision="fp32")


class Darker(nn.Module):
    """A network whose work can be seen."""

    def forward(self, x):
        return x * 0.5


def look_at(path: Path, net: nn.Module | None = None) -> FirstLook | None:
    return take_first_look(VideoReader(path), net or Darker(), SETTINGS)


class Watching:
    """A listener that looks what lies in a folder at each event."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.events, self.pictures = folder, [], []

    def __call__(self, event):
        self.events.append(event)
        self.pictures.append({path: path.read_bytes() for path in self.folder.glob("*_first_look*")})

    def first(self, kind):
        return next(number for number, event in enumerate(self.events) if isinstance(event, kind))


def watched(tmp_path: Path, source: Path, output: Path, net: nn.Module, **how) -> Watching:
    watching = Watching(tmp_path)
    with showing_first_look(output, watching) as listener:
        restore_file(Job(source, output), net, RunSettings(restoration=SETTINGS, **how), listener=listener)
    return watching


def test_it_is_there_before_adapting_begins_and_gone_with_the_run(tmp_path):
    source, output = shaky_video(tmp_path / "a.mp4", (8, 6)), tmp_path / "b.mp4"
    few = AdaptSettings(pairs=2, steps=2, patch=48, device="cpu")
    seen = watched(tmp_path, source, output, nn.Conv2d(3, 3, 1), adaptation=few, first_look=True)
    told = seen.first(FirstLook)
    assert told < min(seen.first(kind) for kind in (ShotStarted, StepDone, FrameRestored))
    (path,) = seen.pictures[told]
    assert path.name == "b_first_look.png"
    assert any(isinstance(event, Note) and f"First look: {path}" in event.text for event in seen.events[:told])
    png = seen.pictures[told][path]
    assert is_whole_png(png)
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    before, after = seen.events[told].pictures
    assert picture.shape[1] == 2 * 96 + 4
    assert np.array_equal(picture[-64:, :96], before)
    assert np.array_equal(picture[-64:, -96:], after)
    assert names(tmp_path) == ["a.mp4", "b.mp4"]


def test_nobody_who_did_not_ask_gets_one(tmp_path):
    seen = watched(tmp_path, shaky_video(tmp_path / "a.mp4", (4,)), tmp_path / "b.mp4", Darker(), adapt=False)
    assert not any(isinstance(event, FirstLook) for event in seen.events)


def test_the_most_blurred_frame_with_texture_is_shown(tmp_path):
    frames = moving_picture(12, 64, 96)
    frames[:3] = 16  # a black beginning
    frames[7] = cv2.blur(frames[7], (9, 1))
    look = look_at(make_frames(tmp_path / "frames", frames))
    assert look.number == 7
    assert np.array_equal(look.pictures[0], frames[7])
    assert np.abs(look.pictures[1].astype(int) - frames[7] // 2).max() <= 1


def test_a_window_across_a_cut_is_avoided(tmp_path):
    frames = np.concatenate([moving_picture(6, 64, 96, seed=seed) for seed in (0, 5)])
    frames[5] = cv2.blur(frames[5], (15, 1))
    frames[2] = cv2.blur(frames[2], (9, 1))

    class Three(Darker):
        frames = 3

        def forward(self, x):
            return x[:, 1] * 0.5

    assert look_at(make_frames(tmp_path / "frames", frames), Three()).number == 2


def test_a_long_black_beginning_is_passed_and_a_black_file_gives_none(tmp_path):
    frames = np.full((40, 32, 48, 3), 16, np.uint8)
    assert look_at(make_frames(tmp_path / "black", frames)) is None
    frames[33:] = moving_picture(7, 32, 48)
    assert look_at(make_frames(tmp_path / "late", frames)).number >= 33


def test_of_a_large_frame_the_middle_is_restored_and_turned_as_shown(tmp_path):
    frames = moving_picture(2, 540, 960)
    before, after = look_at(make_video(tmp_path / "a.mp4", frames, matrix=ROTATED_90)).pictures
    assert before.shape == after.shape
    height, width, _ = before.shape
    assert height > width
    assert 0.95 * 640 * 480 < height * width <= 640 * 480
    assert height / width == pytest.approx(16 / 9, abs=0.02)


def test_a_slow_network_gets_a_smaller_part(tmp_path, monkeypatch):
    source = make_frames(tmp_path / "frames", moving_picture(2, 480, 640))
    assert look_at(source).pictures[0].shape == (480, 640, 3)
    monkeypatch.setattr(first_look, "SECONDS", 0.0)
    assert look_at(source).pictures[0].shape == (120, 160, 3)
    monkeypatch.setattr(first_look, "SECONDS", 1e9)
    monkeypatch.setattr(first_look, "available_bytes", lambda _: 0)
    assert look_at(source).pictures[0].shape == (120, 160, 3)


def test_what_fails_breaks_nothing(tmp_path):
    class Fails(nn.Module):
        def forward(self, _):
            raise RuntimeError("no")

    source = shaky_video(tmp_path / "a.mp4", (4,))
    assert try_first_look(VideoReader(source), Fails(), SETTINGS) is None
    output = tmp_path / f"{'o' * 250}.mp4"
    seen = Watching(tmp_path)
    with showing_first_look(tmp_path / "missing" / "b.mp4", seen) as listener:
        listener(FirstLook(0, (np.zeros((4, 4, 3), np.uint8),) * 2))  # nowhere to write to
    assert [type(event) for event in seen.events] == [FirstLook]
    seen = watched(tmp_path, source, output, Darker(), adapt=False, first_look=True)
    ((path,),) = {tuple(pictures) for pictures in seen.pictures if pictures}
    assert path.name.endswith("_first_look.png")


def test_no_file_of_somebody_else_is_lost_and_one_of_a_killed_run_is_replaced(tmp_path):
    source, output = shaky_video(tmp_path / "a.mp4", (4,)), tmp_path / "b.mp4"
    mine = tmp_path / "b_first_look.png"
    mine.write_bytes(b"a picture of mine")
    seen = watched(tmp_path, source, output, Darker(), adapt=False, first_look=True)
    assert mine.read_bytes() == b"a picture of mine"
    told = seen.first(FirstLook)
    left = tmp_path / "b_first_look_2.png"
    assert set(seen.pictures[told]) == {mine, left}
    left.write_bytes(seen.pictures[told][left])  # as if that run had been killed
    watched(tmp_path, source, output, Darker(), adapt=False)
    assert names(tmp_path) == ["a.mp4", "b.mp4", mine.name]


@pytest.mark.parametrize("workers", [(), pytest.param(("--workers", "2"), marks=pytest.mark.slow)])
def test_the_command_shows_one_of_the_first_input_alone(tmp_path, capsys, workers):
    model = small_model(tmp_path / "small.safetensors")
    make_frames(tmp_path / "in", shaky((5,)))
    video = shaky_video(tmp_path / "b.mp4", (5,))
    assert run("restore", tmp_path / "in", video, "-o", tmp_path / "out", "--model", model, *PLAIN, *workers) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("First look: ")]
    assert len(lines) == 1
    assert str(tmp_path / "out" / "in_deblurred_first_look.png") in lines[0]
    assert names(tmp_path / "out") == ["b_deblurred.mp4", "in_deblurred"]


def test_a_picture_alone_gets_none(tmp_path, capsys):
    picture = next(make_frames(tmp_path / "in", shaky((1,))).iterdir())
    model = small_model(tmp_path / "small.safetensors")
    assert run("restore", picture, "-o", tmp_path / "out.png", "--model", model, *PLAIN) == 0
    assert "First look" not in capsys.readouterr().err

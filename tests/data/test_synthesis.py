"""Synthesis: what a blurred frame must be, given its truth and the camera's path."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metadeblur.data.layouts import plain_clips
from metadeblur.data.settings import SynthSettings
from metadeblur.data.synthesis import Scene, average_clip, light, make_clip, random_scene, synthesize
from metadeblur.data.trajectory import Trajectory, random_trajectory
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.linear_light import to_display

SMALL = SynthSettings(clips=2, frames=3, width=96, height=64, layers=1)


def photograph(seed=0, height=160, width=240):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def straight(step):
    """A camera that moves ``step`` = (x, y) px an interval."""
    knots = np.zeros((20, 4))
    knots[:, :2] = np.arange(20)[:, None] * np.array(step)
    return Trajectory(knots - knots[2])


def scene(path, width=64, height=48):
    background = light(photograph(1).astype(np.float32) / 255)
    return Scene(background, path, (), "srgb", width, height)


def test_a_pan_blurs_as_the_mean_of_shifted_pictures():
    view = scene(straight((8.0, 0.0)))
    blurred, _ = view.expose(4.0, 1.0)
    moments = np.linspace(-0.5, 0.5, 81)
    mean = np.mean([view.render(4.0 + moment, cv2.INTER_LINEAR) for moment in moments], axis=0)
    expected = np.asarray(to_display(torch.from_numpy(mean)))
    assert np.abs(blurred - expected)[8:-8, 8:-8].mean() < 0.01


def test_the_truth_is_the_middle_of_the_exposure():
    view = scene(straight((10.0, 3.0)))
    _, sharp = view.expose(3.0, 1.0)
    assert np.allclose(sharp, view.display(view.render(3.0, cv2.INTER_CUBIC)))


def test_a_still_camera_makes_no_blur():
    blurred, sharp = scene(straight((0.0, 0.0))).expose(2.0, 1.5)
    assert np.array_equal(blurred, sharp)


def test_steady_clips_move_alike_in_all_frames():
    def unevenness(steady):
        """Of the camera's speed over the frames of a clip, median over clips: standard deviation over mean."""
        found = []
        for seed in range(24):
            settings = replace(SMALL, frames=6, steady=steady, still=0.0)
            camera = random_scene([photograph()], settings, np.random.default_rng(seed)).camera
            speeds = [np.hypot(*(camera.at(t + 0.5) - camera.at(t - 0.5))[:2]) for t in range(6)]
            found.append(np.std(speeds) / np.mean(speeds))
        return float(np.median(found))

    assert unevenness(1.0) < 0.5 * unevenness(0.0)


def test_stepped_blur_is_the_mean_of_so_many_moments():
    view = scene(straight((12.0, 0.0)))
    blurred, _ = view.expose(4.0, 1.0, 5)
    mean = np.mean([view.render(4.0 + moment, cv2.INTER_CUBIC) for moment in (-0.4, -0.2, 0, 0.2, 0.4)], axis=0)
    assert np.abs(blurred - view.display(mean.astype(np.float32))).max() < 1e-5


def test_stepped_clips_leave_all_else_as_it_was():
    settings = replace(SMALL, still=0.0, noise=0.0, compression=(98, 99), speed_px=(20.0, 28.0))

    def clip(stepped):
        return list(make_clip([photograph()], replace(settings, stepped=stepped), np.random.default_rng(5)))

    smooth, stepped = clip(0.0), clip(1.0)
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(smooth, stepped, strict=True))
    assert any(not np.array_equal(one[0], other[0]) for one, other in zip(smooth, stepped, strict=True))


def test_longer_exposures_blur_more():
    view = scene(straight((6.0, 0.0)))
    errors = []
    for exposure in (0.2, 0.6, 1.2):
        blurred, sharp = view.expose(3.0, exposure)
        errors.append(np.abs(blurred - sharp).mean())
    assert errors == sorted(errors)
    assert errors[0] < errors[2] / 2


@given(seed=st.integers(0, 1000), smoothness=st.floats(0, 0.99), intermittency=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_paths_are_continuous_and_have_the_speed_asked_for(seed, smoothness, intermittency):
    rng = np.random.default_rng(seed)
    path = random_trajectory(30, 5.0, rng, smoothness=smoothness, intermittency=intermittency)
    steps = np.diff(path.knots[:, :2], axis=0)
    assert np.sqrt((steps**2).sum(1).mean()) == pytest.approx(5.0, rel=0.5)
    for time in (0.0, 3.999999, 7.5):
        assert np.abs(path.at(time + 1e-6) - path.at(time)).max() < 1e-3


def test_one_direction_only():
    rng = np.random.default_rng(3)
    path = random_trajectory(20, 5.0, rng, smoothness=0.5, intermittency=0.5, direction=np.pi / 2)
    assert np.ptp(path.knots[:, 0]) < 1e-9 < np.ptp(path.knots[:, 1])


def test_same_seed_same_clip():
    one, two = (list(make_clip([photograph()], SMALL, np.random.default_rng(5))) for _ in range(2))
    for (blur_a, sharp_a), (blur_b, sharp_b) in zip(one, two, strict=True):
        assert np.array_equal(blur_a, blur_b)
        assert np.array_equal(sharp_a, sharp_b)


def test_frames_of_a_fast_video_are_averaged_in_linear_light():
    frames = [np.full((4, 4, 3), value, np.uint8) for value in (0, 255, 0)]
    blurred, sharp = next(iter(average_clip(frames, 3, SMALL)))
    assert sharp[0, 0, 0] == 255
    assert abs(int(blurred[0, 0, 0]) - 156) <= 1  # a third of the light shows as 0.612


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(2):
        cv2.imwrite(str(folder / f"{seed}.png"), photograph(seed))
    return folder


def test_synthesize_writes_paired_clips_and_goes_on_where_it_stopped(photographs, tmp_path):
    out = tmp_path / "clips"
    synthesize([photographs], out, SMALL)
    clips = plain_clips(out)
    assert [len(clip.blurred) for clip in clips] == [3, 3]
    manifest = json.loads((out / "synth.json").read_text())
    assert {source["name"] for source in manifest["sources"]} == {"0.png", "1.png"}
    first = {path: path.read_bytes() for path in out.rglob("*.png")}
    for path in (out / "clip_00001").rglob("*.png"):
        path.unlink()
    for folder in ("blur", "sharp", ""):
        (out / "clip_00001" / folder).rmdir()
    synthesize([photographs], out, SMALL)
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == first


def test_other_settings_need_another_folder(photographs, tmp_path):
    synthesize([photographs], tmp_path / "clips", SMALL)
    with pytest.raises(MetadeblurError, match="other settings"):
        synthesize([photographs], tmp_path / "clips", replace(SMALL, seed=9))


def test_nothing_usable_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MetadeblurError, match="no photograph or video"):
        synthesize([tmp_path / "empty"], tmp_path / "out", SMALL)
    with pytest.raises(MetadeblurError, match="not a photograph or video"):
        synthesize([Path("nowhere.jpg")], tmp_path / "out", SMALL)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(MetadeblurError, match="not readable"):
        synthesize([tmp_path / "broken.png"], tmp_path / "out", SMALL)


def test_a_folder_can_be_filled_up_later(photographs, tmp_path):
    synthesize([photographs], tmp_path / "clips", SMALL)
    synthesize([photographs], tmp_path / "clips", replace(SMALL, clips=3))
    assert [clip.name for clip in plain_clips(tmp_path / "clips")] == ["clip_00000", "clip_00001", "clip_00002"]

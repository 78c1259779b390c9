"""Frames corrected by what they leave unexplained of the blurred ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from textures import Lighten, texture

from metadeblur.adaptation.stages import adapt
from metadeblur.clip import Clip
from metadeblur.data.paired import read_trial
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.builtin import make_builtin
from metadeblur.guard.judge import judge_fusion
from metadeblur.imaging.quality import psnr
from metadeblur.models.adapted import FusionSettings, fusion_of, with_fusion
from metadeblur.models.weights import load_deblurrer, save_deblurrer
from metadeblur.restoration import back_projection
from metadeblur.restoration.back_projection import BackProjectionSettings
from metadeblur.restoration.fusion import fuse_frames

STEP = 5  # px a frame interval, to the right


def back_project(*values: Any) -> NDArray[np.float32]:
    """The same of arrays."""
    tensors = (torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values)
    return back_projection.back_project(*tensors).numpy()


def picture(height: int = 64, width: int = 96) -> NDArray[np.float32]:
    """A sharp picture (H, W, 3) of middling brightness."""
    return np.ascontiguousarray((0.25 + 0.5 * texture(height, width)).permute(1, 2, 0).numpy())


def smeared(sharp: NDArray[np.float32], step: int = STEP) -> NDArray[np.float32]:
    """What a shutter open for the whole interval sees, in light that is displayed as it is; wraps around."""
    return np.mean([np.roll(sharp, offset, 1) for offset in range(-(step // 2), step // 2 + 1)], 0, dtype=np.float32)


def steps(shape: tuple[int, ...], step: float) -> NDArray[np.float32]:
    """Velocities (H, W, 2) of a whole frame that moves to the right."""
    field = np.zeros((*shape[:2], 2), np.float32)
    field[..., 0] = step
    return field


def error(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.square(one - other)[8:-8, 16:-16].mean())


def test_a_frame_that_explains_too_little_comes_nearer_to_the_truth() -> None:
    sharp = picture()
    blurred, half = smeared(sharp), (sharp + smeared(sharp)) / 2
    motion = steps(sharp.shape, STEP)
    better = back_project(blurred, half, motion, 0 * motion, 1.0, "linear")
    assert error(better, sharp) < 0.8 * error(half, sharp)


def test_the_truth_and_what_stands_still_stay_as_they_are() -> None:
    sharp = picture()
    motion = steps(sharp.shape, STEP)
    assert error(back_project(smeared(sharp), sharp, motion, 0 * motion, 1.0, "linear"), sharp) < 1e-6
    still = back_project(smeared(sharp), sharp, 0 * motion, 0 * motion, 1.0)
    assert np.abs(still - sharp).max() < 1e-5


def test_a_still_moment_between_fast_ones_is_nearly_left_alone() -> None:
    sharp = picture()
    motion = steps(sharp.shape, STEP)  # by the flow to its neighbours; the frame itself was not blurred
    rash, careful = (
        error(back_project(sharp, sharp, motion, 0 * motion, 1.0, "linear", BackProjectionSettings(careful=one)), sharp)
        for one in (False, True)
    )
    assert careful < 0.05 * rash
    half = (sharp + smeared(sharp)) / 2  # truly blurred: care costs nothing
    results = [
        back_project(smeared(sharp), half, motion, 0 * motion, 1.0, "linear", BackProjectionSettings(careful=one))
        for one in (False, True)
    ]
    assert error(results[1], sharp) < 1.1 * error(results[0], sharp)


def test_differences_too_large_to_be_believed_count_for_little() -> None:
    sharp = picture()
    motion = steps(sharp.shape, STEP)
    other = smeared(picture()[::-1])  # not this frame blurred at all
    trusting = BackProjectionSettings(believed=1e3)
    moved, careful = (
        error(back_project(other, sharp, motion, 0 * motion, 1.0, "linear", one), sharp)
        for one in (trusting, BackProjectionSettings())
    )
    assert careful < 0.2 * moved


@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    speed=st.floats(-60, 60),
    exposure=st.floats(0.05, 1.6),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_any_size_and_motion_gives_a_picture(height: int, width: int, speed: float, exposure: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    blurred, restored = (draw.random((height, width, 3), np.float32) for _ in range(2))
    bend = draw.normal(0, 5, (height, width, 2)).astype(np.float32)
    better = back_project(blurred, restored, steps(blurred.shape, speed), bend, exposure)
    assert better.shape == blurred.shape
    assert better.dtype == np.float32
    assert np.isfinite(better).all()
    assert 0 <= better.min() <= better.max() <= 1


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(MetadeblurError, match="rounds is -1"):
        BackProjectionSettings(rounds=-1)
    with pytest.raises(MetadeblurError, match="hold"):
        BackProjectionSettings(hold=1.0)
    with pytest.raises(MetadeblurError, match="compared_px"):
        BackProjectionSettings(compared_px=0.0)
    with pytest.raises(MetadeblurError, match="exposure is 0"):
        FusionSettings(exposure=0.0)


@pytest.fixture(scope="module")
def pan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Clip]:
    """A built-in clip: blurred and sharp."""
    folders = make_builtin(tmp_path_factory.mktemp("builtin")).clips
    pair = read_trial(next(folder for folder in folders if folder.name == "pan")).pair
    return pair.blurred.part(0, 8).in_memory(), pair.sharp.part(0, 8).in_memory()


def frames_of(clip: Clip) -> torch.Tensor:
    return torch.stack(list(clip))


@pytest.mark.slow
def test_it_wins_on_a_built_in_clip_and_leaves_the_ends_to_fusing(pan: tuple[Clip, Clip]) -> None:
    blurred, sharp = map(frames_of, pan)
    restored = 0.5 * (blurred + sharp)  # a network that does half of it
    fused, corrected = (fuse_frames(blurred, restored, FusionSettings(exposure=known)) for known in (None, 0.75))
    inner = slice(1, -1)
    assert float(psnr(corrected[inner], sharp[inner]).mean()) > float(psnr(fused[inner], sharp[inner]).mean()) + 0.2
    alone = fuse_frames(blurred, restored, FusionSettings(exposure=0.75, share=1e-9))
    assert float(psnr(corrected[inner], sharp[inner]).mean()) > float(psnr(alone[inner], sharp[inner]).mean()) + 0.03
    for end in (0, -1):  # only one neighbour: where the frame goes on to is not known
        assert (alone[end] - restored[end]).abs().max() < 1e-4


def test_large_frames_are_corrected_on_reduced_ones(pan: tuple[Clip, Clip]) -> None:
    blurred, sharp = map(frames_of, pan)
    restored = 0.5 * (blurred + sharp)
    pixels = blurred.shape[-1] * blurred.shape[-2] // 4
    fused, corrected = (
        fuse_frames(blurred, restored, FusionSettings(exposure=known, pixels=pixels)) for known in (None, 0.75)
    )
    assert float(psnr(corrected[1:-1], sharp[1:-1]).mean()) > float(psnr(fused[1:-1], sharp[1:-1]).mean())


@pytest.mark.slow
def test_adapting_finds_the_exposure_and_the_switches_are_heard(pan: tuple[Clip, Clip]) -> None:
    quick = {"pairs": 4, "steps": 1, "patch": 64, "blurs": 1, "device": "cpu", "guard": False}
    whole = adapt(Lighten(), pan[0], **quick)
    assert whole.back_projected
    assert whole.reblurrer is not None
    assert fusion_of(whole.model).exposure == whole.reblurrer.exposure == pytest.approx(0.75, abs=0.15)
    record = whole.to_record()
    assert record["back_projected"] is True
    assert FusionSettings(**record["fusion"]) == whole.fusion
    without = adapt(Lighten(), pan[0], **quick, back_project=False)
    assert without.fused
    assert not without.back_projected
    assert not adapt(Lighten(), pan[0], **quick, fuse=False).back_projected


@pytest.mark.slow
def test_the_guard_falls_back_to_fusing_alone(pan: tuple[Clip, Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, reasons = judge_fusion(Lighten(), pan[0], FusionSettings(exposure=0.75))
    assert chosen == FusionSettings(exposure=0.75), reasons
    assert {reason.name for reason in reasons} >= {"back-projection: ringing", "back-projection: flicker"}
    wild = BackProjectionSettings(rounds=40, rate=1.5, hold=0.0, believed=1e3)
    monkeypatch.setattr("metadeblur.restoration.fusion.BackProjectionSettings", lambda **_: wild)
    chosen, reasons = judge_fusion(Lighten(), pan[0], FusionSettings(exposure=1.5))
    assert chosen == FusionSettings()
    assert any("frames are not corrected" in reason.text for reason in reasons if not reason.passed)


def test_saved_weights_keep_the_exposure(tmp_path) -> None:
    fusion = FusionSettings(exposure=0.625, response="gamma22")
    save_deblurrer(with_fusion(load_deblurrer("lite"), fusion), tmp_path / "adapted.safetensors")
    assert fusion_of(load_deblurrer(tmp_path / "adapted.safetensors")) == fusion

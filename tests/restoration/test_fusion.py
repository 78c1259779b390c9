"""Restored frames fused with their neighbours: what it wins, what it must leave alone, how it is carried and judged."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from textures import Lighten, texture
from torch import Tensor
from torch.nn import functional as F

from metadeblur.adaptation import stages
from metadeblur.adaptation.stages import AdaptSettings, adapt, preset
from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.guard.judge import Verdict, judge_fusion
from metadeblur.imaging.quality import psnr
from metadeblur.models.adapted import FusionSettings, fusion_of, with_fusion
from metadeblur.models.weights import load_deblurrer, save_deblurrer
from metadeblur.restoration.clips import restore
from metadeblur.restoration.fusion import fuse_frames, fuse_pairs
from metadeblur.restoration.restorer import RestoreSettings


def moving(count: int = 7, height: int = 120, width: int = 160, step: int = 3, seed: int = 0) -> Tensor:
    """A camera that moves along a picture, (T, 3, H, W)."""
    whole = texture(height, width + step * count, seed)
    return torch.stack([whole[..., step * index : step * index + width] for index in range(count)])


def soften(frame: Tensor) -> Tensor:
    kernel = torch.ones(3, 1, 1, 9) / 9
    return F.conv2d(F.pad(frame[None], (4, 4, 0, 0), mode="replicate"), kernel, groups=3)[0]


def db(one: Tensor, other: Tensor) -> float:
    return float(psnr(one[..., 12:-12, 12:-12], other[..., 12:-12, 12:-12]))


def test_a_blurred_frame_gains_from_sharp_neighbours_and_they_lose_nothing() -> None:
    sharp = moving()
    restored, blurred = sharp.clone(), sharp.clone()
    blurred[3] = soften(sharp[3])
    restored[3] = 0.7 * soften(sharp[3]) + 0.3 * sharp[3]  # the network has done what it could, and changed the frame
    fused = fuse_frames(blurred, restored)
    assert db(fused[3], sharp[3]) > db(restored[3], sharp[3]) + 3
    for index in (0, 1, 2, 4, 5, 6):
        assert db(fused[index], sharp[index]) > 38


def test_only_the_frames_that_are_wanted_are_fused() -> None:
    sharp = moving()
    blurred = torch.stack([soften(frame) for frame in sharp])
    some, every = fuse_frames(blurred, sharp, only=range(2, 5)), fuse_frames(blurred, sharp)
    assert torch.equal(some, every[2:5])


def test_noise_of_the_frames_averages_out() -> None:
    sharp = moving(step=2)
    noisy = (sharp + 0.03 * torch.randn(sharp.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    fused = fuse_frames((sharp + 0.1).clamp(0, 1), noisy)
    assert db(fused[3], sharp[3]) > db(noisy[3], sharp[3]) + 1


def test_other_scenes_do_not_mix() -> None:
    frames = torch.stack([texture(96, 128, seed) for seed in range(4)])
    fused = fuse_frames(frames, frames)
    assert (fused - frames).abs().mean() < 0.2 / 255


def test_what_stands_still_stays_as_it_is() -> None:
    frames = texture(90, 110)[None].expand(5, -1, -1, -1)
    assert (fuse_frames(frames, frames) - frames).abs().max() < 1e-3


@given(
    height=st.integers(20, 90),
    width=st.integers(20, 90),
    count=st.integers(1, 6),
    radius=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_any_size_and_number_of_frames(height: int, width: int, count: int, radius: int, seed: int) -> None:
    frames = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    pairs = list(fuse_pairs(zip(1 - frames, frames, strict=True), FusionSettings(radius=radius)))
    assert len(pairs) == count
    for index, (blurred, fused) in enumerate(pairs):
        assert torch.equal(blurred, 1 - frames[index])  # each with its own blurred frame, in order
        assert fused.shape == frames[index].shape
        assert fused.dtype == torch.float32
        assert bool(fused.isfinite().all())
        assert 0 <= float(fused.min()) <= float(fused.max()) <= 1


def test_large_frames_are_weighed_on_reduced_ones() -> None:
    sharp = moving(count=5, height=240, width=320)
    restored = sharp.clone()
    restored[2] = 0.5 * (soften(sharp[2]) + sharp[2])
    blurred = sharp.clone()
    blurred[2] = soften(sharp[2])
    fused = fuse_frames(blurred, restored, FusionSettings(pixels=160 * 120))
    assert fused.shape == sharp.shape
    assert db(fused[2], sharp[2]) > db(restored[2], sharp[2]) + 1.5


def test_frames_come_as_soon_as_they_can_and_few_are_kept() -> None:
    taken = []

    def source():
        for index in range(12):
            taken.append(index)
            yield torch.full((3, 64, 64), 0.5), torch.full((3, 64, 64), 0.5)

    fused = fuse_pairs(source(), FusionSettings(radius=2))
    for index in range(12):
        next(fused)
        assert len(taken) == min(index + 3, 12)
    kept = fused.gi_yieldfrom.gi_yieldfrom.gi_frame.f_locals["self"]
    assert len(kept.frames) <= 5
    assert len(kept.flows) <= 20


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(MetadeblurError, match="radius is 0"):
        FusionSettings(radius=0)
    with pytest.raises(MetadeblurError, match="above 0"):
        FusionSettings(floor=0)


def shaken(count: int = 8) -> Clip:
    """A clip in which sharp frames and blurred ones take turns."""
    frames = moving(count, step=4)
    return Clip(torch.stack([soften(frame) if index % 3 else frame for index, frame in enumerate(frames)]))


def test_restore_fuses_for_a_network_that_is_marked() -> None:
    clip, plain = shaken(), Lighten()
    alone = restore(plain, clip, RestoreSettings(precision="fp32"))
    marked = copy.deepcopy(with_fusion(Lighten(), FusionSettings()))  # copies keep the mark
    fused = restore(marked, clip, RestoreSettings(precision="fp32"))
    expected = fuse_frames(torch.stack(list(clip)), torch.stack(list(alone)))
    assert torch.allclose(torch.stack(list(fused)), expected, atol=1e-4)
    assert fusion_of(plain) is None
    assert restore(marked, clip.part(0, 1))[0].shape == clip[0].shape


def test_adapting_marks_the_model_and_the_record_says_so() -> None:
    quick = AdaptSettings(pairs=4, steps=2, patch=64, blurs=1, device="cpu")
    net = Lighten()
    whole = adapt(net, shaken(), settings=quick, guard=False)
    assert whole.fused
    assert fusion_of(whole.model) == FusionSettings()
    assert whole.to_record()["fused"] is True
    assert fusion_of(net) is None  # the module given is never changed
    without = adapt(net, shaken(), settings=quick, guard=False, fuse=False)
    assert not without.fused
    assert fusion_of(without.model) is None
    again = adapt(whole.model, shaken(), settings=quick, fuse=False)  # weights that were adapted before
    assert fusion_of(again.model) is None
    dropped = adapt(net, shaken(), settings=quick, held_out=0.0, fuse=False)  # nothing proves that it helps
    assert dropped.share == 0
    assert not dropped.fused
    assert fusion_of(dropped.model) is None


@pytest.mark.parametrize("allowed", [True, False])
def test_frames_help_each_other_whatever_the_weights_learnt_unless_votes_of_their_own_are_against_it(
    allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "judge", lambda *_, **__: Verdict(0.0, ()))
    if not allowed:
        monkeypatch.setattr(stages, "judge_fusion", lambda *_, **__: (None, ()))
    outcome = adapt(Lighten(), shaken(), pairs=4, steps=2, patch=64, blurs=1, device="cpu")
    assert outcome.share == 0
    assert outcome.fused is allowed
    assert (fusion_of(outcome.model) is not None) is allowed
    assert float(outcome.model.gain) == 1.0  # the base's weights


def test_the_papers_presets_do_not_fuse() -> None:
    assert preset("flow").fuse
    assert not preset("paper").fuse
    assert not preset("release").fuse


def test_saved_weights_keep_the_mark(tmp_path) -> None:
    net = load_deblurrer("lite")
    save_deblurrer(net, tmp_path / "plain.safetensors")
    save_deblurrer(with_fusion(net, FusionSettings()), tmp_path / "marked.safetensors", {"clip": "x"})
    assert fusion_of(load_deblurrer(tmp_path / "plain.safetensors")) is None
    assert fusion_of(load_deblurrer(tmp_path / "marked.safetensors")) == FusionSettings()


def test_the_guard_lets_a_good_fusion_through() -> None:
    kept, reasons = judge_fusion(Lighten(), shaken(), FusionSettings())
    assert kept == FusionSettings(), reasons
    assert {reason.name for reason in reasons} >= {"fusion: divergence", "fusion: flicker", "fusion: sharpness"}


def test_the_guard_refuses_a_fusion_that_mixes_what_does_not_belong_together() -> None:
    frames = torch.stack([texture(120, 160, seed) for seed in range(8)])
    careless = replace(FusionSettings(), floor=100.0, flow_px=1e6, share=1.0)
    kept, reasons = judge_fusion(Lighten(), Clip(frames), careless)
    assert kept is None
    assert any("frames are not fused" in reason.text for reason in reasons if not reason.passed)


def test_the_same_frames_give_the_same_bits() -> None:
    frames = moving(4)
    again = [fuse_frames(frames, frames).numpy() for _ in range(2)]
    assert np.array_equal(*again)

"""Figures of quality: the published values, two other libraries, and what each no-reference figure is blind to."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage import metrics as skimage_metrics
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.quality import (
    aligned_psnr_ssim,
    colour_shift,
    dis_flow,
    flicker,
    psnr,
    ringing,
    ssim,
    warp_frame,
)


def picture(path: Path) -> Tensor:
    pixels = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def blurred_by(frame: Tensor, sigma: float) -> Tensor:
    pixels = cv2.GaussianBlur(frame.permute(1, 2, 0).numpy(), (0, 0), sigma)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def unsharp(frame: Tensor, sigma: float, amount: float) -> Tensor:
    return (frame + amount * (frame - blurred_by(frame, sigma))).clamp(0, 1)


def scene(seed: int, height: int = 64, width: int = 96) -> Tensor:
    """Overlapping rectangles: strong edges and flat areas."""
    generator = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), 0.5, np.float32)
    for _ in range(12):
        x, y = int(generator.integers(0, width)), int(generator.integers(0, height))
        colour = tuple(float(c) for c in generator.uniform(0.15, 0.85, 3))
        cv2.rectangle(
            canvas, (x, y), (x + int(generator.integers(12, 40)), y + int(generator.integers(12, 40))), colour, -1
        )
    return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()


def along(frame: Tensor, length: int) -> Tensor:
    """Blur by horizontal motion in linear light."""
    light = cv2.blur((frame.permute(1, 2, 0).numpy()) ** 2.2, (length, 1), borderType=cv2.BORDER_REFLECT)
    return torch.from_numpy(light ** (1 / 2.2)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, list[dict[str, object]]]:
    return json.loads((shared / "golden" / "metrics_main.json").read_text())


def golden_pictures(shared: Path, entry: dict) -> list[Tensor]:
    return [picture(shared / "golden" / "images" / name) for name in entry["files"]]


def test_psnr_and_ssim_equal_the_published_ones(shared: Path, golden: dict) -> None:
    assert len(golden["pairs"]) == 3
    for entry in golden["pairs"]:
        one, other = golden_pictures(shared, entry)
        for rounded in (True, False):
            assert psnr(one, other, round_to_8bit=rounded).item() == pytest.approx(entry["calc_psnr"], abs=1e-6)
            assert ssim(one, other, round_to_8bit=rounded).item() == pytest.approx(entry["calc_ssim"], abs=1e-7)


def test_realblur_figures_equal_the_published_ones(shared: Path, golden: dict) -> None:
    assert len(golden["realblur"]) == 2
    for entry in golden["realblur"]:
        truth, restored = golden_pictures(shared, entry)
        figures = aligned_psnr_ssim(restored, truth, round_to_8bit=True)
        assert figures.converged
        assert figures.psnr == pytest.approx(entry["aligned_psnr"], abs=0.01)
        assert figures.ssim == pytest.approx(entry["aligned_ssim"], abs=1e-3)
        assert figures.intensity_scale == pytest.approx(entry["intensity_scale"], abs=1e-6)
        assert np.allclose(figures.warp, entry["warp_matrix"], atol=0.01)
        assert psnr(restored, truth).item() == pytest.approx(entry["psnr_unaligned"], abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(11, 40), st.integers(11, 40), st.floats(0.01, 0.5))
def test_two_other_libraries_agree(seed: int, height: int, width: int, strength: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    one = torch.rand(2, 3, height, width, generator=generator)
    other = (one + strength * torch.randn(one.shape, generator=generator)).clamp(0, 1)
    for index in range(2):
        theirs = peak_signal_noise_ratio(other[index], one[index], data_range=1.0)
        assert psnr(other, one)[index].item() == pytest.approx(theirs.item(), abs=1e-3)
        theirs = skimage_metrics.peak_signal_noise_ratio(one[index].numpy(), other[index].numpy(), data_range=1.0)
        assert psnr(other, one)[index].item() == pytest.approx(theirs, abs=1e-3)
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64)[:, None, None]
    luma_one, luma_other = (16 + (p.double() * weights).sum(-3, keepdim=True) for p in (one, other))
    _, full = structural_similarity_index_measure(
        luma_other, luma_one, data_range=255.0, reduction="none", return_full_image=True
    )
    # torchmetrics averages over the padded border too; the valid area is the published convention.
    assert torch.allclose(ssim(other, one), full[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=1e-6)
    for index in range(2):
        theirs = skimage_metrics.structural_similarity(
            luma_one[index, 0].numpy(),
            luma_other[index, 0].numpy(),
            data_range=255.0,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        assert ssim(other, one)[index].item() == pytest.approx(theirs, abs=1e-6)


def test_equal_pictures_and_shapes() -> None:
    pictures = torch.rand(2, 5, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    assert psnr(pictures, pictures).tolist() == [[100.0] * 5] * 2
    assert torch.allclose(ssim(pictures, pictures), torch.ones(2, 5, dtype=torch.float64))
    for figure in (colour_shift, ringing):
        assert figure(pictures, pictures).tolist() == [[0.0] * 5] * 2


def test_rounding_is_that_of_8_bit_files() -> None:
    one = torch.full((3, 16, 16), 0.5)
    assert psnr(one + 0.0005, one, round_to_8bit=True).item() == 100.0
    assert psnr(one + 0.0005, one).item() < 70
    assert psnr(torch.full_like(one, 1.5), torch.ones_like(one), round_to_8bit=True).item() == 100.0


def test_alignment_undoes_brightness_and_shift() -> None:
    truth = blurred_by(scene(3), 1.0)
    moved = torch.roll(truth, (1, 2), (1, 2)) * 0.9
    figures = aligned_psnr_ssim(moved, truth)
    assert figures.converged
    assert figures.psnr > psnr(moved, truth).item() + 8


@pytest.mark.parametrize("restored", [torch.zeros(3, 32, 32), torch.full((3, 32, 32), 0.4)])
def test_alignment_that_does_not_converge_is_said_not_raised(restored: Tensor) -> None:
    truth = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    figures = aligned_psnr_ssim(restored, truth)
    assert not figures.converged
    assert figures.warp == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    scaled = restored * figures.intensity_scale
    assert figures.psnr == pytest.approx(psnr(scaled, truth).item(), abs=1e-3)
    assert math.isfinite(figures.ssim)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(-8, 8))
def test_colour_shift_is_the_cast(seed: int, levels: float) -> None:
    frame = scene(seed)
    cast = frame + levels / 255
    assert colour_shift(cast, frame).item() == pytest.approx(abs(levels), rel=0.15, abs=0.02)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([5, 9, 15]))
def test_colour_shift_does_not_mind_motion_blur(seed: int, length: int) -> None:
    frame = scene(seed, 192, 288)
    assert colour_shift(frame, along(frame, length)).item() < 0.5


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([5, 9, 15]))
@example(289, 15)
def test_ringing_tells_oversharpened_from_sharp(seed: int, length: int) -> None:
    frame = scene(seed)
    blurred = along(frame, length)
    over = ringing(unsharp(frame, 2.0, 1.0), blurred).item()
    assert ringing(frame, blurred).item() < 1.6  # drawn scenes reach 1.504, real sharp frames less, see below
    assert over > 2 * ringing(frame, blurred).item() + 1
    assert ringing(unsharp(frame, 2.0, 2.0), blurred).item() > over


@pytest.mark.parametrize("name", ["goat", "parkour", "dance-twirl", "blackswan", "car-shadow", "hero7"])
def test_figures_on_real_sharp_frames(shared: Path, name: str) -> None:
    folder = shared / "data" / "val" / name
    blurred, sharp = (
        torch.stack([picture(path) for path in sorted((folder / kind).iterdir())[4:8]]) for kind in ("blur", "sharp")
    )
    over = torch.stack([unsharp(frame, 3.0, 1.0) for frame in sharp])
    assert ringing(sharp, blurred).max() < 1.5
    assert ringing(over, blurred).min() > 3
    assert (ringing(over, blurred) > 2.5 * ringing(sharp, blurred)).all()
    assert colour_shift(sharp, blurred).max() < 1.5
    cast = sharp + torch.tensor([3.0, -3.0, 0.0])[:, None, None] / 255
    assert (colour_shift(cast, blurred) > colour_shift(sharp, blurred) + 0.5).all()
    turns = torch.where(torch.arange(4)[:, None, None, None] % 2 == 0, blurred, sharp)
    assert flicker(sharp, blurred) < 2
    assert flicker(turns, blurred) > flicker(sharp, blurred) + 1.5


def panning(seed: int, count: int = 4, step: int = 2) -> Tensor:
    wide = blurred_by(scene(seed, 64, 120), 0.8)
    return torch.stack([wide[:, :, step * t : step * t + 96] for t in range(count)])


def test_flicker_is_zero_for_the_input_and_grows_with_unsteady_detail() -> None:
    frames = panning(5)
    assert flicker(frames, frames) == 0.0
    assert flicker(frames[:1], frames[:1]) == 0.0
    gains = torch.tensor([1.0, 1.06, 0.97, 1.05])[:, None, None, None]
    assert flicker(frames * gains, frames) > 2.0
    assert abs(flicker(frames * 0.95, frames)) < 0.3


def test_flicker_uses_the_flow_it_is_given() -> None:
    frames = panning(6)

    def true_flow(first: Tensor, second: Tensor) -> Tensor:
        index = [int((frames == f).flatten(1).all(1).nonzero()[0]) for f in (first, second)]
        return torch.tensor([-2.0 * (index[1] - index[0]), 0.0])[:, None, None].expand(2, 64, 96).contiguous()

    assert abs(flicker(frames, torch.stack(list(frames)), flow=true_flow)) < 1e-6
    nonsense = lambda *_: torch.full((2, 64, 96), 500.0)  # noqa: E731
    assert flicker(frames * 0.5, frames, flow=nonsense) == 0.0


def test_dis_flow_finds_a_pan_and_warp_follows_it() -> None:
    frames = panning(7)
    flow = dis_flow(frames[0], frames[1])
    assert flow.shape == (2, 64, 96)
    moved, inside = warp_frame(frames[1], flow)
    assert psnr(moved[..., 8:-8, 8:-8], frames[0][..., 8:-8, 8:-8]) > psnr(frames[1], frames[0]) + 8
    assert inside.float().mean() > 0.8
    assert dis_flow(torch.rand(3, 8, 8), torch.rand(3, 8, 8)).abs().max() == 0


def test_inputs_keep_their_values_and_gradients_stay_out() -> None:
    frames = panning(8).requires_grad_()
    before = frames.detach().clone()
    outputs = [psnr(frames, before), ssim(frames, before), colour_shift(frames, before), ringing(frames, before)]
    assert not any(output.requires_grad for output in outputs)
    assert isinstance(flicker(frames, before), float)
    assert torch.equal(frames.detach(), before)


def test_faults_say_what_is_allowed() -> None:
    one = torch.rand(3, 16, 16)
    for figure in (psnr, ssim, colour_shift, ringing, aligned_psnr_ssim):
        with pytest.raises(MetadeblurError, match="one size"):
            figure(one, torch.rand(3, 16, 17))
    with pytest.raises(MetadeblurError, match="11x11"):
        ssim(one[..., :8], one[..., :8])
    with pytest.raises(MetadeblurError, match="picture by picture"):
        aligned_psnr_ssim(one[None], one[None])
    with pytest.raises(MetadeblurError, match="not 2 and 1"):
        flicker(torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16))

"""The figures of each benchmark, against the libraries that its papers measure with."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from metadeblur.data.layouts import LAYOUTS
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.measures import MEASURES, measure_for, ssim_matlab, ssim_rgb, to_8bit
from metadeblur.imaging.quality import aligned_psnr_ssim, psnr, ssim


def two_pictures(seed, height=24, width=31, strength=0.1):
    generator = torch.Generator().manual_seed(seed)
    one = torch.rand(3, height, width, generator=generator)
    return one, one + strength * torch.randn(one.shape, generator=generator)


def as_bytes(picture):
    return to_8bit(picture).permute(1, 2, 0).numpy()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(11, 40), st.integers(11, 40), st.floats(0.01, 0.5))
def test_ssim_over_rgb_is_that_of_scikit_image(seed, height, width, strength):
    one, other = two_pictures(seed, height, width, strength)
    theirs = structural_similarity(
        as_bytes(one), as_bytes(other), channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim_rgb(one, other) == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(11, 40), st.integers(11, 40), st.floats(0.01, 0.5))
def test_ssim_of_the_volume_is_matlabs(seed, height, width, strength):
    """Its definition, with the three-dimensional Gaussian of another library; the border repeated, nothing cut off."""
    one, other = two_pictures(seed, height, width, strength)
    x, y = (as_bytes(picture).astype(np.float64) for picture in (one, other))

    def blur(volume):
        return gaussian_filter(volume, 1.5, mode="nearest", radius=5)

    mean_x, mean_y = blur(x), blur(y)
    contrast = 2 * (blur(x * y) - mean_x * mean_y) + 58.5225
    spread = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2 + 58.5225
    theirs = (contrast / spread * (2 * mean_x * mean_y + 6.5025) / (mean_x**2 + mean_y**2 + 6.5025)).mean()
    assert ssim_matlab(one, other) == pytest.approx(theirs, abs=1e-9)


def test_the_kinds_of_ssim_differ_by_more_than_papers_do():
    one, other = two_pictures(1, strength=0.2)
    figures = {ssim_rgb(one, other), ssim_matlab(one, other), float(ssim(one, other, round_to_8bit=True))}
    assert max(figures) - min(figures) > 0.003


def test_every_layout_has_its_rule_and_realblur_is_aligned():
    assert set(MEASURES) == set(LAYOUTS)
    one, other = two_pictures(2, 48, 64)
    smooth = torch.nn.functional.avg_pool2d(one, 5, 1, 2)
    moved = torch.roll(smooth, (1, 2), (1, 2)) * 0.9
    plain, real = MEASURES["plain"](moved, smooth), MEASURES["realblur"](moved, smooth)
    assert plain == {
        "psnr": float(psnr(moved, smooth, round_to_8bit=True)),
        "ssim": float(ssim(moved, smooth, round_to_8bit=True)),
    }
    aligned = aligned_psnr_ssim(moved, smooth, round_to_8bit=True)
    assert real == {"psnr": aligned.psnr, "ssim": aligned.ssim, "aligned": 1.0}
    assert real["psnr"] > plain["psnr"] + 5
    assert MEASURES["gopro"](one, other)["ssim"] == ssim_matlab(one, other)
    assert MEASURES["reds"](one, other)["ssim"] == ssim_rgb(one, other)


@pytest.mark.parametrize("layout", MEASURES)
def test_figures_are_those_of_8_bit_files(layout):
    one, other = two_pictures(3)
    measure = MEASURES[layout]
    assert measure(one, other) == measure(to_8bit(one).float() / 255, to_8bit(other).float() / 255)


def test_another_ssim_can_be_asked_for():
    assert measure_for("gopro") is MEASURES["gopro"]
    assert measure_for("gopro", "luma").ssim == "luma"
    assert measure_for("plain", "aligned").psnr == "aligned"
    assert "asked for" in measure_for("dvd", "rgb").describe()
    with pytest.raises(MetadeblurError, match=r"ssim 'y'.*auto, luma, rgb, matlab, aligned"):
        measure_for("plain", "y")
    with pytest.raises(MetadeblurError, match="one size, 11x11 or more"):
        ssim_rgb(torch.rand(3, 10, 20), torch.rand(3, 10, 20))

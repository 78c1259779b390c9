"""Pseudo-sharp patches made sharper: restored, and shrunk, they show what the clip shows, in bounds and sharper."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from metadeblur.adaptation.pairs import make_pairs
from metadeblur.adaptation.targets import SMALLER, Sharpener
from metadeblur.clip import Clip
from metadeblur.imaging.linear_light import to_display, to_linear
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.reblur.flow import FlowSettings, fit_flow_reblurrer
from metadeblur.reblur.place import Place

VELOCITY = (6.0, -3.0)  # px a frame


class Brighter(nn.Module):
    """What it has restored can be told from what it was given."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.1))

    def forward(self, x):
        return self.gain * x


def texture(height, width, seed=0):
    random, total = np.random.default_rng(seed), 0
    for sigma in (1.5, 4.0, 12.0):
        layer = cv2.GaussianBlur(random.standard_normal((height, width, 3)).astype(np.float32), (0, 0), sigma)
        total = total + layer / layer.std()
    return np.clip(0.4 + 0.08 * total, 0.02, 0.85).astype(np.float32)


def pan(exposure, frames=6, height=128, width=176):
    """A camera that moves steadily; each frame averages the light of the exposure."""
    canvas, shown = texture(height + 80, width + 80), []
    for t in range(frames):
        moments = t + ((np.arange(31) + 0.5) / 31 - 0.5) * exposure if exposure else np.array([t])
        light = [
            cv2.warpAffine(
                canvas,
                np.array([[1, 0, 20 + VELOCITY[0] * s], [0, 1, 40 + VELOCITY[1] * s]], np.float32),
                (width, height),
                flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            )
            for s in moments
        ]
        shown.append(to_display(torch.from_numpy(np.mean(light, 0)).permute(2, 0, 1), "srgb"))
    return Clip(torch.stack(shown))


def at(top, left, size, frame=3):
    return Place(frame, top, left, size, score=25.0, blurred_frame=frame, blurred_score=30.0)


@given(
    height=st.integers(40, 150),
    width=st.integers(40, 150),
    size=st.integers(16, 40),
    down=st.floats(0, 1),
    right=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_a_shrunk_patch_lies_in_its_picture_and_shows_a_part_of_the_frame(height, width, size, down, right):
    place = at(round(down * (height - size)), round(right * (width - size)), size, frame=0)
    small = Sharpener(nn.Identity(), Clip(torch.rand(1, 3, height, width))).shrunk(place)
    assert small.patch.shape == (3, size, size)
    assert 0 <= small.place.top <= small.picture.shape[1] - size
    assert 0 <= small.place.left <= small.picture.shape[2] - size
    region = small.region
    assert size <= region.size <= SMALLER * size + 1
    assert 0 <= region.top <= height - region.size
    assert 0 <= region.left <= width - region.size
    assert region.top <= place.top + size // 2 <= region.top + region.size
    assert region.left <= place.left + size // 2 <= region.left + region.size


@pytest.mark.parametrize(("top", "left"), [(0, 0), (40, 61), (80, 128), (33, 100)])
def test_a_shrunk_patch_shows_its_region_restored(top, left):
    clip = pan(0.0)
    small = Sharpener(Brighter(), clip).shrunk(at(top, left, 48))
    region = small.region
    full = clip[3][:, region.top : region.top + region.size, region.left : region.left + region.size]
    expected = 1.1 * F.interpolate(full[None], (48, 48), mode="bilinear", antialias=True)[0]
    assert (small.patch - expected)[:, 2:-2, 2:-2].abs().max() < 0.02
    assert (small.patch.roll(1, -1) - expected)[:, 2:-2, 2:-2].abs().mean() > 0.01


def test_shrunk_patches_of_a_blurred_clip_are_sharper():
    clip, place = pan(1.0), at(40, 60, 56)
    sharpener = Sharpener(nn.Identity(), clip)
    restored = sharpener(place)[3][:, 40:96, 60:116]
    assert float(self_shift_score(sharpener.shrunk(place).patch)) < float(self_shift_score(restored)) - 2


def test_a_shrunk_patch_is_blurred_as_many_pixels_as_the_clip():
    clip, place = pan(0.0), at(40, 60, 48)
    reblurrer = fit_flow_reblurrer(
        clip, generator=torch.Generator(), exposure=0.8, settings=FlowSettings(any_frame=0.0, colocated=1.0)
    )
    small = Sharpener(nn.Identity(), clip).shrunk(place)
    window = reblurrer.reblur_window(clip, place, 3, torch.Generator(), small)
    light = to_linear(small.picture, "srgb").permute(1, 2, 0).numpy()
    inside = (slice(None), *(slice(edge, edge + 48) for edge in (small.place.top, small.place.left)))
    for patch, middle in zip(window, (-1, 0, 1), strict=True):
        moments = middle + ((np.arange(31) + 0.5) / 31 - 0.5) * 0.8
        moved = [
            cv2.warpAffine(
                light,
                np.array([[1, 0, VELOCITY[0] * s], [0, 1, VELOCITY[1] * s]], np.float32),
                light.shape[1::-1],
                flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT,
            )
            for s in moments
        ]
        expected = to_display(torch.from_numpy(np.mean(moved, 0)).permute(2, 0, 1), "srgb")[inside]
        assert float(-10 * torch.log10((patch - expected).square().mean())) > 35
        assert float(-10 * torch.log10((small.patch - expected).square().mean())) < 30


def test_how_blurred_a_patch_is_itself():
    clip = pan(0.8)
    assert fit_flow_reblurrer(clip, generator=torch.Generator(), exposure=0.8).blur_at(at(40, 60, 48)) == pytest.approx(
        0.8 * np.hypot(*VELOCITY), rel=0.1
    )
    still = Clip(clip[3].expand(6, -1, -1, -1))
    assert fit_flow_reblurrer(still, generator=torch.Generator()).blur_at(at(40, 60, 48)) < 0.1


@pytest.mark.parametrize("frames", [1, 5])
def test_marked_places_give_shrunk_pairs(frames):
    clip, places = pan(0.8), [replace(at(8 * k, 12 * k, 40), shrunk=k % 3 == 0) for k in range(8)]
    generator = torch.Generator()
    reblurrer = fit_flow_reblurrer(clip, generator=generator)
    sharpener = Sharpener(nn.Identity(), clip)
    pairs = make_pairs(clip, places, reblurrer, 2, frames, generator, sharpener=sharpener)
    assert len(pairs) == 16
    shrunk = [torch.equal(pair.sharp, sharpener.shrunk(places[k // 2]).patch) for k, pair in enumerate(pairs)]
    plain = [
        torch.equal(pair.sharp, clip[3][:, p.top : p.top + 40, p.left : p.left + 40])
        for pair, p in zip(pairs, [p for p in places for _ in range(2)], strict=True)
    ]
    assert shrunk == [place.shrunk for place in places for _ in range(2)]
    assert plain == [not place.shrunk for place in places for _ in range(2)]
    assert all(pair.blurred.shape == ((5, 3, 40, 40) if frames > 1 else (3, 40, 40)) for pair in pairs)

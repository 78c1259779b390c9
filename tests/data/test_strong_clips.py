"""Clips of strong blur, as the recipe makes them: alike for a seed, a still thing before what rushes by."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from textures import texture

film = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "strong_clips.py"))["film"]
SIZE = (192, 108)


@pytest.fixture(scope="module")
def photographs():
    return [(texture(300, 500, seed).permute(1, 2, 0).numpy() * 255).astype(np.uint8) for seed in range(4)]


def detail(frame, axis):
    """Mean difference of neighbours along an axis, in levels."""
    return np.abs(np.diff(frame.astype(float), axis=axis)).mean()


def test_frames_are_the_same_for_a_seed_and_others_for_another(photographs):
    one, again, other = (list(film("shake", photographs, 2, SIZE, seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.shape(one) == (2, 2, SIZE[1], SIZE[0], 3)


def test_a_pan_blurs_along_its_way(photographs):
    for blurred, sharp in film("pan", photographs, 2, SIZE, 1):
        kept = [detail(blurred, axis) / detail(sharp, axis) for axis in (0, 1)]
        assert kept[1] < 0.6
        assert kept[1] < 0.8 * kept[0]


def test_what_the_camera_follows_stays_sharp(photographs):
    for blurred, sharp in film("tracked", photographs, 2, SIZE, 1):
        thing, around = np.s_[44:64, 78:114], np.s_[:, :36]
        assert detail(blurred[thing], 1) > 0.85 * detail(sharp[thing], 1)
        assert detail(blurred[around], 1) < 0.6 * detail(sharp[around], 1)


def test_a_zoom_blurs_the_rim_and_not_the_middle(photographs):
    for blurred, sharp in film("zoom_in", photographs, 2, SIZE, 1):
        middle, rim = np.s_[48:60, 90:102], np.s_[:, :24]
        kept = [detail(blurred[part], 1) / detail(sharp[part], 1) for part in (middle, rim)]
        assert kept[0] > 1.3 * kept[1]

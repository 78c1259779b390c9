"""Frames counted as sharper: true detail counts; noise, overshoot, more blur and nothing at all do not."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.guard.sharper import is_sharper

Picture = NDArray[np.float32]


@pytest.fixture(scope="module", params=["demo.jpg", "photographs/chelsea.jpg", "photographs/coffee.jpg"])
def sharp(request: Any) -> Picture:
    """A photograph, (240, 320, 3), with a little noise."""
    data = np.frombuffer((resources.files("metadeblur") / "assets" / request.param).read_bytes(), np.uint8)
    whole = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    top, left = whole.shape[0] // 2 - 240, whole.shape[1] // 2 - 320
    piece = whole[max(top, 0) :, max(left, 0) :][:480, :640].astype(np.float32) / 255
    small = cv2.resize(piece, (320, 240), interpolation=cv2.INTER_AREA)
    return np.clip(small + np.random.default_rng(0).normal(0, 0.004, small.shape), 0, 1).astype(np.float32)


def along(picture: Picture, pixels: int) -> Picture:
    """The picture blurred along its rows, with a little noise."""
    blurred = cv2.blur(picture, (pixels, 1))
    return np.asarray(blurred + np.random.default_rng(1).normal(0, 0.004, blurred.shape), np.float32)


def tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.clip(picture, 0, 1).transpose(2, 0, 1), np.float32))


def noisy(picture: Picture, levels: float) -> Picture:
    return np.asarray(picture + np.random.default_rng(2).normal(0, levels / 255, picture.shape), np.float32)


def unsharp(picture: Picture) -> Picture:
    return np.asarray(picture + 2 * (picture - cv2.GaussianBlur(picture, (0, 0), 3)), np.float32)


def test_the_sharp_picture_is_sharper(sharp):
    assert is_sharper(tensor(sharp), tensor(along(sharp, 9)))
    assert is_sharper(tensor(along(sharp, 3)), tensor(along(sharp, 9)))


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: picture,
        lambda picture: noisy(picture, 2),
        lambda picture: noisy(picture, 8),
        lambda picture: along(picture, 5),
        unsharp,
    ],
    ids=["the same", "a little noise", "noise", "more blur", "overshoot"],
)
def test_what_only_looks_sharper_does_not_count(sharp, change: Callable[[Picture], Picture]):
    blurred = along(sharp, 9)
    assert not is_sharper(tensor(change(blurred)), tensor(blurred))


def test_pictures_that_say_nothing_are_not_sharper():
    assert not is_sharper(torch.rand(3, 40, 40), torch.zeros(3, 40, 40))  # too small to tell
    assert not is_sharper(torch.full((3, 96, 96), 0.6), torch.full((3, 96, 96), 0.5))

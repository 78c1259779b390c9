"""Both ways of every basic operation on pictures give the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metadeblur.imaging import primitives
from metadeblur.imaging.primitives import Border, backend

SIDES = st.integers(1, 70)
CHANNELS = st.sampled_from([(), (1,), (2,), (3,)])
SEEDS = st.integers(0, 1000)
BORDERS = st.sampled_from(get_args(Border))
QUICK = settings(max_examples=25, deadline=None)


def picture(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def both(work: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """The result of OpenCV and that of PyTorch."""
    usual = work()
    with backend("torch"):
        other = work()
    assert usual.shape == other.shape
    assert usual.dtype == other.dtype
    return usual, other


def assert_alike(work: Callable[[], Tensor], tolerance: float) -> None:
    usual, other = both(work)
    assert (usual.float() - other.float()).abs().max() <= tolerance


@QUICK
@given(SIDES, SIDES, CHANNELS, SEEDS, st.floats(0.02, 1), st.floats(0.02, 1))
def test_reducing(height: int, width: int, channels: Any, seed: int, down: float, across: float) -> None:
    size = max(1, round(height * down)), max(1, round(width * across))
    assert_alike(lambda: primitives.resize(picture(seed, height, width, *channels), size, "area"), 1e-5)


@QUICK
@given(SIDES, SIDES, CHANNELS, SEEDS, SIDES, SIDES, st.sampled_from(["linear", "cubic"]))
def test_resizing(height: int, width: int, channels: Any, seed: int, rows: int, columns: int, how: Any) -> None:
    assert_alike(lambda: primitives.resize(picture(seed, height, width, *channels), (rows, columns), how), 1e-4)


@QUICK
@given(SIDES, SIDES, CHANNELS, SEEDS, st.sampled_from([0.5, 1.0, 2.0, 8.0]), BORDERS)
def test_gaussian(height: int, width: int, channels: Any, seed: int, sigma: float, border: Border) -> None:
    assert_alike(lambda: primitives.gaussian(picture(seed, height, width, *channels), sigma, border), 1e-5)


@QUICK
@given(st.integers(9, 70), st.integers(9, 70), CHANNELS, SEEDS, st.sampled_from([3, 5, 17]), BORDERS)
def test_box(height: int, width: int, channels: Any, seed: int, side: int, border: Border) -> None:
    assert_alike(lambda: primitives.box(picture(seed, height, width, *channels), side, border), 1e-5)


@QUICK
@given(SIDES, SIDES, CHANNELS, SEEDS)
def test_median_and_slopes(height: int, width: int, channels: Any, seed: int) -> None:
    assert_alike(lambda: primitives.median5(picture(seed, height, width, *channels)), 0)
    for axis in (0, 1):
        assert_alike(lambda axis=axis: primitives.sobel(picture(seed, height, width))[axis], 1e-6)


@QUICK
@given(SIDES, SIDES, CHANNELS, SEEDS, SIDES, st.sampled_from(["linear", "cubic"]), BORDERS)
def test_reading_where_a_map_leads(
    height: int, width: int, channels: Any, seed: int, columns: int, how: Any, border: Border
) -> None:
    # OpenCV reads in steps of 1/32 px, so places lie on them here.
    x, y = ((picture(seed + side, 5, columns) * 3 - 1) * length for side, length in ((1, width), (2, height)))
    x, y = (x * 32).round() / 32, (y * 32).round() / 32
    assert_alike(lambda: primitives.remap(picture(seed, height, width, *channels), x, y, how, border, 2.5), 3e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (20, 1)])
@pytest.mark.parametrize("border", get_args(Border))
def test_a_single_row_or_column_is_read_too(size: tuple[int, int], border: Border) -> None:
    """OpenCV 5.0 by itself never ends where a row is mirrored between pixels."""
    x, y = (torch.linspace(-side, 2 * side, 20)[None] for side in (size[1], size[0]))
    x, y = (x * 32).round() / 32, (y * 32).round() / 32
    assert_alike(lambda: primitives.remap(picture(0, *size), x, y, "cubic", border, 2.5), 3e-3)


@QUICK
@given(SIDES, SIDES, SEEDS, st.integers(1, 6000))
def test_grey(height: int, width: int, seed: int, pixels: int) -> None:
    frame = picture(seed, 3, height, width)
    assert_alike(lambda: primitives.grey(frame, pixels), 1)
    assert_alike(lambda: primitives.luma(primitives.picture_of(frame)), 1e-6)


def test_the_processor_hands_its_memory_to_opencv_without_a_copy() -> None:
    values = torch.rand(4, 5, 3)
    assert np.shares_memory(primitives.array(values), values.numpy())
    assert primitives.tensor(primitives.array(values)).data_ptr() == values.data_ptr()


def test_a_way_is_forced_inside_the_block_alone() -> None:
    values = torch.rand(3, 3)
    assert primitives.on_opencv(values)
    with backend("torch"):
        assert not primitives.on_opencv(values)
        with backend("opencv"):
            assert primitives.on_opencv(values)
        assert not primitives.on_opencv(values)
    assert primitives.on_opencv(values)
    with suppress(ZeroDivisionError), backend("torch"):
        raise ZeroDivisionError
    assert primitives.on_opencv(values)


def test_nothing_of_a_device_reaches_opencv() -> None:
    assert not primitives.on_opencv(torch.zeros(2, device="meta"))
    frame = torch.zeros(3, 40, 60, device="meta")
    whole = primitives.picture_of(frame)
    rows = torch.zeros(40, 60, device="meta")
    for made in (
        primitives.grey(frame, 600),
        primitives.luma(whole),
        primitives.resize(whole, (20, 30), "area"),
        primitives.resize(whole, (80, 90), "cubic"),
        primitives.gaussian(whole, 2.0),
        primitives.box(whole, 5),
        primitives.median5(whole),
        *primitives.sobel(whole[..., 0]),
        primitives.remap(whole, rows, rows, "cubic", "reflect"),
    ):
        assert made.device.type == "meta"

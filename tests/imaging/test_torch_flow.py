"""PyTorch's flow is OpenCV's: networks learn from the one and are used with both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from textures import texture
from torch import Tensor
from torch.nn import functional as F

from metadeblur.imaging.optical_flow import dense_flow
from metadeblur.imaging.torch_flow import torch_flow


def pair(height: int, width: int, right: int, down: int) -> tuple[Tensor, Tensor]:
    """A picture and the same moved, both blurred along the way and noisy, (h, w) uint8; a part stays where it is."""
    whole = texture(height + 40, width + 40)[0]
    smooth = F.avg_pool2d(whole[None, None], 5, 1, 2)[0, 0]
    noise = torch.randn(2, height, width, generator=torch.Generator().manual_seed(0)) * 0.01
    one = smooth[20 : 20 + height, 20 : 20 + width].clone()
    other = smooth[20 - down :, 20 - right :][:height, :width].clone()
    other[: height // 3, : width // 3] = one[: height // 3, : width // 3]
    return tuple((255 * (part + more).clamp(0, 1)).byte() for part, more in zip((one, other), noise, strict=True))  # type: ignore[return-value]


def apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.hypot(*np.moveaxis(one - other, -1, 0)), np.float32)


@pytest.mark.parametrize(
    ("height", "width", "right", "down"),
    [
        (96, 128, 3, -1),
        (131, 97, -9, 6),  # no whole number of patches, nor of pixels when it is halved
        (250, 190, 15, 18),  # rows in strips, the last of them short
        (60, 80, 2, 2),  # known to the pixel: there is no coarser level to begin at
        (20, 30, 1, 0),  # continued at its borders
        (40, 200, 4, 1),
        (200, 40, -4, 2),
        (1, 1, 0, 0),
        (3, 90, 1, 0),
    ],
)
def test_the_flow_is_opencvs(height: int, width: int, right: int, down: int) -> None:
    source, target = pair(height, width, right, down)
    expected = dense_flow(source.numpy(), target.numpy())
    found = torch_flow(source[None], target[None])[0].numpy()
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    differences = apart(found, expected)
    assert differences.mean() < 0.01
    assert np.quantile(differences, 0.99) < 0.05


def test_where_nothing_is_to_be_seen_the_flow_is_still() -> None:
    flat = torch.full((1, 70, 90), 128, dtype=torch.uint8)
    assert not torch_flow(flat, flat).any()


def test_pairs_do_not_meddle_with_each_other() -> None:
    pairs = [pair(72, 96, *step) for step in ((3, 1), (-6, 2), (0, 0))]
    sources, targets = (torch.stack(side) for side in zip(*pairs, strict=True))
    together = torch_flow(sources, targets)
    for number, (source, target) in enumerate(pairs):
        alone = torch_flow(source[None], target[None])[0]
        assert apart(together[number].numpy(), alone.numpy()).mean() < 0.01

"""What is kept of a clip's pictures: found by content, computed once, bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metadeblur.adaptation.stages import adapt
from metadeblur.clip import Clip
from metadeblur.guard import already_sharp
from metadeblur.imaging import optical_flow
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.optical_flow import FAST, MEDIUM, dense_flow
from metadeblur.models.weights import load_deblurrer


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (64, 80), np.uint8)


def test_a_flow_is_computed_once_for_the_same_two_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        "metadeblur.imaging.clip_cache.dense_flow", lambda *given: calls.append(given) or dense_flow(*given)
    )
    cache = ClipCache()
    flow = cache.flow(picture(0), picture(1))
    assert cache.flow(picture(0), picture(1)) is flow
    assert np.array_equal(flow, dense_flow(picture(0), picture(1)))
    assert len(calls) == 1
    cache.flow(picture(1), picture(0))
    cache.flow(picture(0), picture(1), MEDIUM)
    assert [given[2] for given in calls] == [FAST, FAST, MEDIUM]
    with pytest.raises(ValueError, match="read-only"):
        flow[0] = 0


def test_what_is_not_used_for_longest_is_forgotten_first() -> None:
    megabyte = np.zeros(2**20, np.uint8)
    made = []

    def of(cache: ClipCache, name: int) -> None:
        cache.of(name, lambda: made.append(name) or megabyte)

    cache = ClipCache(megabytes=2.1)
    for name in (1, 2, 1, 3, 1, 2):
        of(cache, name)
    assert made == [1, 2, 3, 2]
    small = ClipCache(megabytes=0.1)  # a result that is larger than all the room is kept alone
    for name in (4, 4, 5):
        of(small, name)
    assert made[4:] == [4, 5]


def test_adapting_compares_no_two_pictures_twice_and_looks_for_blur_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, pairs = [], []
    blurriness, create = already_sharp.blurriness, optical_flow.cv2.DISOpticalFlow.create

    class Counted:
        def __init__(self, preset: int) -> None:
            self.preset, self.flow = preset, create(preset)

        def calc(self, source, target, none):
            pairs.append((self.preset, source.shape, source.tobytes(), target.tobytes()))
            return self.flow.calc(source, target, none)

    class Flows:
        create = Counted

    monkeypatch.setattr(already_sharp, "blurriness", lambda clip: looked.append(clip) or blurriness(clip))
    monkeypatch.setattr(optical_flow.cv2, "DISOpticalFlow", Flows)
    texture = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(texture[None], scale_factor=4, mode="bicubic")[0].clamp(0, 1)
    clip = Clip(torch.stack([wide.roll(3 * index, -1) for index in range(6)]))
    cache = ClipCache()
    already_sharp.sharp_already(clip, cache)
    adapt(load_deblurrer("lite"), clip, pairs=2, steps=1, patch=64, device="cpu", cache=cache)
    assert len(looked) == 1
    assert len(pairs) <= 1.25 * len(set(pairs))

"""The support set: deterministic, inside the frame, apart, spread, and sharper than chance."""

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metadeblur.adaptation.places import MINIMUM_FRAMES, SupportSet, choose_support
from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.quality import psnr
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.reblur.place import Place, place_window, real_blurred


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaky(seed: int, count: int, height: int, width: int) -> Clip:
    """A detailed picture, each frame blurred by another length (1 px is sharp)."""
    generator = np.random.default_rng(seed)
    noise = generator.uniform(0, 1, (height, width, 3)).astype(np.float32)
    coarse = generator.uniform(0, 1, (height // 8 + 1, width // 8 + 1, 3)).astype(np.float32)
    picture = np.clip(0.4 * noise + 0.6 * cv2.resize(coarse, (width, height)), 0, 1)
    lengths = [1 + 2 * int(n) for n in generator.integers(0, 5, count)]
    frames = [cv2.blur(picture, (length, 1)) for length in lengths]
    return Clip(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous())


def patch_of(clip: Clip, frame: int, place: Place) -> Tensor:
    return clip[frame][:, place.top : place.top + place.size, place.left : place.left + place.size]


def overlap(one: Place, other: Place) -> float:
    rows = max(0, one.size - abs(one.top - other.top))
    columns = max(0, one.size - abs(one.left - other.left))
    return rows * columns / (2 * one.size**2 - rows * columns)


clips = st.builds(shaky, st.integers(0, 500), st.integers(5, 12), st.integers(40, 90), st.integers(40, 90))
methods = st.sampled_from(["guided", "random"])


@settings(max_examples=40, deadline=None)
@given(clips, methods, st.integers(1, 12), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 100))
def test_what_every_support_set_keeps_to(clip: Clip, method: str, pairs: int, held_out: float, seed: int) -> None:
    def choose() -> SupportSet:
        return choose_support(
            clip, pairs=pairs, patch=64, held_out=held_out, method=method, candidates=40, generator=seeded(seed)
        )

    support = choose()
    assert support == choose()
    assert support.patch % 8 == 0
    assert 32 <= support.patch <= min(64, clip.height, clip.width)
    assert len(support.train) == pairs
    assert len(support.held_out) == int(np.ceil(held_out * pairs))
    assert len(support.frame_scores) == len(clip)
    every = support.train + support.held_out
    for place in every:
        assert place.size == support.patch
        assert 0 <= place.top <= clip.height - place.size
        assert 0 <= place.left <= clip.width - place.size
        assert 0 <= place.frame < len(clip)
        assert place.gap >= 0
        score = self_shift_score(patch_of(clip, place.frame, place)).item()
        assert place.score == pytest.approx(score, abs=1e-4)
        blurred = self_shift_score(patch_of(clip, place.blurred_frame, place)).item()
        assert place.blurred_score == pytest.approx(blurred, abs=1e-4)
    assert len({(place.frame, place.top, place.left) for place in every}) == len(every)
    if len(clip) >= 6:
        assert not {place.frame for place in support.train} & {place.frame for place in support.held_out}


@settings(max_examples=20, deadline=None)
@given(clips, methods)
def test_without_held_out_the_sharpest_of_all_frames_is_taken(clip: Clip, method: str) -> None:
    support = choose_support(clip, pairs=5, patch=32, held_out=0.0, method=method, candidates=20, generator=seeded())
    for place in support.train:
        scores = [self_shift_score(patch_of(clip, frame, place)).item() for frame in range(len(clip))]
        assert place.score == pytest.approx(min(scores), abs=1e-4)
        assert place.blurred_score == pytest.approx(max(scores), abs=1e-4)


def test_another_seed_gives_other_places() -> None:
    clip = shaky(0, 8, 80, 80)
    assert choose_support(clip, patch=32, generator=seeded(1)) != choose_support(clip, patch=32, generator=seeded(2))


def test_each_frame_is_read_once() -> None:
    frames = shaky(0, 9, 64, 64)

    class Counting:
        def __init__(self) -> None:
            self.reads: list[int] = []

        def __len__(self) -> int:
            return len(frames)

        def __getitem__(self, index: int, /) -> Tensor:
            self.reads.append(index)
            return frames[index]

    source = Counting()
    clip = Clip(source)
    source.reads.clear()
    choose_support(clip, patch=32, candidates=500, generator=seeded())
    assert source.reads == list(range(9))


@pytest.mark.parametrize("sharpest", [0, 1, 6, 7])
def test_clip_ends_can_be_pseudo_sharp_and_their_windows_repeat_the_end(sharpest: int) -> None:
    sharp = shaky(1, 1, 64, 64)[0]
    pixels = cv2.blur(sharp.permute(1, 2, 0).numpy(), (9, 1))
    blurred = torch.from_numpy(pixels).permute(2, 0, 1)
    frames = torch.stack([sharp if t == sharpest else blurred * (1 - 0.002 * t) for t in range(8)])
    clip = Clip(frames)
    support = choose_support(clip, pairs=4, patch=32, held_out=0.0, generator=seeded())
    assert {place.frame for place in support.train} == {sharpest}
    place = support.train[0]
    window = place_window(clip, place)
    assert window.shape == (5, 3, 32, 32)
    for offset in range(-2, 3):
        frame = min(max(sharpest + offset, 0), 7)
        assert torch.equal(window[offset + 2], patch_of(clip, frame, place))
    assert torch.equal(real_blurred(clip, place), patch_of(clip, place.blurred_frame, place))
    assert place_window(clip, place, frames=1).shape == (1, 3, 32, 32)


def test_flat_places_are_left_alone() -> None:
    detailed = shaky(2, 10, 96, 192).frames
    half_flat = detailed.clone()
    half_flat[..., 96:] = 0.5 + 0.01 * torch.randn(half_flat[..., 96:].shape, generator=seeded())
    support = choose_support(Clip(half_flat), pairs=8, patch=32, generator=seeded())
    assert all(place.left < 96 for place in support.train + support.held_out)


def test_steady_parts_are_preferred_to_moving_ones() -> None:
    wide = shaky(3, 1, 96, 400)[0]
    frames = torch.stack([torch.cat([wide[..., :96], wide[..., 96 + 6 * t : 192 + 6 * t]], dim=-1) for t in range(8)])
    support = choose_support(Clip(frames), pairs=6, patch=32, held_out=0.0, generator=seeded())
    assert np.mean([place.left + 16 < 96 for place in support.train]) >= 0.8


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 500))
def test_places_are_spread(seed: int) -> None:
    clip = shaky(seed, 10, 96, 144)
    support = choose_support(clip, pairs=12, patch=32, generator=seeded(seed))
    same_frame = [overlap(one, other) for one, other in combinations(support.train, 2) if one.frame == other.frame]
    assert max(same_frame, default=0.0) <= 0.8
    covered = np.zeros((96, 144), dtype=bool)
    for place in support.train:
        covered[place.top : place.top + 32, place.left : place.left + 32] = True
    assert covered.mean() > 0.2


def test_held_out_frames_are_of_all_degrees_of_sharpness_but_the_best() -> None:
    clip = shaky(4, 12, 80, 80)
    support = choose_support(clip, pairs=8, patch=32, held_out=0.5, generator=seeded())
    assert support.frame_scores.index(min(support.frame_scores)) in {place.frame for place in support.train}


@pytest.mark.parametrize("method", ["guided", "random"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_short_clips_hold_out_in_space(count: int, method: str) -> None:
    clip = shaky(5, count, 96, 144)
    support = choose_support(clip, pairs=3, patch=32, held_out=0.5, method=method, minimum_frames=1, generator=seeded())
    assert (len(support.train), len(support.held_out)) == (3, 2)
    positions = {(place.top, place.left) for place in support.train}
    assert not positions & {(place.top, place.left) for place in support.held_out}
    if method == "guided":
        for train in support.train:
            for held in support.held_out:
                assert train.frame != held.frame or overlap(train, held) == 0


def test_patches_shrink_with_the_frame() -> None:
    for height, width, asked, expected in (
        (90, 160, 256, 64),
        (33, 32, 256, 32),
        (64, 300, 44, 40),
        (400, 400, 256, 256),
    ):
        support = choose_support(shaky(0, 5, height, width), pairs=1, patch=asked, candidates=4, generator=seeded())
        assert support.patch == expected


def test_a_frame_of_one_position_gives_one_place() -> None:
    support = choose_support(shaky(6, 8, 32, 32), pairs=5, patch=64, generator=seeded())
    assert len(support.train) == 1
    assert len(support.held_out) == 1
    assert support.train[0].frame != support.held_out[0].frame


def test_a_flat_clip_still_gives_places() -> None:
    support = choose_support(Clip(torch.full((6, 3, 64, 64), 0.5)), pairs=4, patch=32, generator=seeded())
    assert len(support.train) == 4
    assert all(place.score == 100.0 and place.gap == 0.0 for place in support.train)


def test_faults_say_what_is_allowed() -> None:
    clip = shaky(0, 6, 48, 48)
    with pytest.raises(MetadeblurError, match=f"4 frames are too few to adapt to; at least {MINIMUM_FRAMES}"):
        choose_support(clip.part(0, 4), generator=seeded())
    with pytest.raises(MetadeblurError, match="32 pixels or more"):
        choose_support(shaky(0, 6, 40, 31), generator=seeded())
    with pytest.raises(MetadeblurError, match="patch is 16 px"):
        choose_support(clip, patch=16, generator=seeded())
    with pytest.raises(MetadeblurError, match="pairs is 0"):
        choose_support(clip, pairs=0, generator=seeded())
    with pytest.raises(MetadeblurError, match=r"held_out is 1\.5"):
        choose_support(clip, held_out=1.5, generator=seeded())
    with pytest.raises(MetadeblurError, match="guided, random"):
        choose_support(clip, method="best", generator=seeded())  # type: ignore[arg-type]
    with pytest.raises(MetadeblurError, match="candidates is 0"):
        choose_support(clip, candidates=0, generator=seeded())
    with pytest.raises(MetadeblurError, match="odd"):
        place_window(clip, choose_support(clip, patch=32, generator=seeded()).train[0], frames=4)


def load(folder: Path) -> Tensor:
    pictures = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in sorted(folder.iterdir())]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("name", ["blackswan", "dance-twirl", "hero7"])
def test_guided_places_are_truly_sharper_than_random_ones(shared: Path, name: str) -> None:
    """Judged by the true sharp frames, which the choice never sees."""
    blurred, sharp = (Clip(load(shared / "data" / "val" / name / kind)) for kind in ("blur", "sharp"))
    quality = {}
    for method in ("guided", "random"):
        places = choose_support(blurred, patch=128, method=method, generator=seeded()).train
        figures = [psnr(patch_of(blurred, p.frame, p), patch_of(sharp, p.frame, p)).item() for p in places]
        quality[method] = float(np.mean(figures))
    assert quality["guided"] > quality["random"] + 1.0

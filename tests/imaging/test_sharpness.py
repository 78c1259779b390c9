"""Self-shift scores: the published values, the fast way against the plain one, and what the score means."""

import json
from pathlib import Path

import cv2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.sharpness import score_places, self_shift_map, self_shift_score


def picture(path: Path) -> Tensor:
    pixels = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def test_scores_equal_the_published_ones(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "metrics_main.json").read_text())["self_shift"]
    assert len(golden) == 6
    for entry in golden:
        frame = picture(shared / "golden" / "images" / entry["file"])
        assert self_shift_score(frame).item() == pytest.approx(entry["paper_average"], abs=1e-6)
        height, width = frame.shape[-2:]
        whole = score_places([frame], torch.tensor([0]), torch.tensor([0]), height, width)
        assert whole.item() == pytest.approx(entry["paper_average"], abs=1e-6)


KINDS = ("noise", "flat", "dark", "half flat", "faint", "smooth")


def make_frame(kind: str, height: int, width: int, generator: torch.Generator) -> Tensor:
    noise = torch.rand(3, height, width, generator=generator)
    if kind == "flat":
        return torch.full_like(noise, 0.3)
    if kind == "dark":
        return noise * (4 / 255)
    if kind == "half flat":
        noise[:, :, : width // 2] = 0.7
    elif kind == "faint":
        noise = 0.5 + (noise > 0.999).float() / 255
    elif kind == "smooth":
        noise = torch.nn.functional.avg_pool2d(noise[None], 5, 1, 2)[0]
    return noise


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_score_places_is_the_score_of_the_cropped_patch(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(4, 70)), data.draw(st.integers(4, 70))
    patch_height, patch_width = data.draw(st.integers(2, height)), data.draw(st.integers(2, width))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    frames = [make_frame(kind, height, width, generator) for kind in kinds]
    tops = torch.randint(0, height - patch_height + 1, (6,), generator=generator)
    lefts = torch.randint(0, width - patch_width + 1, (6,), generator=generator)
    scores = score_places(iter(frames), tops, lefts, patch_height, patch_width)
    assert scores.shape == (len(frames), 6)
    for t, frame in enumerate(frames):
        for k in range(6):
            top, left = int(tops[k]), int(lefts[k])
            plain = self_shift_score(frame[:, top : top + patch_height, left : left + patch_width])
            assert scores[t, k].item() == pytest.approx(plain.item(), abs=1e-4)


def test_each_frame_is_asked_for_once() -> None:
    asked = []

    def frames() -> object:
        for number in range(4):
            asked.append(number)
            yield torch.rand(3, 16, 16)

    score_places(frames(), torch.zeros(100, dtype=torch.long), torch.zeros(100, dtype=torch.long), 8, 8)  # type: ignore[arg-type]
    assert asked == [0, 1, 2, 3]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([3, 5, 9]))
def test_blur_raises_the_score(seed: int, length: int) -> None:
    frame = make_frame("smooth", 48, 64, torch.Generator().manual_seed(seed))
    blurred = torch.nn.functional.avg_pool2d(frame[None], (1, length), 1, (0, length // 2))[0]
    assert self_shift_score(blurred[..., 8:-8]) > self_shift_score(frame[..., 8:-8])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_score_ignores_mirroring_and_brightness_offsets(seed: int) -> None:
    frame = make_frame("noise", 24, 24, torch.Generator().manual_seed(seed)) * 0.5
    score = self_shift_score(frame)
    for same in (frame.flip(-1), frame.flip(-2), frame.transpose(-1, -2), frame + 0.25):
        assert self_shift_score(same).item() == pytest.approx(score.item(), abs=1e-4)


def test_leading_dimensions_and_gradients() -> None:
    patches = torch.rand(2, 5, 3, 16, 16, requires_grad=True)
    scores = self_shift_score(patches)
    assert scores.shape == (2, 5)
    assert not scores.requires_grad
    assert scores[1, 2].item() == pytest.approx(self_shift_score(patches[1, 2]).item(), abs=1e-9)


def test_map_is_the_scores_on_a_grid() -> None:
    frame = torch.rand(3, 40, 56)
    scores = self_shift_map(frame, patch=16, stride=12)
    assert scores.shape == (3, 4)
    assert scores[1, 3].item() == pytest.approx(self_shift_score(frame[:, 12:28, 36:52]).item(), abs=1e-6)


def test_no_frames_and_no_places() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert score_places([], torch.tensor([0]), torch.tensor([0]), 8, 8).shape == (0, 1)
    assert score_places([torch.rand(3, 8, 8)], nothing, nothing, 8, 8).shape == (1, 0)


def test_faults_say_what_is_allowed() -> None:
    frame, zero = torch.rand(3, 20, 30), torch.tensor([0])
    with pytest.raises(MetadeblurError, match="2x2 or more"):
        self_shift_score(torch.rand(3, 1, 8))
    with pytest.raises(MetadeblurError, match=r"not \(1, 8, 8\)"):
        self_shift_score(torch.rand(1, 8, 8))
    with pytest.raises(MetadeblurError, match="2x2 or more"):
        score_places([frame], zero, zero, 1, 8)
    with pytest.raises(MetadeblurError, match="lefts 0 to 22"):
        score_places([frame], zero, torch.tensor([23]), 8, 8)
    with pytest.raises(MetadeblurError, match="sizes must agree"):
        score_places([frame, torch.rand(3, 20, 31)], zero, zero, 8, 8)
    with pytest.raises(MetadeblurError, match=r"frames \(3, H, W\)"):
        score_places([frame[0]], zero, zero, 8, 8)
    with pytest.raises(MetadeblurError, match="patch of 2 to 20"):
        self_shift_map(frame, patch=24, stride=8)

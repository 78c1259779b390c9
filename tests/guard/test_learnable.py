"""Shots that teach nothing are seen at once and pass untouched; others are not mistaken for them."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
import torch
from cases import case
from torch import Tensor, nn

from metadeblur.adaptation.stages import Outcome, adapt, preset
from metadeblur.clip import Clip
from metadeblur.guard.learnable import nothing_to_learn
from metadeblur.pipeline.policy import decide

HEIGHT, WIDTH, FRAMES = 96, 128, 8


def photograph(seed: int = 0) -> np.ndarray:
    """Something with structure of all sizes, (H, W, 3) in levels."""
    random = np.random.default_rng(seed)
    picture = np.full((HEIGHT, WIDTH, 3), 110, np.float32)
    for cells, strength in ((4, 40), (12, 25), (40, 15)):
        noise = random.normal(0, strength, (cells, 2 * cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return picture.clip(0, 255)


def still(picture: np.ndarray, *, noise: float = 0.0) -> Clip:
    """A picture shown for some frames."""
    frames = np.repeat(picture[None], FRAMES, 0) + np.random.default_rng(1).normal(0, noise, (FRAMES, *picture.shape))
    return clip_of(frames)


def clip_of(frames: np.ndarray) -> Clip:
    levels = torch.from_numpy(frames.clip(0, 255).round().astype(np.uint8)).permute(0, 3, 1, 2)
    return Clip(levels.contiguous())


def plain(level: float) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, np.float32)


def with_text() -> np.ndarray:
    card = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    return cv2.putText(card, "TITLE", (10, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 2).astype(np.float32)


def with_logo() -> np.ndarray:
    return cv2.rectangle(plain(0), (14, 12), (24, 22), (230, 40, 40), -1)


def fading() -> Clip:
    return clip_of(cv2.blur(photograph(), (9, 9))[None] * np.linspace(1, 0.2, FRAMES)[:, None, None, None])


NOTHING = {
    "black": still(plain(0)),
    "black with noise": still(plain(4), noise=3),
    "white": still(plain(255)),
    "one colour with noise": still(plain(90), noise=10),
    "a slope of brightness": still(np.repeat(np.linspace(0, 250, WIDTH)[None, :, None], HEIGHT, 0).repeat(3, 2)),
    "a title": still(with_text()),
    "a small logo on black": still(with_logo()),
    "a still photograph": still(photograph(), noise=2),
    "a still blurred photograph": still(cv2.blur(photograph(), (9, 9)), noise=2),
    "a still photograph that fades": fading(),
}


def moving(width: int, background: np.ndarray) -> Clip:
    """A small blurred thing that moves before a background."""
    frames = np.repeat(background[None], FRAMES, 0)
    thing = np.random.default_rng(5).uniform(0, 255, (20, 20, 3)).astype(np.float32)
    thing = cv2.blur(cv2.resize(thing[:7, :7], (20, 20), interpolation=cv2.INTER_NEAREST), (width, 1))
    for number, frame in enumerate(frames):
        frame[40:60, 10 + 6 * number : 30 + 6 * number] = thing
    return clip_of(frames)


class Careful(nn.Module):
    """A deblurrer whose every use is an error."""

    def forward(self, picture: Tensor) -> Tensor:
        raise AssertionError(f"nothing was to be restored, yet {tuple(picture.shape)} came")


@case(
    "Pictures",
    "black, white, one colour, grain, a slope of brightness, a title, a logo on black, a still or fading photograph",
    "no adaptation is tried; the shot passes untouched within seconds",
    'the record and the screen say "nothing to learn here" and why, or that it is sharp already',
)
@pytest.mark.parametrize("name", NOTHING)
def test_what_teaches_nothing_passes_untouched(name: str) -> None:
    began = time.monotonic()
    decision = decide(Careful(), NOTHING[name], [30.0] * FRAMES, preset("flow"))
    assert time.monotonic() - began < 20
    assert decision.untouched
    assert decision.outcome is None
    assert "nothing to learn" in str(decision.note) or "sharp already" in str(decision.note)


@case(
    "Pictures",
    "adapt (Python or command) to a clip in which nothing moves or nothing is seen",
    "it ends at once with share 0",
    "the reason; the command writes no weights and says so",
)
@pytest.mark.parametrize("name", ["black", "one colour with noise", "a still blurred photograph"])
def test_adapt_says_that_there_is_nothing_to_learn(name: str) -> None:
    outcome = adapt(nn.Conv2d(3, 3, 1), NOTHING[name], device="cpu")
    assert outcome.share == 0
    assert outcome.adapted is None
    assert not outcome.history
    assert "nothing to learn" in outcome.reasons[0].text


@pytest.mark.parametrize("count", [2, 4])
def test_a_black_shot_too_short_to_adapt_to_is_untouched_too(count: int) -> None:
    black = NOTHING["black"].part(0, count)
    for settings in (preset("flow"), None):
        assert decide(Careful(), black, [99.0] * count, settings).untouched


def test_a_single_picture_is_no_still_video() -> None:
    decision = decide(nn.Identity(), still(cv2.blur(photograph(), (9, 1))).part(0, 1), [30.0], preset("flow"))
    assert not decision.untouched


@pytest.mark.parametrize("background", ["plain", "a blurred photograph"])
def test_a_small_thing_that_moves_is_learnt_from(background: str) -> None:
    ground = plain(110) if background == "plain" else cv2.blur(photograph(), (9, 9))
    assert nothing_to_learn(moving(7, ground)) is None


def test_what_moves_later_than_the_part_that_is_looked_at_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metadeblur.pipeline.policy.STRETCH_FRAMES", 8)
    adapted = Outcome(nn.Identity(), 1.0, ())
    monkeypatch.setattr("metadeblur.pipeline.policy.adapt", lambda *_, **__: adapted)
    ground = cv2.blur(photograph(), (9, 9))
    frames = torch.cat([still(ground).frames, moving(7, ground).frames])
    # The first half differs most in its scores, and stands still.
    decision = decide(Careful(), Clip(frames), [20.0, 40.0] * 4 + [30.0] * 8, preset("flow"))
    assert decision.outcome is adapted

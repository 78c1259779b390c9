"""Frames of another brightness: none is taken for another picture, and clips of one brightness stay as they are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from cases import case
from torch import Tensor, nn

from metadeblur.adaptation.places import choose_support
from metadeblur.clip import Clip
from metadeblur.guard.judge import GuardSettings
from metadeblur.guard.votes import choose_samples
from metadeblur.imaging.brightness import changes, match, matched_window, small_frame
from metadeblur.imaging.motion import ClipMotion
from metadeblur.models.adapted import FusionSettings
from metadeblur.models.weights import load_deblurrer
from metadeblur.restoration.clips import restore
from metadeblur.restoration.fusion import fuse_frames
from metadeblur.restoration.restorer import Restorer

HEIGHT, WIDTH = 96, 128


def scene(count: int = 7, *, seed: int = 0, step: float = 3.0) -> Tensor:
    """A textured picture that the camera passes over, each frame blurred along the way: (T, 3, H, W)."""
    random = np.random.default_rng(seed)
    large = np.full((HEIGHT + 40, WIDTH + 200, 3), 0.45, np.float32)
    for cells, strength in ((4, 0.14), (12, 0.1), (40, 0.06)):
        noise = random.normal(0, strength, (cells, 2 * cells, 3)).astype(np.float32)
        large += cv2.resize(noise, large.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    large = cv2.blur(large.clip(0.02, 0.9), (5, 1))
    frames = []
    for number in range(count):
        moved = np.float32([[1, 0, -10 - step * number], [0, 1, -8 - number]])
        frames.append(cv2.warpAffine(large, moved, (WIDTH, HEIGHT)))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def lamp(strength: float) -> Tensor:
    """A lamp that lights one part of the picture, (H, W)."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return 1 + strength * torch.exp(-((columns - 90) ** 2 + (rows - 50) ** 2) / 900.0)


def bands(number: int) -> Tensor:
    """Rows lit in turns, as by a lamp on the mains, (H, 1)."""
    return 0.85 + 0.15 * torch.sin(torch.arange(HEIGHT)[:, None] / 20 + 2.1 * number)


LIGHTS = {
    "a fade of 4 frames": lambda f: f * torch.tensor([1, 1, 0.75, 0.5, 0.25, 0, 0])[:, None, None, None],
    "a fade from black": lambda f: f * torch.tensor([0, 0, 0.25, 0.5, 0.75, 1, 1])[:, None, None, None],
    "a fade of 12 frames": lambda f: f * torch.linspace(1, 0.5, 7)[:, None, None, None],
    "a fade to white": lambda f: f + (1 - f) * torch.linspace(0, 1, 7)[:, None, None, None],
    "steps of exposure": lambda f: f * torch.tensor([1, 1, 1, 1.08, 1.08, 1.166, 1.166])[:, None, None, None],
    "exposure that grows": lambda f: f * torch.linspace(0.7, 0.94, 7)[:, None, None, None],
    "a flash": lambda f: torch.cat([f[:3], (1.9 * f[3:4] + 0.12).clamp(max=1), f[4:]]),
    "a strobe": lambda f: f * torch.tensor([1, 0.5, 1, 0.5, 1, 0.5, 1])[:, None, None, None],
    "a lamp": lambda f: torch.cat([f[:3], f[3:] * lamp(0.5)]).clamp(max=1),
    "bands of flicker": lambda f: torch.stack([frame * bands(number) for number, frame in enumerate(f)]),
    "another white": lambda f: torch.cat([f[:3], f[3:] * torch.tensor([1.1, 1.0, 0.85])[:, None, None]]),
    "one black frame": lambda f: torch.cat([f[:3], 0 * f[3:4], f[4:]]),
    "one white frame": lambda f: torch.cat([f[:3], 0 * f[3:4] + 1, f[4:]]),
}


SPOILT = ("a fade of 4 frames", "a fade from black", "a flash", "one black frame", "steps of exposure", "a lamp")


class MeanOfWindow(nn.Module):
    """A deblurrer that believes its neighbours wholly."""

    frames = 3

    def forward(self, window: Tensor) -> Tensor:
        return window.mean(1)


def broad(difference: Tensor) -> float:
    """The greatest difference (3, H, W) that is the same over 41 px."""
    return float(np.abs(cv2.blur(difference.permute(1, 2, 0).numpy(), (41, 41))).max())


def db(one: Tensor, other: Tensor) -> float:
    return float(-10 * torch.log10((one - other).square().mean().clamp(min=1e-9)))


@pytest.mark.parametrize("seed", range(3))
def test_windows_of_one_brightness_are_handed_on_as_they_are(seed: int) -> None:
    frames = scene(seed=seed, step=2 + 2 * seed)
    assert not changes(frames)
    window = frames[1:6]
    assert matched_window(window) is window


@case(
    "Pictures",
    "fades to and from black and white, flashes, strobes, steps of exposure, lamps that are switched on or flicker",
    "neighbouring frames are brought to each frame's brightness, place by place, or not used",
    "nothing to tell: no frame is further from its input than without the change",
)
@pytest.mark.parametrize("light", LIGHTS)
def test_neighbours_come_in_the_brightness_of_the_frame(light: str) -> None:
    frames = scene()
    lit = LIGHTS[light](frames)
    assert changes(lit)
    for number in (2, 3, 4):
        # What a neighbour shows elsewhere than the frame does is no difference of brightness.
        usual = max(broad(frames[other] - frames[number]) for other in (number - 1, number + 1))
        for frame in matched_window(lit[number - 1 : number + 2]):
            assert broad(frame - lit[number]) <= usual + 0.03, f"{light}, frame {number}"


@case(
    "Pictures",
    "a clip whose last frames go to black at once, or that holds single black frames",
    "the frames beside them are restored from the others",
    "nothing to tell",
)
@pytest.mark.parametrize("light", SPOILT)
def test_lite_spoils_no_frame_beside_a_change_of_brightness(light: str) -> None:
    net, frames = load_deblurrer("lite"), scene()
    lit = LIGHTS[light](frames)
    plain, restored = (restore(net, Clip(part)).frames for part in (frames, lit))
    usual = min(db(*pair) for pair in zip(plain, frames, strict=True))
    for number, (after, before) in enumerate(zip(restored, lit, strict=True)):
        assert db(after, before) > usual - 4, f"{light}, frame {number}"


def test_a_network_of_windows_that_is_no_lite_is_helped_too() -> None:
    frames = scene(step=0.0)
    lit = LIGHTS["a strobe"](frames)
    restorer = Restorer(MeanOfWindow(), HEIGHT, WIDTH)
    assert db(restorer(lit[2:5]), lit[3]) > db(lit[2:5].mean(0), lit[3]) + 10


@case(
    "Pictures",
    "frames of another scene, or without a picture, within a shot",
    "they are not used for the frames around them",
    "nothing to tell",
)
def test_a_frame_of_one_colour_has_nothing_to_tell() -> None:
    one = small_frame(scene()[0])
    for shade in (0.0, 0.2, 0.5, 1.0):
        assert match(one, np.full_like(one, shade)) is None


def test_fusing_keeps_each_frame_at_its_own_brightness() -> None:
    frames = scene()
    for light in ("steps of exposure", "a flash"):
        lit = LIGHTS[light](frames)[1:6]
        # As if the network had changed much, so that neighbours may differ much.
        restored = (lit + 0.03 * torch.sin(torch.arange(WIDTH) * 2.0)).clamp(0, 1)
        fused = fuse_frames(lit, restored, FusionSettings(radius=2, allowed=4.0))
        assert float((fused - lit).mean((1, 2, 3)).abs().max()) < 0.01, light


def test_motion_is_not_read_out_of_a_change_of_brightness() -> None:
    frames = scene()
    plain = ClipMotion(Clip(frames))
    for light in ("steps of exposure", "a strobe", "one black frame"):
        lit = ClipMotion(Clip(LIGHTS[light](frames)))
        middle = (slice(24, -24), slice(24, -24))
        for number in (2, 4):
            error = (lit.field(number).velocity[middle] - plain.field(number).velocity[middle]).abs().float()
            assert float(error.median()) < 0.5, (light, number)


def test_black_frames_are_no_blurred_places() -> None:
    frames = scene(12)
    frames[5:8] = 0
    support = choose_support(Clip(frames), pairs=6, patch=48, generator=torch.Generator().manual_seed(0))
    for place in support.train + support.held_out:
        assert place.frame not in (5, 6, 7)
        assert place.blurred_frame not in (5, 6, 7)


def test_votes_look_beside_the_change_and_pair_no_frames_across_it() -> None:
    frames = scene(9)
    frames[6:] *= 0.4
    samples = choose_samples(Clip(frames), 3, GuardSettings())
    seen = [set(range(sample.first, sample.first + len(sample.blurred))) for sample in samples]
    assert {5} in seen
    assert {6} in seen
    assert not any({5, 6} <= some for some in seen)

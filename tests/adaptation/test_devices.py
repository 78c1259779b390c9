"""What is done to a clip before and after learning happens on the device of the network, as restoring does.

As in restoration/test_devices.py no GPU is needed: PyTorch's own way of every operation is forced on the processor and
compared with OpenCV's, what is taken out of a tensor is counted meanwhile, and "meta", which has no values, shows what
mixes devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from textures import texture
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metadeblur.adaptation import places as choosing
from metadeblur.adaptation.pairs import make_pairs
from metadeblur.adaptation.places import choose_support
from metadeblur.adaptation.targets import Sharpener
from metadeblur.clip import Clip
from metadeblur.guard.judge import judge, judge_fusion
from metadeblur.guard.votes import GuardSettings, choose_samples, look_at
from metadeblur.imaging import brightness, motion, optical_flow
from metadeblur.imaging.brightness import matched_window
from metadeblur.imaging.motion import ClipMotion
from metadeblur.imaging.noise import estimate_noise
from metadeblur.imaging.optical_flow import dense_flow
from metadeblur.imaging.primitives import backend
from metadeblur.imaging.quality import colour_shift, dis_flow, flicker, psnr, ringing, warp_frame
from metadeblur.imaging.sharpness import score_places, self_shift_map
from metadeblur.models.adapted import FusionSettings
from metadeblur.reblur import exposure as estimating
from metadeblur.reblur import flow as reblurring
from metadeblur.reblur import paths
from metadeblur.reblur.exposure import CANDIDATES, estimate_exposure
from metadeblur.reblur.flow import FlowReblurrer, fit_flow_reblurrer
from metadeblur.reblur.paths import blur_patch
from metadeblur.reblur.place import Place

META = torch.device("meta")
HEIGHT, WIDTH, FRAMES = 96, 128, 8
PLACE = Place(3, 20, 30, 48, score=25.0, blurred_frame=5, blurred_score=30.0)
GUARD = GuardSettings(shares=(1.0,), spots=1, fusion_radius=1)


class NothingLeaves(TorchFunctionMode):
    """Notes what takes more than a few thousand values out of a tensor: figures may leave a device, pictures not."""

    WAYS = frozenset({"numpy", "cpu", "tolist", "__array__"})
    off = False

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.left = most, list[tuple[str, tuple[int, ...]]]()

    @classmethod
    @contextmanager
    def paused(cls) -> Iterator[None]:
        """Notes nothing: a stand-in for work on the device."""
        cls.off = True
        yield
        cls.off = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if not self.off and name in self.WAYS and isinstance(args[0], Tensor) and args[0].numel() > self.most:
            self.left.append((name, tuple(args[0].shape)))
        return func(*args, **(kwargs or {}))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaken(exposure: float = 0.9) -> Clip:
    """A camera that speeds up and slows down over a picture, blurred along the way, and a little noise."""
    whole = F.avg_pool2d(texture(2 * HEIGHT + 80, 2 * WIDTH + 80)[None], 3, 1, 1)[0]
    frames = []
    for number in range(FRAMES):
        seen = []
        for part in np.linspace(-exposure / 2, exposure / 2, 13):
            down, right = (round(40 + 36 * float(np.sin(rate * (number + part)))) for rate in (0.45, 0.6))
            view = whole[:, down : down + 2 * HEIGHT, right : right + 2 * WIDTH]
            seen.append(F.avg_pool2d(view[None], 2)[0])
        frames.append(torch.stack(seen).mean(0))
    made = torch.stack(frames)
    return Clip((made + 0.004 * torch.randn(made.shape, generator=seeded())).clamp(0, 1))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return shaken()


@pytest.fixture(scope="module")
def reblurrer(clip: Clip) -> FlowReblurrer:
    return fit_flow_reblurrer(clip, generator=seeded(), exposure=0.9, places=[PLACE])


@pytest.fixture(autouse=True)
def quick_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's flow is OpenCV's (imaging/test_torch_flow.py) and takes long on the processor."""

    def flow(sources: Tensor, targets: Tensor) -> Tensor:
        with NothingLeaves.paused():
            pairs = zip(sources.numpy(), targets.numpy(), strict=True)
            return torch.from_numpy(np.stack([dense_flow(*pair) for pair in pairs]))

    monkeypatch.setattr(optical_flow, "torch_flow", flow)


@pytest.fixture
def tiny_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that are compared in main memory, smaller beside a frame, as they are beside usual ones."""
    monkeypatch.setattr(brightness, "_PIXELS", 1_000)


def both(work: Callable[[], Any]) -> tuple[Any, Any]:
    """The result of OpenCV and that of PyTorch."""
    usual = work()
    with backend("torch"):
        return usual, work()


# --- both ways say the same ----------------------------------------------------------------------------------------


def sharper(clip: Clip) -> Tensor:
    """Frames that a network has overdone."""
    frames = clip.frames
    return (frames + 0.8 * (frames - F.avg_pool2d(frames, 5, 1, 2))).clamp(0, 1)


FIGURES: dict[str, tuple[Callable[[Clip], Tensor | float], float]] = {
    "places' scores, dB": (
        lambda clip: score_places(clip, torch.tensor([0, 7, 40]), torch.tensor([3, 0, 64]), 48, 40),
        1e-3,
    ),
    "a map of scores, dB": (lambda clip: self_shift_map(clip[1], 32, 16), 1e-3),
    "noise, levels": (lambda clip: torch.from_numpy(255**2 * estimate_noise(clip)), 1e-2),
    "PSNR, dB": (lambda clip: psnr(sharper(clip), clip.frames), 1e-4),
    "colours, levels": (lambda clip: colour_shift(sharper(clip), clip.frames), 1e-3),
    "ringing, levels": (lambda clip: ringing(sharper(clip), clip.frames, radius=9), 1e-4),
    # The flow is OpenCV's of the preset medium and of the preset fast.
    "flicker, levels": (lambda clip: flicker(sharper(clip)[:3], clip.frames[:3]), 0.05),
}


@pytest.mark.parametrize("name", FIGURES)
def test_both_ways_measure_the_same(name: str, clip: Clip) -> None:
    measure, tolerance = FIGURES[name]
    usual, other = both(lambda: torch.as_tensor(measure(clip)))
    assert usual.dtype == other.dtype
    assert (usual - other).abs().max() <= tolerance
    assert usual.abs().max() > 10 * tolerance  # there is something to measure


def test_both_ways_choose_the_same_places(clip: Clip) -> None:
    usual, other = both(lambda: choose_support(clip, pairs=6, patch=32, candidates=60, generator=seeded()))
    for one, two in zip((*usual.train, *usual.held_out), (*other.train, *other.held_out), strict=True):
        assert (one.frame, one.top, one.left, one.blurred_frame) == (two.frame, two.top, two.left, two.blurred_frame)
        assert one.score == pytest.approx(two.score, abs=1e-3)


def test_both_ways_find_the_same_motion(clip: Clip) -> None:
    usual, other = both(lambda: ClipMotion(clip).field(3))
    for one, two in ((usual.velocity, other.velocity), (usual.bend, other.bend)):
        assert (one.float() - two.float()).norm(dim=-1).mean() < 0.02  # px


@pytest.mark.usefixtures("tiny_pictures")
def test_both_ways_tell_the_same_exposure() -> None:
    frames = shaken(0.7).part(0, 6)
    usual = estimate_exposure(ClipMotion(frames))
    with backend("torch"), NothingLeaves(HEIGHT * WIDTH // 2) as leaving:
        other = estimate_exposure(ClipMotion(frames))
    assert leaving.left == []
    assert usual is not None
    assert other is not None
    assert usual.strong
    assert other.strong
    assert other.exposure == pytest.approx(usual.exposure, abs=0.02)
    assert other.contrast == pytest.approx(usual.contrast, rel=0.05)
    assert other.response == usual.response


@pytest.mark.parametrize("seed", range(3))
def test_both_ways_make_the_same_pairs(seed: int, clip: Clip, reblurrer: FlowReblurrer) -> None:
    def window() -> Tensor:
        fitted = replace(reblurrer, clip_motion=ClipMotion(clip))  # which keeps the flows of one way
        return fitted.reblur_window(clip, PLACE, 3, seeded(seed))

    usual, other = both(window)
    assert float(psnr(usual, other).min()) > 50


def test_both_ways_vote_the_same(clip: Clip, reblurrer: FlowReblurrer) -> None:
    def figures() -> dict[str, float]:
        fitted = replace(reblurrer, clip_motion=ClipMotion(clip))
        samples = choose_samples(clip, 1, GUARD)
        restored = [sharper(Clip(sample.blurred)) for sample in samples]
        return look_at(samples, restored, fitted)

    usual, other = both(figures)
    assert usual.keys() == other.keys()
    for name, figure in usual.items():
        assert other[name] == pytest.approx(figure, abs=0.15 if name == "flicker" else 0.02), name


def test_both_ways_correct_brightness_alike(clip: Clip) -> None:
    window = clip.window(3, 3)
    window[2] = window[2] * 0.7
    usual, other = both(lambda: matched_window(window))
    assert not torch.equal(usual[2], window[2])
    assert float(psnr(usual, other).min()) > 55


# --- nothing leaves a device ---------------------------------------------------------------------------------------


class Softer(nn.Module):
    """A deblurrer of one convolution."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.share * (x - F.avg_pool2d(x, 3, 1, 1))


@pytest.mark.usefixtures("tiny_pictures")
def test_choosing_blurring_and_judging_take_no_picture_off_the_device(clip: Clip) -> None:
    dimmed = clip.frames[:6].clone()
    dimmed[5:] *= 0.75
    lit, base = Clip(dimmed), Softer(0.1)
    with backend("torch"), NothingLeaves(HEIGHT * WIDTH // 2) as leaving:
        support = choose_support(lit, pairs=2, patch=32, candidates=40, generator=seeded())
        fitted = fit_flow_reblurrer(lit, generator=seeded(), places=support.train, exposure=0.9)
        make = partial(make_pairs, lit, reblurrer=fitted, blurs=1, frames=3, generator=seeded())
        pairs = make(support.held_out, sharpener=Sharpener(base, lit))
        pairs += make([replace(support.train[0], shrunk=True)], sharpener=Sharpener(base, lit))
        centres = [(pair.centre, pair.sharp) for pair in pairs]
        settings = replace(GUARD, least_gain_db=-100.0)
        verdict = judge(base, Softer(0.2), lit, centres, reblurrer=fitted, settings=settings)
        fusing = judge_fusion(base, lit, FusionSettings(radius=1, exposure=0.9), reblurrer=fitted, settings=GUARD)
    assert {reason.name for reason in verdict.reasons} >= {"sharpness", "colour drift", "ringing"}
    assert fusing[1]
    assert leaving.left == []


def test_the_counting_counts() -> None:
    with NothingLeaves(10) as leaving:
        torch.zeros(20).numpy()
        torch.zeros(20).cpu()
        np.asarray(torch.zeros(20))
        torch.zeros(5).tolist()
    assert len(leaving.left) >= 3


class Mixed(TorchDispatchMode):
    """Notes operations on tensors of two devices, and tensors that come to main memory."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim}
        result = func(*args, **(kwargs or {}))
        after = {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        if len(before) > 1 or (before == {"meta"} and "cpu" in after):
            self.wrong.append(str(func))
        return result


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks a device for single figures gets some, and pictures that are compared in main memory are black."""
    monkeypatch.setattr(motion, "small_frame", lambda _: np.zeros((24, 32, 3), np.float32))
    monkeypatch.setattr(paths, "_told", lambda *_: (6.0, 9.0, 5.0, 0.5))
    for module in (paths, reblurring):
        monkeypatch.setattr(module, "median", lambda _: 3.0)
    monkeypatch.setattr(reblurring, "quantile", lambda *_: 5.0)
    monkeypatch.setattr(reblurring, "estimate_noise", lambda _: np.eye(3) * 1e-4)
    monkeypatch.setattr(choosing, "_in_memory", lambda measured: np.zeros(torch.stack(measured).shape))
    monkeypatch.setattr(F, "grid_sample", grid_sample)
    monkeypatch.setattr(optical_flow, "torch_flow", flow_of_shapes)


def grid_sample(pictures: Tensor, grid: Tensor, *_: Any, **__: Any) -> Tensor:
    """As PyTorch's, of shapes: on "meta" that is taken apart into hundreds of steps of Python."""
    assert pictures.device == grid.device
    return pictures.new_empty(*pictures.shape[:2], *grid.shape[1:3])


def flow_of_shapes(sources: Tensor, targets: Tensor) -> Tensor:
    """As PyTorch's flow, which is thousands of steps."""
    assert sources.device == targets.device == META
    return sources.new_empty(*sources.shape, 2, dtype=torch.float32)


@pytest.mark.usefixtures("without_values")
def test_making_pairs_mixes_no_devices(clip: Clip) -> None:
    there = clip.to(META)
    with Mixed() as mixed:
        fitted = fit_flow_reblurrer(there, generator=seeded(), exposure=0.9, places=[PLACE])
        windows = [fitted.reblur_window(there, PLACE, 3, seeded(seed)) for seed in range(3)]
        part, _ = blur_patch(there[0], 8, 8, np.ones((40, 40, 2), np.float32), torch.ones(40, 40, 2), 0.5)
    assert all(window.shape == (3, 3, 48, 48) and window.device == META for window in windows)
    assert part.device == META
    assert mixed.wrong == []


@pytest.mark.usefixtures("without_values")
def test_scores_exposure_and_votes_mix_no_devices(clip: Clip) -> None:
    there = clip.to(META)
    tops, lefts = np.array([0, 20]), np.array([5, 60])
    field = ClipMotion(there).field(2)
    with Mixed() as mixed:
        choosing._survey(there, tops, lefts, 32, guided=True)
        light = torch.rand(HEIGHT, WIDTH, device=META)
        for one in estimating._blurred(light, field.velocity.float(), field.bend.float(), CANDIDATES):
            estimating._unexplained(one, light)
        forward = dis_flow(there[0], there[1])
        warp_frame(there[1], forward)
    assert forward.device == META
    assert mixed.wrong == []


def test_each_frame_goes_to_a_device_once(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Clip((clip.frames * 255).byte())
    with Mixed():
        there = stored.to(META)
        frames = [there[index % 3] for index in range(9)]
    assert {frame.device for frame in frames} == {META}
    assert frames[0].dtype == torch.float32
    assert there._source[0] is there._source[0]
    assert stored.to(torch.device("cpu")) is stored
    assert there.to(META) is there
    monkeypatch.setattr("metadeblur.clip._KEPT_BYTES", 2 * 3 * HEIGHT * WIDTH)
    few = stored.to(META)
    first = few._source[0]
    assert few._source[1] is few._source[1]
    assert few._source[2] is few._source[2]
    assert few._source[0] is not first

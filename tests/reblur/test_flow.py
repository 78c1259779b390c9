"""Reblurring by optical flow: analytic averages, the exposure of made clips, and what must hold for any picture."""

import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.linear_light import RESPONSES, to_display, to_linear
from metadeblur.imaging.motion import ClipMotion
from metadeblur.imaging.noise import draw_noise, estimate_noise
from metadeblur.imaging.optical_flow import dense_flow
from metadeblur.reblur.exposure import estimate_exposure
from metadeblur.reblur.flow import FlowSettings, fit_flow_reblurrer
from metadeblur.reblur.paths import blur_patch
from metadeblur.reblur.place import Place


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def place(frame: int, blurred_frame: int, *, top: int = 16, left: int = 24, size: int = 48) -> Place:
    return Place(frame, top, left, size, score=25.0, blurred_frame=blurred_frame, blurred_score=32.0)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Light (h, w, 3) in [0, 1] with structure of several sizes."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for sigma in (1.2, 3.0, 8.0):
        layer = cv2.GaussianBlur(random.standard_normal((height, width, 3)).astype(np.float32), (0, 0), sigma)
        total += layer / layer.std()
    return np.clip(0.35 + 0.12 * total, 0.01, 0.99)


def moving(
    positions: Any, exposure: float, *, frames: int, size: tuple[int, int] = (128, 176), response: str = "srgb"
) -> Clip:
    """A camera over a texture: frame t averages the light at ``positions(t + s)``, s over the exposure.

    Positions are (x, y), or (x, y, zoom): the picture is so many times as large, about its middle.
    """
    height, width = size
    canvas = texture(height + 120, width + 160)
    shown = []
    for t in range(frames):
        times = t + ((np.arange(41) + 0.5) / 41 - 0.5) * exposure if exposure else [t]
        light = 0
        for s in times:
            x, y, zoom = (*positions(s), 1.0)[:3]
            right, down = ((1 - 1 / zoom) * side / 2 for side in (width, height))
            shift = np.array([[1 / zoom, 0, x + 80 + right], [0, 1 / zoom, y + 60 + down]], np.float32)
            light = light + cv2.warpAffine(canvas, shift, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        mean = torch.from_numpy(np.asarray(light, np.float32) / len(times)).permute(2, 0, 1)
        shown.append(to_display(mean, response))
    return Clip(torch.stack(shown))


def shaky(t: float) -> tuple[float, float]:
    """A hand that speeds up and slows down: up to 9 px a frame."""
    return 16 * np.sin(0.5 * t), 10 * np.sin(0.4 * t + 1)


def psnr(one: Tensor, two: Tensor) -> float:
    return float(-10 * torch.log10(torch.mean((one - two) ** 2)))


def test_translation_matches_the_analytic_average() -> None:
    def steady(t: float) -> tuple[float, float]:
        return 6.0 * t, -2.5 * t

    sharp, blurred = (moving(steady, exposure, frames=5) for exposure in (0.0, 0.8))
    reblurrer = fit_flow_reblurrer(
        sharp, generator=seeded(), exposure=0.8, places=[place(2, 2)], settings=FlowSettings(colocated=1.0)
    )
    patch = reblurrer.reblur(sharp, place(2, 2), seeded())
    truth = blurred[2][:, 16:64, 24:72]
    assert psnr(patch, truth) > 35
    assert psnr(sharp[2][:, 16:64, 24:72], truth) < 28
    assert reblurrer.motion == pytest.approx(0.8 * np.hypot(6.0, 2.5), rel=0.1)


def test_a_window_shows_what_the_moving_camera_saw() -> None:
    def steady(t: float) -> tuple[float, float]:
        return 6.0 * t, -2.5 * t

    sharp, blurred = (moving(steady, exposure, frames=5) for exposure in (0.0, 0.8))
    reblurrer = fit_flow_reblurrer(
        sharp, generator=seeded(), exposure=0.8, settings=FlowSettings(any_frame=0.0, colocated=1.0)
    )
    where = place(2, 2)
    window = reblurrer.reblur_window(sharp, where, 3, seeded())
    assert psnr(window[1], reblurrer.reblur(sharp, where, seeded())) > 40
    inside = (slice(None), slice(where.top, where.top + where.size), slice(where.left, where.left + where.size))
    for patch, frame in zip(window, (1, 2, 3), strict=True):
        assert psnr(patch, blurred[frame][inside]) > 33
    assert psnr(window[0], blurred[2][inside]) < 25


def test_neighbours_are_as_sharp_beside_the_patch_as_the_clips_frames_beside_its_blurred_one() -> None:
    def jerk(t: float) -> tuple[float, float]:
        return 12.0 * min(max(t - 3, 0), 2), 0.0

    where = place(0, 4)
    told = FlowSettings(any_frame=0.0, colocated=1.0)
    clip = moving(jerk, 0.0, frames=9)
    reblurrer = fit_flow_reblurrer(clip, generator=seeded(), exposure=1.0, settings=told)
    detail = [float(patch.diff(dim=-1).square().mean()) for patch in reblurrer.reblur_window(clip, where, 5, seeded())]
    assert max(detail[1:4]) < 0.7 * min(detail[0], detail[4])
    assert detail[2] == min(detail)
    steady = moving(lambda t: (6.0 * t, 0.0), 0.0, frames=9)
    alike = fit_flow_reblurrer(steady, generator=seeded(), exposure=1.0, settings=told)
    detail = [float(patch.diff(dim=-1).square().mean()) for patch in alike.reblur_window(steady, where, 5, seeded())]
    assert max(detail) < 1.35 * min(detail)


def test_curved_path_matches_the_analytic_average() -> None:
    velocity = np.zeros((48, 48, 2), np.float32)
    velocity[..., 0], bend = 8, np.zeros_like(velocity)
    bend[..., 1] = -6

    # The camera's position is the opposite of the picture's displacement.
    def parabola(t: float) -> tuple[float, float]:
        return -8.0 * t, 6.0 * t * t

    sharp, blurred = (moving(parabola, exposure, frames=1) for exposure in (0.0, 1.2))
    curved, length = blur_patch(sharp[0], 16, 24, velocity, bend, 1.2)
    straight, _ = blur_patch(sharp[0], 16, 24, velocity, np.zeros_like(bend), 1.2)
    truth = blurred[0][:, 16:64, 24:72]
    assert psnr(curved, truth) > 45
    assert psnr(curved, truth) > psnr(straight, truth) + 10
    assert length == pytest.approx(9.6)


@pytest.mark.parametrize("exposure", [0.5, 0.9, 1.4])
def test_exposure_is_found(exposure: float) -> None:
    clip = moving(shaky, exposure, frames=14)
    estimate = estimate_exposure(ClipMotion(clip))
    assert estimate is not None
    assert estimate.strong
    assert estimate.exposure == pytest.approx(exposure, abs=0.2)
    assert estimate.response == "srgb"


@pytest.mark.parametrize("growth", [0.08, -0.08])
def test_exposure_is_found_where_the_camera_zooms(growth: float) -> None:
    """What grows from frame to frame has longer paths in the next frame, which do not mean another blur."""

    def zooming(t: float) -> tuple[float, float, float]:
        x, y = shaky(t)
        return 0.2 * x, 0.2 * y, float(np.exp(growth * (t - 5)))

    estimate = estimate_exposure(ClipMotion(moving(zooming, 0.9, frames=11, size=(200, 280))))
    assert estimate is not None
    assert estimate.strong
    assert estimate.exposure == pytest.approx(0.9, abs=0.1)


@pytest.mark.parametrize("growth", [0.05, 0.08, -0.08])
def test_an_even_zoom_does_not_tell_its_exposure(growth: float) -> None:
    clip = moving(lambda t: (0.0, 0.0, float(np.exp(growth * (t - 5)))), 0.9, frames=11, size=(200, 280))
    estimate = estimate_exposure(ClipMotion(clip))
    assert estimate is None or not estimate.strong


def test_a_short_exposure_is_told_from_a_long_one() -> None:
    estimate = estimate_exposure(ClipMotion(moving(shaky, 0.0, frames=12)))
    assert estimate is not None
    assert estimate.exposure < 0.2


def test_reblurred_patches_are_as_blurred_as_the_real_ones() -> None:
    """A frame that stands still and a fast one: the pseudo-blurred patch resembles the truth at that motion."""

    def jerk(t: float) -> tuple[float, float]:
        return 7.0 * max(0.0, t - 4.5), 0.0

    clip = moving(jerk, 0.8, frames=10)
    places = [place(2, 7, top=top, left=left) for top in (16, 50) for left in (20, 60, 100)]
    reblurrer = fit_flow_reblurrer(
        clip, generator=seeded(), exposure=0.8, places=places, settings=FlowSettings(colocated=1.0)
    )
    assert reblurrer.motion == pytest.approx(5.6, abs=0.6)
    patch = reblurrer.reblur(clip, places[0], seeded())
    # What the still frame would look like had it moved so: the same texture averaged over 5.6 px.
    still = moving(lambda t: (7.0 * t, 0.0), 0.8, frames=1)[0]
    assert psnr(patch, still[:, 16:64, 20:68]) > 33


def test_same_generator_same_patch_and_other_generator_another() -> None:
    clip = moving(shaky, 0.8, frames=8)
    places = [place(3, 1), place(4, 6, left=60)]
    first, second = (fit_flow_reblurrer(clip, generator=seeded(5), places=places) for _ in range(2))
    assert first.describe() == second.describe()
    assert torch.equal(first.reblur(clip, places[0], seeded(1)), second.reblur(clip, places[0], seeded(1)))
    drawn = [first.reblur(clip, places[0], seeded(seed)) for seed in range(6)]
    assert any(not torch.equal(drawn[0], patch) for patch in drawn[1:])


def test_global_randomness_is_left_alone() -> None:
    clip = moving(shaky, 0.8, frames=5)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fit_flow_reblurrer(clip, generator=seeded()).reblur(clip, place(2, 3), seeded())
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002


def test_a_static_clip_has_no_motion_and_keeps_its_patches() -> None:
    clip = moving(lambda _: (0.0, 0.0), 0.0, frames=6)
    reblurrer = fit_flow_reblurrer(clip, generator=seeded(), places=[place(2, 3)])
    assert reblurrer.motion < 0.2
    assert reblurrer.describe()["motion_px"] < 0.2
    assert psnr(reblurrer.reblur(clip, place(2, 3), seeded()), clip[2][:, 16:64, 24:72]) > 35


def test_describe_is_ready_for_json_and_says_where_the_exposure_comes_from() -> None:
    clip = moving(shaky, 0.8, frames=10)
    estimated = fit_flow_reblurrer(clip, generator=seeded()).describe()
    given_ = fit_flow_reblurrer(clip, generator=seeded(), exposure=0.6).describe()
    still = fit_flow_reblurrer(clip.part(0, 1), generator=seeded()).describe()
    for description in (estimated, given_, still):
        assert json.loads(json.dumps(description)) == description
    assert estimated["exposure_source"] == "estimated"
    assert estimated["exposure_evidence"]["votes"] >= 40
    assert (given_["exposure_source"], given_["exposure"]) == ("given", 0.6)
    assert still["exposure_source"] == "prior"
    assert still["exposure_drawn_from"] == [0.5, 1.0]
    assert still["motion_px"] == 0


@pytest.mark.parametrize(
    ("height", "width", "frames"), [(1, 1, 3), (8, 8, 4), (12, 40, 3), (24, 200, 3), (33, 47, 5), (101, 77, 3)]
)
def test_odd_and_tiny_frames(height: int, width: int, frames: int) -> None:
    clip = Clip(torch.rand(frames, 3, height, width, generator=seeded()))
    size = min(height, width)
    spot = Place(1, 0, width - size, size, score=20.0, blurred_frame=2, blurred_score=25.0)
    reblurrer = fit_flow_reblurrer(clip, generator=seeded(), places=[spot])
    patch = reblurrer.reblur(clip, spot, seeded())
    assert patch.shape == (3, size, size)
    assert patch.dtype == torch.float32
    assert not patch.requires_grad
    assert 0 <= float(patch.min()) <= float(patch.max()) <= 1


def test_clips_of_one_and_two_frames() -> None:
    clip = moving(shaky, 0.8, frames=2)
    for count in (1, 2):
        part = clip.part(0, count)
        reblurrer = fit_flow_reblurrer(part, generator=seeded())
        assert reblurrer.reblur(part, place(0, count - 1), seeded()).shape == (3, 48, 48)


def test_a_patch_at_the_border_sees_the_frame_around_it() -> None:
    """The same light whether the patch is cut out before or after blurring: nothing ends at the patch's border."""
    frame = moving(shaky, 0.0, frames=1)[0]
    velocity = np.full((128, 176, 2), 9.0, np.float32)
    whole, _ = blur_patch(frame, 0, 0, velocity, np.zeros_like(velocity), 1.0)
    part, _ = blur_patch(frame, 40, 60, velocity[:32, :32], np.zeros((32, 32, 2), np.float32), 1.0)
    assert torch.allclose(part, whole[:, 40:72, 60:92], atol=1e-6)


def test_errors_say_what_is_wrong() -> None:
    clip = moving(shaky, 0.5, frames=4)
    with pytest.raises(MetadeblurError, match=r"exposure 3\.0 is not allowed"):
        fit_flow_reblurrer(clip, generator=seeded(), exposure=3.0)
    reblurrer = fit_flow_reblurrer(clip, generator=seeded(), exposure=0.5)
    with pytest.raises(MetadeblurError, match="reaches over the frame of 176x128"):
        reblurrer.reblur(clip, place(1, 2, top=100), seeded())
    with pytest.raises(MetadeblurError, match="fit one for each clip"):
        reblurrer.reblur(clip.part(0, 3), place(1, 2), seeded())


def test_motion_is_kept_within_bounds() -> None:
    clip = Clip(torch.rand(12, 3, 48, 64, generator=seeded()))
    motion = ClipMotion(clip, cache=ClipCache(megabytes=0.2))
    fields = [motion.field(index) for index in range(12)]
    assert motion.field(11) is fields[11]
    assert motion.field(0) is not fields[0]
    assert (motion.field(0).velocity == fields[0].velocity).all()


def test_flow_is_reduced_and_in_pixels_of_the_frame() -> None:
    clip = moving(lambda t: (-5.0 * t, 3.0 * t), 0.0, frames=3, size=(120, 160))
    motion = ClipMotion(clip, pixels=5_000)
    assert motion.height * motion.width <= 5_200
    middle = motion.field(1).velocity[15:-15, 15:-15].reshape(-1, 2).float().numpy()
    assert np.median(middle, axis=0) == pytest.approx([5.0, -3.0], abs=0.3)


@given(st.integers(1, 150), st.integers(1, 150))
@settings(max_examples=20, deadline=None)
def test_flow_of_any_size_is_finite(height: int, width: int) -> None:
    picture = np.random.default_rng(height * 151 + width).integers(0, 256, (height, width), dtype=np.uint8)
    flow = dense_flow(picture, np.roll(picture, 1, axis=1))
    assert flow.shape == (height, width, 2)
    assert np.isfinite(flow).all()


speeds = st.floats(-40, 40, allow_nan=False, width=32)
exposures = st.floats(0, 1.5)


@given(speeds, speeds, speeds, exposures, st.sampled_from(RESPONSES), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_constant_picture_stays_constant(
    x: float, y: float, curve: float, exposure: float, response: Any, value: float
) -> None:
    velocity, bend = (np.broadcast_to(np.array(v, np.float32), (12, 12, 2)) for v in ((x, y), (curve, -curve)))
    patch, _ = blur_patch(torch.full((3, 40, 40), value), 10, 20, velocity, bend, exposure, response)
    assert torch.allclose(patch, torch.full_like(patch, value), atol=3e-4)  # gamma22 gives 2.3e-4 for the darkest light


@given(speeds, speeds, exposures, st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_values_stay_in_range_and_finite(x: float, y: float, exposure: float, seed: int) -> None:
    frame = torch.rand(3, 40, 48, generator=seeded(seed)).round()
    velocity = np.broadcast_to(np.array([x, y], np.float32), (16, 16, 2))
    patch, length = blur_patch(frame, 24, 0, velocity, np.zeros_like(velocity), exposure)
    assert bool(torch.isfinite(patch).all())
    assert 0 <= float(patch.min()) <= float(patch.max()) <= 1
    assert length == pytest.approx(exposure * np.hypot(x, y), abs=1e-3)


@given(st.floats(-6, 6), st.floats(-6, 6), exposures, st.sampled_from(RESPONSES))
@settings(max_examples=20, deadline=None)
def test_mean_light_is_kept(x: float, y: float, exposure: float, response: Any) -> None:
    """Light that stays inside the patch is spread, not lost: a spot on a grey ground."""
    light = torch.full((3, 64, 64), 0.2)
    light[:, 28:36, 28:36] = 0.6
    velocity = np.broadcast_to(np.array([x, y], np.float32), (48, 48, 2))
    patch, _ = blur_patch(to_display(light, response), 8, 8, velocity, np.zeros_like(velocity), exposure, response)
    assert float(to_linear(patch, response).mean()) == pytest.approx(float(light[:, 8:56, 8:56].mean()), rel=1e-3)


@given(st.sampled_from(RESPONSES), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_linear_light_goes_there_and_back(response: Any, seed: int) -> None:
    display = torch.rand(3, 5, 7, generator=seeded(seed))
    linear = to_linear(display, response)
    # Light below 1e-8 comes back as that, 2.3e-4 of gamma 2.2, where the root has no finite slope: 0.06 levels of 255.
    assert torch.allclose(to_display(linear, response), display, atol=2.5e-4)
    assert bool((linear <= display + 1e-6).all())


def test_linear_light_has_a_gradient_at_black_and_refuses_unknown_curves() -> None:
    for response in RESPONSES:
        black = torch.zeros(3, requires_grad=True)
        to_display(to_linear(black, response), response).sum().backward()
        assert black.grad is not None
        assert bool(torch.isfinite(black.grad).all())
    with pytest.raises(MetadeblurError, match="'log' is not known; choose one of srgb, gamma22, linear"):
        to_linear(torch.zeros(1), "log")  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [0.0, 0.01, 0.03])
def test_noise_is_measured_beside_texture(level: float) -> None:
    picture = to_display(torch.from_numpy(texture(192, 256)).permute(2, 0, 1))
    picture[:, 64:, :] = torch.linspace(0.3, 0.6, 256)
    noisy = picture + level * torch.randn(3, 192, 256, generator=seeded())
    found = np.sqrt(np.diag(estimate_noise([noisy])))
    assert found == pytest.approx([level] * 3, rel=0.15, abs=1e-3)


def test_noise_has_the_covariance_asked_for() -> None:
    mixing = np.array([[0.02, 0, 0], [0.01, 0.02, 0], [0, 0.01, 0.01]])
    covariance = mixing @ mixing.T
    noise = draw_noise(covariance, 128, 128, seeded()).reshape(3, -1).double().numpy()
    assert np.cov(noise) == pytest.approx(covariance, abs=2e-5)
    assert float(draw_noise(np.zeros((3, 3)), 8, 8, seeded()).abs().max()) == 0


def test_reblurred_patches_have_the_clips_noise() -> None:
    def slow_pan(t: float) -> tuple[float, float]:
        return 8.0 * t, 0.0

    ramp = torch.linspace(0.3, 0.7, 128)[None, :, None].expand(3, 128, 176)
    clean = torch.stack([ramp.clone() for _ in range(6)])
    textured = moving(slow_pan, 0.0, frames=6).frames
    clean[:, :, :40] = textured[:, :, :40]
    noisy = Clip((clean + 0.02 * torch.randn(clean.shape, generator=seeded())).clamp(0, 1))
    reblurrer = fit_flow_reblurrer(noisy, generator=seeded(), exposure=0.9, places=[place(2, 3)])
    assert reblurrer.describe()["noise_std_255"] == pytest.approx([5.1] * 3, rel=0.2)


def test_a_real_clip_tells_its_exposure(shared: Any) -> None:
    """The action-camera clip was averaged over 1.5 frame intervals, in linear light."""
    files = sorted((shared / "data" / "val" / "hero7" / "blur").iterdir())
    frames = torch.from_numpy(np.stack([cv2.imread(str(file))[..., ::-1] for file in files]))
    estimate = estimate_exposure(ClipMotion(Clip(frames.permute(0, 3, 1, 2))))
    assert estimate is not None
    assert estimate.strong
    assert estimate.exposure == pytest.approx(1.5, abs=0.2)
    assert estimate.response == "srgb"

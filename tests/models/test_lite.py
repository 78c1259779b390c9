"""Lite on windows: motion, what it is told of it, ends of clips, single pictures, tiles; and training windows."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metadeblur.data.layouts import plain_clips
from metadeblur.data.pairs import PairSampler
from metadeblur.imaging.optical_flow import window_flows
from metadeblur.models.lite import ALONG, Lite, prepared_channels
from metadeblur.models.weights import load_deblurrer
from metadeblur.restoration.restorer import Restorer, RestoreSettings

VELOCITY = (5, -3)  # px a frame, x then y


def texture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """(3, H, W) in [0, 1] with detail of several sizes."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(3, height, width)
    for cell in (3, 8, 24):
        coarse = torch.rand(1, 3, height // cell + 2, width // cell + 2, generator=generator)
        total += F.interpolate(coarse, (height, width), mode="bilinear")[0] / 3
    return total


def moving(frames: int, height: int = 96, width: int = 128) -> torch.Tensor:
    """(T, 3, H, W): a picture that moves by VELOCITY a frame."""
    wide = texture(height + 100, width + 100)
    corners = [(50 - VELOCITY[1] * t, 50 - VELOCITY[0] * t) for t in range(frames)]
    return torch.stack([wide[:, top : top + height, left : left + width] for top, left in corners])


def window_lite(frames: int = 3) -> Lite:
    torch.manual_seed(0)
    net = Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,), frames=frames)
    nn.init.normal_(net.head.weight, std=0.02)
    return net.eval()


def inside(field: torch.Tensor) -> torch.Tensor:
    return field[..., 24:-24, 24:-24]


def test_flows_of_a_moving_picture_lead_to_each_neighbour():
    flows = inside(window_flows(moving(5))).mean((2, 3))
    expected = [[*(shift * part for part in VELOCITY), 1] for shift in (-2, -1, 1, 2)]
    assert flows.tolist() == pytest.approx(np.array(expected), abs=0.5)


@pytest.mark.parametrize(("window", "gone"), [((0, 0, 1), 0), ((0, 1, 1), 1)])
def test_flow_to_a_frame_that_is_the_centre_is_zero(window, gone):
    flows = inside(window_flows(moving(2)[list(window)])).mean((2, 3))
    assert flows[gone].tolist() == [0, 0, 1]
    expected = [*((2 * gone - 1) * -part for part in VELOCITY), 1]
    assert flows[1 - gone].tolist() == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("window", [(0, 0, 1), (0, 1, 1), (0, 1, 2)])
def test_the_motion_at_the_ends_of_a_clip_is_that_of_the_one_neighbour(window):
    prepared = inside(window_lite().prepare_window(moving(3)[list(window)][None]))
    length = prepared[:, 3 + len(ALONG) + 6].mean() / 0.1
    assert float(length) == pytest.approx(np.hypot(*VELOCITY), abs=0.4)


def test_flows_are_in_pixels_of_the_frame_where_they_are_computed_on_a_reduced_one():
    flows = window_flows(moving(3, 192, 256), pixels=192 * 256 // 4)
    assert flows.shape == (2, 3, 96, 128)
    assert flows[1, :2, 12:-12, 12:-12].mean((1, 2)).tolist() == pytest.approx(VELOCITY, abs=0.5)


def behind_a_bar(frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """A texture that stands still behind a bar that moves 24 px a frame, (T, 3, H, W); and the centre's pixels that the
    bar hides in the last frame, (H, W)."""
    scene, bar = texture(128, 192, 1), texture(128, 24, 2) * 0.5
    clip = scene.repeat(frames, 1, 1, 1)
    for index in range(frames):
        clip[index, :, :, 48 + 24 * index : 72 + 24 * index] = bar
    hidden = torch.zeros(128, 192, dtype=torch.bool)
    start = 48 + 24 * (frames - 1)
    hidden[32:-32, start + 6 : start + 18] = True
    return clip, hidden


def test_a_flow_to_what_is_hidden_in_the_neighbour_is_not_trusted():
    clip, hidden = behind_a_bar()
    trust = window_flows(clip)[1, 2]
    assert float(trust[hidden].mean()) < 0.3
    assert float(trust[32:-32, 8:40].min()) == 1


def test_a_flow_that_leads_out_of_the_neighbour_is_not_trusted():
    trust = window_flows(moving(3))[1, 2]
    assert float(trust[24:-24, -4:].max()) == 0  # what moves to the right is gone from the next frame


def test_what_a_neighbour_hides_does_not_reach_the_network():
    clip, hidden = behind_a_bar()
    prepared = window_lite().prepare_window(clip[None])[0]
    there = prepared[3 + len(ALONG) + 3 : 3 + len(ALONG) + 6].abs().mean(0)
    flows = window_flows(clip)[None]
    flows[:, :, 2] = 1  # everything trusted
    trusted = window_lite().prepare_window(clip[None], flows)[0, 3 + len(ALONG) + 3 : 3 + len(ALONG) + 6].abs().mean(0)
    assert float(there[hidden].mean()) < 0.3 * float(trusted[hidden].mean())


@pytest.mark.parametrize("frames", [3, 5])
def test_warped_neighbours_lie_on_the_centre(frames):
    clip = moving(frames)
    prepared = inside(window_lite(frames).prepare_window(clip[None]))
    assert prepared.shape[1] == prepared_channels(frames)
    first = 3 + len(ALONG)
    apart = (clip[frames // 2 - 1] - clip[frames // 2]).abs().mean()
    starts = [first, first + 3, *range(first + 9, prepared_channels(frames), 3)]
    assert len(starts) == frames - 1
    for start in starts:
        assert prepared[:, start : start + 3].abs().mean() / 4 < 0.2 * apart
    still = window_lite().prepare_window(moving(2)[[0, 0, 1]][None])
    # The centre itself, at the end of a clip, is not moved.
    assert float(still[:, first : first + 3].abs().max()) < 1e-5


def test_each_neighbour_has_its_own_place_among_the_channels():
    clip = moving(5)
    quiet = window_lite(5).prepare_window(clip[None])
    first = 3 + len(ALONG)
    for frame, start in ((1, first), (3, first + 3), (0, first + 9), (4, first + 12)):
        louder = clip.clone()
        louder[frame, 0] += 0.01  # red only: the flow, found in grey, hardly changes
        change = (window_lite(5).prepare_window(louder[None]) - quiet).abs().mean((0, 2, 3))
        assert int(change.argmax()) == start


def test_samples_along_the_motion_are_what_lies_there():
    frames = moving(3)
    prepared = window_lite().prepare_window(frames[None])
    luma = (frames[1] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    one = prepared[0, 3 + ALONG.index(1.0)] / 4 + luma
    there = luma.roll((-VELOCITY[1], -VELOCITY[0]), (0, 1))
    assert float((inside(one) - inside(there)).abs().mean()) < 0.01


def test_a_single_picture_is_a_window_that_stands_still():
    net, frame = window_lite(), texture(32, 48)[None]
    assert torch.equal(net(frame), net(frame[:, None].expand(-1, 3, -1, -1, -1)))
    assert torch.allclose(net.prepare_window(frame)[:, 3:-3], torch.zeros(()), atol=1e-5)
    five = window_lite(5)
    assert torch.equal(five(frame), five(frame[:, None].expand(-1, 5, -1, -1, -1)))


def test_gradient_reaches_the_centre():
    frames = moving(3)[None].requires_grad_()
    window_lite()(frames).sum().backward()
    assert frames.grad is not None
    assert bool(frames.grad[:, 1].abs().sum() > 0)


@pytest.mark.parametrize("frames", [1, 3, 5, 7])
def test_sizes_and_windows_are_read_from_the_weights(frames):
    net = window_lite(frames)
    again = Lite.from_weights(net.state_dict())
    assert again.frames == frames
    window = moving(frames)[None] if frames > 1 else moving(1)
    assert torch.equal(again(window), net(window))


def test_the_built_in_model_takes_windows_of_five():
    assert load_deblurrer("lite").frames == 5


@pytest.mark.slow
def test_tiles_leave_no_seam_on_the_built_in_model():
    net, window = load_deblurrer("lite"), moving(5, 256, 640)
    whole, tiled = (
        Restorer(net, 256, 640, RestoreSettings(tile=tile, device="cpu", precision="fp32"))(window) for tile in (0, 192)
    )
    assert float((whole - window[2]).abs().max()) > 0.01
    assert float((tiled - whole).abs().max()) < 1e-3


@pytest.fixture
def clips(tmp_path):
    for side in ("sharp", "blur"):
        (tmp_path / "clip" / side).mkdir(parents=True)
        for index, frame in enumerate(moving(3)):
            picture = (frame * 255).byte().permute(1, 2, 0).numpy()[..., ::-1]
            cv2.imwrite(str(tmp_path / "clip" / side / f"{index}.png"), np.ascontiguousarray(picture))
    return plain_clips(tmp_path)


@pytest.mark.parametrize("frames", [3, 5])
def test_turned_and_mirrored_training_windows_keep_their_motion(clips, frames):
    batch = PairSampler(clips, patch=64, batch=48, seed=0, frames=frames)(0)
    assert batch.blurred.shape == (48, frames, 3, 64, 64)
    assert batch.flows.shape == (48, frames - 1, 3, 32, 32)
    half = frames // 2
    ways = {tuple(flow.mean((1, 2)).round().int().tolist()) for flow in batch.flows[:, half, :2] if flow.any()}
    assert len(ways) == 8  # all ways to turn
    net = window_lite(frames)
    first = 3 + len(ALONG)
    prepared = net.prepare_window(batch.blurred, batch.flows)[..., 12:-12, 12:-12]
    lying = prepared[:, first : first + 6].abs().mean((1, 2, 3)) / 4
    apart = (batch.blurred[:, [half - 1, half + 1]] - batch.centre[:, None]).abs().mean((1, 2, 3, 4))
    assert bool((lying < 0.35 * apart).all())


def test_training_windows_that_stand_still_repeat_their_centre(clips):
    batch = PairSampler(clips, patch=32, batch=4, seed=0, frames=3, alone=1.0)(0)
    assert torch.equal(batch.blurred[:, 0], batch.centre)
    assert not batch.flows[:, :, :2].any()

"""Lite on windows: motion, what it is told of it, ends of clips, single pictures, tiles; and training windows."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metadeblur.data.layouts import plain_clips
from metadeblur.data.pairs import PairSampler
from metadeblur.networks.lite import ALONG, Lite
from metadeblur.optical_flow import window_velocity
from metadeblur.restore import Restorer, RestoreSettings
from metadeblur.weights import load_deblurrer

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


def window_lite() -> Lite:
    torch.manual_seed(0)
    net = Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,), frames=3)
    nn.init.normal_(net.head.weight, std=0.02)
    return net.eval()


def inside(field: torch.Tensor) -> torch.Tensor:
    return field[..., 24:-24, 24:-24]


def test_velocity_of_a_moving_picture():
    velocity = inside(window_velocity(moving(3))).mean((1, 2))
    assert velocity.tolist() == pytest.approx(VELOCITY, abs=0.3)


@pytest.mark.parametrize("window", [(0, 0, 1), (0, 1, 1)])
def test_velocity_at_the_ends_of_a_clip_is_that_of_the_one_neighbour(window):
    velocity = inside(window_velocity(moving(2)[list(window)])).mean((1, 2))
    assert velocity.tolist() == pytest.approx(VELOCITY, abs=0.3)


def test_velocity_is_in_pixels_of_the_frame_where_the_flow_is_computed_on_a_reduced_one():
    velocity = window_velocity(moving(3, 192, 256), pixels=192 * 256 // 4)
    assert velocity.shape == (2, 96, 128)
    assert velocity[:, 12:-12, 12:-12].mean((1, 2)).tolist() == pytest.approx(VELOCITY, abs=0.5)


def test_warped_neighbours_lie_on_the_centre():
    prepared = inside(window_lite().prepare_window(moving(3)[None]))
    first = 3 + len(ALONG)
    apart = (moving(3)[0] - moving(3)[1]).abs().mean()
    for part in (prepared[:, first : first + 3], prepared[:, first + 3 : first + 6]):
        assert part.abs().mean() / 4 < 0.2 * apart
    still = window_lite().prepare_window(moving(2)[[0, 0, 1]][None])
    # The centre itself, at the end of a clip, is not moved.
    assert float(still[:, first : first + 3].abs().max()) < 1e-5


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


def test_gradient_reaches_the_centre():
    frames = moving(3)[None].requires_grad_()
    window_lite()(frames).sum().backward()
    assert frames.grad is not None
    assert bool(frames.grad[:, 1].abs().sum() > 0)


def test_sizes_and_windows_are_read_from_the_weights():
    net = window_lite()
    again = Lite.from_weights(net.state_dict())
    assert again.frames == 3
    assert torch.equal(again(moving(3)[None]), net(moving(3)[None]))
    assert load_deblurrer("lite").frames == 3


def test_tiles_leave_no_seam_on_the_built_in_model():
    net, window = load_deblurrer("lite"), moving(3, 256, 640)
    whole, tiled = (
        Restorer(net, 256, 640, RestoreSettings(tile=tile, device="cpu", precision="fp32"))(window) for tile in (0, 192)
    )
    assert float((whole - window[1]).abs().max()) > 0.01
    assert float((tiled - whole).abs().max()) < 1e-3


@pytest.fixture
def clips(tmp_path):
    for side in ("sharp", "blur"):
        (tmp_path / "clip" / side).mkdir(parents=True)
        for index, frame in enumerate(moving(3)):
            picture = (frame * 255).byte().permute(1, 2, 0).numpy()[..., ::-1]
            cv2.imwrite(str(tmp_path / "clip" / side / f"{index}.png"), np.ascontiguousarray(picture))
    return plain_clips(tmp_path)


def test_turned_and_mirrored_training_windows_keep_their_motion(clips):
    sampler = PairSampler(clips, patch=64, batch=24, seed=0, frames=3)
    batch = sampler(0)
    assert batch.blurred.shape == (24, 3, 3, 64, 64)
    assert len({tuple(v.mean((1, 2)).round().int().tolist()) for v in batch.velocity}) == 8  # all ways to turn
    net = window_lite()
    first = 3 + len(ALONG)
    prepared = net.prepare_window(batch.blurred, batch.velocity)[..., 12:-12, 12:-12]
    lying = prepared[:, first : first + 6].abs().mean((1, 2, 3)) / 4
    apart = (batch.blurred[:, [0, 2]] - batch.centre[:, None]).abs().mean((1, 2, 3, 4))
    assert bool((lying < 0.35 * apart).all())


def test_training_windows_that_stand_still_repeat_their_centre(clips):
    batch = PairSampler(clips, patch=32, batch=4, seed=0, frames=3, alone=1.0)(0)
    assert torch.equal(batch.blurred[:, 0], batch.centre)
    assert not batch.velocity.any()

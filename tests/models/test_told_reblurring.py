"""The reblurring network that is told the motion: it blurs along it, and learns what that gets wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.linear_light import to_display, to_linear
from metadeblur.models.critic import Critic
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.told_reblurring import (
    EXPOSURE,
    ToldReblurNetwork,
    blur_along,
    fitted_path,
    own_velocity,
    told_motion,
)
from metadeblur.reblur.fitting import Item, NetworkReblurrer, ReblurStage
from metadeblur.reblur.settings import ReblurUpdates
from metadeblur.reblur.weights import load_reblurrer, save_reblurrer

SMALL = {"channels": 8, "units": 1, "width": 16, "blocks": 1, "heads": 2}
SPEED = 8  # px a frame


def moving(seed: int, axis: int, size: int = 32, smooth: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A window of a texture that moves along an axis (-1: to the right), its true blur, and the path of its pixels."""
    texture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    texture = F.avg_pool2d(F.pad(texture, (smooth // 2,) * 4, mode="circular"), smooth, 1)[0]
    window = torch.stack([texture.roll(SPEED * time, axis) for time in (-2, -1, 0, 1, 2)])
    light = [to_linear(texture.roll(shift, axis)) for shift in range(-SPEED // 2, SPEED // 2 + 1)]
    path = torch.zeros(2, size, size)
    path[0 if axis == -1 else 1] = SPEED
    return window, to_display(torch.stack(light).mean(0)), path


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean difference, without the border, where things come from outside the patch."""
    return float((one - other)[..., 6:-6, 6:-6].abs().mean())


def test_untrained_it_blurs_along_the_path_that_it_is_told_and_not_across_it():
    window, blurred, path = (part[None] for part in moving(0, -1))
    net = ToldReblurNetwork(**SMALL)
    with torch.no_grad():
        along, across = (apart(net(window, told), blurred) for told in (path, path.flip(1)))
    assert along < 0.1 * apart(window[:, 2], blurred)
    assert across > 5 * along


def test_it_learns_what_blur_along_the_path_gets_wrong():
    """Here all that is blurred also loses a third of its light on the right half."""
    torch.manual_seed(0)
    net = ToldReblurNetwork(**SMALL)
    darker = torch.ones(32)
    darker[16:] = 0.67
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)

    def drawn(seed):
        both = [torch.stack(parts) for parts in zip(moving(seed, -1), moving(seed + 1, -2), strict=True)]
        return both[0], both[1] * darker, both[2]

    for step in range(25):
        window, blurred, path = drawn(2 * step)
        loss = (net(window, path) - blurred).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    window, blurred, path = drawn(1000)
    with torch.no_grad():
        assert apart(net(window, path), blurred) < 0.7 * apart(blur_along(window[:, 2], path), blurred)


def test_a_path_that_is_not_given_is_that_of_the_window():
    torch.manual_seed(0)
    net = ToldReblurNetwork(**SMALL).eval()
    window, _, path = moving(3, -1, size=64, smooth=9)
    velocity = own_velocity(window[None])[0]
    assert (velocity - path)[:, 16:48, 16:48].abs().mean() < 0.5
    assert torch.equal(net(window[None]), net(window[None], EXPOSURE * velocity[None]))
    # A window that repeats its centre, as of a single picture, stands still.
    still = window[2].expand(1, 5, -1, -1, -1)
    assert torch.allclose(net(still), still[:, 2], atol=1e-3)
    with pytest.raises(MetadeblurError, match="give it windows"):
        net(window[None, :3])


def test_of_a_training_pair_the_time_that_the_shutter_was_open_is_found():
    window, _, path = moving(3, -1, size=64, smooth=9)
    windows = window.expand(2, -1, -1, -1, -1)
    shutter = torch.tensor([0.4, 1.0])[:, None, None, None]
    blurred = blur_along(windows[:, 2], shutter * path)
    found = fitted_path(windows, blurred)[:, 0, 16:48, 16:48].mean((1, 2)) / SPEED
    assert found.tolist() == pytest.approx([0.4, 1.0], rel=0.1)


@given(
    size=st.tuples(st.integers(32, 70), st.integers(32, 70)),
    speed=st.floats(0, 30),
    seed=st.integers(0, 1000),
)
@settings(max_examples=10, deadline=None)
def test_blur_along_a_path_keeps_range_size_and_flat_colours(size, speed, seed):
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(2, 3, *size, generator=generator)
    path = speed * torch.randn(2, 2, *size, generator=generator)
    blurred = blur_along(picture, path)
    assert blurred.shape == picture.shape
    assert blurred.min() >= 0
    assert blurred.max() <= 1
    flat = torch.full_like(picture, 0.3)
    assert torch.allclose(blur_along(flat, path), flat, atol=1e-5)


def test_weights_of_the_published_form_are_gone_on_with_and_their_blur_is_not_added_to_the_motion_s():
    torch.manual_seed(0)
    plain = ReblurNetwork(**SMALL)
    torch.nn.init.normal_(plain.decode.weight, std=0.1)
    told = told_motion(plain)
    window, path = torch.rand(1, 5, 3, 64, 64), torch.full((1, 2, 64, 64), 5.0)
    assert torch.allclose(told(window, path), blur_along(window[:, 2], path), atol=1e-6)
    assert told_motion(told) is told
    assert set(told.state_dict()) - set(plain.state_dict()) == {"told_e.weight"}
    assert torch.equal(told.conv3_e.weight, plain.conv3_e.weight)


def test_its_file_says_what_it_is(tmp_path):
    torch.manual_seed(0)
    net = ToldReblurNetwork(**SMALL).eval()
    torch.nn.init.normal_(net.decode.weight, std=0.1)
    save_reblurrer(NetworkReblurrer(net), tmp_path / "told.safetensors", {})
    again = load_reblurrer(tmp_path / "told.safetensors")
    assert isinstance(again.network, ToldReblurNetwork)
    window = moving(5, -1, size=64)[0]
    assert torch.equal(again.blur(window), NetworkReblurrer(net).blur(window))
    save_reblurrer(NetworkReblurrer(ReblurNetwork(**SMALL)), tmp_path / "plain.safetensors", {})
    assert not isinstance(load_reblurrer(tmp_path / "plain.safetensors").network, ToldReblurNetwork)


def test_it_is_fitted_to_a_clip_as_the_published_one_is():
    torch.manual_seed(0)
    net = ToldReblurNetwork(**SMALL)
    torch.nn.init.normal_(net.decode.weight, std=0.1)
    window, blurred, path = moving(7, -1)
    updates = ReblurUpdates(losses="gan", lr_reblurrer=1e-3)
    stage = ReblurStage(NetworkReblurrer(net, Critic((4,), "gradients")), torch.nn.Conv2d(3, 3, 1), updates)
    terms = stage.step(Item(window, blurred, path))
    assert {"real", "made", "adversarial"} <= set(terms)
    fitted = stage.result([terms]).network
    assert isinstance(fitted, ToldReblurNetwork)
    assert not torch.equal(fitted.told_e.weight, net.told_e.weight)

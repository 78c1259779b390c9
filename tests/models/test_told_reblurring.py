"""The reblurring network that is told the motion: it blurs along it, its flow can be given, its file tells its kind."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from metadeblur.errors import MetadeblurError
from metadeblur.models.critic import Critic
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.told_reblurring import TOLD, ToldReblurNetwork, told_motion
from metadeblur.reblur.fitting import Item, NetworkReblurrer, ReblurStage
from metadeblur.reblur.settings import ReblurUpdates
from metadeblur.reblur.weights import load_reblurrer, save_reblurrer

SMALL = {"channels": 8, "units": 1, "width": 16, "blocks": 1, "heads": 2}
SPEED = 8  # px a frame


def moving(seed: int, axis: int, size: int = 32, smooth: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A window of a texture that moves along an axis (-1: to the right), its true blur, and the flows to neighbours."""
    texture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    texture = F.avg_pool2d(F.pad(texture, (smooth // 2,) * 4, mode="circular"), smooth, 1)[0]
    window = torch.stack([texture.roll(SPEED * time, axis) for time in (-2, -1, 0, 1, 2)])
    blurred = torch.stack([texture.roll(shift, axis) for shift in range(-SPEED // 2, SPEED // 2 + 1)]).mean(0)
    flows = torch.zeros(2, 3, size, size)
    flows[:, 2] = 1
    flows[0, 0 if axis == -1 else 1], flows[1, 0 if axis == -1 else 1] = -SPEED, SPEED
    return window, blurred, flows


def batch_of(seed: int) -> list[torch.Tensor]:
    """One window that moves to the right and one that moves down."""
    return [torch.stack(parts) for parts in zip(moving(seed, -1), moving(seed + 1, -2), strict=True)]


def test_it_learns_to_blur_along_the_motion_and_not_across_it():
    torch.manual_seed(0)
    net = ToldReblurNetwork(**SMALL)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(30):
        window, blurred, flows = batch_of(2 * step)
        loss = (net(window, flows) - blurred).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    window, blurred, flows = batch_of(1000)
    with torch.no_grad():
        along, across = ((net(window, told) - blurred).abs().mean() for told in (flows, flows.flip(0)))
    unblurred = (window[:, 2] - blurred).abs().mean()
    assert along < 0.65 * unblurred
    assert across > 1.3 * along


def test_a_flow_that_is_given_is_the_one_that_counts_and_otherwise_it_is_worked_out():
    torch.manual_seed(0)
    net = ToldReblurNetwork(**SMALL).eval()
    window, _, flows = moving(3, -1, size=64, smooth=9)
    inner = slice(16, 48)
    given, found = net.told(window[None], flows[None]), net.told(window[None])
    assert given.shape == found.shape == (1, TOLD, 64, 64)
    wrong = (given - found)[..., inner, inner].abs().mean() / given[..., inner, inner].abs().mean()
    assert wrong < 0.1
    still = net.told(window[None], torch.zeros_like(flows)[None])
    assert still[:, :-3].abs().max() < 1e-4
    # A window that repeats its centre, as of a single picture, stands still.
    assert net.told(window[2].expand(1, 5, -1, -1, -1))[:, :-3].abs().max() < 1e-4
    with pytest.raises(MetadeblurError, match="give it windows"):
        net(window[None, :3])


@pytest.mark.parametrize("size", [(32, 32), (40, 50), (65, 33)])
def test_any_size_and_what_it_makes_of_a_new_network(size):
    net = ToldReblurNetwork(**SMALL)
    window = torch.rand(2, 5, 3, *size)
    assert torch.equal(net(window), window[:, 2])


def test_weights_of_the_published_form_are_gone_on_with():
    torch.manual_seed(0)
    plain = ReblurNetwork(**SMALL)
    torch.nn.init.normal_(plain.decode.weight, std=0.1)
    told = told_motion(plain)
    window = torch.rand(1, 5, 3, 64, 64)
    assert torch.allclose(told(window), plain(window), atol=1e-5)
    assert told_motion(told) is told
    assert set(told.state_dict()) - set(plain.state_dict()) == {"told_e.weight"}


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
    window, blurred, _ = moving(7, -1)
    updates = ReblurUpdates(losses="gan", lr_reblurrer=1e-3)
    stage = ReblurStage(NetworkReblurrer(net, Critic((4,), "gradients")), torch.nn.Conv2d(3, 3, 1), updates)
    terms = stage.step(Item(window, blurred))
    assert {"real", "made", "adversarial"} <= set(terms)
    fitted = stage.result([terms]).network
    assert isinstance(fitted, ToldReblurNetwork)
    assert not torch.equal(fitted.told_e.weight, net.told_e.weight)

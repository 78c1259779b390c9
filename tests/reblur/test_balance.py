"""How hard the two losses of a reblurring network pull: measured, told once where one drowns the other, balanced."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metadeblur.models.critic import Critic
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.told_reblurring import ToldReblurNetwork
from metadeblur.models.weights import parameters_digest
from metadeblur.reblur.balance import ALONE, EVERY, RATIO, adaptive_weight, drowned, gradient_ratio
from metadeblur.reblur.fitting import Item, NetworkReblurrer, ReblurStage
from metadeblur.reblur.settings import CriticSettings, ReblurUpdates


class Blur(nn.Module):
    """A reblurring network of one convolution."""

    frames = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, window):
        return window[:, 0] + 0.1 * self.conv(window[:, 0])


class Sharpen(nn.Module):
    """A deblurrer of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, blurred):
        return self.conv(blurred)


@pytest.mark.parametrize("kind", [ReblurNetwork, ToldReblurNetwork])
def test_losses_are_balanced_where_the_picture_is_made(kind):
    torch.manual_seed(0)
    net = kind(channels=4, units=1, width=8, blocks=1, heads=2)
    made = net(torch.rand(1, 5, 3, 32, 32))
    adversarial, other = made.square().mean(), 3 * made.mean()
    weight = adaptive_weight(adversarial, other, net)
    pulls = [torch.autograd.grad(term, net.decode.weight, retain_graph=True)[0].norm() for term in (adversarial, other)]
    assert weight == pytest.approx(float(pulls[1] / pulls[0]), rel=1e-5)


def stage_of(**changes):
    torch.manual_seed(0)
    start = NetworkReblurrer(Blur(), Critic((4,)))
    return ReblurStage(start, Sharpen(), replace(ReblurUpdates(lr_reblurrer=1e-3), **changes), loss=F.l1_loss)


def items(count):
    generator = torch.Generator().manual_seed(1)
    return [Item(torch.rand(1, 3, 16, 16, generator=generator), torch.rand(3, 16, 16, generator=generator))] * count


def test_the_ratio_is_that_of_the_gradients_and_leaves_the_training_as_it_was(monkeypatch):
    told, silent = stage_of(), stage_of()
    history = [told.step(item) for item in items(EVERY + 1)]
    monkeypatch.setattr("metadeblur.reblur.fitting.EVERY", 10**9)
    silent._steps = 1
    for item in items(EVERY + 1):
        silent.step(item)
    assert [number for number, row in enumerate(history) if RATIO in row] == [0, EVERY]
    assert parameters_digest(told.reblurrer) == parameters_digest(silent.reblurrer)
    net = nn.Linear(4, 2)
    out = net(torch.rand(3, 4))
    terms = [7 * out.sum(), out.square().mean()]
    lengths = []
    for term in terms:
        net.zero_grad()
        term.backward(retain_graph=True)
        lengths.append(float(torch.stack([weight.grad.norm() for weight in net.parameters()]).norm()))
    net.zero_grad()
    assert gradient_ratio(*terms, net) == pytest.approx(lengths[0] / lengths[1], rel=1e-5)
    assert all(weight.grad is None for weight in net.parameters())
    # What goes into the history has to be finite, or the adaptation counts as diverged.
    assert gradient_ratio(out.sum(), 0 * out.sum(), net) == ALONE


def test_a_loss_that_is_drowned_is_told_in_one_line_with_what_to_do():
    stage = stage_of(cycle=1e-7)
    fitted = stage.result([stage.step(item) for item in items(1)])
    assert "pulls" in fitted.drowned
    assert "L_cycle, which then hardly counts: use --balance" in fitted.drowned
    assert "\n" not in fitted.drowned
    assert fitted.describe()["drowned"] == fitted.drowned
    assert fitted.describe()[RATIO][0] > 50
    even = stage_of(cycle=1e-7, critic=CriticSettings(balance=True))
    fitted = even.result([even.step(item) for item in items(1)])
    assert fitted.drowned is None
    assert fitted.describe()[RATIO][0] == pytest.approx(1, rel=0.3)
    assert stage_of(losses="gan").result().drowned is None
    assert drowned(ALONE, ("one", "other"), "do this").startswith("one pulls alone at")
    assert drowned(0.0, ("one", "other"), "do this").startswith("other pulls alone at")
    assert RATIO not in stage_of(cycle=0.0).step(items(1)[0])

"""Ways to adapt behind one function: what their pairs are, that they learn, and that budgets are equal."""

import numpy as np
import pytest
import torch
from scenes import scene
from torch import nn

from metadeblur.adaptation.pairs import make_pairs
from metadeblur.adaptation.places import choose_support
from metadeblur.adaptation.stages import AdaptSettings, Pair, adapt, inner_update
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.methods import SOURCES, find_method
from metadeblur.evaluation.pair_sources import BlurredAlong, Masked, aligned_neighbours, mixed, self_reconstruction
from metadeblur.imaging.quality import psnr
from metadeblur.reblur.flow import fit_flow_reblurrer
from metadeblur.reblur.paths import Spot, blur_patch, paths

SETTINGS = AdaptSettings(pairs=4, steps=3, patch=48, batch=2, precision="fp32", device="cpu")


class Small(nn.Module):
    """A residual convolution that can learn to sharpen."""

    multiple = 1

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 5, padding=2, groups=3, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x):
        return x + self.conv(x)


def fitted(blurred, exposure=None):
    generator = torch.Generator().manual_seed(0)
    support = choose_support(blurred, pairs=6, patch=48, generator=generator)
    return support, fit_flow_reblurrer(blurred, places=support.train, exposure=exposure, generator=generator)


@pytest.fixture(scope="module")
def made():
    blurred, sharp = scene()
    return blurred, sharp, *fitted(blurred)


def generator():
    return torch.Generator().manual_seed(0)


def test_blur_with_gradient_is_the_blur_of_the_flow_reblurrer(made):
    _, sharp, support, reblurrer = made
    place = support.train[0]
    spot = Spot(3, place.top, place.left, place.size)
    along = BlurredAlong.of(reblurrer, spot)
    patch = sharp[3][:, place.top : place.top + place.size, place.left : place.left + place.size].clone()
    velocity, bend = paths(reblurrer.clip_motion, spot, place.size)
    exposure = reblurrer.exposure if reblurrer.exposure is not None else sum(reblurrer.settings.prior) / 2
    theirs, _ = blur_patch(patch, 0, 0, velocity, bend, exposure, reblurrer.response)
    patch.requires_grad_()
    ours = along(patch)
    assert along.mask.mean() > 0.5
    assert float((ours.detach() - theirs * along.mask).abs().max()) < 0.03
    assert float(psnr(ours.detach(), theirs * along.mask)) > 40
    ours.sum().backward()
    assert torch.isfinite(patch.grad).all()
    assert patch.grad.abs().sum() > 0


def test_self_reconstruction_is_content_with_the_truth():
    """The sharp frame, blurred again by the clip's own motion, explains the blurred one better than that one itself."""
    blurred, sharp = scene(quiet=False)
    support, reblurrer = fitted(blurred, exposure=7 / 6)
    pairs = self_reconstruction(blurred, support.train, reblurrer, 1, 1, generator())
    losses = {"sharp": 0.0, "blurred": 0.0}
    for pair, place in zip(pairs, support.train, strict=True):
        truth = sharp[place.blurred_frame][:, place.top : place.top + place.size, place.left : place.left + place.size]
        losses["sharp"] += float((pair.through(truth) - pair.sharp).abs().mean())
        losses["blurred"] += float((pair.through(pair.blurred) - pair.sharp).abs().mean())
    assert losses["sharp"] < 0.3 * losses["blurred"]


def test_aligned_neighbours_are_nearer_to_the_truth_than_the_blurred_patch(made):
    blurred, sharp, support, reblurrer = made
    pairs = aligned_neighbours(blurred, support.train, reblurrer, 1, 1, generator())
    assert len(pairs) >= 4
    gains = []
    for pair in pairs:
        # The blurred patch tells which frame and place it came from.
        found = next(
            sharp[t][:, p.top : p.top + p.size, p.left : p.left + p.size]
            for p in support.train
            for t in range(len(blurred))
            if torch.equal(blurred[t][:, p.top : p.top + p.size, p.left : p.left + p.size], pair.blurred)
        )
        assert pair.through.mask.mean() >= 0.5
        gains.append(
            float(psnr(pair.sharp, pair.through(found)) - psnr(pair.through(pair.blurred), pair.through(found)))
        )
    assert np.median(gains) > 1


def test_windows_for_video_deblurrers(made):
    blurred, _, support, reblurrer = made
    for source, _ in SOURCES.values():
        pairs = source(blurred, support.train, reblurrer, 1, 3, generator())
        assert all(pair.blurred.shape == (3, 3, 48, 48) for pair in pairs)
        assert all(pair.sharp.shape == (3, 48, 48) for pair in pairs)


@pytest.mark.parametrize("name", ["flow", "self", "flow+self"])
def test_every_method_gets_the_same_number_of_pairs_and_steps(name):
    blurred, _ = scene()
    outcome = find_method(name).adapt(Small(), blurred, SETTINGS)
    assert len(outcome.pairs) == SETTINGS.pairs * SETTINGS.blurs
    assert len(outcome.history) == SETTINGS.steps
    again = find_method(name).adapt(Small(), blurred, SETTINGS)
    assert [step["loss"] for step in again.history] == [step["loss"] for step in outcome.history]


def test_where_no_neighbour_is_sharper_nothing_is_learnt_from_alignment():
    blurred, _ = scene(quiet=False)
    outcome = find_method("align").adapt(Small(), blurred, SETTINGS)
    assert (outcome.pairs, outcome.share, outcome.adapted) == ([], 0.0, None)
    assert "no gradient step" in outcome.reasons[0].text


def test_mixtures_take_from_each_in_turn(made):
    blurred, _, support, reblurrer = made
    pairs = mixed([make_pairs, self_reconstruction])(blurred, support.train, reblurrer, 2, 1, generator())
    assert [pair.through is None for pair in pairs] == [True] * 6 + [False] * 6


def test_what_an_output_goes_through_is_part_of_the_loss_whatever_the_mirroring():
    """A mask of the left half: only there does the network learn, although batches are mirrored and transposed."""
    left = torch.zeros(1, 16, 16)
    left[..., :8] = 1

    class Offset(nn.Module):
        multiple = 1

        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(3, 16, 16))

        def forward(self, x):
            # Learns what is asked for in the clip's own orientation only if mirroring is undone before the mask.
            return x + self.offset.mean() + 0 * x

    target = torch.full((3, 16, 16), 0.5)
    pair = Pair(torch.full((3, 16, 16), 0.4), target * left, Masked(left))
    settings = AdaptSettings(pairs=1, steps=200, lr=5e-3, batch=1, patch=32, precision="fp32")
    net, history, failure = inner_update(Offset(), [pair], settings, generator(), loss=nn.functional.l1_loss)
    assert failure is None
    assert history[0]["loss"] == pytest.approx(0.05, abs=1e-4)  # half of the picture, 0.1 apart
    assert history[-1]["loss"] < 0.005
    assert float(net.offset.mean()) == pytest.approx(0.1, abs=0.01)


def test_a_pair_source_of_ones_own(made):
    blurred, *_ = made

    def copies(clip, places, _reblurrer, blurs, frames, _generator):
        assert (blurs, frames) == (2, 1)
        return [Pair(clip[0][:, :48, :48], clip[0][:, :48, :48]) for _ in places]

    outcome = adapt(Small(), blurred, settings=SETTINGS, pair_source=copies)
    assert len(outcome.pairs) == SETTINGS.pairs
    assert torch.equal(outcome.pairs[0].blurred, blurred[0][:, :48, :48])


def test_names():
    assert find_method("none").adapt is None
    assert "meta-trained" in find_method("meta").summary
    for name in ("magic", "flow+magic", "flow+flow", "none+flow", ""):
        with pytest.raises(MetadeblurError, match=r"method .* is not known; allowed: none, meta, finetune, flow, self"):
            find_method(name)


def test_the_method_flow_is_what_restore_does(made):
    blurred = made[0]
    net = Small()
    nn.init.constant_(net.conv.weight, 0.01)  # restored patches differ from the clip's
    settings = AdaptSettings(pairs=3, steps=2, patch=48, precision="fp32", guard=False)
    by_method, by_default = find_method("flow").adapt(net, blurred, settings), adapt(net, blurred, settings=settings)
    for one, other in zip(by_method.pairs, by_default.pairs, strict=True):
        assert torch.equal(one.blurred, other.blurred)
        assert torch.equal(one.sharp, other.sharp)

"""Losses: golden values with their gradients, known values, and that they fall as pictures come closer."""

import json
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metadeblur.errors import MetadeblurError
from metadeblur.models import losses
from metadeblur.models.losses import charbonnier, psnr_loss
from metadeblur.models.registry import ARCHITECTURES

SHAPE = (2, 3, 48, 64)
SCALES = ((2, 3, 12, 16), (2, 3, 24, 32), SHAPE)


@pytest.fixture(scope="module")
def golden(shared):
    recipe = SimpleNamespace(**runpy.run_path(str(shared / "golden" / "recipe.py")))
    values = json.loads((shared / "golden" / "losses.json").read_text())
    return SimpleNamespace(folder=shared / "golden", recipe=recipe, values=values)


def pictures(golden, seeds, shapes=None):
    shapes = shapes or [SHAPE] * len(seeds)
    return [golden.recipe.uniform(seed, shape).requires_grad_() for seed, shape in zip(seeds, shapes, strict=True)]


@pytest.mark.parametrize(
    ("name", "loss", "seeds", "shapes"),
    [
        ("charbonnier_eps1e-3", lambda outputs, sharp: charbonnier(outputs[0], sharp), [11], None),
        ("edge_charbonnier", lambda outputs, sharp: losses.edge(outputs[0], sharp), [11], None),
        ("mprnet_single_char_plus_0.05_edge (= ReblurLoss)", losses.charbonnier_edge, [11], None),
        ("mprnet_deblur_3_stages", losses.charbonnier_edge, [21, 22, 23], None),
        ("mimo_upstream", losses.multiscale_fft, [31, 32, 33], SCALES),
        (
            "mimo_release",
            lambda outputs, sharp: losses.multiscale_fft(outputs, sharp, transform="1d"),
            [31, 32, 33],
            SCALES,
        ),
    ],
)
def test_equal_to_the_published_loss_and_its_gradient(golden, name, loss, seeds, shapes):
    outputs = pictures(golden, seeds, shapes)
    value = loss(outputs, golden.recipe.uniform(12, SHAPE))
    value.backward()
    known = golden.values[name]
    assert value.item() == pytest.approx(known["value"], rel=1e-6)
    gradients = [output.grad.double().abs().sum().item() for output in outputs]
    assert gradients == pytest.approx(known["grad_abs_sum"], rel=1e-5)


def test_laplacian_equals_the_published_one_at_even_and_odd_sizes(golden):
    expected = np.load(golden.folder / "laplacian.npz")
    for name, seed, shape in (("out", 11, SHAPE), ("out_odd", 13, (1, 3, 33, 47))):
        found = losses.laplacian(golden.recipe.uniform(seed, shape))
        assert np.abs(found.numpy() - expected[name]).max() < 1e-6


def hard_example(output, target):
    return losses.masked_l1(output, target, losses.hard_example_mask(output, target))


def test_hard_examples_equal_the_published_ones(golden):
    known, masks = golden.values["cdvd_tsp_upstream"], np.load(golden.folder / "hem_mask.npz")
    outputs = pictures(golden, range(41, 45))
    frames = torch.stack([golden.recipe.uniform(seed, SHAPE) for seed in range(51, 56)], dim=1)
    output, target = torch.cat(outputs, dim=1), frames[:, [1, 2, 3, 2]].flatten(1, 2)
    mask = losses.hard_example_mask(output, target, random=0)
    assert np.array_equal(mask.numpy(), masks["mask_no_random"])
    without_random = losses.masked_l1(output, target, mask).item()
    assert without_random == pytest.approx(known["hem_without_random_part"], rel=1e-6)
    # The published loss draws its random pixels by numpy; with its mask the value must be its value.
    drawn = torch.from_numpy(masks["mask"]).float()
    assert losses.masked_l1(output, target, drawn).item() == pytest.approx(known["hem"], rel=1e-6)
    total = losses.l1_hard_example(outputs, frames, random=0)
    assert total.item() == pytest.approx(known["total_without_random"], rel=1e-6)
    total.backward()
    hard = 3 * (2 * 0.5 + 1) / output.numel()
    assert outputs[0].grad.abs().sum().item() == pytest.approx(hard * mask[:, 0].numel(), rel=1e-3)


def test_charbonnier_is_the_absolute_difference_away_from_zero_and_smooth_at_it():
    far = charbonnier(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.25))
    assert far.item() == pytest.approx(0.25, abs=1e-5)
    near = torch.zeros(1, 3, 4, 4, requires_grad=True)
    charbonnier(near, torch.zeros(1, 3, 4, 4)).backward()
    assert near.grad is not None
    assert near.grad.abs().max() == 0


def test_psnr_loss_counts_each_picture_by_its_share_of_error():
    sharp = torch.rand(2, 3, 8, 8)
    coarse, fine = sharp.clone(), sharp.clone()
    coarse[0] += 0.2
    coarse[1] += 0.02
    fine[0] += 0.1
    fine[1] += 0.02
    both_halved = psnr_loss(sharp + torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1), sharp)
    assert psnr_loss(fine, sharp) < psnr_loss(coarse, sharp)
    assert both_halved < psnr_loss(fine, sharp)


def test_one_output_is_as_good_as_a_list_of_one():
    output, sharp = torch.rand(2, 1, 3, 16, 24)
    for loss in (losses.charbonnier_edge, losses.multiscale_fft):
        assert torch.equal(loss(output, sharp), loss([output], sharp))


@given(height=st.integers(5, 40), width=st.integers(5, 40))
def test_losses_of_any_size_are_least_at_the_target_and_fall_towards_it(height, width):
    generator = torch.Generator().manual_seed(height * 64 + width)
    sharp, error = torch.rand(2, 1, 3, height, width, generator=generator)
    for loss in (losses.edge, losses.charbonnier_edge, losses.multiscale_fft, hard_example):
        near, far = (loss(sharp + share * (error - 0.5), sharp) for share in (0.1, 0.5))
        assert loss(sharp, sharp) <= near < far


def test_scales_of_a_padded_odd_size_find_their_target():
    """A network may return its scales of sides that are no exact quarters."""
    sharp = torch.rand(1, 3, 41, 54)
    outputs = [torch.rand(1, 3, 10, 13), torch.rand(1, 3, 20, 27), sharp]
    assert losses.multiscale_fft(outputs, sharp).isfinite()


def test_hard_examples_are_half_the_pixels_and_some_at_random():
    output, sharp = torch.rand(2, 3, 6, 20, 20, generator=torch.Generator().manual_seed(0))
    hard = losses.hard_example_mask(output, sharp, random=0)
    assert hard.flatten(1).sum(1).tolist() == [200.0] * 3
    drawn = losses.hard_example_mask(output, sharp, hard=0, generator=torch.Generator().manual_seed(1))
    assert drawn.flatten(1).sum(1).tolist() == [40.0] * 3
    both = losses.hard_example_mask(output, sharp, generator=torch.Generator().manual_seed(1))
    assert torch.equal(both, torch.maximum(hard, drawn))
    errors = (output - sharp).abs().sum(1, keepdim=True)
    assert errors[hard == 1].min() > 0
    for image in range(3):
        assert errors[image][hard[image] == 1].min() >= errors[image][hard[image] == 0].max()
    assert losses.hard_example_mask(output, sharp, hard=1, random=0).min() == 1


def test_adversarial_losses_pull_scores_apart_and_together():
    for kind in ("wgan", "hinge", "lsgan"):
        real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
        losses.critic_loss(real, fake, kind).backward()
        assert (real.grad < 0).all()
        assert kind == "lsgan" or (fake.grad > 0).all()
        made = torch.zeros(3, requires_grad=True)
        losses.generator_loss(made, kind).backward()
        assert (made.grad < 0).all()
    low = torch.full((3,), 0.5, requires_grad=True)
    losses.critic_loss(torch.ones(3), low, "lsgan").backward()
    assert (low.grad > 0).all()


def test_cycle_clamps_and_passes_gradient_through_the_deblurrer_inside_the_range_alone():
    net = torch.nn.Conv2d(3, 3, 1)
    made = torch.tensor([-0.1, 0.5, 1.1]).reshape(1, 1, 1, 3).expand(1, 3, 1, 3).clone().requires_grad_()
    sharp = torch.rand(1, 3, 1, 3)
    loss = losses.cycle(lambda blurred, target: losses.charbonnier(net(blurred), target), made, sharp)
    assert loss.item() == pytest.approx(losses.charbonnier(net(made.detach().clamp(0, 1)), sharp).item())
    loss.backward()
    assert (made.grad[..., 1] != 0).all()
    assert (made.grad[..., ::2] == 0).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda picture: losses.multiscale_fft(picture, picture, transform="3d"),
        lambda picture: losses.critic_loss(picture, picture, "vanilla"),
        lambda picture: losses.generator_loss(picture, "vanilla"),
    ],
)
def test_unknown_kinds_are_refused_with_what_is_allowed(call):
    with pytest.raises(MetadeblurError, match="is not known: use"):
        call(torch.zeros(1, 3, 8, 8))


def test_the_random_pixels_of_hard_example_mining_are_others_at_every_step(monkeypatch):
    masks, mask = [], losses.hard_example_mask

    def noted(*given, **how):
        masks.append(mask(*given, **how))
        return masks[-1]

    monkeypatch.setattr(losses, "hard_example_mask", noted)
    torch.manual_seed(0)
    sharp, start = torch.rand(1, 3, 16, 16), torch.rand(4, 1, 3, 16, 16)
    loss = ARCHITECTURES["cdvd-tsp"].traits.loss
    for outputs in (start, 2 * sharp - start, 2 * sharp - start):  # the same errors, so the same hard pixels
        loss(list(outputs), sharp)
    first, second, again = masks
    assert not torch.equal(first, second)
    assert torch.equal(second, again)

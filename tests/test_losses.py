"""Losses: known values, and that they fall as pictures come closer."""

import pytest
import torch

from metadeblur.losses import charbonnier, psnr_loss


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

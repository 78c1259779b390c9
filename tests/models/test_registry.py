"""The built-in network: shapes, identity at birth, sizes read from weights, and what is known of other modules."""

from typing import get_args

import pytest
import torch
from torch import nn

from metadeblur.models.lite import Lite
from metadeblur.models.losses import balanced
from metadeblur.models.registry import ARCHITECTURES, final, recognise, traits
from metadeblur.models.weights import load_deblurrer
from metadeblur.types import Network


@pytest.mark.parametrize("size", [(16, 16), (48, 80)])
def test_new_network_is_the_identity(size):
    picture = torch.rand(2, 3, *size)
    assert torch.equal(Lite()(picture), picture)


def test_lite_stays_small():
    count = sum(weight.numel() for weight in Lite().parameters())
    assert 2_000_000 < count <= 3_000_000


def test_sizes_are_read_from_the_weights():
    net = Lite(channels=(8, 16, 24), encoder=(1, 2, 1), decoder=(2, 1), fold=2)
    nn.init.normal_(net.head.weight)
    again = Lite.from_weights(net.state_dict())
    picture = torch.rand(1, 3, 32, 24)
    assert torch.equal(again(picture), net(picture))
    assert again.multiple == 8


def test_every_name_is_a_choice():
    assert list(ARCHITECTURES) == list(get_args(Network))


def test_recognised_by_tensor_names():
    assert recognise(Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,), fold=2).state_dict()) == "lite"
    assert recognise(nn.Conv2d(3, 3, 3).state_dict()) is None


def test_traits_of_any_module():
    class Video(nn.Module):
        frames = 5
        multiple = 8

    assert (traits(Video()).frames, traits(Video()).multiple) == (5, 8)
    assert traits(nn.Identity()).frames == 1
    assert traits(nn.Identity()).loss is nn.functional.l1_loss


def test_the_registry_tells_the_loss_of_its_networks_and_the_network_its_multiple():
    assert traits(Lite()).loss is balanced
    assert traits(Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,), fold=2)).multiple == 4


def test_final_is_the_largest_output():
    scales = [torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 16, 16)]
    assert final(scales).shape[-1] == 32


def test_inference_equals_training_mode_forward():
    net = load_deblurrer("lite")
    picture = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        quick = net(picture)
    assert torch.allclose(quick, net(picture), atol=1e-6)

"""MAXIM: what its parts compute, stages that can be left out, and gradients in little memory.

That the whole equals the published network is checked where the published package is (test_maxim_package.py).
"""

import pytest
import torch
from torch.nn import functional as F

from metadeblur.models.maxim import LevelResize, Maxim, SpatialMix
from metadeblur.models.registry import ARCHITECTURES, final, recognise, traits

SMALL = {"features": 8, "stages": 3, "sizes": (4, 4, 2), "groups": 1, "bottlenecks": 1}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Maxim(**SMALL).eval()


def test_published_size():
    with torch.device("meta"):
        net = ARCHITECTURES["maxim"].published()
    assert len(net.state_dict()) == 2750
    assert round(sum(weight.numel() for weight in net.parameters()) / 1e6, 1) == 22.2  # as the paper says
    assert recognise(net.state_dict()) == "maxim"
    assert traits(net).multiple == 64


@pytest.mark.parametrize("grid", [True, False])
def test_mixing_is_a_dense_layer_over_the_places_of_a_grid_or_a_block(grid):
    mix, picture = SpatialMix(2, grid=grid), torch.rand(1, 4, 6, 3)
    mixed = mix(picture, shift=0.5)
    rows, columns = 2, 3  # cells of the grid, or blocks
    for row in range(rows):
        for column in range(columns):
            if grid:
                places = [(y * rows + row, x * columns + column) for y in range(2) for x in range(2)]
            else:
                places = [(row * 2 + y, column * 2 + x) for y in range(2) for x in range(2)]
            before = torch.stack([picture[0, y, x] for y, x in places], -1)
            after = torch.stack([mixed[0, y, x] for y, x in places], -1)
            assert torch.allclose(after, F.linear(before, mix.weight, mix.bias) + 0.5, atol=1e-6)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_features_are_resized_and_convolved(factor):
    resize, features = LevelResize(5, 7, factor), torch.rand(2, 5, 8, 12)
    resized = F.interpolate(features, scale_factor=factor, mode="bilinear", antialias=factor < 1)
    assert torch.allclose(resize(features), resize.conv(resized), atol=1e-5)


def test_batches_and_sides(net):
    pictures = torch.rand(3, 3, 16, 24)
    with torch.inference_mode():
        together = net(pictures)
        assert together.shape == pictures.shape
        for index in range(3):
            assert torch.allclose(net(pictures[index : index + 1])[0], together[index], atol=1e-5)


def test_sizes_are_read_from_the_weights(net):
    again = Maxim.from_weights(net.state_dict()).eval()
    picture = torch.rand(1, 3, 16, 8)
    with torch.inference_mode():
        assert torch.equal(again(picture), net(picture))
    assert again.multiple == 8


@pytest.mark.parametrize("stages", [1, 2])
def test_fewer_stages_give_the_picture_that_the_attention_module_makes(net, stages):
    seen = []
    module = net.stages[stages - 1].attention[0]
    module.picture.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    picture = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        net(picture)
        cut = Maxim.from_weights(net.state_dict(), stages=stages).eval()
        assert torch.allclose(final(cut(picture)), seen[0] + picture, atol=1e-6)
    again = Maxim.from_weights(cut.state_dict())
    assert len(again.stages) == stages
    assert recognise(cut.state_dict()) == "maxim"


def test_more_stages_than_there_are_is_refused(net):
    with pytest.raises(ValueError, match="4 stages asked for, the weights have 3"):
        Maxim.from_weights(net.state_dict(), stages=4)


def test_checkpointing_changes_memory_and_nothing_else(net):
    picture = torch.rand(2, 3, 16, 16)

    def gradients(checkpointing):
        net.checkpointing = checkpointing
        net.zero_grad()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append((tensor.data_ptr(), tensor.untyped_storage().nbytes())) or tensor, lambda t: t
        ):
            loss = net(picture).square().mean()
        loss.backward()
        return [weight.grad.clone() for weight in net.parameters()], sum(dict(kept).values())

    plain, plain_bytes = gradients(False)
    saved, saved_bytes = gradients(True)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(plain, saved, strict=True))
    assert saved_bytes < plain_bytes / 3


def test_bf16_is_near(net):
    picture = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        exact = net(picture)
        with torch.autocast("cpu", torch.bfloat16):
            assert (net(picture).float() - exact).abs().max() < 0.1

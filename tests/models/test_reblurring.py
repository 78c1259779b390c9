"""The reblurring network: golden values in both token orders, any size, batch items apart, only the centre."""

import json
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_reblur import plain_reblur
from torch.nn import functional as F

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.tiles import pad_to_multiple
from metadeblur.models.reblurring import ReblurNetwork

GOLDEN = {"own": "reblur_64_b1_ownwindow", "published": "reblur_64_b1"}
SMALL = {"channels": 4, "units": 1, "width": 16, "heads": 2, "window": 4, "hidden": 24}


def small(**changes) -> ReblurNetwork:
    """A small network whose every part counts, in evaluation mode."""
    torch.manual_seed(0)
    net = ReblurNetwork(**SMALL | changes).eval()
    for key, value in net.named_parameters():
        if value.dim() > 1:
            torch.nn.init.normal_(value, std=0.5 if "table" in key else value[0].numel() ** -0.5)
    return net


def tensors(net: ReblurNetwork) -> dict[str, torch.Tensor]:
    return dict(net.named_parameters()) | dict(net.named_buffers())


@pytest.fixture(scope="module")
def golden(shared):
    recipe = SimpleNamespace(**runpy.run_path(str(shared / "golden" / "recipe.py")))
    spec = json.loads((shared / "golden" / "keys_reblur_64.json").read_text())
    results = json.loads((shared / "golden" / "models.json").read_text())["results"]
    weights = recipe.from_keys_json(spec["keys"], spec["gain"], spec["bias_std"])
    return SimpleNamespace(folder=shared / "golden", recipe=recipe, spec=spec, results=results, weights=weights)


@pytest.mark.parametrize("order", GOLDEN)
def test_equals_the_published_network_and_its_gradients(golden, order):
    net = ReblurNetwork.from_weights(golden.weights, order).eval()
    blurred = net(golden.recipe.uniform(101, (1, 5, 3, 64, 64)))
    expected = torch.from_numpy(np.load(golden.folder / f"{GOLDEN[order]}.npz")["out0"])
    assert (blurred - expected).abs().max() < 2e-6
    (blurred * golden.recipe.uniform(900, tuple(blurred.shape))).mean().backward()
    known = golden.results[GOLDEN[order]]["grad_abs_sum"]
    for name, parameter in net.named_parameters():
        found = 0.0 if parameter.grad is None else parameter.grad.double().abs().sum().item()
        assert found == pytest.approx(known[name], rel=1e-3, abs=1e-9), name


def test_inner_tensors_equal_the_published_ones(golden):
    net = ReblurNetwork.from_weights(golden.weights).eval()
    known = golden.results[GOLDEN["own"]]["intermediate"]
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: seen.__setitem__(name, output.detach().clone()))

    for name in ("conv1.2", "conv2.2", "conv3.2", "conv4.2", "conv5.2", "conv6.2", "attn3.regional_embed"):
        watch(name, net.get_submodule(name))
    for index in range(4):
        watch(f"attn3.block{index}.cross_attn", net.get_submodule(f"attn3.layers.0.blocks.{index}.cross_attn"))
    with torch.no_grad():
        net(golden.recipe.uniform(101, (1, 5, 3, 64, 64)))
    for name, tensor in seen.items():
        expected = known[f"{name}.0"]
        assert tensor.numel() == np.prod(expected["shape"]), name
        assert tensor.double().abs().sum().item() == pytest.approx(expected["abs_sum"], rel=1e-6), name


def test_parameters_and_names_are_those_of_published_checkpoints(golden):
    net = ReblurNetwork()
    assert sum(parameter.numel() for parameter in net.parameters()) == 10_436_979
    shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
    assert shapes == {entry["key"]: entry["shape"] for entry in golden.spec["keys"]}
    index = net.state_dict()["attn3.layers.0.blocks.0.attn.relative_position_index_patch"]
    assert index.sum().item() == 458752


@pytest.mark.parametrize("order", GOLDEN)
@pytest.mark.parametrize(("blocks", "frames", "batch"), [(1, 5, 2), (2, 3, 1), (3, 5, 2), (4, 1, 2)])
def test_what_is_left_out_of_the_last_blocks_reaches_neither_picture_nor_gradient(order, blocks, frames, batch):
    net = small(blocks=blocks, frames=frames, order=order)
    window = torch.rand(batch, frames, 3, 32, 48)
    towards = torch.rand(batch, 3, 32, 48)
    gradients = []
    for blurred in (net(window), plain_reblur(tensors(net), window, order)):
        gradients.append(torch.autograd.grad((blurred * towards).sum(), list(net.parameters()), allow_unused=True))
        gradients[-1] = [torch.zeros(()) if gradient is None else gradient for gradient in gradients[-1]]
    assert torch.allclose(net(window), plain_reblur(tensors(net), window, order), atol=1e-5)
    for (name, _), fast, plain in zip(net.named_parameters(), *gradients, strict=True):
        assert (fast - plain).abs().max() <= 1e-4 * (1 + plain.abs().max()), name


@given(
    batch=st.integers(1, 2),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    order=st.sampled_from(["own", "published"]),
)
@settings(max_examples=12, deadline=None)
def test_any_height_and_width(batch, height, width, order):
    net = small(blocks=2, order=order)
    window = torch.rand(batch, 5, 3, height, width, generator=torch.Generator().manual_seed(height))
    with torch.no_grad():
        blurred = net(window)
        padded = net(pad_to_multiple(window, 16))
    assert blurred.shape == (batch, 3, height, width)
    assert blurred.isfinite().all()
    assert torch.equal(blurred, padded[..., :height, :width])


def test_batch_items_do_not_meet_in_the_own_order_and_do_in_the_published_one():
    window = torch.rand(3, 5, 3, 40, 56)
    for order, apart in (("own", True), ("published", False)):
        net = small(blocks=3, order=order)
        with torch.no_grad():
            together, alone = net(window), torch.cat([net(item[None]) for item in window])
        assert torch.allclose(together, alone, atol=1e-5) == apart


def test_every_frame_counts_and_the_others_order_too():
    net = small(blocks=2)
    window = torch.rand(1, 5, 3, 32, 32)
    with torch.no_grad():
        blurred = net(window)
        for frame in range(5):
            changed = window.clone()
            changed[:, frame] = 1 - changed[:, frame]
            assert (net(changed) - blurred).abs().max() > 1e-4
        assert (net(window.flip(1)) - blurred).abs().max() > 1e-4


def test_a_new_network_returns_the_centre_and_learns_to_blur():
    torch.manual_seed(0)
    net = ReblurNetwork(**SMALL, blocks=2)
    window = torch.rand(2, 5, 3, 36, 32)
    assert torch.equal(net(window), window[:, 2])
    blurred = F.avg_pool2d(window[:, 2], 3, stride=1, padding=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = F.l1_loss(net(window), blurred)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_sizes_are_read_from_the_weights_with_or_without_the_constant_index():
    net = small(blocks=3, frames=3, units=2)
    window = torch.rand(1, 3, 3, 32, 16)
    weights = net.state_dict()
    lean = {key: value for key, value in weights.items() if value.is_floating_point()}
    assert len(lean) == len(weights) - 3
    for given_weights in (weights, lean):
        again = ReblurNetwork.from_weights(given_weights).eval()
        assert (again.frames, again.multiple) == (3, 16)
        assert torch.equal(again(window), net(window))
    with pytest.raises(RuntimeError, match=r"decode\.bias"):
        ReblurNetwork.from_weights({key: value for key, value in lean.items() if key != "decode.bias"})


def test_mixed_precision_stays_near():
    net = small(blocks=3)
    window = torch.rand(1, 5, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(window)
    mixed.float().mean().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in net.parameters())
    exact = net(window)
    assert (mixed.float() - exact).abs().mean() < 0.03 * (exact - window[:, 2]).abs().mean()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"order": "mixed"}, "order 'mixed'"), ({"frames": 4}, "4 frames"), ({"width": 15}, "width 15")],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(MetadeblurError, match=message):
        ReblurNetwork(**SMALL | sizes)


def test_another_number_of_frames_is_refused():
    with pytest.raises(MetadeblurError, match=r"\(1, 3, 3, 16, 16\): give it windows \(B, 5, 3, H, W\)"):
        small(blocks=1)(torch.rand(1, 3, 3, 16, 16))

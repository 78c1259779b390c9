"""The reblurring network: golden values in both token orders, any size, batch items apart, only the centre."""

import json
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metadeblur.reblur.network import ReblurNetwork

GOLDEN = {"own": "reblur_64_b1_ownwindow", "published": "reblur_64_b1"}
SMALL = {"channels": 4, "units": 1, "width": 16, "heads": 2, "window": 4, "hidden": 24}


def small(**changes) -> ReblurNetwork:
    """A small network whose every part counts, in evaluation mode."""
    torch.manual_seed(0)
    net = ReblurNetwork(**SMALL | changes).eval()
    for key, value in net.state_dict().items():
        if value.is_floating_point() and "norm" not in key:
            value.copy_(torch.randn(value.shape) * (0.5 if "table" in key else value[0].numel() ** -0.5))
    return net


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

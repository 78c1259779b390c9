"""The published networks: equal to the golden values, and loaded under the published names."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metadeblur.models.cdvd_tsp import CDVDTSP, fetch
from metadeblur.models.registry import ARCHITECTURES, outputs, recognise

TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-3
GRADIENT_ROUNDING = 1e-6  # sums reach 1e3; small ones move by 4e-7 with the number of threads

PARAMETERS = {  # as the papers and their releases give them
    "mimo-unet": 6_807_171,
    "mimo-unet-plus": 16_107_651,
    "mprnet": 20_127_073,
    "restormer": 26_126_644,
    "cdvd-tsp": 16_187_045,
    "nafnet-32": 17_111_907,
    "nafnet-64": 67_888_835,
}
KEYS = {
    "mimo-unet": "mimounet",
    "mimo-unet-plus": "mimounetplus",
    "mprnet": "mprnet",
    "restormer": "restormer",
    "cdvd-tsp": "cdvd_tsp",
}


@pytest.fixture(scope="module")
def recipe(shared) -> ModuleType:
    """The generator of the golden weights and inputs."""
    sys.path.insert(0, str(shared / "golden"))
    import recipe

    sys.path.pop(0)
    return recipe


def golden_weights(shared: Path, recipe: ModuleType, model: str) -> dict[str, Tensor]:
    spec = json.loads((shared / "golden" / f"keys_{KEYS[model]}.json").read_text())
    gains = spec["gain"] if isinstance(spec["gain"], dict) else {"": spec["gain"]}
    return {
        name: weight
        for part, gain in gains.items()
        for name, weight in recipe.from_keys_json(
            [entry for entry in spec["keys"] if entry["key"].startswith(part)], gain, spec["bias_std"]
        ).items()
    }


def check_golden(net: nn.Module, frames: Tensor, shared: Path, recipe: ModuleType, name: str) -> None:
    """Outputs and the sums of all gradients against the stored ones."""
    reference = np.load(shared / "golden" / f"{name}.npz")
    facts = json.loads((shared / "golden" / "models.json").read_text())["results"][name]
    given = outputs(net.eval().requires_grad_(True), frames)
    given = given if isinstance(given, Sequence) else [given]
    assert len(given) == len(reference.files)
    for index, picture in enumerate(given):
        assert np.abs(picture.detach().numpy() - reference[f"out{index}"]).max() < TOLERANCE
    loss = sum((picture * recipe.uniform(900 + i, tuple(picture.shape))).mean() for i, picture in enumerate(given))
    loss.backward()
    sums = {key: float(weight.grad.double().abs().sum()) for key, weight in net.named_parameters()}
    assert sums == pytest.approx(facts["grad_abs_sum"], rel=GRADIENT_TOLERANCE, abs=GRADIENT_ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "seed"), [("mimo-unet", 201), ("mimo-unet-plus", 202), ("mprnet", 301), ("restormer", 401)]
)
def test_image_networks_equal_the_golden_values(model, seed, shared, recipe):
    net = ARCHITECTURES[model].build(golden_weights(shared, recipe, model))
    check_golden(net, recipe.uniform(seed, (1, 3, 96, 128)), shared, recipe, f"{KEYS[model]}_96x128")


@pytest.mark.slow
def test_cdvd_tsp_equals_the_golden_values(shared, recipe):
    net = CDVDTSP.from_weights(golden_weights(shared, recipe, "cdvd-tsp"))
    window = recipe.smooth_uniform(501, (1, 5, 3, 96, 128))
    check_golden(net, window, shared, recipe, "cdvd_tsp_96x128_alignTrue")


def test_pwc_net_equals_the_golden_values(shared, recipe):
    net = CDVDTSP.from_weights(golden_weights(shared, recipe, "cdvd-tsp")).flow_net
    window = recipe.smooth_uniform(501, (1, 5, 3, 96, 128))
    with torch.no_grad():
        flow = net(window[:, 2], window[:, 1])
        warped, mask = fetch(window[:, 1], flow)
    reference = np.load(shared / "golden" / "pwc_flow_2to1_alignTrue.npz")
    assert np.abs(flow.numpy() - reference["flow"]).max() < TOLERANCE
    for picture, name in ((warped, "warped"), (mask, "mask")):  # a pixel at the threshold of the mask may flip
        assert np.quantile(np.abs(picture.numpy() - reference[name]), 0.999) < TOLERANCE


@pytest.mark.parametrize("model", PARAMETERS)
def test_published_sizes_and_recognition(model):
    with torch.device("meta"):
        net = ARCHITECTURES[model].published()
    assert sum(weight.numel() for weight in net.parameters()) == PARAMETERS[model]
    assert recognise(net.state_dict()) == model


@pytest.mark.parametrize("model", KEYS)
def test_published_names_shapes_and_order(model, shared):
    with torch.device("meta"):
        ours = {name: list(weight.shape) for name, weight in ARCHITECTURES[model].published().state_dict().items()}
    spec = json.loads((shared / "golden" / f"keys_{KEYS[model]}.json").read_text())
    assert list(ours.items()) == [(entry["key"], entry["shape"]) for entry in spec["keys"]]


def test_nafnet_has_the_published_names():
    with torch.device("meta"):
        names = set(ARCHITECTURES["nafnet-32"].published().state_dict())
    block = {"beta", "gamma", *(f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias"))}
    block |= {
        f"{layer}.{part}"
        for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "sca.1")
        for part in ("weight", "bias")
    }
    stages = ["encoders.0.0", "encoders.3.27", "decoders.0.0", "decoders.3.0", "middle_blks.0"]
    assert {f"{stage}.{part}" for stage in stages for part in block} <= names
    assert {"intro.weight", "ending.bias", "downs.3.bias", "ups.0.0.weight"} <= names
    assert not {"encoders.0.1.beta", "encoders.4.0.beta", "ups.0.0.bias"} & names


@pytest.mark.parametrize("model", PARAMETERS)
def test_weights_of_another_network_are_refused_by_name(model):
    with torch.device("meta"):
        weights = dict(ARCHITECTURES[model].published().state_dict())
    last = list(weights)[-1]
    del weights[last]
    with pytest.raises((KeyError, RuntimeError), match=last.replace(".", r"\.")):
        ARCHITECTURES[model].build({name: torch.zeros(weight.shape) for name, weight in weights.items()})

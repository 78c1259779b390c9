"""The published networks: equal to the golden values, loadable under the published names, usable at any size."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metadeblur.networks import ARCHITECTURES, recognise

TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-3


@pytest.fixture(scope="session")
def recipe(shared):
    """The generator of the golden weights and inputs."""
    sys.path.insert(0, str(shared / "golden"))
    import recipe

    sys.path.pop(0)
    return recipe


@pytest.fixture(scope="session")
def golden(shared, recipe) -> Callable[[str], dict[str, Tensor]]:
    """Golden weights by the name of their key list."""

    def filled(keys: str) -> dict[str, Tensor]:
        spec = json.loads((shared / "golden" / f"keys_{keys}.json").read_text())
        return recipe.from_keys_json(spec["keys"], spec["gain"], spec["bias_std"])

    return filled


def pictures(output: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def check_golden(net: nn.Module, frames: Tensor, shared: Path, recipe, name: str) -> None:
    """Outputs and the sums of all gradients against the stored ones; parameters in the published order."""
    reference = np.load(shared / "golden" / f"{name}.npz")
    facts = json.loads((shared / "golden" / "models.json").read_text())["results"][name]
    given = pictures(net.requires_grad_(True)(frames))
    assert len(given) == len(reference.files)
    for index, picture in enumerate(given):
        assert np.abs(picture.detach().numpy() - reference[f"out{index}"]).max() < TOLERANCE
    loss = sum((picture * recipe.uniform(900 + i, tuple(picture.shape))).mean() for i, picture in enumerate(given))
    loss.backward()
    sums = {key: float(weight.grad.double().abs().sum()) for key, weight in net.named_parameters()}
    assert sums == pytest.approx(facts["grad_abs_sum"], rel=GRADIENT_TOLERANCE)


@pytest.mark.parametrize(
    ("model", "keys", "seed"), [("mimo-unet", "mimounet", 201), ("mimo-unet-plus", "mimounetplus", 202)]
)
def test_image_networks_equal_the_golden_values(model, keys, seed, shared, recipe, golden):
    weights = golden(keys)
    assert recognise(weights) == model
    net = ARCHITECTURES[model].build(weights).eval()
    assert list(net.state_dict()) == list(weights)
    check_golden(net, recipe.uniform(seed, (1, 3, 96, 128)), shared, recipe, f"{keys}_96x128")


@pytest.mark.parametrize(("model", "millions"), [("mimo-unet", 6.807171), ("mimo-unet-plus", 16.107651)])
def test_published_sizes(model, millions):
    with torch.device("meta"):
        net = ARCHITECTURES[model].published()
    assert sum(weight.numel() for weight in net.parameters()) == round(millions * 1e6)
    assert recognise(net.state_dict()) == model

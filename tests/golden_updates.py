"""The golden inner and outer updates: their networks, data and what is compared."""

from __future__ import annotations

import json
import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metadeblur.losses import multiscale_fft
from metadeblur.networks.mimo_unet import MIMOUNet
from metadeblur.reblur.critic import Critic
from metadeblur.reblur.network import ReblurNetwork
from metadeblur.reblur.updates import Item

NAMES = ("reblurrer", "deblurrer", "critic")
LOSSES = {"mimo_upstream": multiscale_fft, "mimo_release": partial(multiscale_fft, transform="1d")}


class Golden:
    """One file of golden updates, with the networks as they are filled for it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.recipe = SimpleNamespace(**runpy.run_path(str(folder / "recipe.py")))
        self.values: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        self.arrays = np.load(folder / f"{name}.npz")
        self._fills: dict[str, dict[str, Tensor]] = {}
        for kind, file in (("reblurrer", "reblur_64"), ("deblurrer", "mimounet")):
            spec = json.loads((folder / f"keys_{file}.json").read_text())
            self._fills[kind] = self.recipe.from_keys_json(spec["keys"], spec["gain"], spec["bias_std"])
        rule = self.values["critic"]["fill"]
        self._fills["critic"] = {
            entry["parameter"]: self.recipe.fill_value(entry["key"], entry["shape"], rule["gain"], rule["bias_std"])
            for entry in rule["keys"]
        }

    def networks(self, order: str) -> dict[str, nn.Module]:
        """Reblurrer, deblurrer and critic with the recipe's fill, in evaluation mode."""
        fills = self._fills
        deblurrer = MIMOUNet.from_weights(fills["deblurrer"])
        # Whatever the registry says of MIMO-UNet, here the loss sees all scales.
        deblurrer.all_outputs = True
        nets = (ReblurNetwork.from_weights(fills["reblurrer"], order), deblurrer, Critic.from_weights(fills["critic"]))
        return {name: net.eval() for name, net in zip(NAMES, nets, strict=True)}

    def tensor(self, about: dict[str, Any]) -> Tensor:
        """One tensor of the data, (1, ...)."""
        return getattr(self.recipe, about["generator"])(about["seed"], tuple(about["shape"]))

    def items(self, support: list[dict[str, Any]]) -> list[Item]:
        """The support items of a task."""
        return [Item(self.tensor(entry["window"])[0], self.tensor(entry["real"])[0]) for entry in support]


class Comparison:
    """Compares networks with a case's values, by its own tolerances."""

    def __init__(self, golden: Golden, case: str) -> None:
        self.golden, self.case = golden, case
        self.known = golden.values["cases"][case]
        self.limits = {name: entry["tolerance"] for name, entry in golden.values["tolerance"][case].items()}
        self.start: dict[str, dict[str, Tensor]] = {}

    def begin(self, nets: dict[str, nn.Module]) -> None:
        """Deltas are counted from these weights."""
        self.start = {
            name: {key: weight.detach().clone() for key, weight in net.named_parameters()} for name, net in nets.items()
        }

    def limit(self, words: str) -> float:
        """The tolerance whose name begins so."""
        return next(value for name, value in self.limits.items() if name.startswith(words))

    def losses(self, found: dict[str, float], known: dict[str, float], slack: float = 1.0) -> None:
        """Loss terms, by absolute difference."""
        for name, value in found.items():
            assert value == pytest.approx(known[name], abs=slack * self.limit("losses"), rel=0), name

    def delta(self, name: str, net: nn.Module, known: dict[str, Any], slack: float = 1.0) -> None:
        """How far a network has moved, in all and by parameter."""
        moved = {key: (weight.detach() - self.start[name][key]) for key, weight in net.named_parameters()}
        total = sum(value.double().abs().sum().item() for value in moved.values())
        limit = slack * self.limit("delta abs_sum of a network")
        assert total == pytest.approx(known["abs_sum"], rel=limit, abs=1e-12), name
        self._parameters(
            name,
            moved,
            known.get("parameters", {}),
            self.limit("delta abs_sum of a parameter"),
            self.limit("delta dot"),
        )

    def gradient(self, name: str, gradients: dict[str, Tensor], known: dict[str, Any], slack: float = 1.0) -> None:
        """A gradient, in all and by parameter."""
        relative = self.limit("gradient norm")
        squares = sum(value.double().square().sum().item() for value in gradients.values())
        assert squares**0.5 == pytest.approx(known["norm"], rel=relative)
        total = sum(value.double().abs().sum().item() for value in gradients.values())
        assert total == pytest.approx(known["abs_sum"], rel=relative)
        self._parameters(name, gradients, known["parameters"], relative, slack * self.limit("gradient dot"))

    def stored(self, name: str, net: nn.Module, prefix: str) -> None:
        """The deltas that are stored whole."""
        weights = dict(net.named_parameters())
        keys = [key for key in self.golden.arrays.files if key.startswith(f"{prefix}/delta/{name}/")]
        assert keys
        for key in keys:
            parameter = key.split("/")[-1]
            wanted = torch.from_numpy(self.golden.arrays[key])
            found = weights[parameter].detach() - self.start[name][parameter]
            size = wanted.abs().sum()
            if size > 0:
                assert (found - wanted).abs().sum() / size <= self.limit("stored delta"), key

    def _parameters(
        self, name: str, values: dict[str, Tensor], known: dict[str, Any], relative: float, dot: float
    ) -> None:
        for parameter, figures in known.items():
            value = values[parameter].double()
            size = figures["abs_sum"]
            # Biases that a loss cannot see have deltas of pure rounding, as the golden values' notes say.
            assert value.abs().sum().item() == pytest.approx(size, rel=relative, abs=1e-9), parameter
            place = self.golden.values["named_parameters"][name].index(parameter)
            seed = 5000 + 100 * NAMES.index(name) + place
            pattern = self.golden.recipe.uniform(seed, tuple(value.shape)).double() - 0.5
            assert (value * pattern).sum().item() == pytest.approx(figures["dot"], abs=dot * size + 1e-12), parameter


def gradients_of(net: nn.Module) -> dict[str, Tensor]:
    """The gradients that the last backward pass left, zero where there is none."""
    return {
        key: weight.grad.clone() if weight.grad is not None else torch.zeros_like(weight)
        for key, weight in net.named_parameters()
    }

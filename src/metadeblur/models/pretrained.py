"""Networks as folders, as model hubs have them: ``model.safetensors``, ``config.json`` and a card, ``README.md``.

``config.json`` says what the weights do not: which network they are of, what a :class:`~metadeblur.models.Deblurrer`
declared around it, and how frames are fused. It is read as plain values; no code is ever loaded from a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from metadeblur.errors import MetadeblurError
from metadeblur.models.adapted import FusionSettings, fusion_of, unwrapped, with_fusion
from metadeblur.models.cards import network_card, shipped_card
from metadeblur.models.deblurrer import Deblurrer, as_deblurrer, has_spandrel
from metadeblur.models.formats.checkpoints import Checkpoint
from metadeblur.models.hub import fetch, is_repository, need_library, publish
from metadeblur.models.registry import ARCHITECTURES, final, recognise, traits
from metadeblur.models.weights import (
    BUILT_IN,
    VARIANTS,
    WEIGHTS,
    from_checkpoint,
    fusion_in,
    is_saved,
    load_deblurrer,
    model_card,
    parameters_digest,
    read_any,
    save_deblurrer,
    take_rates,
)
from metadeblur.system.files import filling
from metadeblur.system.json_files import from_plain, write_whole
from metadeblur.system.names import utf8
from metadeblur.system.plain_files import read_object
from metadeblur.version import __version__

CONFIG, CARD = "config.json", "README.md"  # beside WEIGHTS


@dataclass(frozen=True)
class Declared:
    """What a Deblurrer declares of the network in it, as far as a file can hold it."""

    frames: int
    multiple: int
    all_outputs: bool


def save_pretrained(
    net: nn.Module,
    folder: str | Path,
    *,
    half: bool = False,
    licence: str = "",
    card: Mapping[str, Any] | None = None,
    repo_id: str = "",
    private: bool = False,
    token: str | None = None,
) -> Path:
    """Save a network as a folder: ``model.safetensors``, ``config.json``, and ``README.md`` where there is none yet.

    Args:
        net: any deblurrer: one of this program, an adapted model, or a network of your own.
        folder: made where it is missing; other files in it are left alone.
        half: store weights as float16; they come back as float32, rounded.
        licence: of the weights, for the card, as the hub names it (``apache-2.0``, ``mit``, ``other``, ...).
        card: further facts for the head of the card, such as ``{"datasets": ["gopro"]}``.
        repo_id: also upload the three files to this repository of the hub, OWNER/NAME (extra ``hub``).
        private: make that repository private, if it is made.
        token: of the hub; None: the one that you are logged in with.

    Returns:
        The folder.

    Raises:
        MetadeblurError: no network, the folder cannot be written, or the hub cannot be reached.
    """
    given, target = as_deblurrer(net), Path(folder)
    if repo_id:
        need_library(repo_id)
    config = _config(given, half=half)
    with filling(target, "save_pretrained", "folder"):
        save_deblurrer(given, target / WEIGHTS, {"architecture": config["architecture"] or "unknown"}, half=half)
        write_whole(target / CONFIG, utf8(json.dumps(config, indent=1) + "\n"))  # floats with all of their digits
        if not (target / CARD).exists():  # a person may have written it
            write_whole(target / CARD, utf8(_card(given, config, licence, card or {})))
    if repo_id:
        publish(target, repo_id, (WEIGHTS, CONFIG, CARD), private=private, token=token)
    return target


def from_pretrained(
    source: str | Path,
    net: nn.Module | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> nn.Module:
    """A network from a folder that :func:`save_pretrained` wrote, in evaluation mode, bit for bit as it was saved.

    Args:
        source: the folder; or OWNER/NAME of a repository on the hub (extra ``hub``); or the name of a model.
        net: a network of your own, of the class that was saved: the weights are put into it. None: the network is one
            that this program knows, or spandrel does.
        revision: of the repository: a branch, tag or commit.
        token: of the hub; None: the one that you are logged in with.
        cache_dir: where the hub's files are kept; None: where huggingface_hub keeps them.
        local_files_only: fetch nothing, take what was fetched before.

    Returns:
        The network: a :class:`~metadeblur.models.Deblurrer` around it where one was saved, an
        :class:`~metadeblur.models.adapted.AdaptedModel` where its frames are fused.

    Raises:
        MetadeblurError: no such folder, damaged files, weights of another network, an unknown network and no ``net``,
            or the hub cannot be reached.
    """
    if not Path(source).is_dir() and str(source) in (*ARCHITECTURES, *VARIANTS):
        return load_deblurrer(source)
    folder = _folder(source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    config = read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    checkpoint = read_any(folder / WEIGHTS)
    bare = unwrapped(_known(folder, checkpoint, config) if net is None else as_deblurrer(net))
    inner, ours = bare.net if isinstance(bare, Deblurrer) else bare, config.get("library_name") == "metadeblur"
    if net is not None or ours:  # else the tensors may have been renamed when they were read
        _refuse_other(inner, checkpoint.weights, folder)
        _fill(inner, checkpoint.weights, exactly=not config.get("rounded"))
    take_rates(folder / WEIGHTS, inner, checkpoint.metadata)
    try:
        fusion = _fusion(config["fusion"]) if "fusion" in config else fusion_in(checkpoint)
        return with_fusion(_as_declared(bare, config), fusion).eval()
    except MetadeblurError as error:
        raise MetadeblurError(f"{folder / CONFIG}: {error}") from error


def _folder(source: str | Path, **options: Any) -> Path:
    """The folder behind a path or the name of a repository.

    Raises:
        MetadeblurError: there is none, or it has no weights.
    """
    folder = Path(source)
    if not os.path.lexists(folder) and isinstance(source, str) and is_repository(source):
        given = {name: value for name, value in options.items() if value not in (None, False)}
        folder = fetch(source, (WEIGHTS, CONFIG, CARD), **given)
    elif not folder.is_dir():
        there = "is a file: md.load_deblurrer loads it" if folder.is_file() else "is not there"
        raise MetadeblurError(f"{source}: {there}; give a folder with {WEIGHTS}, or OWNER/NAME of the hub")
    if not is_saved(folder):
        raise MetadeblurError(f"{source}: holds no {WEIGHTS}; md.save_pretrained writes such folders")
    return folder


def _config(net: nn.Module, *, half: bool) -> dict[str, Any]:
    """What ``config.json`` says of a network."""
    bare, fusion = unwrapped(net), fusion_of(net)
    inner, wanted = bare.net if isinstance(bare, Deblurrer) else bare, traits(net)
    declared = Declared(bare.frames, bare.multiple, bare.all_outputs) if isinstance(bare, Deblurrer) else None
    return {
        "library_name": "metadeblur",
        "metadeblur_version": __version__,
        "architecture": recognise(inner.state_dict()),
        "network": f"{type(inner).__module__}.{type(inner).__qualname__}",
        "parameters": sum(weight.numel() for weight in inner.parameters()),
        "frames": wanted.frames,
        "multiple": wanted.multiple,
        "rounded": half,
        "declared": asdict(declared) if declared else None,
        "in_code": _in_code(bare) if isinstance(bare, Deblurrer) else [],
        "fusion": asdict(fusion) if fusion else None,
    }


def _in_code(deblurrer: Deblurrer) -> list[str]:
    """What was declared of a network by functions of its owner's."""
    usual = {"loss": traits(as_deblurrer(deblurrer.net)).loss, "picture": final}
    return [name for name, function in usual.items() if _parts(getattr(deblurrer, name)) != _parts(function)]


def _parts(function: Any) -> Any:
    """What a function is compared by: a copy of a ``partial`` is another object."""
    return (function.func, function.args, function.keywords) if isinstance(function, partial) else function


def _card(net: nn.Module, config: Mapping[str, Any], licence: str, facts: Mapping[str, Any]) -> str:
    """The card of a network; that of weights which ship is the one that lies beside them."""
    if config["architecture"] == "lite" and config["declared"] is None and config["fusion"] is None:
        digest = parameters_digest(net)
        shipped = next((name for name in BUILT_IN if digest == parameters_digest(load_deblurrer(name))), "")
        about = model_card(shipped) if shipped and not facts and not licence else {}
        if about:
            return shipped_card(about)
    return network_card(config, facts=facts, licence=licence)


def _known(folder: Path, checkpoint: Checkpoint, config: Mapping[str, Any]) -> nn.Module:
    """The network of weights whose architecture is known.

    Raises:
        MetadeblurError: it is not known, or they do not fit.
    """
    if recognise(checkpoint.weights) is None and not has_spandrel():
        named = str(config.get("network") or "a network that is not known here")
        raise MetadeblurError(
            f"{folder}: holds weights of {named:.200}: make that network and give it, "
            f"md.from_pretrained({str(folder)!r}, net=...)"
        )
    return from_checkpoint(folder / WEIGHTS, checkpoint)


def _refuse_other(net: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """See that weights are of a network, before any is put into it.

    Raises:
        MetadeblurError: they are not; names the first tensor that is missing, strange, or of another size.
    """
    state, named = net.state_dict(), type(net).__name__
    missing, strange = sorted(state.keys() - weights.keys()), sorted(weights.keys() - state.keys())
    if missing or strange:
        fault = f"has no {missing[0]}" if missing else f"has {strange[0]}, which that has not"
        raise MetadeblurError(f"{folder / WEIGHTS}: is of another network than {named}: it {fault}")
    for name, value in state.items():
        if value.shape != weights[name].shape:
            sizes = f"{tuple(weights[name].shape)} and {tuple(value.shape)}"
            raise MetadeblurError(f"{folder / WEIGHTS}: is of a {named} of another size: {name} is {sizes}")


def _fill(net: nn.Module, weights: Mapping[str, Tensor], *, exactly: bool) -> None:
    """Put weights into a network; exactly: in the format that each tensor is stored in."""
    if exactly:
        for name, value in net.state_dict(keep_vars=True).items():
            value.data = value.data.to(weights[name].dtype)
    net.load_state_dict(weights)


def _as_declared(net: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """A network with what was declared of it when it was saved.

    Raises:
        MetadeblurError: that cannot be, or is code of its owner's and was not given.
    """
    if config.get("declared") is None or isinstance(net, Deblurrer):
        return net
    declared = from_plain(Declared, config["declared"])
    if config.get("in_code"):
        words = ", ".join(f"{name}=..." for name in ("loss", "picture") if name in config["in_code"])
        raise MetadeblurError(
            f"the network was saved with functions that no file can hold ({words}): give it with them, "
            f"md.from_pretrained(FOLDER, net=md.Deblurrer(net, {words}))"
        )
    return Deblurrer(net, frames=declared.frames, multiple=declared.multiple, all_outputs=declared.all_outputs)


def _fusion(values: Any) -> FusionSettings | None:
    """How frames are fused.

    Raises:
        MetadeblurError: a setting that is not there, or out of range.
    """
    if values is None or isinstance(values, dict):
        return None if values is None else FusionSettings(**values)
    raise MetadeblurError(f"fusion is {values!r:.40}; it is an object with names, or null")

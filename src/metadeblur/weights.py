"""Weights in and out: safetensors only, sizes read from the tensors, checksums and model cards beside them."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from metadeblur.errors import MetadeblurError
from metadeblur.networks import ARCHITECTURES, recognise
from metadeblur.video.output import whole

BUILT_IN = ("lite",)


def built_in_path(name: str) -> Path:
    """Where the wheel keeps the weights of a built-in model."""
    return Path(str(resources.files("metadeblur") / "assets" / f"{name}.safetensors"))


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find(model: str | Path) -> Path:
    """The weight file that a model's name or a path means.

    Raises:
        MetadeblurError: neither a built-in model's name nor a file that is there.
    """
    if str(model) in BUILT_IN:
        return built_in_path(str(model))
    path = Path(model)
    if path.is_file():
        return path
    raise MetadeblurError(f"model {str(model)!r} is neither a file nor a known name; known: {', '.join(BUILT_IN)}")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        MetadeblurError: not a safetensors file, or a tensor holds values that are not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise MetadeblurError(f"{path}: not readable as safetensors weights ({error})") from error
    broken = [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise MetadeblurError(f"{path}: {broken[0]} holds values that are not finite (NaN); use another weight file")
    return weights, metadata


def load_deblurrer(model: str | Path = "lite") -> nn.Module:
    """A deblurrer, in evaluation mode, float32: built-in by name, or any supported architecture from a weight file.

    Args:
        model: ``lite``, or a safetensors file; the architecture and its sizes are read from the tensors.

    Raises:
        MetadeblurError: unknown name, missing or broken file, or tensors of no known architecture.

    >>> sum(p.numel() for p in load_deblurrer("lite").parameters()) < 3_000_000
    True
    """
    path = find(model)
    weights, _ = read_weights(path)
    name = recognise(weights)
    if name is None:
        known = ", ".join(ARCHITECTURES)
        raise MetadeblurError(f"{path}: its {len(weights)} tensors belong to no known network; known: {known}")
    try:
        net = ARCHITECTURES[name].build(weights)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MetadeblurError(f"{path}: looks like {name}, but its tensors do not fit: {reason}") from error
    return net.eval()


def save_deblurrer(net: nn.Module, path: Path, metadata: dict[str, str], *, half: bool = False) -> None:
    """Write a network's weights as safetensors, under a temporary name first; ``half`` stores float16.

    Raises:
        MetadeblurError: the file cannot be written.
    """
    weights = {
        key: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in net.state_dict().items()
    }
    with whole(path) as partial:
        partial.write_bytes(save(weights, metadata={**metadata, "format": "pt"}))


def model_card(name: str) -> dict[str, object]:
    """What the card beside a built-in model's weights says (``<name>.json``)."""
    card: dict[str, object] = json.loads(built_in_path(name).with_suffix(".json").read_text())
    return card


def parameters_digest(net: nn.Module) -> str:
    """SHA-256 over a network's tensors: tells weights apart whatever file they came from."""
    digest = hashlib.sha256()
    for key, value in net.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()

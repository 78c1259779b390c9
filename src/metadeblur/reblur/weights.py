"""The reblurring network with its critic, out of a weight file and into one."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from metadeblur.models.weights import read_reblurrer, save_deblurrer
from metadeblur.reblur.fitting import NetworkReblurrer


def load_reblurrer(source: str | Path = "") -> NetworkReblurrer:
    """The paper's reblurring network with its critic, see :func:`metadeblur.models.weights.read_reblurrer`."""
    return NetworkReblurrer(*read_reblurrer(source))


def save_reblurrer(reblurrer: NetworkReblurrer, path: Path, metadata: dict[str, str], *, half: bool = False) -> None:
    """Write a reblurring network and its critic into one safetensors file; ``half`` stores float16.

    Raises:
        MetadeblurError: the file cannot be written.
    """
    parts = {"reblurrer": reblurrer.network} | ({"critic": reblurrer.critic} if reblurrer.critic is not None else {})
    about = {"architecture": "reblurrer", "order": str(getattr(reblurrer.network, "order", "own"))}
    # What a critic sees, and how it is bounded, cannot be told from its weights; of the published form nothing is said.
    sees, bound = getattr(reblurrer.critic, "sees", "rgb"), getattr(reblurrer.critic, "bound", None)
    about |= {} if sees == "rgb" else {"critic_input": sees}
    about |= {} if bound in (None, "clip") else {"critic_bound": bound}
    save_deblurrer(nn.ModuleDict(parts), path, about | metadata, half=half)

"""``metadeblur models``: what ``--model`` may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Models:
    """List the models that --model knows by name; a weight file of one of these networks works as well."""

    def run(self) -> None:
        """Print one line a model."""
        from metadeblur.networks import ARCHITECTURES
        from metadeblur.weights import BUILT_IN, built_in_path, read_weights

        for name, architecture in ARCHITECTURES.items():
            frames = architecture.traits.frames
            takes = "one frame" if frames == 1 else f"{frames} frames"
            if name in BUILT_IN and built_in_path(name).is_file():
                weights, _ = read_weights(built_in_path(name))
                size = sum(tensor.numel() for tensor in weights.values())
                print(f"{name:<16}built in, {size / 1e6:.2f} million parameters, takes {takes}")
            else:
                print(f"{name:<16}no weights installed, takes {takes}; give a weight file: --model FILE")

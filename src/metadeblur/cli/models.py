"""``metadeblur models``: what ``--model`` may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from metadeblur.pipeline.catalogue import Model


@dataclass(frozen=True)
class Models:
    """List the models that --model knows by name; a weight file of one of these networks works as well.

    Multiply-adds are those of one frame, in convolutions and products of matrices.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME...")] = ()
    """Which models; none: all."""
    measure: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Time one frame of 256x256 on this machine, in fp32."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a JSON list instead of the table."""

    def run(self) -> None:
        """Print two or three lines a model, as soon as they are known, and what the columns are."""
        from metadeblur.pipeline.catalogue import describe, names
        from metadeblur.system.json_files import to_json

        models = (describe(name, measure=self.measure) for name in self.names or names())
        if self.json:
            print(to_json(list(models)), end="")
            return
        print(
            _line("model", "takes", "parameters", "256x256", "1280x720", "s a frame" if self.measure else "", "weights")
        )
        for model in models:
            print(_told(model), flush=True)
        measured = "; s a frame: seconds for one of 256x256 on this machine, in fp32" if self.measure else ""
        print(f"\n256x256, 1280x720: multiply-adds of one frame of that size{measured}.")


def _line(*cells: str) -> str:
    name, takes, *numbers, weights = cells
    return f"{name:<16}{takes:<16}" + "".join(f"{number:>12}" for number in numbers if number) + f"  {weights}"


def _told(model: Model) -> str:
    """Two lines: the figures, and where the weights come from."""
    counted = [f"{count / 1e9:.1f} G" for count in model.multiply_adds.values()]
    seconds = "" if model.seconds is None else f"{model.seconds:.2f}"
    takes = model.kind if model.frames == 1 else f"{model.kind}, {model.frames} frames"
    first = _line(model.name, takes, f"{model.parameters / 1e6:.2f} M", *counted, seconds, model.weights)
    how = "" if model.weights != "not here" else f"\n{'':<16}{model.how}"
    return f"{first}\n{'':<16}{model.paper}; weights: {model.licence}{how}"

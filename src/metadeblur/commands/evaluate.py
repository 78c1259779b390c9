"""``metadeblur evaluate``: how good base and adapted are, where the sharp frames are known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metadeblur.commands import UsageError
from metadeblur.progress import Talk

ROWS = ("blurred", "base", "adapted", "oracle")


@dataclass(frozen=True)
class Evaluate:
    """Measure blurred, base, adapted and oracle on paired clips, against their sharp frames.

    Writes CLIP.json for each clip and summary.json, and prints the table of PSNR in dB.
    """

    root: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
    """Folder of paired clips: CLIP/blur and CLIP/sharp."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for the records."""
    layout: Literal["auto", "plain"] = "auto"
    """How the folder is laid out; plain: CLIP/blur and CLIP/sharp."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "lite"
    """The deblurring network: a model's name or a weight file."""
    rows: Annotated[str, tyro.conf.arg(metavar="ROW,...")] = ",".join(ROWS)
    """What is measured, separated by commas."""
    apart: Annotated[str, tyro.conf.arg(metavar="CLIP,...", help_behavior_hint="")] = ""
    """Clips whose mean is also given apart from that of the others, separated by commas."""
    pairs: Annotated[int, tyro.conf.arg(metavar="M")] = 20
    """Places of a clip whose sharpest patch is reblurred to learn from."""
    steps: Annotated[int, tyro.conf.arg(metavar="N")] = 40
    """Gradient steps of each adaptation."""
    lr: Annotated[float, tyro.conf.arg(metavar="LR")] = 1e-4
    """Learning rate of the adaptation."""
    guard: bool = True
    """Keep, weaken or drop each adaptation by what it does."""
    seed: Annotated[int, tyro.conf.arg(metavar="S")] = 0
    """The same seed and settings give the same figures on the same machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What computes; auto: a GPU that PyTorch can use, otherwise the processor."""
    tile: Annotated[int | None, tyro.conf.arg(metavar="PX", help_behavior_hint="")] = None
    """Side of the tiles that frames are cut into; 0: whole frames; default: what fits into memory."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic; auto: bf16 where the machine does it natively and the result stays the same."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep the records that are there already and do the rest."""

    def run(self) -> None:
        """Measure, and print the table."""
        rows = _listed(self.rows)
        strange = [row for row in rows if row not in ROWS]
        if strange or not rows:
            raise UsageError(f"--rows {self.rows!r}: rows are {', '.join(ROWS)}, separated by commas")
        from metadeblur.adapt import AdaptSettings
        from metadeblur.evaluation.protocol import EvaluateSettings, evaluate
        from metadeblur.evaluation.tables import markdown, table
        from metadeblur.restore import RestoreSettings
        from metadeblur.weights import load_deblurrer

        settings = EvaluateSettings(
            rows=rows,
            adaptation=AdaptSettings(
                pairs=self.pairs,
                steps=self.steps,
                lr=self.lr,
                guard=self.guard,
                precision=self.precision,
                device=self.device,
                seed=self.seed,
            ),
            restoration=RestoreSettings(tile=self.tile, precision=self.precision, device=self.device),
            apart=_listed(self.apart),
            resume=self.resume,
        )
        net, talk = load_deblurrer(self.model), Talk()
        with talk.bar("evaluating", "clips") as bar:
            summary = evaluate(self.root, net, self.output, settings, model=self.model, progress=bar)
        paths = [self.output / f"{clip.replace('/', '_')}.json" for clip in summary["clips"]]
        print(markdown(table([json.loads(path.read_text(encoding="utf-8")) for path in paths], summary)))
        if summary.get("oracle_ratio") is not None:
            print(f"\noracle ratio: {summary['oracle_ratio']:.2f}")


def _listed(text: str) -> tuple[str, ...]:
    """The words of a list separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())

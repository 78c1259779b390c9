"""``metadeblur train``: fit networks to paired clips."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metadeblur.commands import UsageError
from metadeblur.training.deblur import DeblurTraining


@dataclass(frozen=True)
class TrainDeblur:
    """Train the network lite on paired clips (GoPro layout, as metadeblur synth makes them).

    Settings come from a TOML file, from flags, or both; flags win. A run writes checkpoints and goes on with --resume.
    """

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = Path("training")
    """Folder for weights, checkpoints and the log."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.toml", help_behavior_hint="")] = None
    """Read settings from this file; its keys are the names of the flags."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on from the last checkpoint in the output folder."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What computes; auto: a GPU that PyTorch can use, otherwise the processor."""
    settings: Annotated[DeblurTraining, tyro.conf.OmitArgPrefixes] = field(default_factory=DeblurTraining)
    """How the network is trained."""

    def run(self) -> None:
        """Train."""
        from metadeblur.progress import Talk
        from metadeblur.restore import choose_device
        from metadeblur.training.deblur import train_deblur

        if not self.settings.clips:
            raise UsageError("train deblur needs folders of paired clips: --clips DIR (metadeblur synth makes them)")
        device = choose_device(self.device).type
        weights = train_deblur(self.settings, self.output, resume=self.resume, device=device)
        Talk().say(f"{weights}: the weights; metadeblur restore --model {weights} uses them")

"""``metadeblur reproduce``: the paper's tables and figures, its numbers beside ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metadeblur.cli.flags import DeviceFlag, NoPrefix, Switch, TalkFlags, refuse_missing_device
from metadeblur.cli.inputs import refuse_missing
from metadeblur.errors import UsageError
from metadeblur.limits import CountOrNone, Crop, Patch, Processes, Steps, Within, check


@dataclass(frozen=True)
class Reproduce:
    """Run an experiment of the paper: its Tables 1 and 2, its Figures 5 and 6.

    Writes tables (Markdown, LaTeX, CSV), pictures (PNG), the page EXPERIMENT.html and the record EXPERIMENT.json. What
    data or weights are absent is named row by row, the rest is run. A stopped run goes on with the same command.
    """

    experiment: Annotated[Literal["table1", "table2", "figure5", "figure6"], tyro.conf.Positional]
    """table1: baseline and meta; table2: losses; figure5: side by side; figure6: number of pairs."""
    root: Annotated[list[Path], tyro.conf.arg(metavar="DIR...", help_behavior_hint="(one or more)")]
    """Folders that hold DVD, REDS and RealBlur; with --small any folders of paired clips, or builtin."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for everything."""
    small: Switch = False
    """Run the same on whatever clips are at hand, with few frames, pairs and steps: minutes instead of days."""
    weights: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR",
            help_behavior_hint="",
            help="Folder with NETWORK.safetensors, reblurrer.safetensors, and what train meta wrote as meta/NETWORK; "
            "what is not there is taken from the installed weights, but the built-in reblurring network only with "
            "--small.",
        ),
    ] = None
    networks: Annotated[str, tyro.conf.arg(metavar="NAME,...", help_behavior_hint="")] = ""
    """Networks, separated by commas; default: the paper's four, with --small also lite."""
    apart: Annotated[str, tyro.conf.arg(metavar="CLIP,...", help_behavior_hint="")] = ""
    """With --small: clips that are a data set of their own, such as those not made with optical flow."""
    pairs: Annotated[str, tyro.conf.arg(metavar="M,...", help_behavior_hint="")] = ""
    """Numbers of pairs that figure6 compares; default: 5, 10, 20 and 40, with --small 2, 4 and 8."""
    seeds: Annotated[int, Within(1, 1000), tyro.conf.arg(metavar="N")] = 1
    """Runs that each figure is the mean of."""
    frames: Annotated[CountOrNone | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Frames measured in the middle of each clip, 0 for all; default: all, with --small 8."""
    crop: Annotated[Crop | None, tyro.conf.arg(metavar="PX", help_behavior_hint="")] = None
    """Side of the piece that is measured in the middle of the frames; default: whole frames."""
    steps: Annotated[Steps | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Gradient steps of adaptations with optical flow; default: 40, with --small 16."""
    patch: Annotated[Patch | None, tyro.conf.arg(metavar="PX", help_behavior_hint="")] = None
    """Side of the patches that are learnt from; default: 256, with --small 96."""
    device: DeviceFlag = "auto"
    """What computes; auto: a CUDA GPU where there is one, otherwise the processor."""
    workers: Annotated[Processes, tyro.conf.arg(metavar="N")] = 1
    """Processes that measure clips side by side; of several GPUs each takes the next one in turn."""
    flow: bool = True
    """Also measure this program's own adaptation, by pairs of optical flow, guarded."""
    talk: Annotated[TalkFlags, NoPrefix, tyro.conf.arg(name="")] = field(default_factory=TalkFlags)

    def __post_init__(self) -> None:
        check(self)

    def run(self) -> None:
        """Run it, and print the tables."""
        if not self.root:
            raise UsageError("reproduce needs a folder: metadeblur reproduce table1 --root DIR -o OUT")
        from metadeblur.paper.experiments import render, reproduce
        from metadeblur.paper.runs import ReproduceSettings
        from metadeblur.restoration.restorer import RestoreSettings

        counts = _listed(self.pairs)
        if not all(count.isdigit() for count in counts):
            raise UsageError(f"--pairs {self.pairs!r}: whole numbers are needed, separated by commas")
        settings = ReproduceSettings(
            small=self.small,
            weights=self.weights,
            networks=_listed(self.networks),
            apart=_listed(self.apart),
            pairs=tuple(map(int, counts)),
            seeds=self.seeds,
            frames=self.frames,
            crop=self.crop,
            steps=self.steps,
            patch=self.patch,
            device=self.device,
            restoration=RestoreSettings(device=self.device),
            workers=self.workers,
            flow=self.flow,
        )
        refuse_missing([path for path in self.root if str(path) != "builtin"], self.output)
        refuse_missing_device(self.device)
        terminal = self.talk.terminal()
        tables = render(reproduce(self.experiment, self.root, self.output, settings, say=terminal.say))
        terminal.show(tables.removesuffix("\n"))


def _listed(text: str) -> tuple[str, ...]:
    """The words of a list separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())

"""``metadeblur train``: fit networks to paired clips.

The same command under ``torchrun`` trains on several processes, GPUs or machines.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from metadeblur.cli.flags import EVERYDAY, EXPERT, ConfigFlags, DeviceFlag, NoPrefix, Switch, TalkFlags
from metadeblur.errors import UsageError
from metadeblur.limits import check
from metadeblur.training.settings import DeblurTraining, MetaTraining, ReblurTraining

TRAINING = tyro.conf.arg(name="training")


@dataclass(frozen=True)
class EverydayFlags:
    """What most runs need."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = Path("training")
    """Folder for weights, checkpoints, logs, curves and pictures."""
    resume: Switch = False
    """Go on from the last checkpoint in the output folder."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class DeviceFlags:
    """What computes."""

    device: DeviceFlag = "auto"
    """What computes; auto: a CUDA GPU where there is one, otherwise the processor."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class _Training:
    """Flags of every training."""

    everyday: Annotated[EverydayFlags, NoPrefix, EVERYDAY] = field(default_factory=EverydayFlags)
    source: Annotated[ConfigFlags, NoPrefix, EVERYDAY] = field(default_factory=ConfigFlags)
    talk: Annotated[TalkFlags, NoPrefix, EVERYDAY] = field(default_factory=TalkFlags)
    machine: Annotated[DeviceFlags, NoPrefix, EXPERT] = field(default_factory=DeviceFlags)

    def __post_init__(self) -> None:
        check(self)

    @property
    def output(self) -> Path:
        """Folder for everything."""
        return self.everyday.output

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks, of several."""
        return os.environ.get("RANK", "0") == "0"

    def _how(self, device: str) -> dict[str, Any]:
        """What every training is told beside its settings."""
        return {"resume": self.everyday.resume, "device": device, "quiet": self.talk.quiet}

    def say(self, line: str) -> None:
        """Tell the person who waits; of several processes the first one does."""
        if self.leads:
            self.talk.terminal().say(line)

    def chosen_device(self, name: str, clips: tuple[str, ...]) -> str:
        """The device's name, once there is something to train on."""
        from metadeblur.system.device import choose_device

        if not clips:
            raise UsageError(f"train {name} needs folders of paired clips: --clips DIR (metadeblur synth makes them)")
        return str(choose_device(self.machine.device))


@dataclass(frozen=True)
class TrainDeblur(_Training):
    """Train a deblurring network on paired clips (GoPro layout, as metadeblur synth makes them).

    Settings come from a TOML file, from flags, or both; flags win. A run writes checkpoints and goes on with --resume.
    """

    settings: Annotated[DeblurTraining, NoPrefix, TRAINING] = field(default_factory=DeblurTraining)
    """How the network is trained."""

    def run(self) -> None:
        """Train."""
        from metadeblur.training.deblur import train_deblur

        device = self.chosen_device("deblur", self.settings.clips)
        weights = train_deblur(self.settings, self.output, **self._how(device))
        self.say(f"{weights}: the weights; metadeblur restore --model {weights} uses them")


@dataclass(frozen=True)
class TrainReblur(_Training):
    """Pre-train the paper's reblurring network with its critic on paired clips.

    The defaults are the paper's, but for the critic, which sees gradients: it tells blur, not brightness. Settings come
    from a TOML file, from flags, or both; flags win. A run writes checkpoints and goes on with --resume.
    """

    settings: Annotated[ReblurTraining, NoPrefix, TRAINING] = field(default_factory=ReblurTraining)
    """How the network is trained."""

    def run(self) -> None:
        """Train."""
        from metadeblur.training.reblur import train_reblur

        device = self.chosen_device("reblur", self.settings.clips)
        weights = train_reblur(self.settings, self.output, **self._how(device))
        self.say(f"{weights}: the weights; metadeblur restore --reblur network --reblurrer {weights} uses them")


@dataclass(frozen=True)
class TrainMeta(_Training):
    """Meta-train a deblurrer, with the reblurring network or alone, so that adapting to a clip helps more.

    The defaults are the paper's, with the reblurring network; --inner flow meta-trains the deblurrer alone for what
    adapt and restore do by default. Settings come from a TOML file, from flags, or both; flags win. A run writes
    checkpoints and goes on with --resume.
    """

    settings: Annotated[MetaTraining, NoPrefix, TRAINING] = field(default_factory=MetaTraining)
    """How the networks are trained."""

    def run(self) -> None:
        """Train."""
        from metadeblur.training.meta import train_meta

        device = self.chosen_device("meta", self.settings.clips)
        if self.settings.fits_reblurrer:
            self._name_reblurrer()
        reblurrer, deblurrer = train_meta(self.settings, self.output, **self._how(device))
        if reblurrer is None:
            steps = f" --steps {self.settings.inner_steps}" if self.settings.inner_steps else ""
            self.say(f"{deblurrer}: the weights; metadeblur restore --model {deblurrer}{steps} uses them")
            return
        flags = f"--reblur network --reblurrer {reblurrer} --model {deblurrer}"
        self.say(f"{reblurrer}, {deblurrer}: the weights; metadeblur restore {flags} uses them")

    def _name_reblurrer(self) -> None:
        """Say so where the reblurring network is another than the paper's."""
        from metadeblur.evaluation.forms import PUBLISHED, reblurrer_form
        from metadeblur.reblur.weights import load_reblurrer

        form = reblurrer_form(load_reblurrer(self.settings.reblurrer).network)
        if form != PUBLISHED:  # the built-in one is, and would stand in silently for the paper's
            self.say(f"note: the reblurring network is {form}, not the paper's; --reblurrer takes another")

"""Flags that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro

from metadeblur.adaptation.settings import AdaptSettings, preset
from metadeblur.errors import UsageError
from metadeblur.limits import Gpus, LearningRate, Pairs, Seconds, Seed, Steps, Threads, Tile, Workers, check
from metadeblur.pipeline.console import Terminal
from metadeblur.system.extras import how_to_install
from metadeblur.system.paths import SLASHES, Folder
from metadeblur.types import Device, Effort, Precision

if TYPE_CHECKING:
    from torch import nn

    from metadeblur.cluster.connection import ClusterSettings
    from metadeblur.pipeline.task_pool import TaskPool


Target: TypeAlias = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        # A path drops the slash at its end, which tells a folder for the file from a folder of pictures.
        instance_from_str=lambda words: Folder(words[0]) if words[0].endswith(SLASHES) else Path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    ),
]
"""A file or folder to write."""
DeviceFlag: TypeAlias = Annotated[
    Device, tyro.conf.arg(metavar="auto|cpu|cuda|cuda:N|mps|xpu", help_behavior_hint="(default: auto)")
]
Switch: TypeAlias = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
"""A flag that is off unless it is given."""
PresetName = Literal["archive", "fast", "low-memory", "paper", "plain", "release", "share"]
"""The sets of settings in the folder ``preset_files``."""

# Flags without a prefix, under a heading of the help: "everyday options" and so on. Several classes may share one.
NoPrefix: Any = tyro.conf.OmitArgPrefixes
EVERYDAY, ADAPTATION, OUTPUT, EXPERT = (
    tyro.conf.arg(name=name) for name in ("everyday", "adaptation", "output", "expert")
)


_FLOW, _NETWORK = preset("flow"), preset("paper")


def _default(name: str) -> str:
    """The end of a help text: what a setting is where nobody says, with either reblurrer."""
    return f"default: {getattr(_FLOW, name):g}, or with the network {getattr(_NETWORK, name):g}."


def refuse_missing_device(device: Device) -> None:
    """See that this machine has a device, before anything is made.

    Raises:
        MetadeblurError: it has not.
    """
    from metadeblur.system.device import choose_device

    choose_device(device)


@dataclass(frozen=True)
class ConfigFlags:
    """Where settings come from."""

    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """TOML file of settings by the names of these flags; flags given besides win."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class PresetFlags:
    """Settings that have a name."""

    preset: Annotated[PresetName | None, tyro.conf.DisallowNone, tyro.conf.arg(help_behavior_hint="")] = None
    """Settings for a purpose, as metadeblur presets tells them; --config and flags given besides win."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TalkFlags:
    """What is said, and where."""

    quiet: Annotated[Switch, tyro.conf.arg(aliases=["-q"])] = False
    """Say nothing but errors."""
    log_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write all that is said to the end of this file, with the time and every reason; goes with -q."""

    def __post_init__(self) -> None:
        check(self)

    def terminal(self, *, verbose: bool = False) -> Terminal:
        """Where a command speaks to a person."""
        return Terminal(quiet=self.quiet, verbose=verbose)


@dataclass(frozen=True)
class AdaptationFlags:
    """How the network adapts."""

    effort: Effort = "balanced"
    """How much to learn. quick: no weights, frames only correct and help each other; best: longer, and from more."""
    budget: Annotated[Seconds | None, tyro.conf.arg(metavar="SECONDS", help_behavior_hint="")] = None
    """About how many seconds adapting to all shots of one input may take together; default: no limit."""
    reblur: Literal["auto", "flow", "network"] = "auto"
    """Where the blur to learn from comes from: the clip's optical flow, the paper's network, or the best there is."""
    pairs: Annotated[
        Pairs | None,
        tyro.conf.arg(
            metavar="M",
            help_behavior_hint="",
            help="Places of a shot whose sharpest patch is reblurred to learn from; " + _default("pairs"),
        ),
    ] = None
    steps: Annotated[
        Steps | None,
        tyro.conf.arg(
            metavar="N",
            help_behavior_hint="",
            help=f"Gradient steps of each adaptation; default: {_FLOW.steps}, or one for each place with the network.",
        ),
    ] = None
    lr: Annotated[
        LearningRate | None,
        tyro.conf.arg(metavar="LR", help_behavior_hint="", help="Learning rate of the adaptation; " + _default("lr")),
    ] = None
    fuse: bool = True
    """Fuse restored frames with neighbours that show the same things sharper; never with --reblur network."""
    back_project: bool = True
    """Correct fused frames by what they leave unexplained of the blurred ones, where the clip tells its exposure."""
    reblurrer: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE",
            help_behavior_hint="",
            help="Weights of the network that --reblur network uses, from metadeblur train reblur or train meta; "
            "reblurrer: built in, of the published form; reblurrer-meta: meta-trained with lite-meta; default: the "
            "imported ones, or else reblurrer-motion, which is told the clip's motion.",
        ),
    ] = None
    protocol: Literal["paper", "release"] = "paper"
    """How --reblur network adapts: as the paper says, or as its authors' released code does."""
    reblur_losses: Literal["both", "gan", "cycle", "none"] = "both"
    """Losses that fit that network to the clip: adversarial, cycle, both, or none (it stays as trained)."""
    balance: Switch = False
    """Weigh these two losses anew at each step, so that both pull alike at the network."""
    parameters: Literal["all", "norms-and-biases", "decoder", "last", "low-rank"] = "all"
    """What of the network adapts; parts take less memory. last: its last stage, or the finest level of its decoder."""
    seed: Annotated[Seed, tyro.conf.arg(metavar="S")] = 0
    """The same seed, settings and file give the same result on the same machine."""

    def __post_init__(self) -> None:
        check(self)

    def settings(self, *, guard: bool, device: Device, precision: Precision) -> AdaptSettings:
        """The settings of the adaptation; guard, device and precision are flags of each command's own.

        Raises:
            MetadeblurError: a value out of range.
        """
        base = preset(self.protocol if self.reblur == "network" and self.effort != "quick" else self.effort)
        given = {"pairs": self.pairs, "steps": self.steps, "lr": self.lr}
        return base.changed(
            **{name: value for name, value in given.items() if value is not None},
            fuse=self.fuse and base.fuse,
            back_project=self.back_project,
            reblur=self.reblur,
            reblurrer=str(self.reblurrer or ""),
            updates=replace(
                base.updates, losses=self.reblur_losses, critic=replace(base.updates.critic, balance=self.balance)
            ),
            parameters=self.parameters,
            guard=guard,
            precision=precision,
            budget_seconds=self.budget or 0.0,
            device=device,
            seed=self.seed,
        )


@dataclass(frozen=True)
class MachineFlags:
    """What computes, and how."""

    device: DeviceFlag = "auto"
    """What computes; auto: a CUDA GPU where there is one, otherwise the processor."""
    tile: Annotated[Tile | None, tyro.conf.arg(metavar="PX", help_behavior_hint="")] = None
    """Side of the tiles that frames are cut into; 0: whole frames; default: what fits into memory."""
    precision: Precision = "auto"
    """Arithmetic; auto: bf16 where the machine does it natively and the result stays the same."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class WorkerFlags:
    """Several processes or machines that work side by side."""

    cluster: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="ADDRESS|local",
            help_behavior_hint="",
            help="Have the work done by the processes of a Ray cluster: its address, auto to find it, or local to "
            f"start processes on this machine. Needs {how_to_install('cluster')}.",
        ),
    ] = None
    workers: Annotated[
        Workers | None,
        tyro.conf.arg(
            metavar="N",
            help_behavior_hint="",
            help="Processes that work side by side; default: 1. With --cluster as many as there is room for: one for "
            "each GPU where there are any, otherwise one for each processor.",
        ),
    ] = None
    worker_threads: Annotated[Threads | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """With --cluster: processor threads of each worker; default: all of them shared out."""
    worker_gpus: Annotated[Gpus | None, tyro.conf.arg(metavar="SHARE", help_behavior_hint="")] = None
    """With --cluster: how much of a GPU each worker takes; 0.5: two workers share one. Default: 1."""

    def __post_init__(self) -> None:
        check(self)

    def settings(self) -> ClusterSettings | None:
        """The settings of the cluster; None where there is to be none.

        Raises:
            UsageError: a flag that needs --cluster stands alone.
            MetadeblurError: a value out of range, or Ray is not installed.
        """
        if self.cluster is None:
            for name in ("worker_threads", "worker_gpus"):
                if getattr(self, name) is not None:
                    raise UsageError(f"--{name.replace('_', '-')} needs --cluster, such as --cluster local")
            return None
        from metadeblur.cluster.connection import ClusterSettings, load_ray

        load_ray(self.cluster)
        gpus = 1.0 if self.worker_gpus is None else self.worker_gpus
        return ClusterSettings(self.cluster, self.workers, self.worker_threads, gpus)

    @contextmanager
    def pool(self, net: nn.Module, device: Device, say: Callable[[str], object]) -> Iterator[TaskPool | None]:
        """Who works side by side; None: this process does all of it.

        Args:
            net: the base deblurrer.
            device: what is to compute.
            say: gets lines for a person.

        Raises:
            MetadeblurError: no cluster answers, or it has no room.
        """
        settings = self.settings()
        if settings is not None:
            from metadeblur.cluster.connection import joined
            from metadeblur.cluster.worker_pool import ClusterPool

            with joined(settings), ClusterPool(net, settings, device, say) as pool:
                yield pool
        elif self.workers is not None and self.workers > 1:
            from metadeblur.pipeline.process_pool import ProcessPool

            with ProcessPool(net, self.workers, say) as pool:
                yield pool
        else:
            yield None


@contextmanager
def writing_record(json: Path | None) -> Iterator[None]:
    """Keep the file of --json for this run alone; standard output, or none, needs nothing."""
    if json is None or str(json) == "-":
        yield
        return
    from metadeblur.system.files import refusals
    from metadeblur.system.locks import writing

    with refusals(json), writing(json, "--json"):
        yield

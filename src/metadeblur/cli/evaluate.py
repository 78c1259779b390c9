"""``metadeblur evaluate``: how good base and adapted are, where the sharp frames are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from metadeblur.adaptation.settings import AdaptSettings, preset
from metadeblur.cli.flags import (
    ADAPTATION,
    EVERYDAY,
    EXPERT,
    ConfigFlags,
    MachineFlags,
    NoPrefix,
    Switch,
    TalkFlags,
    WorkerFlags,
    refuse_missing_device,
)
from metadeblur.cli.inputs import given, needed, refuse_missing
from metadeblur.errors import UsageError
from metadeblur.limits import CountOrNone, Crop, LearningRate, Pairs, Patch, Rate, Seed, Steps, check

if TYPE_CHECKING:
    from metadeblur.evaluation.protocol import EvaluateSettings

ROWS = ("blurred", "base", "adapted", "oracle")
BUILT_IN = "builtin"


_DEFAULTS, _PAPER = preset("flow"), preset("paper")


def _changed(name: str, metavar: str, text: str) -> Any:
    """A flag that changes a setting of the preset, with what it is by the presets flow and paper."""
    defaults = f"default: {getattr(_DEFAULTS, name):g}"
    paper = "one for each place" if name == "steps" else f"{getattr(_PAPER, name):g}"
    text = f"{text}; {defaults}, with the presets of the paper {paper}."
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="", help=text)


@dataclass(frozen=True)
class EverydayFlags:
    """What most runs need."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR", help_behavior_hint="(required)")] = None
    """Folder for the records."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "lite"
    """The deblurring network: a model's name, a weight file, or a folder of md.save_pretrained."""
    rows: Annotated[str, tyro.conf.arg(metavar="ROW,...")] = ",".join(ROWS)
    """What is measured, separated by commas."""
    method: Annotated[
        str,
        tyro.conf.arg(
            metavar="NAME,...",
            help_behavior_hint="",
            help="How adapted is adapted: none, meta, finetune, flow, self, align, or mixtures such as flow+align; "
            "separated by commas: each is measured, the first one is the row adapted. Default: flow, or finetune with "
            "the presets of the paper.",
        ),
    ] = ""
    clips: Annotated[str, tyro.conf.arg(metavar="CLIP,...", help_behavior_hint="")] = ""
    """Clips to measure, separated by commas; default: all."""
    resume: Switch = False
    """Keep what has been measured already and do the rest."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class AdaptationFlags:
    """How adapted is adapted."""

    guard: bool = True
    """Keep, weaken or drop each adaptation by what it does."""
    meta: Annotated[
        str,
        tyro.conf.arg(
            metavar="DIR",
            help_behavior_hint="",
            help="What metadeblur train meta wrote: the networks that the method meta starts from; default: those "
            "built in for lite.",
        ),
    ] = ""
    preset: Annotated[
        Literal["flow", "paper", "release"],
        tyro.conf.arg(
            help="Settings that flags then change. flow: those of restore; paper, release: the inner update as the "
            "paper says it, or as its released code does it: its places, patches and rates, one pass, nothing "
            "mirrored, averaged or fused.",
        ),
    ] = "flow"
    pairs: Annotated[Pairs | None, _changed("pairs", "M", "Places of a clip whose sharpest patch is reblurred")] = None
    steps: Annotated[Steps | None, _changed("steps", "N", "Gradient steps of each adaptation")] = None
    lr: Annotated[LearningRate | None, _changed("lr", "LR", "Learning rate of the adaptation")] = None
    lr_reblurrer: Annotated[
        Rate | None,
        tyro.conf.arg(
            metavar="LR",
            help_behavior_hint="",
            help="Learning rate of the reblurring network of finetune and meta; its critic's keeps its ratio to it. "
            "Default: 1e-6, with the preset release 2.5e-6.",
        ),
    ] = None
    patch: Annotated[Patch | None, _changed("patch", "PX", "Side of the patches; shrinks to fit small frames")] = None
    fuse: Annotated[
        bool,
        tyro.conf.arg(
            help="Fuse frames that a network restored with neighbours that show the same things sharper, in the rows "
            "adapted, oracle and base fused alike; never with the presets of the paper.",
        ),
    ] = _DEFAULTS.fuse
    back_project: bool = _DEFAULTS.back_project
    """Correct fused frames by what they leave unexplained of the blurred ones, where the clip tells its exposure."""
    reblurrer: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """Weights of the reblurring network, for the method finetune; default: the built-in ones."""
    seed: Annotated[Seed, tyro.conf.arg(metavar="S")] = 0
    """The same seed and settings give the same figures on the same machine."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class MeasuringFlags:
    """What is read, and how it is measured."""

    layout: Literal["auto", "plain", "gopro", "dvd", "reds", "realblur", "bsd", "hide"] = "auto"
    """How the folder is laid out; auto: recognised; plain: CLIP/blur and CLIP/sharp."""
    part: Annotated[str, tyro.conf.arg(metavar="PART", help_behavior_hint="")] = ""
    """Part of a benchmark, such as test, val, J or R; default: what its papers report."""
    inputs: Literal["blur", "blur_gamma"] = "blur"
    """GoPro's folder of blurred frames; most papers use blur."""
    apart: Annotated[str, tyro.conf.arg(metavar="CLIP,...", help_behavior_hint="")] = ""
    """Clips whose mean is also given apart from that of the others, separated by commas."""
    crop: Annotated[Crop, tyro.conf.arg(metavar="PX")] = 0
    """Measure on the piece of this side in the middle of the frames; 0: whole frames."""
    frames: Annotated[CountOrNone, tyro.conf.arg(metavar="N")] = 0
    """Measure on this many frames in the middle of each clip; 0: all."""
    ssim: Literal["auto", "luma", "rgb", "matlab", "aligned"] = "auto"
    """Kind of SSIM; auto: as papers on the benchmark take it."""
    perceptual: Switch = False
    """Also measure LPIPS, DISTS and NIQE (extra perceptual), which takes longer: reported, never used to choose."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Evaluate:
    """Measure blurred, base, adapted and oracle on paired clips, against their sharp frames.

    Writes CLIP.json for each clip, summary.json, the tables (Markdown, LaTeX, CSV), the page index.html and a table for
    a paper with what to cite (paper.tex, citation.bib), and prints the table of PSNR in dB.
    """

    root: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT|builtin", help_behavior_hint="(required)")
    ] = None
    """Folder of paired clips, a benchmark's or CLIP/blur and CLIP/sharp; builtin: eight clips made on the spot."""
    everyday: Annotated[EverydayFlags, NoPrefix, EVERYDAY] = field(default_factory=EverydayFlags)
    settings: Annotated[ConfigFlags, NoPrefix, EVERYDAY] = field(default_factory=ConfigFlags)
    talk: Annotated[TalkFlags, NoPrefix, EVERYDAY] = field(default_factory=TalkFlags)
    adaptation: Annotated[AdaptationFlags, NoPrefix, ADAPTATION] = field(default_factory=AdaptationFlags)
    measuring: Annotated[MeasuringFlags, NoPrefix] = field(default_factory=MeasuringFlags)
    machine: Annotated[MachineFlags, NoPrefix, EXPERT] = field(default_factory=MachineFlags)
    workers: Annotated[WorkerFlags, NoPrefix, EXPERT] = field(default_factory=WorkerFlags)

    def __post_init__(self) -> None:
        check(self)

    @property
    def output(self) -> Path | None:
        """Folder for the records."""
        return self.everyday.output

    def run(self) -> None:
        """Measure, and print the table."""
        rows = _listed(self.everyday.rows)
        strange = [row for row in rows if row not in ROWS]
        if strange or not rows:
            raise UsageError(f"--rows {self.everyday.rows!r}: rows are {', '.join(ROWS)}, separated by commas")
        root = given(self.root, "a folder of paired clips, or builtin", "metadeblur evaluate ROOT -o DIR")
        built_in = str(root) == BUILT_IN
        if not built_in:
            refuse_missing([root], self.output)
        output = needed(self.output, "metadeblur evaluate ROOT -o DIR")
        self.workers.settings()  # refuses what makes no sense before anything is loaded
        from metadeblur.data.sources import refuse_within
        from metadeblur.evaluation.builtin import make_builtin, refuse_unfit
        from metadeblur.evaluation.paper_table import CITATION, TABLE
        from metadeblur.evaluation.protocol import evaluate, read_records
        from metadeblur.evaluation.report import write_tables
        from metadeblur.models.weights import load_deblurrer
        from metadeblur.system.files import filling

        settings = self._settings(rows)
        if built_in:
            refuse_unfit(settings)
        else:
            refuse_within([root], output)
        if self.workers.cluster is None:
            refuse_missing_device(self.machine.device)
        net, terminal = load_deblurrer(self.everyday.model), self.talk.terminal()
        settings.refuse(net, self.everyday.model)
        with filling(output, "evaluate"), terminal.bar("evaluating", "clips") as bar:
            clips = make_builtin(output / "clips", bar) if built_in else root
            with self.workers.pool(net, self.machine.device, terminal.say) as pool:
                name = self.everyday.model
                summary = evaluate(clips, net, output, settings, model=name, progress=bar, pool=pool, say=terminal.say)
            tables = write_tables(read_records(output, summary), summary, output)
        for note in summary.notes:
            terminal.say(f"note: {note}")
        terminal.show(tables)
        terminal.say(f"{output / TABLE}: the means as a table for a paper; what it cites: {CITATION} beside it")

    def _settings(self, rows: tuple[str, ...]) -> EvaluateSettings:
        """The settings of the rooms that do the work."""
        from metadeblur.evaluation.protocol import EvaluateSettings
        from metadeblur.restoration.restorer import RestoreSettings

        everyday, adaptation, measuring, machine = self.everyday, self.adaptation, self.measuring, self.machine
        return EvaluateSettings(
            rows=rows,
            methods=_listed(everyday.method) or (("flow",) if adaptation.preset == "flow" else ("finetune",)),
            meta=adaptation.meta,
            layout=measuring.layout,
            part=measuring.part,
            inputs=measuring.inputs,
            ssim=measuring.ssim,
            perceptual=measuring.perceptual,
            clips=_listed(everyday.clips),
            crop=measuring.crop,
            frames=measuring.frames,
            adaptation=self.adapt_settings(),
            restoration=RestoreSettings(tile=machine.tile, precision=machine.precision, device=machine.device),
            apart=_listed(measuring.apart),
            resume=everyday.resume,
        )

    def adapt_settings(self) -> AdaptSettings:
        """The preset's settings, changed by what was given."""
        flags, machine = self.adaptation, self.machine
        base = preset(flags.preset)
        changes = {name: getattr(flags, name) for name in ("pairs", "steps", "lr", "patch")}
        updates = base.updates
        if flags.lr_reblurrer is not None:
            updates = updates.faster(flags.lr_reblurrer / updates.lr_reblurrer)
        return base.changed(
            **{name: value for name, value in changes.items() if value is not None},
            updates=updates,
            reblurrer=flags.reblurrer,
            fuse=flags.fuse and base.fuse,
            back_project=flags.back_project,
            guard=flags.guard,
            precision=machine.precision,
            device=machine.device,
            seed=flags.seed,
        )


def _listed(text: str) -> tuple[str, ...]:
    """The words of a list separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())

"""``metadeblur evaluate``: how good base and adapted are, where the sharp frames are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metadeblur.adaptation.settings import AdaptSettings, preset
from metadeblur.cli.flags import DeviceFlag, WorkerFlags, refuse_missing_device
from metadeblur.cli.inputs import needed, refuse_missing
from metadeblur.errors import UsageError
from metadeblur.limits import CountOrNone, Crop, LearningRate, Pairs, Patch, Rate, Seed, Steps, Tile, check
from metadeblur.pipeline.console import Terminal
from metadeblur.types import Precision

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
class Evaluate:
    """Measure blurred, base, adapted and oracle on paired clips, against their sharp frames.

    Writes CLIP.json for each clip, summary.json, the tables (Markdown, LaTeX, CSV) and the page index.html, and prints
    the table of PSNR in dB.
    """

    root: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT|builtin")]
    """Folder of paired clips, a benchmark's or CLIP/blur and CLIP/sharp; builtin: eight clips made on the spot."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR", help_behavior_hint="(required)")] = None
    """Folder for the records."""
    layout: Literal["auto", "plain", "gopro", "dvd", "reds", "realblur", "bsd", "hide"] = "auto"
    """How the folder is laid out; auto: recognised; plain: CLIP/blur and CLIP/sharp."""
    part: Annotated[str, tyro.conf.arg(metavar="PART", help_behavior_hint="")] = ""
    """Part of a benchmark, such as test, val, J or R; default: what its papers report."""
    inputs: Literal["blur", "blur_gamma"] = "blur"
    """GoPro's folder of blurred frames; most papers use blur."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "lite"
    """The deblurring network: a model's name or a weight file."""
    rows: Annotated[str, tyro.conf.arg(metavar="ROW,...")] = ",".join(ROWS)
    """What is measured, separated by commas."""
    method: Annotated[str, tyro.conf.arg(metavar="NAME,...", help_behavior_hint="")] = ""
    """How adapted is adapted: none, meta, finetune, flow, self, align, or mixtures such as flow+align; separated by
    commas: each is measured, the first one is the row adapted. Default: flow, or finetune with the presets of the
    paper."""
    preset: Literal["flow", "paper", "release"] = "flow"
    """Settings that flags then change. flow: those of restore; paper, release: the inner update as the paper says it,
    or as its released code does it: its places, patches and rates, one pass, nothing mirrored, averaged or fused."""
    meta: Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = ""
    """What metadeblur train meta wrote: the networks that the method meta starts from; default: those built in for
    lite."""
    clips: Annotated[str, tyro.conf.arg(metavar="CLIP,...", help_behavior_hint="")] = ""
    """Clips to measure, separated by commas; default: all."""
    apart: Annotated[str, tyro.conf.arg(metavar="CLIP,...", help_behavior_hint="")] = ""
    """Clips whose mean is also given apart from that of the others, separated by commas."""
    crop: Annotated[Crop, tyro.conf.arg(metavar="PX")] = 0
    """Measure on the piece of this side in the middle of the frames; 0: whole frames."""
    frames: Annotated[CountOrNone, tyro.conf.arg(metavar="N")] = 0
    """Measure on this many frames in the middle of each clip; 0: all."""
    ssim: Literal["auto", "luma", "rgb", "matlab", "aligned"] = "auto"
    """Kind of SSIM; auto: as papers on the benchmark take it."""
    pairs: Annotated[Pairs | None, _changed("pairs", "M", "Places of a clip whose sharpest patch is reblurred")] = None
    steps: Annotated[Steps | None, _changed("steps", "N", "Gradient steps of each adaptation")] = None
    lr: Annotated[LearningRate | None, _changed("lr", "LR", "Learning rate of the adaptation")] = None
    lr_reblurrer: Annotated[Rate | None, tyro.conf.arg(metavar="LR", help_behavior_hint="")] = None
    """Learning rate of the reblurring network of finetune and meta; its critic's keeps its ratio to it. Default: 1e-6,
    with the preset release 2.5e-6."""
    patch: Annotated[Patch | None, _changed("patch", "PX", "Side of the patches; shrinks to fit small frames")] = None
    reblurrer: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """Weights of the reblurring network, for the method finetune; default: the built-in ones."""
    fuse: bool = _DEFAULTS.fuse
    """Fuse frames that a network restored with neighbours that show the same things sharper, in the rows adapted,
    oracle and base fused alike; never with the presets of the paper."""
    back_project: bool = _DEFAULTS.back_project
    """Correct fused frames by what they leave unexplained of the blurred ones, where the clip tells its exposure."""
    guard: bool = True
    """Keep, weaken or drop each adaptation by what it does."""
    seed: Annotated[Seed, tyro.conf.arg(metavar="S")] = 0
    """The same seed and settings give the same figures on the same machine."""
    device: DeviceFlag = "auto"
    """What computes; auto: a CUDA GPU where there is one, otherwise the processor."""
    tile: Annotated[Tile | None, tyro.conf.arg(metavar="PX", help_behavior_hint="")] = None
    """Side of the tiles that frames are cut into; 0: whole frames; default: what fits into memory."""
    precision: Precision = "auto"
    """Arithmetic; auto: bf16 where the machine does it natively and the result stays the same."""
    workers: Annotated[WorkerFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=WorkerFlags)
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep what has been measured already and do the rest."""

    def __post_init__(self) -> None:
        check(self)

    def run(self) -> None:
        """Measure, and print the table."""
        rows = _listed(self.rows)
        strange = [row for row in rows if row not in ROWS]
        if strange or not rows:
            raise UsageError(f"--rows {self.rows!r}: rows are {', '.join(ROWS)}, separated by commas")
        built_in = str(self.root) == BUILT_IN
        if not built_in:
            refuse_missing([self.root], self.output)
        output = needed(self.output, "metadeblur evaluate ROOT -o DIR")
        self.workers.settings()  # refuses what makes no sense before anything is loaded
        from metadeblur.data.sources import refuse_within
        from metadeblur.evaluation.builtin import make_builtin, refuse_unfit
        from metadeblur.evaluation.protocol import EvaluateSettings, evaluate, read_records
        from metadeblur.evaluation.report import write_tables
        from metadeblur.models.weights import load_deblurrer
        from metadeblur.restoration.restorer import RestoreSettings
        from metadeblur.system.files import filling

        settings = EvaluateSettings(
            rows=rows,
            methods=_listed(self.method) or (("flow",) if self.preset == "flow" else ("finetune",)),
            meta=self.meta,
            layout=self.layout,
            part=self.part,
            inputs=self.inputs,
            ssim=self.ssim,
            clips=_listed(self.clips),
            crop=self.crop,
            frames=self.frames,
            adaptation=self._adaptation(),
            restoration=RestoreSettings(tile=self.tile, precision=self.precision, device=self.device),
            apart=_listed(self.apart),
            resume=self.resume,
        )
        if built_in:
            refuse_unfit(settings)
        else:
            refuse_within([self.root], output)
        if self.workers.cluster is None:
            refuse_missing_device(self.device)
        net, terminal = load_deblurrer(self.model), Terminal()
        settings.refuse(net, self.model)
        with filling(output, "evaluate"), terminal.bar("evaluating", "clips") as bar:
            clips = make_builtin(output / "clips", bar) if built_in else self.root
            with self.workers.pool(net, self.device, terminal.say) as pool:
                summary = evaluate(
                    clips, net, output, settings, model=self.model, progress=bar, pool=pool, say=terminal.say
                )
            tables = write_tables(read_records(output, summary), summary, output)
        for note in summary.notes:
            terminal.say(f"note: {note}")
        print(tables)

    def _adaptation(self) -> AdaptSettings:
        """The preset's settings, changed by what was given."""
        base = preset(self.preset)
        given = {name: getattr(self, name) for name in ("pairs", "steps", "lr", "patch")}
        updates = base.updates
        if self.lr_reblurrer is not None:
            updates = updates.faster(self.lr_reblurrer / updates.lr_reblurrer)
        return base.changed(
            **{name: value for name, value in given.items() if value is not None},
            updates=updates,
            reblurrer=self.reblurrer,
            fuse=self.fuse and base.fuse,
            back_project=self.back_project,
            guard=self.guard,
            precision=self.precision,
            device=self.device,
            seed=self.seed,
        )


def _listed(text: str) -> tuple[str, ...]:
    """The words of a list separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())

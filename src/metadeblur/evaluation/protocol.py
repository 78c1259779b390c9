"""Measure on paired clips: rows blurred, base, adapted (guarded and not) and oracle, one JSON record a clip.

Adaptation sees blurred frames alone. The oracle takes the same number of gradient steps, on patches of the same size,
but of TRUE pairs of the clip: an upper bound of what adaptation could win, for evaluation only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metadeblur.adapt import AdaptSettings, Outcome, Pair, inner_update
from metadeblur.clip import PairedClip
from metadeblur.data.layouts import Benchmark, ClipFolder, open_benchmark
from metadeblur.data.paired import TrialClip, read_trial
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.measures import Measure, measure_for
from metadeblur.evaluation.methods import Method, find_method
from metadeblur.evaluation.rows import Focus, Ledger, choose_focus, keep_picture, measure_row
from metadeblur.evaluation.summary import FIGURES, summarize
from metadeblur.guard import sharp_already
from metadeblur.networks import traits
from metadeblur.progress import stopwatch
from metadeblur.record import machine, peak_memory_mb, plain, versions, write_json
from metadeblur.restore import RestoreSettings
from metadeblur.weights import checksum, load_deblurrer, parameters_digest

ROWS = ("blurred", "base", "adapted", "oracle")

Progress = Callable[[int, int, str], None]  # (clips done, clips in all, what is going on)


@dataclass(frozen=True)
class EvaluateSettings:
    """What is measured and how."""

    rows: tuple[str, ...] = ROWS  # blurred is always measured
    methods: tuple[str, ...] = ("flow",)  # ways to adapt, see evaluation/methods.py; the first one is "adapted"
    meta: str = ""  # folder that "train meta" wrote: the networks that the method meta starts from
    layout: str = "auto"  # of the folder of clips
    part: str = ""  # of a benchmark; empty: what its papers report
    inputs: str = "blur"  # GoPro's folder of blurred frames: blur or blur_gamma
    ssim: str = "auto"  # kind of SSIM; auto: as the papers on the benchmark take it
    clips: tuple[str, ...] = ()  # names of the clips to measure; none: all
    crop: int = 0  # measure on the piece of this side in the middle of the frames, px; 0: whole frames
    frames: int = 0  # measure on this many frames in the middle of each clip; 0: all
    adaptation: AdaptSettings = field(default_factory=AdaptSettings)
    restoration: RestoreSettings = field(default_factory=RestoreSettings)
    apart: tuple[str, ...] = ()  # names of clips whose mean is also given apart from the others'
    resume: bool = False  # keep what is there and do the rest
    workers: int = 1  # processes that measure clips side by side

    def __post_init__(self) -> None:
        strange = [row for row in self.rows if row not in ROWS]
        if strange:
            raise MetadeblurError(f"no row {strange[0]!r}; rows are {', '.join(ROWS)}")
        for name, least in (("crop", 0), ("frames", 0), ("workers", 1)):
            if getattr(self, name) < least:
                raise MetadeblurError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise MetadeblurError(f"methods {', '.join(self.methods) or 'none'}: name one or more, each once")
        for method in self.methods:
            find_method(method)
        if "meta" in self.methods:
            meta_files(self.meta)

    def conditions(self, net: nn.Module, model: str, benchmark: Benchmark) -> dict[str, Any]:
        """Everything that the figures depend on, as plain values."""
        found: dict[str, Any] = plain(
            {
                "model": model,
                "weights": parameters_digest(net)[:16],
                "rows": self.rows,
                "methods": self.methods,
                "meta": [checksum(path)[:16] for path in meta_files(self.meta)] if "meta" in self.methods else None,
                "layout": benchmark.layout,
                "part": benchmark.part,
                "inputs": benchmark.inputs,
                "measure": measure_for(benchmark.layout, self.ssim).describe(),
                "crop": self.crop,
                "frames": self.frames,
                "adapt": asdict(self.adaptation),
                "restore": asdict(self.restoration),
            }
        )
        return found


def meta_files(folder: str) -> tuple[Path, Path]:
    """The deblurrer and the reblurring network that ``metadeblur train meta`` wrote into a folder.

    Raises:
        MetadeblurError: no folder, or not both in it.
    """
    files = Path(folder) / "weights.safetensors", Path(folder) / "reblurrer.safetensors"
    missing = [str(path) for path in files if not path.is_file()]
    if not folder or missing:
        where = f"{missing[0]} is not there" if folder else "no folder was given"
        raise MetadeblurError(f"the method meta needs what metadeblur train meta wrote (--meta DIR): {where}")
    return files


@dataclass(frozen=True)
class Job:
    """One clip to be measured, and where to."""

    folder: ClipFolder
    out: Path
    settings: EvaluateSettings
    measure: Measure
    conditions: dict[str, Any]

    @property
    def path(self) -> Path:
        """The record's file."""
        return record_path(self.out, self.folder.name)


def record_path(out: Path, clip: str) -> Path:
    """Where a clip's record lies."""
    return out / f"{clip.replace('/', '_')}.json"


def read_records(out: Path, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of the clips that a summary names."""
    return [json.loads(record_path(out, clip).read_text(encoding="utf-8")) for clip in summary["clips"]]


def evaluate(
    root: Path | Benchmark,
    net: nn.Module,
    out: Path,
    settings: EvaluateSettings | None = None,
    *,
    model: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a deblurrer on paired clips.

    Args:
        root: folder of clips in any layout of :mod:`metadeblur.data.layouts`, or what was found in one.
        net: the deblurrer; not changed.
        out: folder for ``<clip>.json``, ``summary.json`` and ``pictures/<clip>/<row>.png``.
        settings: see :class:`EvaluateSettings`.
        model: how the records call the deblurrer.
        progress: called before each step of the work.

    Returns:
        What ``summary.json`` holds: see :func:`metadeblur.evaluation.summary.summarize`, and the same for ``apart``.

    Raises:
        MetadeblurError: no clips, unpaired frames, records of other settings to resume, see the rooms used.
    """
    settings = settings or EvaluateSettings()
    found = root if isinstance(root, Benchmark) else None
    benchmark = found or open_benchmark(Path(str(root)), settings.layout, part=settings.part, inputs=settings.inputs)
    folders = _chosen(benchmark, settings)
    out.mkdir(parents=True, exist_ok=True)
    conditions = settings.conditions(net, model, benchmark)
    measure = measure_for(benchmark.layout, settings.ssim)
    jobs = [Job(folder, out, settings, measure, conditions) for folder in folders]
    if settings.workers == 1:
        for number, job in enumerate(jobs):
            measure_job(job, net, _counting(progress, number, len(jobs), job.folder.name))
    else:
        from metadeblur.evaluation.workers import measure_side_by_side

        measure_side_by_side(jobs, net, settings.workers, progress)
    records = [json.loads(job.path.read_text(encoding="utf-8")) for job in jobs]
    summary = _summary(records, settings, benchmark, conditions)
    write_json(summary, out / "summary.json")
    return summary


def _chosen(benchmark: Benchmark, settings: EvaluateSettings) -> list[ClipFolder]:
    """The clips that are measured."""
    names = [folder.name for folder in benchmark.clips]
    for wanted, purpose in ((settings.clips, "measure"), (settings.apart, "report apart")):
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise MetadeblurError(f"no clip {unknown[0]!r} to {purpose}; clips are {', '.join(names)}")
    folders = [folder for folder in benchmark.clips if not settings.clips or folder.name in settings.clips]
    files = [record_path(Path(), folder.name).name for folder in folders]
    taken = next((name for name in files if files.count(name) > 1 or name == "summary.json"), None)
    if taken:
        raise MetadeblurError(f"two records would be called {taken}; rename the clip's folder")
    return folders


def _counting(progress: Progress | None, number: int, count: int, name: str) -> Callable[[str], None] | None:
    """Says what is done of one clip."""
    return (lambda stage: progress(number, count, f"{name}: {stage}")) if progress else None


def measure_job(job: Job, net: nn.Module, say: Callable[[str], None] | None = None) -> None:
    """Write a clip's record, unless a run under the same conditions wrote it before and may be kept."""
    if job.settings.resume and job.path.exists():
        if json.loads(job.path.read_text(encoding="utf-8")).get("conditions") != job.conditions:
            raise MetadeblurError(
                f"{job.path} was measured under other settings; give another folder with -o, or drop --resume"
            )
        return
    clip = read_trial(job.folder, crop=job.settings.crop, frames=job.settings.frames)
    ledger = Ledger(job.path.with_name(f".{job.path.stem}.rows.json"), job.conditions, keep=job.settings.resume)
    pictures = job.out / "pictures" / job.path.stem
    record = evaluate_clip(clip, net, job.settings, measure=job.measure, ledger=ledger, pictures=pictures, say=say)
    write_json(record | {"conditions": job.conditions}, job.path)
    ledger.forget()


def evaluate_clip(
    clip: TrialClip,
    net: nn.Module,
    settings: EvaluateSettings,
    *,
    measure: Measure | None = None,
    ledger: Ledger | None = None,
    pictures: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """One clip's record: figures by row, seconds by stage, and each method's adaptation.

    Args:
        clip: the clip.
        net: the deblurrer; not changed.
        settings: rows, methods and how.
        measure: the rule of measuring; by default that of plain clips.
        ledger: rows that an earlier, killed run measured, and where to note those of this one.
        pictures: folder for one telling piece of each row; none: no pictures.
        say: called with the stage before each.
    """
    trial = _Trial(clip, net, settings, measure or measure_for("plain"), ledger or Ledger(), pictures, say)
    trial.measure("blurred", None)
    if "base" in settings.rows:
        trial.measure("base", net)
    methods = {name: trial.adapted(find_method(name)) for name in settings.methods if "adapted" in settings.rows}
    if "oracle" in settings.rows:
        trial.oracle()
    first = next(iter(methods.values()), None)
    rows = {row: figures for row, figures in trial.ledger.rows.items() if "/" not in row}
    if first is not None:
        rows |= {row: trial.ledger.rows[f"{settings.methods[0]}/{row}"] for row in first["rows"]}
    record = {
        "clip": clip.name,
        "frames": len(clip),
        **_columns(rows),
        "per_frame": {figure: {row: table["per_frame"][figure] for row, table in rows.items()} for figure in FRAMES},
        "seconds": trial.ledger.seconds,
        "share": first["share"] if first else 0.0,
        "peak_memory_mb": peak_memory_mb(),
        "gpu_peak_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "focus": asdict(trial.focus) if trial.focus else None,
        "adaptation": first["adaptation"] if first else None,
    }
    if len(methods) > 1:
        record["methods"] = {
            name: {**_columns({row: trial.ledger.rows[f"{name}/{row}"] for row in method.pop("rows")}), **method}
            for name, method in methods.items()
        }
    return dict(plain(record))


FRAMES = ("psnr", "ssim")


def _columns(rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Each figure by row, of the rows that have it."""
    return {
        figure: {row: table[figure] for row, table in rows.items() if table.get(figure) is not None}
        for figure in (*FIGURES, "aligned")
    }


class _Trial:
    """One clip being measured: what is known of it so far."""

    def __init__(
        self,
        clip: TrialClip,
        net: nn.Module,
        settings: EvaluateSettings,
        rule: Measure,
        ledger: Ledger,
        pictures: Path | None,
        say: Callable[[str], None] | None,
    ) -> None:
        self.clip, self.net, self.settings, self.rule, self.ledger = clip, net, settings, rule, ledger
        self.pictures, self.say = pictures, say
        self.focus: Focus | None = None
        self.patch = settings.adaptation.patch  # side of the patches that the first method adapted on

    def measure(self, row: str, model: nn.Module | None) -> None:
        """Measure a row, unless an earlier run has; no model: the blurred frames themselves."""
        if row == "blurred" and self.pictures is not None:
            self.focus = choose_focus(self.clip)
            keep_picture(self.clip.truth(self.focus.frame), self.focus, self.pictures / "sharp.png")
        if row in self.ledger.rows:
            return
        if self.say:
            self.say(f"restore {row}" if model is not None else row)
        with stopwatch(self.ledger.seconds, f"restore {row}" if model is not None else row):
            picture = self.pictures / f"{row.replace('/', '_')}.png" if self.pictures else None
            figures = measure_row(self.clip, model, self.rule, self.settings.restoration, self.focus, picture)
        self.ledger.note(row, figures)

    def same(self, row: str, as_row: str) -> None:
        """A row whose frames are those of another one."""
        self.ledger.note(row, self.ledger.rows[as_row])
        if self.pictures is not None:
            source = self.pictures / f"{as_row.replace('/', '_')}.png"
            if source.is_file():
                (self.pictures / f"{row.replace('/', '_')}.png").write_bytes(source.read_bytes())

    def adapted(self, method: Method) -> dict[str, Any]:
        """Adapt by a method and measure what it gives, with and without the guard."""
        guarded, whole = (f"{method.name}/{row}" for row in ("adapted", "adapted_unguarded"))
        known = self.ledger.methods.get(method.name)
        if known is not None and all(f"{method.name}/{row}" in self.ledger.rows for row in known["rows"]):
            self.patch = known["patch"]
            return dict(known)
        if self.say:
            self.say(f"adapt {method.name}")
        seconds: dict[str, float] = {}
        with stopwatch(seconds, "adapt"):
            outcome = self._adapt(method)
            guarding = self.settings.adaptation.guard and outcome is not None
            sharp = sharp_already(self.clip.pair.blurred) if guarding else None
        self.ledger.seconds[f"adapt {method.name}"] = seconds["adapt"]
        if outcome is not None and outcome.adapted is not None:
            self.measure(whole, outcome.adapted)
        else:
            self._unadapted(whole, method, outcome)
        if sharp is not None:  # such a clip is given back as it is
            self.same(guarded, "blurred")
        elif outcome is None or outcome.share == 0:
            self._unadapted(guarded, method, outcome)
        elif outcome.share == 1:
            self.same(guarded, whole)
        else:
            self.measure(guarded, outcome.model)
        if outcome is not None and outcome.support is not None and method.name == self.settings.methods[0]:
            self.patch = outcome.support.patch
        known = {
            "rows": ["adapted", "adapted_unguarded"],
            "share": outcome.share if outcome else 0.0,
            "seconds": seconds | (outcome.seconds if outcome else {}),
            "patch": self.patch,
            "adaptation": outcome.to_record() if outcome else {"note": self._why_not(method)},
        }
        self.ledger.note_method(method.name, known)
        return dict(known)

    def _adapt(self, method: Method) -> Outcome | None:
        if not self.clip.video or method.adapt is None:
            return None
        if method.name != "meta":
            return method.adapt(self.net, self.clip.pair.blurred, self.settings.adaptation)
        deblurrer, reblurrer = meta_files(self.settings.meta)
        adaptation = replace(self.settings.adaptation, reblurrer=str(reblurrer))
        return method.adapt(load_deblurrer(deblurrer), self.clip.pair.blurred, adaptation)

    def _why_not(self, method: Method) -> str:
        if method.adapt is None:
            return "the method takes the base model as it is"
        return "the pictures do not follow one another: there is no clip to adapt to, the base model is used"

    def _unadapted(self, row: str, method: Method, outcome: Outcome | None) -> None:
        """A row that was not adapted: the base again, or the meta-trained network that the method started from."""
        if method.name == "meta" and outcome is not None:
            self.measure(row, outcome.model)
        elif "base" in self.ledger.rows:
            self.same(row, "base")
        else:
            self.measure(row, self.net)

    def oracle(self) -> None:
        """Fit the oracle on true pairs of the clip and measure it."""
        if "oracle" in self.ledger.rows:
            return
        if self.say:
            self.say("adapt oracle")
        with stopwatch(self.ledger.seconds, "adapt oracle"):
            fitted = fit_oracle(self.net, self.clip.pair, self.settings.adaptation, self.patch)
        self.measure("oracle", fitted)


def fit_oracle(net: nn.Module, clip: PairedClip, settings: AdaptSettings, patch: int) -> nn.Module:
    """The deblurrer after the same number of steps on as many true pairs of the clip, places drawn at random."""
    generator = torch.Generator().manual_seed(settings.seed)
    patch = min(patch, clip.blurred.height // 8 * 8, clip.blurred.width // 8 * 8)
    frames = traits(net).frames

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    pairs = []
    for _ in range(settings.pairs * settings.blurs):
        index = draw(len(clip))
        top, left = draw(clip.blurred.height - patch + 1), draw(clip.blurred.width - patch + 1)
        cut = (..., slice(top, top + patch), slice(left, left + patch))
        blurred = clip.blurred.window(index, frames)[cut] if frames > 1 else clip.blurred[index][cut]
        pairs.append(Pair(blurred.clone(), clip.sharp[index][cut].clone()))
    fitted, _, _ = inner_update(net, pairs, settings, generator, loss=traits(net).loss)
    return fitted


def _summary(
    records: Sequence[dict[str, Any]], settings: EvaluateSettings, benchmark: Benchmark, conditions: dict[str, Any]
) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    summary: dict[str, Any] = {
        "clips": [record["clip"] for record in records],
        "frames": sum(record["frames"] for record in records),
        "layout": benchmark.layout,
        "notes": list(benchmark.notes),
        "conditions": conditions,
        **summarize(records),
        "versions": versions(),
        "machine": machine(),
    }
    if settings.apart:
        apart = [record for record in records if record["clip"] in settings.apart]
        others = [record for record in records if record["clip"] not in settings.apart]
        summary["apart"] = {"clips": list(settings.apart), **summarize(apart)}
        summary["others"] = {"clips": [record["clip"] for record in others], **summarize(others)} if others else None
    return dict(plain(summary))

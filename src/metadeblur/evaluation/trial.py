"""Measure one clip: its rows, every method's adaptation, and the oracle as upper bound.

Adaptation sees blurred frames alone. The oracle takes the same number of gradient steps, on patches of the same size,
but of TRUE pairs of the clip.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metadeblur.adaptation.stages import AdaptSettings, Outcome, Pair, adapt, inner_update
from metadeblur.data.paired import PairedClip, TrialClip
from metadeblur.evaluation.measures import Measure, measure_for
from metadeblur.evaluation.methods import AdaptationMethod, find_method
from metadeblur.evaluation.perceptual import perceptual
from metadeblur.evaluation.records import FIGURES, ClipRecord, Focus, MethodNotes, MethodRecord, RowRecord
from metadeblur.evaluation.rows import Ledger, choose_focus, keep_picture, measure_row
from metadeblur.evaluation.settings import EvaluateSettings, meta_files
from metadeblur.guard.already_sharp import sharp_already
from metadeblur.models.adapted import FusionSettings, fusion_of, with_fusion
from metadeblur.models.registry import traits
from metadeblur.models.weights import load_deblurrer
from metadeblur.pipeline.console import stopwatch
from metadeblur.system.device import choose_device
from metadeblur.system.machine import peak_memory_mb


def evaluate_clip(
    clip: TrialClip,
    net: nn.Module,
    settings: EvaluateSettings,
    *,
    measure: Measure | None = None,
    ledger: Ledger | None = None,
    pictures: Path | None = None,
    say: Callable[[str], object] | None = None,
    conditions: dict[str, Any] | None = None,
    mark: str = "",
) -> ClipRecord:
    """One clip's record: figures by row, seconds by stage, and each method's adaptation.

    Args:
        clip: the clip.
        net: the deblurrer; not changed.
        settings: rows, methods and how.
        measure: the rule of measuring; by default that of plain clips.
        ledger: rows that an earlier, killed run measured, and where to note those of this one.
        pictures: folder for one telling piece of each row; none: no pictures.
        say: called with the stage before each.
        conditions: what the figures depend on, for the record.
        mark: by which the clip's files are recognised, for the record.
    """
    trial = _Trial(clip, net, settings, measure or measure_for("plain"), ledger or Ledger(), pictures, say)
    trial.measure("blurred", None)
    if "base" in settings.rows:
        trial.measure("base", net)
    methods = {name: trial.adapted(find_method(name)) for name in settings.methods if "adapted" in settings.rows}
    if "base" in settings.rows:
        trial.base_fused()
        trial.quick()
    if "oracle" in settings.rows:
        trial.oracle()
    first = next(iter(methods.values()), None)
    rows = {row: figures for row, figures in trial.ledger.rows.items() if "/" not in row}
    if first is not None:
        rows |= {row: trial.ledger.rows[f"{settings.methods[0]}/{row}"] for row in first.rows}
    return ClipRecord(
        clip=clip.name,
        frames=len(clip),
        **_columns(rows),
        per_frame={
            "psnr": {row: figures.per_frame.psnr for row, figures in rows.items()},
            "ssim": {row: figures.per_frame.ssim for row, figures in rows.items()},
        },
        seconds=trial.ledger.seconds,
        share=first.share if first else 0.0,
        peak_memory_mb=peak_memory_mb(),
        gpu_peak_memory_mb=round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        focus=trial.focus,
        adaptation=first.adaptation if first else None,
        methods={name: _method_record(name, notes, trial.ledger) for name, notes in methods.items()}
        if len(methods) > 1
        else None,
        conditions=conditions or {},
        input=mark,
    )


def _method_record(name: str, notes: MethodNotes, ledger: Ledger) -> MethodRecord:
    """One of several methods: its figures and how it adapted."""
    return MethodRecord(
        **_columns({row: ledger.rows[f"{name}/{row}"] for row in notes.rows}),
        share=notes.share,
        seconds=notes.seconds,
        patch=notes.patch,
        adaptation=notes.adaptation,
    )


def _columns(rows: dict[str, RowRecord]) -> dict[str, Any]:
    """Each figure by row, of the rows that have it."""
    return {
        figure: {row: value for row, figures in rows.items() if (value := getattr(figures, figure)) is not None}
        for figure in (*FIGURES, "aligned")
    }


class _Trial:
    """The state of one clip's measurement."""

    def __init__(
        self,
        clip: TrialClip,
        net: nn.Module,
        settings: EvaluateSettings,
        rule: Measure,
        ledger: Ledger,
        pictures: Path | None,
        say: Callable[[str], object] | None,
    ) -> None:
        self.clip, self.net, self.settings, self.rule, self.ledger = clip, net, settings, rule, ledger
        self.pictures, self.say = pictures, say
        self.focus: Focus | None = None
        self.patch = settings.adaptation.patch  # side of the patches that the first method adapted on
        # How the first method that fuses frames does it before the guard; the oracle's and the base's are fused alike.
        adapts = any(find_method(name).adapt is not None for name in settings.methods)
        self.fusion = FusionSettings() if settings.adaptation.fuse and clip.video and adapts else None
        self.fused_by: str | None = None
        device = choose_device(settings.restoration.device, net) if settings.perceptual else None
        self.perceptual = perceptual(str(device)) if device else None

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
            how, looks = self.settings.restoration, self.perceptual
            figures = measure_row(self.clip, model, self.rule, how, self.focus, picture, looks)
        self.ledger.note(row, figures)

    def same(self, row: str, as_row: str) -> None:
        """Copy a row whose frames are the same as another row's."""
        self.ledger.note(row, self.ledger.rows[as_row])
        if self.pictures is not None:
            source = self.pictures / f"{as_row.replace('/', '_')}.png"
            if source.is_file():
                shutil.copyfile(source, self.pictures / f"{row.replace('/', '_')}.png")

    def base_fused(self) -> None:
        """Measure the base with fused frames: the part of the gain that does not come from adapted weights."""
        compared = {"adapted", "oracle"} & set(self.settings.rows)
        if compared and self.fusion is not None:
            self.measure("base_fused", with_fusion(copy.deepcopy(self.net), self.fusion))

    def quick(self) -> None:
        """Measure what ``--effort quick`` gives: no weights are learnt, and votes say whether frames are fused."""
        wanted = "adapted" in self.settings.rows and "base_fused" in self.ledger.rows
        if not wanted or not self.settings.adaptation.guard or "quick" in self.ledger.rows:
            return
        if self.say:
            self.say("quick")
        with stopwatch(self.ledger.seconds, "quick"):
            quick = adapt(self.net, self.clip.pair.blurred, settings=self.settings.adaptation.changed(steps=0))
        if fusion_of(quick.model) is None:
            self.same("quick", "base")
        elif fusion_of(quick.model) == self.fusion:
            self.same("quick", "base_fused")
        else:
            self.measure("quick", quick.model)

    def adapted(self, method: AdaptationMethod) -> MethodNotes:
        """Adapt by a method and measure what it gives, with and without the guard."""
        guarded, whole = (f"{method.name}/{row}" for row in ("adapted", "adapted_unguarded"))
        notes = self.ledger.methods.get(method.name)
        if notes is not None and all(f"{method.name}/{row}" in self.ledger.rows for row in notes.rows):
            self.patch = notes.patch
            self._fuse_alike(method, notes)
            return notes
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
        elif outcome is None or (outcome.share == 0 and not outcome.fused):
            self._unadapted(guarded, method, outcome)
        elif outcome.share == 1 and fusion_of(outcome.model) == outcome.fusion:
            self.same(guarded, whole)
        else:
            self.measure(guarded, outcome.model)
        if outcome is not None and outcome.support is not None and method.name == self.settings.methods[0]:
            self.patch = outcome.support.patch
        notes = MethodNotes(
            rows=("adapted", "adapted_unguarded"),
            share=outcome.share if outcome else 0.0,
            seconds=seconds | (outcome.seconds if outcome else {}),
            patch=self.patch,
            adaptation=outcome.to_record() if outcome else {"note": self._why_not(method)},
        )
        self.ledger.note_method(method.name, notes)
        self._fuse_alike(method, notes)
        return notes

    def _fuse_alike(self, method: AdaptationMethod, notes: MethodNotes) -> None:
        """Fuse the base's and the oracle's frames as the first method that fuses does, by its notes."""
        fusion = notes.adaptation.get("fusion")
        if self.fusion is not None and fusion is not None and self.fused_by in (None, method.name):
            self.fusion, self.fused_by = FusionSettings(**fusion), method.name

    def _adapt(self, method: AdaptationMethod) -> Outcome | None:
        if not self.clip.video or method.adapt is None:
            return None
        if method.name != "meta":
            return method.adapt(self.net, self.clip.pair.blurred, self.settings.adaptation)
        deblurrer, reblurrer = meta_files(self.settings.meta)
        adaptation = replace(self.settings.adaptation, reblurrer=str(reblurrer))
        return method.adapt(load_deblurrer(deblurrer), self.clip.pair.blurred, adaptation)

    def _why_not(self, method: AdaptationMethod) -> str:
        if method.adapt is None:
            return "the method takes the base model as it is"
        return "the pictures do not follow one another: there is no clip to adapt to, the base model is used"

    def _unadapted(self, row: str, method: AdaptationMethod, outcome: Outcome | None) -> None:
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
        self.measure("oracle", with_fusion(fitted, self.fusion))


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

"""A trial of the guard: half of the adaptations are spoilt on purpose; each is measured with and without the guard.

Two questions: how many of the adaptations that lose more than 0.05 dB does the guard reject, and how much of the gain
of good adaptations does it keep? The guard sees no truth and does not know what was spoilt. Where the blur is spoilt,
its held-out pairs are spoilt in the same way, as in practice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metadeblur.adaptation.pairs import make_pairs
from metadeblur.adaptation.places import choose_support
from metadeblur.adaptation.stages import AdaptSettings, Outcome, Pair, adapt
from metadeblur.clip import Clip
from metadeblur.data.layouts import Benchmark
from metadeblur.data.paired import read_trial
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.measures import measure_for
from metadeblur.evaluation.records import GuardRecord, read_record
from metadeblur.evaluation.rows import measure_row
from metadeblur.evaluation.sealed import write_sealed
from metadeblur.evaluation.summary import HARM_DB
from metadeblur.imaging.motion import ClipMotion, MotionField
from metadeblur.models.weights import parameters_digest, read_reblurrer
from metadeblur.reblur.flow import FlowReblurrer, fit_flow_reblurrer
from metadeblur.reblur.place import Place, Shrunk
from metadeblur.reblur.reblurrer import Reblurrer
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.json_files import plain

KINDS = ("honest", "direction", "colour", "rate", "other clip")
"""Nothing spoilt; blur turned by 90 degrees; pseudo-blurred patches with a colour cast; 100 times the learning rate;
pairs of another clip."""

CAST = (8 / 255, 0.0, -8 / 255)  # of spoilt colours, RGB
RATE = 100.0

Say = Callable[[str], object]


class TurnedMotion(ClipMotion):
    """A clip's motion turned by 90 degrees."""

    def field(self, index: int) -> MotionField:
        """Velocity and bend of a frame, turned."""
        field = super().field(index)
        return replace(field, velocity=_turned(field.velocity), bend=_turned(field.bend))


@dataclass(frozen=True)
class CastReblurrer(FlowReblurrer):
    """Blurs as the clip is blurred and adds a colour cast, so that the deblurrer learns a wrong shift of colours."""

    def reblur_window(
        self, clip: Clip, place: Place, frames: int, generator: torch.Generator, shrunk: Shrunk | None = None
    ) -> Tensor:
        """The pseudo-blurred window (N, 3, P, P), single patches too, with a colour cast."""
        window = super().reblur_window(clip, place, frames, generator, shrunk)
        return (window + window.new_tensor(CAST)[:, None, None]).clamp(0, 1)


def spoilt(kind: str, net: nn.Module, clip: Clip, other: Clip, settings: AdaptSettings) -> Outcome:
    """Adapt to a clip in one of the ways of :data:`KINDS`.

    Args:
        kind: which.
        net: the deblurrer; not changed.
        clip: the blurred clip.
        other: another blurred clip, whose pairs "other clip" takes.
        settings: of the adaptation, guard included.

    Raises:
        MetadeblurError: no such kind.
    """
    if kind not in KINDS:
        raise MetadeblurError(f"kind {kind!r} is not known; allowed: {', '.join(KINDS)}")
    settings = replace(settings, reblur="flow")
    if kind == "rate":
        return adapt(net, clip, settings=replace(settings, lr=RATE * settings.lr))
    if kind == "other clip":
        return adapt(net, clip, settings=settings, pair_source=_pairs_of(other, settings))
    if kind == "honest":
        return adapt(net, clip, settings=settings)
    fitted = fit_flow_reblurrer(clip, generator=torch.Generator().manual_seed(settings.seed))
    if kind == "colour":
        return adapt(net, clip, settings=settings, reblurrer=CastReblurrer(**vars(fitted)))
    turned = replace(fitted, clip_motion=TurnedMotion(clip, pixels=fitted.settings.flow_pixels))
    return adapt(net, clip, settings=settings, reblurrer=turned)


def guard_trial(
    benchmark: Benchmark,
    net: nn.Module,
    out: Path,
    *,
    seeds: int = 1,
    kinds: Sequence[str] = KINDS,
    settings: AdaptSettings | None = None,
    restoration: RestoreSettings | None = None,
    say: Say = lambda _: None,
) -> list[GuardRecord]:
    """Adapt to every clip honestly and spoilt, and measure base, adapted whole and adapted guarded.

    As many honest adaptations as spoilt ones are made: each spoilt one has an honest one of the same clip, of its own
    seed. Each adaptation is noted in ``out`` when it is done, so that a stopped trial goes on there.

    Args:
        benchmark: paired clips, at least two.
        net: the deblurrer; not changed.
        out: folder for the records.
        seeds: how often every kind is tried on every clip.
        kinds: which of :data:`KINDS` are tried.
        settings: of the adaptation.
        restoration: how frames go through the network.
        say: told before each adaptation.

    Returns:
        One record an adaptation.

    Raises:
        MetadeblurError: fewer than two clips, an unknown kind, or records of other settings in ``out``.
    """
    clips = [read_trial(folder) for folder in benchmark.clips]
    if len(clips) < 2:
        raise MetadeblurError(f"{len(clips)} clip: the trial takes pairs of another clip, so two or more are needed")
    settings, restoration = settings or AdaptSettings(), restoration or RestoreSettings()
    conditions = plain(
        {"weights": parameters_digest(net)[:16], "adapt": asdict(settings), "restore": asdict(restoration)}
    )
    if settings.reblur == "network":
        parts = read_reblurrer(settings.reblurrer)
        conditions["reblurrer"] = [None if part is None else parameters_digest(part)[:16] for part in parts]
    out.mkdir(parents=True, exist_ok=True)
    bad = [kind for kind in kinds if kind != "honest"]
    tries = [(kind, seed) for seed in range(seeds) for kind in bad]
    tries += [("honest", seed) for seed in range(seeds * max(len(bad), 1))] if "honest" in kinds else []
    records = []
    for index, clip in enumerate(clips):
        base: float | None = None
        for kind, seed in tries:
            path = out / f"{clip.name.replace('/', '_')}-{kind.replace(' ', '_')}-{seed}.json"
            record = _earlier(path)
            if record is not None and record.conditions != conditions:
                raise MetadeblurError(f"{path} was measured under other settings; give another folder")
            if record is None:
                say(f"{clip.name}: {kind}, seed {seed}")
                if base is None:
                    base = measure_row(clip, net, measure_for("plain"), restoration).psnr
                other = clips[(index + 1) % len(clips)].pair.blurred
                outcome = spoilt(kind, net, clip.pair.blurred, other, replace(settings, seed=seed))
                whole = _measured(clip, outcome.adapted, base, restoration)
                guarded = base if outcome.share == 0 else whole
                if 0 < outcome.share < 1:
                    guarded = _measured(clip, outcome.model, base, restoration)
                reasons = tuple(asdict(reason) for reason in outcome.reasons)
                record = GuardRecord(clip.name, kind, seed, base, conditions, whole, guarded, outcome.share, reasons)
                write_sealed(record, path)
                record = read_record(path, GuardRecord)  # rounded
            records.append(record)
    return records


def _earlier(path: Path) -> GuardRecord | None:
    """The record of an earlier run, None where there is none that is whole."""
    if not path.is_file():
        return None
    try:
        return read_record(path, GuardRecord)
    except MetadeblurError:
        return None


@dataclass(frozen=True)
class TrialVerdict:
    """What the trial says of the guard. Losing: worse than base by more than 0.05 dB when used whole."""

    adaptations: int
    losing: int
    rejected: float | None  # share of the losing ones whose guarded result is not worse than base by more than 0.05 dB
    dropped: float | None  # share of the losing ones that the guard dropped altogether
    kept: float | None  # share of the sum of positive gains that guarded results keep
    harm: float | None  # share of all guarded results that are worse than base by more than 0.05 dB


def verdict(records: Sequence[GuardRecord]) -> TrialVerdict:
    """Count what the guard did."""
    losing = [record for record in records if record.whole < record.base - HARM_DB]
    winning = [record for record in records if record.whole > record.base]
    won = sum(record.whole - record.base for record in winning)
    return TrialVerdict(
        adaptations=len(records),
        losing=len(losing),
        rejected=_share_of(losing, lambda record: record.guarded >= record.base - HARM_DB),
        dropped=_share_of(losing, lambda record: record.share == 0),
        kept=sum(record.guarded - record.base for record in winning) / won if won > 0 else None,
        harm=_share_of(records, lambda record: record.guarded < record.base - HARM_DB),
    )


def trial_table(records: Sequence[GuardRecord]) -> list[list[str]]:
    """One line a kind of adaptation, and all together, as text cells."""
    lines = [
        ["kind", "adaptations", "mean gain whole", "mean gain guarded", "losing", "rejected", "dropped", "gain kept"]
    ]
    groups = [(kind, [record for record in records if record.kind == kind]) for kind in KINDS]
    for name, group in [*groups, ("all", list(records))]:
        if not group:
            continue
        counts = verdict(group)
        gains = [
            np.mean([record.whole - record.base for record in group]),
            np.mean([record.guarded - record.base for record in group]),
        ]
        shares = [counts.rejected, counts.dropped, counts.kept]
        cells = [f"{counts.adaptations}", *(f"{gain:+.2f}" for gain in gains), f"{counts.losing}"]
        lines.append([name, *cells, *("" if share is None else f"{100 * share:.0f} %" for share in shares)])
    return lines


def _measured(clip: Any, model: nn.Module | None, base: float, restoration: RestoreSettings) -> float:
    """PSNR of a model in dB; without a model that of the base; 0 if its output is not finite."""
    if model is None:
        return base
    try:
        return measure_row(clip, model, measure_for("plain"), restoration).psnr
    except MetadeblurError:
        return 0.0


def _pairs_of(other: Clip, settings: AdaptSettings) -> Callable[..., list[Pair]]:
    """A pair source that takes places and motion of another clip."""

    def make(
        _clip: Clip, places: Sequence[Place], _reblurrer: Reblurrer, blurs: int, frames: int, generator: torch.Generator
    ) -> list[Pair]:
        support = choose_support(
            other, pairs=len(places), patch=settings.patch, held_out=0.0, method=settings.method, generator=generator
        )
        fitted = fit_flow_reblurrer(other, places=support.train, generator=generator)
        return make_pairs(other, support.train, fitted, blurs, frames, generator)

    return make


def _turned(vectors: Tensor) -> Tensor:
    """Vectors (..., 2) turned by 90 degrees."""
    return torch.stack([-vectors[..., 1], vectors[..., 0]], -1)


def _share_of(records: Sequence[GuardRecord], condition: Callable[[GuardRecord], bool]) -> float | None:
    return sum(map(condition, records)) / len(records) if records else None

"""The summary of many clips' records: means, intervals, gain, oracle ratio, harm rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from metadeblur.evaluation.records import FIGURES, ClipRecord, Columns, Effect, Interval, Means, MethodSummary

HARM_DB = 0.05  # adapted further below base than this counts as harm
_DRAWS = 10_000  # bootstrap samples


def summarize(records: Sequence[ClipRecord]) -> Means:
    """Means over clips, and the effect of the adaptation."""
    shared = _shared([record.psnr for record in records])
    peaks = [record.peak_memory_mb for record in records if record.peak_memory_mb]
    first = records[0].methods
    compared = first if first and all(record.methods for record in records) else {}
    return Means(
        **_means(records),
        over_frames={
            figure: _over_frames([record.per_frame.get(figure, {}) for record in records])
            for figure in ("psnr", "ssim")
        },
        intervals={row: interval(values) for row, values in shared.items()},
        effect=_effect(shared),
        seconds=_seconds(records),
        peak_memory_mb=max(peaks, default=None),
        methods={name: _method(records, name, shared) for name in compared} or None,
    )


def interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Percentile bootstrap interval of the mean over clips, clips drawn with replacement; None for fewer than two.

    >>> interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    if len(values) < 2:
        return None
    array = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, len(array), (_DRAWS, len(array)))
    low, high = np.quantile(array[drawn].mean(1), ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _shared(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Each row's values, one a clip, of the rows that every clip has."""
    return {row: [table[row] for table in tables] for row in tables[0] if all(row in table for table in tables)}


def _means(records: Sequence[Columns]) -> dict[str, Any]:
    """The mean of each figure by row."""
    return {figure: _row_means([record.column(figure) for record in records]) for figure in FIGURES}


def _row_means(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {row: fmean(values) for row, values in _shared(tables).items()}


def _over_frames(tables: Sequence[Mapping[str, Iterable[float]]]) -> dict[str, float]:
    """Means over all frames of all clips, by row."""
    return {row: fmean(value for clip in clips for value in clip) for row, clips in _shared(tables).items()}


def _effect(psnr: Mapping[str, Sequence[float]]) -> Effect | None:
    """Gain, harm rate and oracle ratio from PSNR by row; none without rows base and adapted."""
    if not {"base", "adapted"} <= psnr.keys():
        return None
    gains = [adapted - base for adapted, base in zip(psnr["adapted"], psnr["base"], strict=True)]
    gain, room = fmean(gains), fmean(psnr["oracle"]) - fmean(psnr["base"]) if "oracle" in psnr else 0.0
    harm_rate = sum(gain < -HARM_DB for gain in gains) / len(gains)
    return Effect(gain, harm_rate, gain / room if room > 0 else None, interval(gains))


def _method(records: Sequence[ClipRecord], name: str, shared: Mapping[str, list[float]]) -> MethodSummary:
    """One method's means and effect."""
    own = [record.methods[name] for record in records if record.methods]
    psnr = _shared([method.psnr for method in own])
    rest = {row: values for row, values in shared.items() if row in ("base", "oracle")}

    def effect(row: str) -> Effect | None:
        return _effect(rest | {"adapted": psnr[row]}) if row in psnr else None

    return MethodSummary(
        **_means(own),
        effect=effect("adapted"),
        unguarded=effect("adapted_unguarded"),
        share=fmean(method.share for method in own),
        seconds=fmean(sum(method.seconds.values()) for method in own),
    )


def _seconds(records: Sequence[ClipRecord]) -> dict[str, float]:
    """Seconds by stage, all clips together."""
    total: dict[str, float] = {}
    for record in records:
        for stage, seconds in record.seconds.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total

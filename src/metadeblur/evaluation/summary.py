"""What the records of many clips say together: means, intervals, gain, oracle ratio, harm rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

HARM_DB = 0.05  # adapted further below base than this counts as harm
FIGURES = ("psnr", "ssim", "flicker", "self_shift")  # of a row, where they could be measured
_DRAWS = 10_000  # bootstrap samples

Record = Mapping[str, Any]


def summarize(records: Sequence[Record]) -> dict[str, Any]:
    """Means over clips, and what they say of the adaptation.

    Returns:
        ``psnr``, ``ssim`` and so on by row: means over clips; ``over_frames``: PSNR and SSIM as means over all frames,
        as papers print them; ``intervals``: 95 % bootstrap intervals over clips of PSNR by row and of the gain;
        ``gain`` = adapted - base in dB; ``oracle_ratio`` = gain / (oracle - base) of the means; ``harm_rate`` = share
        of clips whose adapted row is more than 0.05 dB below base; ``seconds`` by stage, all clips together;
        ``methods``: gain, ratio and harm rate of each, where several were compared.

    >>> record = {"psnr": {"base": 25.0, "adapted": 25.5, "oracle": 26.0}, "ssim": {}}
    >>> summary = summarize([record, record])
    >>> summary["gain"], summary["oracle_ratio"], summary["harm_rate"]
    (0.5, 0.5, 0.0)
    """
    summary: dict[str, Any] = {
        figure: {row: fmean(values) for row, values in _columns(records, figure).items()} for figure in FIGURES
    }
    summary["over_frames"] = {figure: _over_frames(records, figure) for figure in ("psnr", "ssim")}
    columns = _columns(records, "psnr")
    summary["intervals"] = {"psnr": {row: interval(values) for row, values in columns.items()}}
    summary |= _worth(columns)
    if "gain" in summary:
        gains = np.subtract(columns["adapted"], columns["base"])
        summary["intervals"]["gain"] = interval(gains.tolist())
    summary["seconds"] = _seconds(records)
    peaks = [record["peak_memory_mb"] for record in records if record.get("peak_memory_mb")]
    summary["peak_memory_mb"] = max(peaks, default=None)
    if all(record.get("methods") for record in records):
        summary["methods"] = {name: _method(records, name) for name in records[0]["methods"]}
    return summary


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
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


def _columns(records: Sequence[Record], figure: str) -> dict[str, list[float]]:
    """Each row's values, one a clip, of the rows that every clip has."""
    tables = [record.get(figure) or {} for record in records]
    rows = [row for row in tables[0] if all(table.get(row) is not None for table in tables)]
    return {row: [float(table[row]) for table in tables] for row in rows}


def _over_frames(records: Sequence[Record], figure: str) -> dict[str, float]:
    """Means over all frames of all clips, by row."""
    tables = [(record.get("per_frame") or {}).get(figure) or {} for record in records]
    rows = [row for row in tables[0] if all(row in table for table in tables)]
    return {row: fmean(value for table in tables for value in table[row]) for row in rows}


def _worth(columns: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Gain, harm rate and oracle ratio from PSNR by row."""
    if not {"base", "adapted"} <= columns.keys():
        return {}
    gains = [adapted - base for adapted, base in zip(columns["adapted"], columns["base"], strict=True)]
    worth: dict[str, Any] = {"gain": fmean(gains), "harm_rate": sum(gain < -HARM_DB for gain in gains) / len(gains)}
    if "oracle" in columns:
        room = fmean(columns["oracle"]) - fmean(columns["base"])
        worth["oracle_ratio"] = worth["gain"] / room if room > 0 else None
    return worth


def _method(records: Sequence[Record], name: str) -> dict[str, Any]:
    """One method's means and worth; ``unguarded``: of its adaptation used whole."""
    shared = _columns(records, "psnr")
    kept = {row: values for row, values in shared.items() if row in ("base", "oracle")}
    method: dict[str, Any] = {}
    for figure in FIGURES:
        tables = [record["methods"][name].get(figure) or {} for record in records]
        rows = [row for row in tables[0] if all(table.get(row) is not None for table in tables)]
        method[figure] = {row: fmean(table[row] for table in tables) for row in rows}
    own = [record["methods"][name]["psnr"] for record in records]
    for key, row in (("", "adapted"), ("unguarded", "adapted_unguarded")):
        if all(row in table for table in own):
            values = [float(table[row]) for table in own]
            worth = _worth(kept | {"adapted": values})
            if "base" in kept:
                worth["interval"] = interval(np.subtract(values, kept["base"]).tolist())
            method |= {key: worth} if key else worth
    method["share"] = fmean(record["methods"][name]["share"] for record in records)
    method["seconds"] = fmean(sum(record["methods"][name]["seconds"].values()) for record in records)
    return method


def _seconds(records: Sequence[Record]) -> dict[str, float]:
    """Seconds by stage, all clips together."""
    total: dict[str, float] = {}
    for record in records:
        for stage, seconds in (record.get("seconds") or {}).items():
            total[stage] = total.get(stage, 0.0) + float(seconds)
    return total

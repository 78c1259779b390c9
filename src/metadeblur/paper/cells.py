"""The cells of the paper's tables: which there are, what each shows, and what one lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from metadeblur.evaluation.records import Summary
from metadeblur.evaluation.tables import spread
from metadeblur.imaging.pictures import Picture
from metadeblur.paper.runs import Absent, Plan
from metadeblur.types import ReblurLosses

DASH = "\u2013"  # nothing to show
UNFITTED = "not fitted"
"""Table 2's column of a reblurring network as it was trained."""


def all_cells(plan: Plan, notes: list[str]) -> list[tuple[str, str]]:
    """(network, data set) of all that was asked for, absent ones too, but for what a small experiment leaves out."""
    there = set(present_cells(plan, notes))
    datasets, networks = plan.here()
    return [
        (network, dataset)
        for network in plan.networks
        for dataset in plan.datasets
        if (dataset, network) in there or dataset not in datasets or network not in networks
    ]


def present_cells(plan: Plan, notes: list[str]) -> list[tuple[str, str]]:
    """(data set, network) of what is there, but for what a small experiment leaves out, which is noted."""
    datasets, networks = plan.here()
    present = []
    for dataset in datasets:
        for network in networks:
            reason = plan.left_out(dataset, network)
            if reason is None:
                present.append((dataset, network))
            else:
                add_note(notes, reason)
    return present


def absent_part(plan: Plan, network: str, dataset: str) -> Absent | None:
    """What a run of a network on a data set lacks."""
    parts = (plan.datasets[dataset], plan.networks[network])
    return next((part for part in parts if isinstance(part, Absent)), None)


def table1_runs(plan: Plan, network: str, dataset: str, notes: list[str]) -> dict[str, list[Summary] | Absent]:
    """Summaries (one a seed) by column, or what is absent."""
    absent = absent_part(plan, network, dataset)
    if absent is not None:
        return dict.fromkeys(_ROW_OF, absent)
    base = plan.base(dataset, network)
    below = base.psnr["blurred"] - base.psnr["base"]
    if below > 0:
        add_note(notes, f"{network} on {dataset}: its base is below the blurred input by {below:.2f} dB")
    seeds = range(plan.settings.seeds)
    meta = _all_seeds([plan.by_network(dataset, network, meta=True, seed=seed) for seed in seeds])
    if isinstance(meta, Absent):
        add_note(notes, f"meta of {network}: absent: {meta.reason}")
    runs: dict[str, list[Summary] | Absent] = {"blurred": [base], "base": [base], "meta": meta}
    if plan.settings.flow:
        runs["flow"] = [plan.flow(dataset, network, seed=seed) for seed in seeds]
    return runs


@dataclass(frozen=True)
class Gains:
    """What a cell's ways to adapt gain over its baseline, of those that are there."""

    paper: float | None
    ours: dict[str, float]  # by column


def gains_of(runs: dict[str, list[Summary] | Absent], figure: str, printed: tuple[float, float] | None) -> Gains:
    """The gains of one cell in a figure; ``printed`` are the paper's baseline and meta."""
    ours, base = {}, runs["base"]
    for column in ("meta", "flow"):
        adapted = runs.get(column)
        if adapted is not None and not isinstance(adapted, Absent) and not isinstance(base, Absent):
            before = over_frames(base[0], "base", figure)
            ours[column] = fmean(over_frames(run, _ROW_OF[column], figure) for run in adapted) - before
    return Gains(None if printed is None else printed[1] - printed[0], ours)


def average_line(cells: Sequence[Gains], plan: Plan, digits: int) -> list[str]:
    """The average gains; the paper's over the same cells as ours, or over all where none of ours is there."""
    measured = [cell for cell in cells if cell.ours]
    over = measured or list(cells)

    def average(values: Sequence[float]) -> str:
        return f"{fmean(values):+.{digits}f}" if values else DASH

    papers = average([cell.paper for cell in over if cell.paper is not None])
    ours = [
        average([cell.ours[column] for cell in measured if column in cell.ours])
        for column in ("meta", "flow")
        if column == "meta" or plan.settings.flow
    ]
    said = f"{len(over)} of {len(cells)} rows"
    return ["average gain", said, DASH, DASH, DASH, DASH, papers, *ours]


def _all_seeds(runs: Sequence[Summary | Absent]) -> list[Summary] | Absent:
    """The runs of all seeds, or what one of them lacks."""
    absent = next((run for run in runs if isinstance(run, Absent)), None)
    return absent or [run for run in runs if not isinstance(run, Absent)]


_ROW_OF = {"blurred": "blurred", "base": "base", "meta": "adapted", "flow": "adapted"}


def table2_values(plan: Plan, network: str, dataset: str, loss: Any, notes: list[str]) -> list[float] | Absent:
    """PSNR of a network with one of the losses, one a seed."""
    absent = absent_part(plan, network, dataset)
    if absent is not None:
        return absent
    if loss == "none":
        return [over_frames(plan.base(dataset, network), "base", "psnr")]
    values = []
    for seed in range(plan.settings.seeds):
        has_meta = plan.is_meta_trained(network)
        losses: ReblurLosses = "none" if loss == UNFITTED else loss
        run = plan.by_network(dataset, network, meta=has_meta, losses=losses, seed=seed)
        if isinstance(run, Absent):
            add_note(notes, f"{loss} of {network}: absent: {run.reason}")
            return run
        if not has_meta:
            add_note(notes, f"{network}: without meta-trained weights, the pre-trained ones are fine-tuned")
        values.append(over_frames(run, "adapted", "psnr"))
    return values


def over_frames(summary: Summary, row: str, figure: str) -> float:
    """A row's mean over all frames, as papers print it."""
    return summary.over_frames[figure][row]


def cell_of(runs: list[Summary] | Absent, column: str, figure: str, digits: int) -> str:
    """A column's mean over the runs, one a seed, or that it is absent."""
    if isinstance(runs, Absent):
        return "absent"
    return mean_cell([over_frames(run, _ROW_OF[column], figure) for run in runs], digits)


def mean_cell(values: Sequence[float] | Absent, digits: int) -> str:
    """Values' mean and spread, or that they are absent."""
    if isinstance(values, Absent):
        return "absent"
    return spread(values, f".{digits}f")


def piece_psnr(picture: Picture, truth: Picture) -> str:
    """PSNR of a piece as a label's end; nothing for the truth itself."""
    error = float(np.square(picture.astype(np.float64) - truth).mean())
    return f" {10 * np.log10(255**2 / error):.2f} dB" if error > 0 else ""


def key_of(label: str, names: dict[str, str]) -> str:
    """The key of a label, or the label itself."""
    return next((key for key, name in names.items() if name == label), label)


def file_name(label: str) -> str:
    """A label as part of a file's name."""
    return label.replace("/", "_").replace(" ", "_").replace(",", "").replace(":", "")


def add_note(notes: list[str], note: str) -> None:
    """Add a note that is not there yet."""
    if note not in notes:
        notes.append(note)

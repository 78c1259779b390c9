"""The paper's experiments, one function each: Tables 1 and 2, Figures 5 and 6; its numbers beside ours.

Each lists the data and weights that are absent, runs the rest, and returns tables and pictures (:class:`Experiment`),
also of rows in which adaptation loses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np

from metadeblur.data.pairs import read_picture
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.report import write_table
from metadeblur.evaluation.tables import markdown
from metadeblur.imaging.pictures import Picture, data_uri, encode_png, side_by_side
from metadeblur.limits import meant
from metadeblur.paper.cells import (
    DASH,
    UNFITTED,
    Gains,
    absent_part,
    add_note,
    all_cells,
    average_line,
    cell_of,
    file_name,
    gains_of,
    key_of,
    mean_cell,
    over_frames,
    piece_psnr,
    present_cells,
    table1_runs,
    table2_values,
)
from metadeblur.paper.figures import Curve, curves_figure
from metadeblur.paper.numbers import DATASETS, LOSSES, NETWORKS, TABLE_1, TABLE_2
from metadeblur.paper.runs import Absent, Plan, ReproduceSettings, make_plan, say_range
from metadeblur.report.html import whole_page
from metadeblur.system.files import filling
from metadeblur.system.json_files import versions, write_json, write_whole
from metadeblur.system.machine import describe_machine
from metadeblur.system.names import utf8
from metadeblur.version import __version__

PAIRS = (5, 10, 20, 40)  # M that figure6 compares
PAIRS_SMALL = (2, 4, 8)
_GAP = 4  # px between a figure's parts


@dataclass
class Experiment:
    """What an experiment gave."""

    name: str
    title: str
    tables: dict[str, list[list[str]]] = field(default_factory=dict)  # by file name, without ending
    pictures: dict[str, bytes] = field(default_factory=dict)  # PNG by file name, without ending
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ExperimentRecord:
    """What ``EXPERIMENT.json`` holds."""

    experiment: str
    settings: ReproduceSettings
    clips: dict[str, tuple[str, ...]]  # names by data set
    networks: dict[str, dict[str, str]]  # SHA-256 of every network that took part, by label and part
    tables: dict[str, list[list[str]]]  # lines of text cells by file name, without ending
    notes: list[str]
    version: str  # of this program
    versions: dict[str, str]
    machine: dict[str, Any]


def reproduce(
    name: str,
    roots: Sequence[Path | str],
    out: Path,
    settings: ReproduceSettings | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Experiment:
    """Run one of the paper's experiments and write its tables, pictures, page and record.

    Args:
        name: table1, table2, figure5 or figure6.
        roots: folders with the paper's data sets; with ``small`` any paired clips, or "builtin".
        out: folder for everything; a stopped run goes on there.
        settings: see :class:`~metadeblur.paper.runs.ReproduceSettings`.
        say: told what is going on.

    Returns:
        What was written.

    Raises:
        MetadeblurError: no such experiment, or neither data nor weights are there.
    """
    settings = settings or ReproduceSettings()
    if name not in EXPERIMENTS:
        hint = meant(name, EXPERIMENTS)
        raise MetadeblurError(f"experiment {name!r} is not known; allowed: {', '.join(EXPERIMENTS)}{hint}")
    with filling(out, "reproduce"):
        return _reproduced(name, roots, out, settings, say)


def _reproduced(
    name: str, roots: Sequence[Path | str], out: Path, settings: ReproduceSettings, say: Callable[[str], None]
) -> Experiment:
    """The experiment, once its name is checked and its folder is locked."""
    make, adaptations = EXPERIMENTS[name]
    plan = make_plan(roots, out, settings, say)
    datasets, networks = plan.here()
    for absent in plan.absent():
        say(f"absent: {absent}")
    if not datasets or not networks:
        what = " and ".join(kind for kind, present in (("data", datasets), ("weights", networks)) if not present)
        raise MetadeblurError(f"{name}: no {what} to run on; {'; '.join(plan.absent())}")
    say(f"{name}: {say_range(plan.forecast(adaptations(plan)))} on this machine; stopped, the same command goes on")
    experiment = make(plan)
    experiment.notes += [f"absent: {absent}" for absent in plan.absent()]
    experiment.notes += [f"{label}: {note}" for label, benchmark in datasets.items() for note in benchmark.notes]
    if settings.small:
        experiment.notes.append(
            "--small: few frames, pairs and steps, the paper's inner update at 40 times its rates; these figures say "
            "how things relate, no more"
        )
    _write(experiment, plan, settings)
    return experiment


def table1(plan: Plan) -> Experiment:
    """Table 1: networks x data sets, baseline and meta, PSNR and SSIM; beside them this program's own adaptation.

    The last line has the average gains over the baseline.
    """
    experiment = Experiment("table1", "Table 1: baseline and adapted, network by network")
    figures = ("psnr", "ssim")
    head = ["network", "data", "measured as", "blurred", "baseline, paper", "baseline", "meta, paper", "meta"]
    head += ["flow (guarded)"] if plan.settings.flow else []
    lines = {figure: [[*head]] for figure in figures}
    gains: dict[str, list[Gains]] = {figure: [] for figure in figures}
    for network, dataset in all_cells(plan, experiment.notes):
        runs = table1_runs(plan, network, dataset, experiment.notes)
        printed = TABLE_1.get((key_of(network, NETWORKS), key_of(dataset, DATASETS)))
        for number, (figure, digits) in enumerate((("psnr", 2), ("ssim", 4))):
            papers = [f"{pair[number]:.{2 + number}f}" for pair in printed] if printed else [DASH, DASH]
            cells = {column: cell_of(runs[column], column, figure, digits) for column in runs}
            ours = [cells["base"], papers[1], cells["meta"], *([cells["flow"]] if plan.settings.flow else [])]
            first = [network, dataset, plan.measured_as(network), cells["blurred"], papers[0]]
            lines[figure].append([*first, *ours])
            gains[figure].append(gains_of(runs, figure, printed and (printed[0][number], printed[1][number])))
    for figure, digits in (("psnr", 2), ("ssim", 4)):
        lines[figure].append(average_line(gains[figure], plan, digits))
    experiment.tables = {f"table1_{figure}": lines[figure] for figure in figures}
    return experiment


def table2(plan: Plan) -> Experiment:
    """Table 2: which losses fit the reblurring network to the clip, on the first data set (the paper: DVD).

    What the paper prints under "none" is its baseline, so that is what stands beside it; adapting on pairs of a
    reblurring network that was not fitted is a column of its own.
    """
    experiment = Experiment("table2", "Table 2: losses of the reblur stage, PSNR in dB")
    head = ["network", "data", "measured as", "start"]
    head += [f"{loss}{side}" for loss in LOSSES for side in (", paper", "")]
    head.append(UNFITTED)
    lines = [head]
    first = next(iter(plan.here()[0]), next(iter(plan.datasets)))
    for network in (network for network, dataset in all_cells(plan, experiment.notes) if dataset == first):
        printed = TABLE_2.get(key_of(network, NETWORKS)) if key_of(first, DATASETS) == "dvd" else None
        cells = []
        meta = plan.is_meta_trained(network)
        for number, loss in enumerate(LOSSES):
            values = table2_values(plan, network, first, loss, experiment.notes)
            cells += [f"{printed[number]:.2f}" if printed else DASH, mean_cell(values, 2)]
        cells.append(mean_cell(table2_values(plan, network, first, UNFITTED, experiment.notes), 2))
        start = "meta-trained" if meta else "pre-trained"
        start = DASH if absent_part(plan, network, first) else start
        lines.append([network, first, plan.measured_as(network, meta=meta), start, *cells])
    experiment.tables = {"table2": lines}
    experiment.notes.append(
        "none: the pre-trained network as it is, not adapted, which is what the paper prints there; "
        f"{UNFITTED}: adapted on pairs of the reblurring network as it was trained"
    )
    return experiment


def figure5(plan: Plan) -> Experiment:
    """Figure 5: pieces of frames side by side: blurred, baseline, adapted by each way, truth."""
    experiment = Experiment("figure5", "Figure 5: side by side, where the blurred input is furthest from the truth")
    for dataset, network in present_cells(plan, experiment.notes):
        table1_runs(plan, network, dataset, experiment.notes)  # makes the pictures
        clip = plan.base(dataset, network).clips[0]
        rows = {
            "blurred": plan.folder(dataset, network, "base") / "pictures" / file_name(clip) / "blurred.png",
            "baseline": plan.folder(dataset, network, "base") / "pictures" / file_name(clip) / "base.png",
            "meta": plan.folder(dataset, network, "meta") / "pictures" / file_name(clip) / "finetune_adapted.png",
        }
        if plan.settings.flow:
            rows["flow"] = plan.folder(dataset, network, "flow") / "pictures" / file_name(clip) / "flow_adapted.png"
        rows |= {
            "truth": plan.folder(dataset, network, "base") / "pictures" / file_name(clip) / "sharp.png",
        }
        shown = {label: read_picture(path) for label, path in rows.items() if path.is_file()}
        labels = [f"{label}{piece_psnr(picture, shown['truth'])}" for label, picture in shown.items()]
        name = f"figure5_{file_name(dataset)}_{file_name(network)}_{file_name(clip)}"
        pieces = side_by_side(list(shown.values()), labels)
        experiment.pictures[name] = encode_png(_under_its_frame(pieces, plan, dataset, network))
    experiment.notes.append("on top: the whole blurred frame; the piece below it is framed; PSNR is that of the piece")
    return experiment


def _under_its_frame(pieces: Picture, plan: Plan, dataset: str, network: str) -> Picture:
    """The pieces under the whole frame that they are of, as wide as they are, with the piece framed."""
    frame, focus = plan.frame_in_focus(dataset, network)
    colour = (255, 210, 0)  # RGB
    cv2.rectangle(frame, (focus.left, focus.top), (focus.left + focus.side, focus.top + focus.side), colour, 2)
    width = pieces.shape[1]
    scale = min(1.0, width / frame.shape[1])
    size = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
    shown = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame
    canvas = np.full((shown.shape[0] + _GAP, width, 3), 255, np.uint8)
    canvas[: shown.shape[0], : shown.shape[1]] = shown
    return np.concatenate([canvas, pieces])


def figure6(plan: Plan) -> Experiment:
    """Figure 6: PSNR against the number of pseudo pairs M, meta-testing against fine-tuning (and flow pairs)."""
    experiment = Experiment("figure6", "Figure 6: number of pseudo pairs, meta-testing and fine-tuning")
    counts = _counts(plan)
    lines = [["network", "data", "measured as", "way", *(f"M = {count}" for count in counts)]]
    for dataset, network in present_cells(plan, experiment.notes):
        base = over_frames(plan.base(dataset, network), "base", "psnr")
        measured = plan.measured_as(network)
        lines.append([network, dataset, measured, "baseline", *(f"{base:.2f}" for _ in counts)])
        curves = [Curve("baseline", counts, [base] * len(counts), flat=True)]
        for way in _ways(plan):
            scores = [_way_values(plan, way, dataset, network, count) for count in counts]
            absent = next((score for score in scores if isinstance(score, Absent)), None)
            if absent is not None:
                add_note(experiment.notes, f"{way} of {network}: absent: {absent.reason}")
            lines.append([network, dataset, measured, way, *(mean_cell(score, 2) for score in scores)])
            points = [(count, s) for count, s in zip(counts, scores, strict=True) if not isinstance(s, Absent)]
            if points:
                means = [fmean(score) for _, score in points]
                curves.append(Curve(way, [count for count, _ in points], means))
        experiment.pictures[f"figure6_{file_name(dataset)}_{file_name(network)}"] = curves_figure(
            curves, title=f"{network} on {dataset}", x_title="pseudo pairs M", y_title="PSNR in dB"
        )
    experiment.tables = {"figure6": lines}
    experiment.notes.append(
        "the paper draws its Figure 6 and gives no numbers; flow is measured without its guard here"
    )
    return experiment


_WAYS = ("meta", "fine-tuning", "flow")


def _ways(plan: Plan) -> list[str]:
    return [way for way in _WAYS if way != "flow" or plan.settings.flow]


def _counts(plan: Plan) -> tuple[int, ...]:
    """Numbers of pairs that figure6 compares."""
    return plan.settings.pairs or (PAIRS_SMALL if plan.settings.small else PAIRS)


def _way_values(plan: Plan, way: str, dataset: str, network: str, count: int) -> list[float] | Absent:
    """PSNR after adapting on so many pairs, one a seed; unguarded."""
    values = []
    for seed in range(plan.settings.seeds):
        if way == "flow":
            values.append(over_frames(plan.flow(dataset, network, pairs=count, seed=seed), "adapted_unguarded", "psnr"))
            continue
        run = plan.by_network(dataset, network, meta=way == "meta", pairs=count, seed=seed)
        if isinstance(run, Absent):
            return run
        values.append(over_frames(run, "adapted", "psnr"))
    return values


EXPERIMENTS: dict[str, tuple[Callable[[Plan], Experiment], Callable[[Plan], int]]] = {
    "table1": (table1, lambda plan: plan.ways("meta", "flow")),
    "table2": (table2, lambda plan: len(LOSSES) * min(plan.ways("meta", "fine-tuning"), 1)),  # but none, and unfitted
    "figure5": (figure5, lambda plan: plan.ways("meta", "flow")),
    "figure6": (figure6, lambda plan: len(_counts(plan)) * plan.ways(*_WAYS)),
}
"""The experiments, and how often each adapts every network to every clip."""


# --- what is written -----------------------------------------------------------------------------------------------


def _write(experiment: Experiment, plan: Plan, settings: ReproduceSettings) -> None:
    """Tables as Markdown, LaTeX and CSV, pictures as PNG, the page, the record."""
    for name, lines in experiment.tables.items():
        write_table(lines, plan.out / name)
    for name, picture in experiment.pictures.items():
        write_whole(plan.out / f"{name}.png", picture)
    write_whole(plan.out / f"{experiment.name}.html", utf8(_page(experiment)))
    datasets, _ = plan.here()
    record = ExperimentRecord(
        experiment=experiment.name,
        settings=settings,
        clips={label: tuple(clip.name for clip in benchmark.clips) for label, benchmark in datasets.items()},
        networks=plan.checksums(),
        tables=experiment.tables,
        notes=experiment.notes,
        version=__version__,
        versions=versions(),
        machine=describe_machine(),
    )
    write_json(record, plan.out / f"{experiment.name}.json")


def render(experiment: Experiment) -> str:
    """The experiment as Markdown, for a terminal."""
    parts = [f"{experiment.title}", *(markdown(lines) for lines in experiment.tables.values())]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in experiment.notes)]) + "\n"


def _page(experiment: Experiment) -> str:
    return whole_page(
        "experiment.html",
        verdict=experiment.title,
        figures=(),
        tables=experiment.tables,
        pictures={name: data_uri(picture) for name, picture in experiment.pictures.items()},
        notes=experiment.notes,
    )

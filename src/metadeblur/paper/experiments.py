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

import numpy as np

from metadeblur.data.pairs import read_picture
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.records import Summary
from metadeblur.evaluation.report import write_table
from metadeblur.evaluation.tables import markdown, spread
from metadeblur.imaging.pictures import Picture, data_uri, encode_png, side_by_side
from metadeblur.limits import meant
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
_DASH = "\u2013"  # nothing to show


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
    make, cells = EXPERIMENTS[name]
    plan = make_plan(roots, out, settings, say)
    datasets, networks = plan.here()
    for absent in plan.absent():
        say(f"absent: {absent}")
    if not datasets or not networks:
        what = " and ".join(kind for kind, present in (("data", datasets), ("weights", networks)) if not present)
        raise MetadeblurError(f"{name}: no {what} to run on; {'; '.join(plan.absent())}")
    say(f"{name}: {say_range(plan.forecast(cells * plan.ways()))} on this machine; stopped, the same command goes on")
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
    """Table 1: networks x data sets, baseline and meta, PSNR and SSIM; beside them this program's own adaptation."""
    experiment = Experiment("table1", "Table 1: baseline and adapted, network by network")
    figures = ("psnr", "ssim")
    head = ["network", "data", "blurred", "baseline, paper", "baseline", "meta, paper", "meta", "flow (guarded)"]
    lines = {figure: [[*head]] for figure in figures}
    for network, dataset in _cells(plan, experiment.notes):
        runs = _table1_runs(plan, network, dataset, experiment.notes)
        printed = TABLE_1.get((_key(network, NETWORKS), _key(dataset, DATASETS)))
        for number, (figure, digits) in enumerate((("psnr", 2), ("ssim", 4))):
            papers = [f"{pair[number]:.{2 + number}f}" for pair in printed] if printed else [_DASH, _DASH]
            cells = {column: _cell(runs[column], column, figure, digits) for column in _ROW_OF}
            ours = [cells["base"], papers[1], cells["meta"], cells["flow"]]
            lines[figure].append([network, dataset, cells["blurred"], papers[0], *ours])
    experiment.tables = {f"table1_{figure}": lines[figure] for figure in figures}
    return experiment


def table2(plan: Plan) -> Experiment:
    """Table 2: which losses fit the reblurring network to the clip, on the first data set (the paper: DVD)."""
    experiment = Experiment("table2", "Table 2: losses of the reblur stage, PSNR in dB")
    head = ["network", "data", *(f"{loss}{side}" for loss in LOSSES for side in (", paper", ""))]
    lines = [head]
    first = next(iter(plan.here()[0]), next(iter(plan.datasets)))
    for network in (network for network, dataset in _cells(plan, experiment.notes) if dataset == first):
        printed = TABLE_2.get(_key(network, NETWORKS)) if _key(first, DATASETS) == "dvd" else None
        cells = []
        for number, loss in enumerate(LOSSES):
            values = _table2_values(plan, network, first, loss, experiment.notes)
            cells += [f"{printed[number]:.2f}" if printed else _DASH, _mean_cell(values, 2)]
        lines.append([network, first, *cells])
    experiment.tables = {"table2": lines}
    experiment.notes.append("none: the network as it is, as in the paper")
    return experiment


def figure5(plan: Plan) -> Experiment:
    """Figure 5: pieces of frames side by side: blurred, baseline, adapted by each way, truth."""
    experiment = Experiment("figure5", "Figure 5: side by side, where the blurred input is furthest from the truth")
    for dataset, network in _present(plan, experiment.notes):
        _table1_runs(plan, network, dataset, experiment.notes)  # makes the pictures
        clip = plan.base(dataset, network).clips[0]
        rows = {
            "blurred": plan.folder(dataset, network, "base") / "pictures" / _file(clip) / "blurred.png",
            "baseline": plan.folder(dataset, network, "base") / "pictures" / _file(clip) / "base.png",
            "meta": plan.folder(dataset, network, "meta") / "pictures" / _file(clip) / "finetune_adapted.png",
            "flow": plan.folder(dataset, network, "flow") / "pictures" / _file(clip) / "flow_adapted.png",
            "truth": plan.folder(dataset, network, "base") / "pictures" / _file(clip) / "sharp.png",
        }
        shown = {label: read_picture(path) for label, path in rows.items() if path.is_file()}
        labels = [f"{label}{_piece_psnr(picture, shown['truth'])}" for label, picture in shown.items()]
        name = f"figure5_{_file(dataset)}_{_file(network)}_{_file(clip)}"
        experiment.pictures[name] = encode_png(side_by_side(list(shown.values()), labels))
    return experiment


def figure6(plan: Plan) -> Experiment:
    """Figure 6: PSNR against the number of pseudo pairs M, meta-testing against fine-tuning (and flow pairs)."""
    experiment = Experiment("figure6", "Figure 6: number of pseudo pairs, meta-testing and fine-tuning")
    counts = plan.settings.pairs or (PAIRS_SMALL if plan.settings.small else PAIRS)
    lines = [["network", "data", "way", *(f"M = {count}" for count in counts)]]
    for dataset, network in _present(plan, experiment.notes):
        base = _over_frames(plan.base(dataset, network), "base", "psnr")
        lines.append([network, dataset, "baseline", *(f"{base:.2f}" for _ in counts)])
        curves = [Curve("baseline", counts, [base] * len(counts), flat=True)]
        for way in _WAYS:
            scores = [_way_values(plan, way, dataset, network, count) for count in counts]
            absent = next((score for score in scores if isinstance(score, Absent)), None)
            if absent is not None:
                _note(experiment.notes, f"{way} of {network}: absent: {absent.reason}")
            lines.append([network, dataset, way, *(_mean_cell(score, 2) for score in scores)])
            points = [(count, s) for count, s in zip(counts, scores, strict=True) if not isinstance(s, Absent)]
            if points:
                means = [fmean(score) for _, score in points]
                curves.append(Curve(way, [count for count, _ in points], means))
        experiment.pictures[f"figure6_{_file(dataset)}_{_file(network)}"] = curves_figure(
            curves, title=f"{network} on {dataset}", x_title="pseudo pairs M", y_title="PSNR in dB"
        )
    experiment.tables = {"figure6": lines}
    experiment.notes.append(
        "the paper draws its Figure 6 and gives no numbers; flow is measured without its guard here"
    )
    return experiment


_WAYS = ("meta", "fine-tuning", "flow")


def _way_values(plan: Plan, way: str, dataset: str, network: str, count: int) -> list[float] | Absent:
    """PSNR after adapting on so many pairs, one a seed; unguarded."""
    values = []
    for seed in range(plan.settings.seeds):
        if way == "flow":
            values.append(
                _over_frames(plan.flow(dataset, network, pairs=count, seed=seed), "adapted_unguarded", "psnr")
            )
            continue
        run = plan.by_network(dataset, network, meta=way == "meta", pairs=count, seed=seed)
        if isinstance(run, Absent):
            return run
        values.append(_over_frames(run, "adapted", "psnr"))
    return values


EXPERIMENTS: dict[str, tuple[Callable[[Plan], Experiment], int]] = {
    "table1": (table1, 1),
    "table2": (table2, 1),
    "figure5": (figure5, 1),
    "figure6": (figure6, len(PAIRS)),
}
"""The experiments, and how often each adapts every network to every clip in each way."""


# --- the cells -----------------------------------------------------------------------------------------------------


def _cells(plan: Plan, notes: list[str]) -> list[tuple[str, str]]:
    """(network, data set) of all that was asked for, absent ones too, but for what a small experiment leaves out."""
    there = set(_present(plan, notes))
    datasets, networks = plan.here()
    return [
        (network, dataset)
        for network in plan.networks
        for dataset in plan.datasets
        if (dataset, network) in there or dataset not in datasets or network not in networks
    ]


def _present(plan: Plan, notes: list[str]) -> list[tuple[str, str]]:
    """(data set, network) of what is there, but for what a small experiment leaves out, which is noted."""
    datasets, networks = plan.here()
    present = []
    for dataset in datasets:
        for network in networks:
            reason = plan.left_out(dataset, network)
            if reason is None:
                present.append((dataset, network))
            else:
                _note(notes, reason)
    return present


def _absent(plan: Plan, network: str, dataset: str) -> Absent | None:
    """What a run of a network on a data set lacks."""
    parts = (plan.datasets[dataset], plan.networks[network])
    return next((part for part in parts if isinstance(part, Absent)), None)


def _table1_runs(plan: Plan, network: str, dataset: str, notes: list[str]) -> dict[str, list[Summary] | Absent]:
    """Summaries (one a seed) by column, or what is absent."""
    absent = _absent(plan, network, dataset)
    if absent is not None:
        return dict.fromkeys(_ROW_OF, absent)
    base = plan.base(dataset, network)
    below = base.psnr["blurred"] - base.psnr["base"]
    if below > 0:
        _note(notes, f"{network} on {dataset}: its base is below the blurred input by {below:.2f} dB")
    seeds = range(plan.settings.seeds)
    meta = _all_seeds([plan.by_network(dataset, network, meta=True, seed=seed) for seed in seeds])
    if isinstance(meta, Absent):
        _note(notes, f"meta of {network}: absent: {meta.reason}")
    flow: list[Summary] | Absent = [plan.flow(dataset, network, seed=seed) for seed in seeds]
    return {"blurred": [base], "base": [base], "meta": meta, "flow": flow}


def _all_seeds(runs: Sequence[Summary | Absent]) -> list[Summary] | Absent:
    """The runs of all seeds, or what one of them lacks."""
    absent = next((run for run in runs if isinstance(run, Absent)), None)
    return absent or [run for run in runs if not isinstance(run, Absent)]


_ROW_OF = {"blurred": "blurred", "base": "base", "meta": "adapted", "flow": "adapted"}


def _table2_values(plan: Plan, network: str, dataset: str, loss: Any, notes: list[str]) -> list[float] | Absent:
    """PSNR of a network with one of the losses, one a seed."""
    absent = _absent(plan, network, dataset)
    if absent is not None:
        return absent
    if loss == "none":
        return [_over_frames(plan.base(dataset, network), "base", "psnr")]
    values = []
    for seed in range(plan.settings.seeds):
        name = plan.here()[1][network][0]
        has_meta = not isinstance(plan.reblurrer(name, meta=True), Absent)
        run = plan.by_network(dataset, network, meta=has_meta, losses=loss, seed=seed)
        if isinstance(run, Absent):
            _note(notes, f"{loss} of {network}: absent: {run.reason}")
            return run
        if not has_meta:
            _note(notes, f"{network}: without meta-trained weights, the pre-trained ones are fine-tuned")
        values.append(_over_frames(run, "adapted", "psnr"))
    return values


def _over_frames(summary: Summary, row: str, figure: str) -> float:
    """A row's mean over all frames, as papers print it."""
    return summary.over_frames[figure][row]


def _cell(runs: list[Summary] | Absent, column: str, figure: str, digits: int) -> str:
    if isinstance(runs, Absent):
        return "absent"
    return _mean_cell([_over_frames(run, _ROW_OF[column], figure) for run in runs], digits)


def _mean_cell(values: Sequence[float] | Absent, digits: int) -> str:
    if isinstance(values, Absent):
        return "absent"
    return spread(values, f".{digits}f")


def _piece_psnr(picture: Picture, truth: Picture) -> str:
    """PSNR of a piece as a label's end; nothing for the truth itself."""
    error = float(np.square(picture.astype(np.float64) - truth).mean())
    return f" {10 * np.log10(255**2 / error):.2f} dB" if error > 0 else ""


def _key(label: str, names: dict[str, str]) -> str:
    """The key of a label, or the label itself."""
    return next((key for key, name in names.items() if name == label), label)


def _file(label: str) -> str:
    return label.replace("/", "_").replace(" ", "_").replace(",", "").replace(":", "")


def _note(notes: list[str], note: str) -> None:
    if note not in notes:
        notes.append(note)


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

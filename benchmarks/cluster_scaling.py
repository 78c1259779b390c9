"""Clips a minute restored on a cluster of 1 and 2 workers with one thread each, against the ideal.

Run:  python benchmarks/cluster_scaling.py -o docs/results [--clips 8] [--rounds 3] [--workers 1 2] [--small]

The clips are the demonstration's shaky film, another hand in each, restored with the built-in model and the defaults.
Ray is started once and stays; the workers are started anew for each way, and how long it takes until the first of them
works is measured apart in the same round, with a picture that is restored without adapting. The ways take turns in
every round, so that a busy machine slows all of them alike; ratios are taken within each round, and their median, least
and most are given. The ideal of n workers is n times the clips a minute of one. That all ways write the same bytes is
checked. ``--small`` takes tiny clips, to see that everything runs: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speed import spread

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.cluster.connection import ClusterSettings, joined
from metadeblur.cluster.worker_pool import ClusterPool
from metadeblur.evaluation.tables import markdown
from metadeblur.models.weights import load_deblurrer
from metadeblur.pipeline.demo import DemoSettings, shaky_clip
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.pipeline.side_by_side import restore_files
from metadeblur.system.json_files import commit, versions, write_json, write_whole
from metadeblur.system.machine import describe_machine
from metadeblur.video import write_clip

ALONE = "without a cluster"
Series = dict[str, dict[str, list[float]]]


def measure(
    folder: Path, sources: Sequence[Path], settings: RunSettings, workers: Sequence[int], rounds: int
) -> Series:
    """Seconds of every way in every round, with the start of its workers and that start alone."""
    net = load_deblurrer("lite")
    picture = folder / "picture.png"
    write_clip(shaky_clip(DemoSettings(frames=1, width=96, height=64)).blurred, picture)
    plain = replace(settings, adapt=False, adaptation=replace(settings.adaptation, guard=False))

    def alone(jobs: Sequence[Job], how: RunSettings) -> None:
        for job in jobs:
            restore_file(job, net, how)

    def together(count: int, jobs: Sequence[Job], how: RunSettings) -> None:
        with ClusterPool(net, ClusterSettings(workers=count, threads=1), "cpu", lambda _: None) as pool:
            results = restore_files(jobs, net, how, pool)
        for result in results:
            if isinstance(result, Exception):
                raise result

    ways: dict[str, Callable[[Sequence[Job], RunSettings], None]] = {ALONE: alone}
    ways |= {f"{count} worker{'s' if count > 1 else ''}": partial(together, count) for count in workers}
    seconds: Series = {name: {"whole": [], "start": []} for name in ways}
    with joined(ClusterSettings(workers=max(workers), threads=1)):
        for number in range(rounds):
            for name, run in ways.items():
                out = folder / f"{number} {name}"
                out.mkdir()
                began = time.perf_counter()
                run([Job(picture, out / picture.name)], plain)
                started = time.perf_counter()
                run([Job(source, out / source.name) for source in sources], settings)
                seconds[name]["start"].append(started - began)
                seconds[name]["whole"].append(time.perf_counter() - started)
                check_same(out, folder / f"0 {ALONE}")
    return seconds


def check_same(one: Path, two: Path) -> None:
    """Refuse ways that do not write the same."""
    for path in two.iterdir():
        if path.read_bytes() != (one / path.name).read_bytes():
            raise SystemExit(f"{one / path.name} is not the same as {path}")


def table(seconds: Series, clips: int, workers: Sequence[int]) -> list[list[str]]:
    """One line a way: clips a minute with and without the start, and how near that is to the ideal."""
    first = f"{workers[0]} worker{'s' if workers[0] > 1 else ''}"
    lines = [
        ["way", "clips a minute", "start of the workers, s", "without the start", "of the ideal, without the start"]
    ]
    rates = {name: [60 * clips / whole for whole in series["whole"]] for name, series in seconds.items()}
    # A start cannot be told from noise where it is longer than all of the work.
    pure = {
        name: [60 * clips / max(whole - start, 1e-3) for whole, start in zip(*series.values(), strict=True)]
        for name, series in seconds.items()
        if name != ALONE
    }
    for name, series in seconds.items():
        if name == ALONE:
            lines.append([name, spread(rates[name], ".2f"), "", "", ""])
            continue
        count = int(name.split()[0]) / workers[0]
        shares = [100 * rate / (count * one) for rate, one in zip(pure[name], pure[first], strict=True)]
        ideal = f"{spread(shares, '.0f')} %"
        lines.append(
            [name, spread(rates[name], ".2f"), spread(series["start"], ".1f"), spread(pure[name], ".2f"), ideal]
        )
    return lines


def page(found: dict[str, Any]) -> str:
    """cluster_scaling.md, from what cluster_scaling.json holds."""
    host, said, size = found["machine"], found["versions"], found["sizes"]
    small = ["**Tiny clips: these figures mean nothing.**", ""] if found["small"] else []
    about = (
        f"{size['clips']} clips of {size['width']}x{size['height']}, {size['frames']} frames each, restored with "
        f"`lite` and {size['steps']} steps of adaptation, by workers with one thread each. Median over "
        f"{found['rounds']} rounds (least to most); the ideal of n workers is n times the clips a minute of one, taken "
        "within each round. All ways wrote the same bytes."
    )
    made = (
        f"{host['processor']}, {host['cpus']} processors; PyTorch {said['torch']}, Ray {found['ray']}, Python "
        f"{said['python']}; metadeblur {said['metadeblur']}, commit {found['commit']}."
        f"{' ' + found['note'] if found['note'] else ''}"
    )
    lines = ["# Clips a minute on a cluster", "", *small, about, "", markdown(found["table"]), "", made, ""]
    lines += [
        "Encoding takes threads of its own beside a worker's, and Ray's processes some time.",
        "",
        "Made by `python benchmarks/cluster_scaling.py -o docs/results`; its head says how each figure is taken. All",
        "rounds are in `cluster_scaling.json`.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", dest="out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=180)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--small", action="store_true", help="tiny clips, to see that everything runs")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    given = parser.parse_args(argv)
    if given.small:
        given.clips, given.frames, given.width, given.height, given.steps, given.rounds = 2, 6, 96, 64, 2, 2
    import ray

    torch.set_num_threads(1)
    settings = RunSettings(adaptation=AdaptSettings(steps=given.steps))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        sources = [folder / f"clip{number}.mp4" for number in range(given.clips)]
        for number, path in enumerate(sources):
            wanted = DemoSettings(frames=given.frames, width=given.width, height=given.height, seed=number)
            write_clip(shaky_clip(wanted).blurred, path)
        seconds = measure(folder, sources, settings, given.workers, given.rounds)
    sizes = {name: getattr(given, name) for name in ("clips", "frames", "width", "height", "steps")}
    found = {
        "table": table(seconds, given.clips, given.workers),
        "seconds": seconds,
        "sizes": sizes,
        "rounds": given.rounds,
        "small": given.small,
        "machine": describe_machine(),
        "versions": versions(),
        "ray": ray.__version__,
        "commit": commit(),
        "note": given.note,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(found, given.out / "cluster_scaling.json")
    write_whole(given.out / "cluster_scaling.md", page(found).encode())
    print(markdown(found["table"]))


if __name__ == "__main__":
    main()

"""Compare ways to adapt over several seeds: a table with mean and standard deviation over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from torch import nn

from metadeblur.data.layouts import Benchmark
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.protocol import EvaluateSettings, evaluate, read_records
from metadeblur.evaluation.records import Means, Summary
from metadeblur.evaluation.report import write_tables
from metadeblur.evaluation.tables import spread


def compare(
    benchmarks: Mapping[str, Benchmark],
    net: nn.Module,
    out: Path,
    settings: EvaluateSettings,
    *,
    seeds: int = 3,
    model: str = "",
    say: Callable[[str], object] = lambda _: None,
) -> list[list[str]]:
    """Evaluate every benchmark with every seed, and put the ways to adapt side by side.

    A stopped comparison goes on where it was; the evaluations lie in ``out/<benchmark>/seed<S>``.

    Args:
        benchmarks: paired clips by label.
        net: the deblurrer; not changed.
        out: folder for everything.
        settings: of the evaluations; its seed is replaced, and clips ``apart`` are taken where a benchmark has them.
        seeds: how many.
        model: how the records call the deblurrer.
        say: told before each evaluation.

    Returns:
        The lines of :func:`across_seeds` for each benchmark.

    Raises:
        MetadeblurError: fewer than two ways, and as :func:`~metadeblur.evaluation.protocol.evaluate`.
    """
    if len(settings.methods) < 2:
        raise MetadeblurError(f"methods {', '.join(settings.methods)}: name two or more to compare, for instance none")
    lines: list[list[str]] = []
    for label, benchmark in benchmarks.items():
        summaries = over_seeds(benchmark, net, out / label, settings, seeds=seeds, model=model, say=say)
        head, *body = across_seeds(label, summaries)
        lines += body if lines else [head, *body]
    return lines


def over_seeds(
    benchmark: Benchmark,
    net: nn.Module,
    out: Path,
    settings: EvaluateSettings,
    *,
    seeds: int = 3,
    model: str = "",
    say: Callable[[str], object] = lambda _: None,
) -> list[Summary]:
    """The summary of one evaluation for each seed, each in ``out/seed<S>``; the arguments are those of compare."""
    names = {clip.name for clip in benchmark.clips}
    summaries: list[Summary] = []
    for seed in range(seeds):
        say(f"{out.name}, seed {seed}")
        chosen = replace(
            settings,
            adaptation=replace(settings.adaptation, seed=seed),
            apart=tuple(name for name in settings.apart if name in names),
            resume=True,
        )
        folder = out / f"seed{seed}"
        summary = evaluate(benchmark, net, folder, chosen, model=model, say=say, renew=True)
        write_tables(read_records(folder, summary), summary, folder)
        summaries.append(summary)
    return summaries


def across_seeds(label: str, summaries: Sequence[Summary]) -> list[list[str]]:
    """A table, one line a way and group of clips: means over the seeds, gains with standard deviation."""
    head = ["clips", "way", "blurred", "base", "adapted", "oracle", "gain", "oracle ratio", "harm"]
    lines: list[list[str]] = [[*head, "whole", "its gain", "its harm", "s"]]
    for group, seeds in groups(label, summaries):
        for way in seeds[0].methods or {}:
            methods = [means.methods[way] for means in seeds if means.methods]
            effects = [method.effect for method in methods if method.effect]
            whole = [method.unguarded for method in methods if method.unguarded]
            lines.append(
                [
                    group,
                    way,
                    *(_mean([means.psnr.get(row) for means in seeds], ".2f") for row in ("blurred", "base")),
                    _mean([method.psnr["adapted"] for method in methods], ".2f"),
                    _mean([means.psnr.get("oracle") for means in seeds], ".2f"),
                    spread([effect.gain for effect in effects], "+.2f"),
                    _mean([effect.oracle_ratio for effect in effects], ".2f"),
                    _mean([effect.harm_rate for effect in effects], ".0%"),
                    _mean([method.psnr["adapted_unguarded"] for method in methods], ".2f"),
                    spread([effect.gain for effect in whole], "+.2f"),
                    _mean([effect.harm_rate for effect in whole], ".0%"),
                    _mean([method.seconds for method in methods], ".0f"),
                ]
            )
    return lines


def groups(label: str, summaries: Sequence[Summary]) -> list[tuple[str, Sequence[Means]]]:
    """The summaries of all clips, or those of the clips reported apart and of the others, each with its name."""
    apart = [summary.apart for summary in summaries if summary.apart]
    others = [summary.others for summary in summaries if summary.others]
    if not apart or not others:
        return [(label, summaries)]
    names = ", ".join(apart[0].clips)
    return [(f"{label} but {names}", others), (f"{label}: {names}", apart)]


def _mean(values: Sequence[float | None], form: str) -> str:
    """The mean as text; nothing where a value is missing."""
    numbers = [value for value in values if value is not None]
    return format(fmean(numbers), form).replace("%", " %") if numbers and len(numbers) == len(values) else ""


LEGEND = (
    "adapted: with the guard; whole: without it; its gain and its harm: of the whole one",
    "gain: over base, in dB, mean and standard deviation over the seeds; harm: clips more than 0.05 dB below base",
    "the same places, number of pairs, gradient steps, learning rate and seeds for every way; s: seconds a clip",
)
"""What the columns mean."""

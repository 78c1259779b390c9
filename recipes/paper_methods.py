"""The paper's method beside fine-tuning on flow pairs, on clips with known truth: one table over several seeds.

    python recipes/paper_methods.py ROOT -o DIR --meta DIR --reblurrer FILE [--model lite] [--apart hero7] [--seeds 3]
                                    [--steps 40] [--lr 1e-4] [--patch 128] [--crop 320] [--frames 9]

Rows: blurred; base; fine-tuned on flow pairs; the paper without meta-training (its pre-trained reblurring network and
critic fitted to the clip); the meta-trained weights as they are, and adapted; oracle (true pairs). The same number of
places, pairs, gradient steps and the same learning rate of the deblurrer for every row, no guard; the rates of the
reblurring network and its critic keep the paper's ratio to the deblurrer's (1e-6 to 2.5e-6), whose own rates move next
to nothing in so few steps. A stopped run goes on with the same command. Writes paper_methods.md, .tex, .csv and .json,
and of the pairs that each row learnt from, pairs.md: see :func:`pair_lines`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from metadeblur.adapt import AdaptSettings, collect, fit_network, make_pairs
from metadeblur.clip import PairedClip
from metadeblur.data.layouts import Benchmark, open_benchmark
from metadeblur.data.paired import read_trial
from metadeblur.evaluation.compare import Summary, groups, over_seeds
from metadeblur.evaluation.protocol import EvaluateSettings
from metadeblur.evaluation.report import write_table
from metadeblur.evaluation.settings import meta_files
from metadeblur.evaluation.tables import markdown
from metadeblur.metrics import psnr
from metadeblur.networks import traits
from metadeblur.reblur.flow import fit_flow_reblurrer
from metadeblur.reblur.updates import CriticSettings, NetworkReblurrer, ReblurUpdates
from metadeblur.record import machine, plain, versions, write_json
from metadeblur.sharpness import self_shift_score
from metadeblur.support import choose_support
from metadeblur.weights import load_deblurrer, load_reblurrer, parameters_digest

ROWS = (
    ("flow", "fine-tuned on flow pairs"),
    ("finetune", "paper, without meta-training"),
    ("meta", "paper, with meta-training"),
)
REBLURRER_SHARE = 1e-6 / 2.5e-6  # rate of the reblurring network over that of the deblurrer, as in the paper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("-o", dest="out", type=Path, required=True)
    parser.add_argument("--meta", required=True)
    parser.add_argument("--reblurrer", default="")
    parser.add_argument("--model", default="lite")
    parser.add_argument("--apart", default="hero7")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--crop", type=int, default=320)
    parser.add_argument("--frames", type=int, default=9)
    given = parser.parse_args()
    benchmark, net = open_benchmark(given.root), load_deblurrer(given.model)
    settings = EvaluateSettings(
        methods=tuple(name for name, _ in ROWS),
        meta=given.meta,
        crop=given.crop,
        frames=given.frames,
        apart=tuple(given.apart.split(",")) if given.apart else (),
        adaptation=adaptation(given.steps, given.lr, given.patch, given.reblurrer),
    )

    def say(line: str) -> None:
        print(line, flush=True)

    whole = over_seeds(benchmark, net, given.out / "rows", settings, seeds=given.seeds, model=given.model, say=say)
    unadapted = replace(settings, rows=("blurred", "base"), methods=("none",), meta="")
    meta = load_deblurrer(meta_files(given.meta)[0])
    start = over_seeds(benchmark, meta, given.out / "meta_start", unadapted, seeds=1, model="meta", say=say)
    lines = table(given.root.resolve().name, whole, start[0])
    write_table(lines, given.out / "paper_methods")
    print(markdown(lines), flush=True)
    pairs = pair_lines(benchmark, settings)
    write_table(pairs, given.out / "pairs")
    print(markdown(pairs))
    about = {"seeds": given.seeds, "model": given.model, "weights": parameters_digest(net), "settings": settings}
    conditions = {"conditions": whole[0]["conditions"], "versions": versions(), "machine": machine()}
    record = {"table": lines, "pairs": pairs, "clips": by_clip(given.out / "rows", given.seeds), **about, **conditions}
    write_json(plain(record), given.out / "paper_methods.json")


def adaptation(steps: int, lr: float, patch: int, reblurrer: str) -> AdaptSettings:
    """What every row shares."""
    own = lr * REBLURRER_SHARE
    updates = ReblurUpdates(lr_reblurrer=own, critic=CriticSettings(lr_critic=own))
    return AdaptSettings(
        steps=steps, lr=lr, patch=patch, reblurrer=reblurrer, updates=updates, guard=False, held_out=0.0
    )


def table(label: str, summaries: Sequence[Summary], start: Summary) -> list[list[str]]:
    """One line a row and group of clips: mean PSNR, gain over base and its spread over seeds, share of the oracle's."""
    lines = [["clips", "row", "PSNR", "gain over base", "of the oracle's gain", "harmed clips", "s a clip"]]
    starts = dict(groups(label, [start]))
    for group, tables in groups(label, summaries):
        base = fmean(one["psnr"]["base"] for one in tables)
        oracle = [one["psnr"]["oracle"] - base for one in tables]
        rows: list[tuple[str, list[float], str, str]] = []
        for name, said in ROWS:
            if name == "meta":
                rows.append(("meta-trained, not adapted", [starts[group][0]["psnr"]["base"] - base], "", ""))
            ways = [one["methods"][name] for one in tables]
            harm = f"{fmean(way['harm_rate'] for way in ways):.0%}".replace("%", " %")
            seconds = f"{fmean(way['seconds'] for way in ways):.0f}"
            rows.append((said, [way["psnr"]["adapted"] - base for way in ways], harm, seconds))
        rows.append(("oracle", oracle, "", ""))
        lines.append([group, "blurred", f"{tables[0]['psnr']['blurred']:.2f}", "", "", "", ""])
        lines.append([group, "base", f"{base:.2f}", "", "", "", ""])
        for name, gains, harm, seconds in rows:
            spread = f" \u00b1 {stdev(gains):.3f}" if len(gains) > 1 else ""
            share = f"{fmean(gains) / fmean(oracle):.2f}" if fmean(oracle) > 0 else ""
            psnr_mean = f"{base + fmean(gains):.2f}"
            lines.append([group, name, psnr_mean, f"{fmean(gains):+.3f}{spread}", share, harm, seconds])
    return lines


def by_clip(folder: Path, seeds: int) -> dict[str, list[dict[str, Any]]]:
    """PSNR of every clip by row, a dictionary a seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        summary = json.loads((folder / f"seed{seed}" / "summary.json").read_text(encoding="utf-8"))
        for clip in summary["clips"]:
            record = json.loads((folder / f"seed{seed}" / f"{clip}.json").read_text(encoding="utf-8"))
            rows = {name: way["psnr"]["adapted"] for name, way in record["methods"].items()}
            kept = {row: value for row, value in record["psnr"].items() if row in ("blurred", "base", "oracle")}
            found.setdefault(clip, []).append(kept | rows)
    return found


def pair_lines(benchmark: Benchmark, settings: EvaluateSettings) -> list[list[str]]:
    """How strong a blur the pairs carry, and how true the networks' blur is; one line a clip.

    Columns: the self-shift score (dB, higher is more blurred) of the pseudo-sharp patches, of the clip's blurred
    patches at the same places, and of the pseudo-blurred ones by flow, by the pre-trained network as it is and fitted
    to the clip, and by the meta-trained one fitted; then the PSNR against the truly blurred frames of true sharp
    windows blurred by the two networks as they are, and of the sharp frames as they are. Truth is used to tell, not to
    choose.
    """
    head = ["clip", "sharp", "real", "flow", "network", "fitted", "meta, fitted"]
    lines = [[*head, "PSNR network", "PSNR meta", "PSNR sharp"]]
    net = load_deblurrer("lite")
    nets = {
        "network": load_reblurrer(settings.adaptation.reblurrer),
        "meta": load_reblurrer(meta_files(settings.meta)[1]),
    }
    bases = {"network": net, "meta": load_deblurrer(meta_files(settings.meta)[0])}
    for folder in benchmark.clips:
        pair = read_trial(folder, crop=settings.crop, frames=settings.frames).pair
        clip, adaptation_ = pair.blurred, settings.adaptation
        generator = torch.Generator().manual_seed(0)
        support = choose_support(
            clip, pairs=adaptation_.pairs, patch=adaptation_.patch, held_out=0.0, generator=generator
        )
        flow = fit_flow_reblurrer(clip, places=support.train, generator=generator)
        frames = traits(net).frames
        scores = [fmean(place.score for place in support.train), fmean(place.blurred_score for place in support.train)]
        made = [pseudo.centre for pseudo in make_pairs(clip, support.train, flow, 1, frames, generator)]
        scores.append(_score(made))
        truth: dict[str, list[float]] = {"network": [], "meta": [], "sharp": []}
        for name, reblurrer in nets.items():
            items = collect(clip, support.train, max(reblurrer.frames, frames), "blurriest", generator)
            if name == "network":
                scores.append(_score([reblurrer.reblur(clip, place, generator) for place in support.train]))
            fitted, _, _ = fit_network(reblurrer, bases[name], items, adaptation_)
            scores.append(_score([fitted.reblur(clip, place, generator) for place in support.train]))
            truth[name] = _fidelity(pair, reblurrer)
        truth["sharp"] = [float(psnr(pair.sharp[number], pair.blurred[number])) for number in range(len(pair))]
        cells = [f"{score:.2f}" for score in scores] + [f"{fmean(values):.2f}" for values in truth.values()]
        lines.append([clip.name, *cells])
    return lines


def _score(patches: Sequence[Tensor]) -> float:
    return fmean(float(self_shift_score(patch)) for patch in patches)


def _fidelity(pair: PairedClip, reblurrer: NetworkReblurrer) -> list[float]:
    """PSNR of reblurred true sharp windows against the blurred frames."""
    windows = (pair.sharp.window(number, reblurrer.frames) for number in range(len(pair)))
    return [float(psnr(reblurrer.blur(window), pair.blurred[number])) for number, window in enumerate(windows)]


if __name__ == "__main__":
    main()

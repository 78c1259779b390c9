"""The paper's method beside fine-tuning on flow pairs, on clips with known truth: one table over several seeds.

    python recipes/paper_methods.py ROOT -o DIR --meta DIR --reblurrer FILE [--model lite] [--apart hero7] [--seeds 3]
                                    [--steps 40] [--lr 1e-4] [--patch 96] [--crop 256] [--frames 7]

Rows: blurred; base; fine-tuned on flow pairs; the paper without meta-training (its pre-trained reblurring network and
critic fitted to the clip); the meta-trained weights as they are, and adapted; oracle (true pairs). The same number of
places, pairs, gradient steps and the same learning rate of the deblurrer for every row, no guard; the rates of the
reblurring network and its critic keep the paper's ratio to the deblurrer's (1e-6 to 2.5e-6), whose own rates move next
to nothing in so few steps. A stopped run goes on with the same command. Writes paper_methods.md, .tex, .csv and .json,
and of the pairs that each row learnt from, pairs.md: see :func:`pair_lines`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from metadeblur.adaptation.pairs import make_pairs
from metadeblur.adaptation.places import choose_support
from metadeblur.adaptation.stages import AdaptSettings, Pair, adapt, fit_network, preset
from metadeblur.clip import Clip
from metadeblur.data.layouts import Benchmark, open_benchmark
from metadeblur.data.paired import PairedClip, read_trial
from metadeblur.evaluation.comparison import groups, over_seeds
from metadeblur.evaluation.protocol import EvaluateSettings, read_records, read_summary
from metadeblur.evaluation.records import Summary
from metadeblur.evaluation.report import write_table
from metadeblur.evaluation.settings import meta_files
from metadeblur.evaluation.tables import markdown
from metadeblur.imaging.quality import psnr
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.models.registry import traits
from metadeblur.models.weights import load_deblurrer, parameters_digest
from metadeblur.reblur.fitting import NetworkReblurrer, collect
from metadeblur.reblur.flow import fit_flow_reblurrer
from metadeblur.reblur.place import Place, place_window
from metadeblur.reblur.reblurrer import Reblurrer
from metadeblur.reblur.settings import ReblurUpdates
from metadeblur.reblur.weights import load_reblurrer
from metadeblur.restoration.clips import restore
from metadeblur.system.json_files import plain, versions, write_json
from metadeblur.system.machine import describe_machine

ROWS = (
    ("flow", "fine-tuned on flow pairs"),
    ("finetune", "paper, without meta-training"),
    ("meta", "paper, with meta-training"),
)


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
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--frames", type=int, default=7)
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
    clips = by_clip(given.out / "rows", given.seeds)
    pairs = pair_lines(benchmark, settings, net, {name: seeds[0] for name, seeds in clips.items()})
    write_table(pairs, given.out / "pairs")
    print(markdown(pairs))
    about = {"seeds": given.seeds, "model": given.model, "weights": parameters_digest(net), "settings": settings}
    conditions = {"conditions": whole[0].conditions, "versions": versions(), "machine": describe_machine()}
    record = {"table": lines, "pairs": pairs, "clips": clips, **about, **conditions}
    write_json(plain(record), given.out / "paper_methods.json")


def adaptation(steps: int, lr: float, patch: int, reblurrer: str) -> AdaptSettings:
    """What every row shares: the paper's plain pseudo-sharp patches and last weights, this program's steps and rate."""
    return AdaptSettings(
        fuse=False,
        steps=steps,
        lr=lr,
        patch=patch,
        restore_first=False,
        average=0.0,
        reblurrer=reblurrer,
        updates=ReblurUpdates().faster(lr / preset("paper").lr),
        guard=False,
        held_out=0.0,
    )


def table(label: str, summaries: Sequence[Summary], start: Summary) -> list[list[str]]:
    """One line a row and group of clips: mean PSNR, gain over base and its spread over seeds, share of the oracle's."""
    lines = [["clips", "row", "PSNR", "gain over base", "of the oracle's gain", "harmed clips", "s a clip"]]
    starts = dict(groups(label, [start]))
    for group, tables in groups(label, summaries):
        base = fmean(one.psnr["base"] for one in tables)
        oracle = [one.psnr["oracle"] - base for one in tables]
        rows: list[tuple[str, list[float], str, str]] = []
        for name, said in ROWS:
            if name == "meta":
                rows.append(("meta-trained, not adapted", [starts[group][0].psnr["base"] - base], "", ""))
            ways = [one.methods[name] for one in tables if one.methods]
            harm = f"{fmean(way.effect.harm_rate for way in ways if way.effect):.0%}".replace("%", " %")
            seconds = f"{fmean(way.seconds for way in ways):.0f}"
            rows.append((said, [way.psnr["adapted"] - base for way in ways], harm, seconds))
        rows.append(("oracle", oracle, "", ""))
        lines.append([group, "blurred", f"{tables[0].psnr['blurred']:.2f}", "", "", "", ""])
        lines.append([group, "base", f"{base:.2f}", "", "", "", ""])
        for name, gains, harm, seconds in rows:
            spread = f" \u00b1 {stdev(gains):.3f}" if len(gains) > 1 else ""
            share = f"{fmean(gains) / fmean(oracle):.2f}" if fmean(oracle) > 0 else ""
            psnr_mean = f"{base + fmean(gains):.2f}"
            lines.append([group, name, psnr_mean, f"{fmean(gains):+.3f}{spread}", share, harm, seconds])
    return lines


def by_clip(folder: Path, seeds: int) -> dict[str, list[dict[str, float]]]:
    """PSNR of every clip by row, a dictionary a seed."""
    clips: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        out = folder / f"seed{seed}"
        for record in read_records(out, read_summary(out)):
            rows = {name: method.psnr["adapted"] for name, method in (record.methods or {}).items()}
            kept = {row: value for row, value in record.psnr.items() if row in ("blurred", "base", "oracle")}
            clips.setdefault(record.clip, []).append(kept | rows)
    return clips


def pair_lines(
    benchmark: Benchmark, settings: EvaluateSettings, net: nn.Module, figures: dict[str, dict[str, float]]
) -> list[list[str]]:
    """What the pairs are like, and why they help or not; one line a clip, seed 0.

    Columns: the self-shift score (dB, higher is more blurred) of the pseudo-sharp patches, of the clip's blurred
    patches at the same places, and of the pseudo-blurred ones by flow, by the pre-trained network as it is and fitted
    to the clip, and by the meta-trained one fitted; then the PSNR against the truly blurred frames of true sharp
    windows blurred by the two networks as they are, of the sharp frames as they are, and of these under a Gaussian of
    1.5 px, which knows nothing of motion; then the gain over base (dB) of flow pairs, and of such that are windows as
    the network's are: only their centre is blurred, the neighbours are the clip's own. Truth is used to tell, not
    to choose.

    Args:
        benchmark: the clips.
        settings: of the evaluation.
        net: the base.
        figures: PSNR by row of every clip, with seed 0.
    """
    head = ["clip", "sharp", "real", "flow", "network", "fitted", "meta, fitted", "PSNR network", "PSNR meta"]
    lines = [[*head, "PSNR sharp", "PSNR Gaussian", "gain flow", "gain flow, own neighbours"]]
    weights, reblurrer = meta_files(settings.meta)
    starts = {"network": (load_reblurrer(settings.adaptation.reblurrer), net)}
    starts["meta"] = (load_reblurrer(reblurrer), load_deblurrer(weights))
    for folder in benchmark.clips:
        pair, how = read_trial(folder, crop=settings.crop, frames=settings.frames).pair, settings.adaptation
        clip, generator = pair.blurred, torch.Generator().manual_seed(0)
        places = choose_support(clip, pairs=how.pairs, patch=how.patch, held_out=0.0, generator=generator).train
        flow = fit_flow_reblurrer(clip, places=places, generator=generator)
        frames = traits(net).frames
        scores = [fmean(place.score for place in places), fmean(place.blurred_score for place in places)]
        scores.append(_score([one.centre for one in make_pairs(clip, places, flow, 1, frames, generator)]))
        truth: list[float] = []
        for name, (start, base) in starts.items():
            start = start.told(clip, places, generator)
            items = collect(clip, places, max(start.frames, frames), "blurriest", generator, start.motion)
            fitted, _, _ = fit_network(start, base, items, how)
            for one in (start, fitted) if name == "network" else (fitted,):
                scores.append(_score([one.reblur(clip, place, generator) for place in places]))
            truth.append(_fidelity(pair, start))
        for change in (lambda frame: frame, _gaussian):
            truth.append(fmean(float(psnr(change(one), two)) for one, two in zip(pair.sharp, clip, strict=True)))
        inconsistent = adapt(net, clip, settings=how, pair_source=own_neighbours)
        restored = restore(inconsistent.model, clip)
        own = fmean(float(psnr(one, true, round_to_8bit=True)) for one, true in zip(restored, pair.sharp, strict=True))
        gains = [value - figures[clip.name]["base"] for value in (figures[clip.name]["flow"], own)]
        cells = [f"{value:.2f}" for value in scores + truth] + [f"{gain:+.2f}" for gain in gains]
        lines.append([clip.name, *cells])
    return lines


def own_neighbours(
    clip: Clip, places: Sequence[Place], reblurrer: Reblurrer, blurs: int, frames: int, generator: torch.Generator
) -> list[Pair]:
    """Pairs whose window has its centre replaced by the reblurrer's patch, and the clip's own neighbours beside it."""
    pairs = []
    for place in places:
        window = place_window(clip, place, frames)
        for _ in range(blurs):
            centre = reblurrer.reblur(clip, place, generator)
            fed = torch.cat([window[: frames // 2], centre[None], window[frames // 2 + 1 :]])
            pairs.append(Pair(fed if frames > 1 else centre, window[frames // 2]))
    return pairs


def _score(patches: Sequence[Tensor]) -> float:
    return fmean(float(self_shift_score(patch)) for patch in patches)


def _gaussian(frame: Tensor) -> Tensor:
    picture = np.asarray(frame.permute(1, 2, 0))
    return torch.from_numpy(cv2.GaussianBlur(picture, (0, 0), 1.5)).permute(2, 0, 1)


def _fidelity(pair: PairedClip, reblurrer: NetworkReblurrer) -> float:
    """Mean PSNR of reblurred true sharp windows against the blurred frames."""
    windows = (pair.sharp.window(number, reblurrer.frames) for number in range(len(pair)))
    return fmean(float(psnr(reblurrer.blur(window), pair.blurred[number])) for number, window in enumerate(windows))


if __name__ == "__main__":
    main()

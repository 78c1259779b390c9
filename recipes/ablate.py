"""What settings of the adaptation are worth, clip by clip, by the share that is used and with frames fused.

    python recipes/ablate.py CLIPS... [--model lite] [--variant '{"steps": 40}']... [--seed 0] [--every 2] [-o FILE.md]

CLIPS is a folder of paired clips, or builtin. Each variant is a JSON table of fields of AdaptSettings; none: the
defaults. Every ``--every``-th frame is measured whole. Prints, and with -o writes, gains over the base in dB: at a
quarter, half, three quarters and the whole of the adaptation, and the whole with frames fused. To choose settings by,
so never on clips that figures are quoted on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from metadeblur.adaptation.stages import adapt
from metadeblur.clip import Clip
from metadeblur.data.layouts import open_benchmark
from metadeblur.data.paired import PairedClip, read_trial
from metadeblur.evaluation.builtin import make_builtin
from metadeblur.evaluation.tables import markdown
from metadeblur.guard.judge import blend
from metadeblur.imaging.quality import psnr
from metadeblur.models.adapted import FusionSettings, with_fusion
from metadeblur.models.weights import load_deblurrer
from metadeblur.restoration.clips import restore
from metadeblur.system.json_files import write_whole

SHARES = (0.25, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--model", default="lite")
    parser.add_argument("--variant", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("-o", dest="out", type=Path)
    given = parser.parse_args()
    net = load_deblurrer(given.model)
    lines = [["variant", "clip", "base", *(f"{share:.0%}" for share in SHARES), "fused"]]
    for variant in given.variant or ["{}"]:
        gains = []
        for clip in paired(given.roots):
            base, found = worth(net, clip, given.every, {"seed": given.seed, **json.loads(variant)})
            gains.append(found)
            lines.append([variant, clip.blurred.name, f"{base:.2f}", *(f"{gain:+.2f}" for gain in found)])
            print(" ".join(lines[-1]), flush=True)
        lines.append([variant, "mean", "", *(f"{fmean(column):+.2f}" for column in zip(*gains, strict=True))])
        print(" ".join(lines[-1]), flush=True)
    if given.out is not None:
        write_whole(given.out, (markdown(lines) + "\n").encode())


def paired(roots: Sequence[str]) -> list[PairedClip]:
    """All clips of the folders, in memory."""
    found = []
    for root in roots:
        benchmark = make_builtin(Path("builtin")) if root == "builtin" else open_benchmark(Path(root))
        found += [read_trial(folder).pair for folder in benchmark.clips]
    return found


def worth(net: nn.Module, clip: PairedClip, every: int, overrides: dict[str, object]) -> tuple[float, list[float]]:
    """PSNR of the base and gains over it: of each share, and of the whole with frames fused."""
    outcome = adapt(net, clip.blurred, **{"guard": False, "fuse": False, **overrides})

    def measured(model: nn.Module) -> float:
        return _mean(restore(model, clip.blurred), clip.sharp, every)

    base = measured(net)
    if outcome.adapted is None:
        return base, [0.0] * (len(SHARES) + 1)
    models = [blend(net, outcome.adapted, share) for share in SHARES]
    models.append(with_fusion(blend(net, outcome.adapted, 1.0), FusionSettings()))
    return base, [measured(model) - base for model in models]


def _mean(frames: Clip, sharp: Clip, every: int) -> float:
    with torch.inference_mode():
        chosen = range(0, len(frames), every)
        return fmean(float(psnr(frames[index], sharp[index], round_to_8bit=True)) for index in chosen)


if __name__ == "__main__":
    main()

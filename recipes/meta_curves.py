"""What steps on a clip win from one start and from another: gain against steps, weights alone.

    python recipes/meta_curves.py CLIPS... --start '{"model": "lite"}' --start '{"model": "RUN/weights.safetensors"}'
        [--steps 5 10 20 40] [--seed 0] [--every 4] -o FILE.json

CLIPS are folders of paired clips, or builtin. A start is a JSON table: a model, and fields of AdaptSettings such as a
learning rate. Adapted as ever, without guard and fusing; the weights after so many steps are the mean over the steps,
as they are after a run of so many. Every ``--every``-th frame is measured whole. What FILE.json holds already is not
measured again. To choose by, so never on clips that figures are quoted on.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from ablate import paired
from torch import Tensor, nn

from metadeblur.adaptation.stages import adapt
from metadeblur.data.paired import PairedClip
from metadeblur.evaluation.tables import markdown
from metadeblur.guard.judge import blend
from metadeblur.imaging.quality import psnr
from metadeblur.models.weights import load_deblurrer
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.system.json_files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--start", action="append", type=json.loads, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("-o", dest="out", type=Path, required=True)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.out.exists() else []
    for clip in paired(given.roots):
        for start in given.start:
            row = {"clip": clip.name, "start": start, "seed": given.seed, "every": given.every}
            if row in [{name: known[name] for name in row} for known in rows]:
                continue
            rows.append(row | {"psnr": curve(clip, start, sorted(given.steps), given.seed, given.every)})
            write_json(rows, given.out)
            print(clip.name, start, rows[-1]["psnr"], flush=True)
    print(table(rows))


def curve(clip: PairedClip, start: dict[str, Any], steps: list[int], seed: int, every: int) -> dict[str, float]:
    """PSNR in dB of the blurred frames, the network as it is ("0"), and after so many steps."""
    how = dict(start)
    net = load_deblurrer(how.pop("model"))
    means: dict[int, nn.Module] = {}
    mean = copy.deepcopy(net)

    def watch(step: int, _loss: float, moving: nn.Module) -> None:
        nonlocal mean
        mean = blend(mean, moving, 1 / (step + 1))
        if step + 1 in steps:
            means[step + 1] = copy.deepcopy(mean)

    adapt(net, clip.blurred, seed=seed, steps=steps[-1], guard=False, fuse=False, callback=watch, **how)
    found = {"blurred": _psnr(clip, every, clip.blurred.__getitem__)}
    for step, model in {0: net, **means}.items():
        restorer = Restorer(model, clip.blurred.height, clip.blurred.width, RestoreSettings(tile=0))
        found[str(step)] = _psnr(clip, every, lambda index, one=restorer: one(clip.blurred.window(index, one.frames)))
    return found


def _psnr(clip: PairedClip, every: int, made: Callable[[int], Tensor]) -> float:
    """Mean PSNR of every so many frames."""
    numbers = range(0, len(clip), every)
    return fmean(float(psnr(made(number), clip.sharp[number], round_to_8bit=True)) for number in numbers)


def table(rows: list[dict[str, Any]]) -> str:
    """For each start the mean over the clips, and the gains over the first start's network as it is."""
    starts = list(dict.fromkeys(json.dumps(row["start"]) for row in rows))
    clips = {row["clip"]: row["psnr"] for row in rows if json.dumps(row["start"]) == starts[0]}
    lines = [["start", "clips", *(f"{name}" for name in next(iter(clips.values())))]]
    for start in starts:
        own = [row for row in rows if json.dumps(row["start"]) == start and row["clip"] in clips]
        means = {name: fmean(row["psnr"][name] - clips[row["clip"]]["0"] for row in own) for name in own[0]["psnr"]}
        lines.append([start, str(len(own)), *(f"{gain:+.3f}" for gain in means.values())])
    return markdown(lines)


if __name__ == "__main__":
    main()

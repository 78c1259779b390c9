"""How near reblurring networks come to the true blur, and whether they blur along the motion, on paired clips.

    python recipes/reblurrers.py ROOT... -o DIR [--reblurrers reblurrer,FILE] [--crop 256] [--every 3]

ROOT is a folder of paired clips, or builtin. Windows of true sharp frames are blurred: not at all, by a Gaussian of
1.5 px, along the motion alone, and by each network; PSNR is against the truly blurred frame. The motion is that of the
sharp windows, and the time that the shutter was open is what the blurred clip tells (where it tells nothing, 0.75 frame
intervals): a network that is told the motion gets both. Beside it stands how much detail is left along the motion and
across it, as a share of the sharp frame's, where things move by 3 px or more. Writes reblurrers.md, .tex, .csv, .json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
import torch
from torch import Tensor

from metadeblur.data.layouts import open_benchmark
from metadeblur.data.paired import PairedClip, read_trial
from metadeblur.evaluation.builtin import make_builtin
from metadeblur.evaluation.report import write_table
from metadeblur.evaluation.tables import markdown
from metadeblur.imaging.quality import psnr
from metadeblur.models.told_reblurring import EXPOSURE, ToldReblurNetwork, blur_along, own_velocity
from metadeblur.models.weights import parameters_digest
from metadeblur.reblur.fitting import NetworkReblurrer
from metadeblur.reblur.flow import fit_flow_reblurrer
from metadeblur.reblur.weights import load_reblurrer
from metadeblur.system.json_files import plain, versions, write_json
from metadeblur.system.machine import describe_machine

MOVES = 3.0  # px of path from which on a pixel counts for what is left along and across it
Figures = dict[str, tuple[float, ...]]  # PSNR in dB; share of detail left along the motion, and across it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+")
    parser.add_argument("-o", dest="out", type=Path, required=True)
    parser.add_argument("--reblurrers", default="reblurrer", help="names or files, separated by commas")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--every", type=int, default=3, help="of the frames, which are measured")
    given = parser.parse_args()
    networks = {Path(name).stem: load_reblurrer(name) for name in given.reblurrers.split(",")}
    given.out.mkdir(parents=True, exist_ok=True)
    clips: dict[str, dict[str, Figures]] = {}
    for root in given.roots:
        name = root if root == "builtin" else Path(root).resolve().name
        benchmark = make_builtin(given.out / "clips") if root == "builtin" else open_benchmark(Path(root))
        clips[name] = {}
        for folder in benchmark.clips:
            clips[name][folder.name] = measured(read_trial(folder, crop=given.crop).pair, networks, given.every)
            print(
                name, folder.name, {row: f"{one[0]:.2f}" for row, one in clips[name][folder.name].items()}, flush=True
            )
    lines = table(clips)
    write_table(lines, given.out / "reblurrers")
    weights = {name: parameters_digest(one.network) for name, one in networks.items()}
    about = {"crop": given.crop, "every": given.every, "weights": weights}
    record = {"table": lines, "clips": clips, **about, "versions": versions(), "machine": describe_machine()}
    write_json(plain(record), given.out / "reblurrers.json")
    print(markdown(lines))


@torch.inference_mode()
def measured(pair: PairedClip, networks: dict[str, NetworkReblurrer], every: int) -> Figures:
    """The figures of each way to blur, means over a clip's frames."""
    told = fit_flow_reblurrer(pair.blurred, generator=torch.Generator().manual_seed(0)).exposure
    found: dict[str, list[tuple[float, ...]]] = {}
    for number in range(0, len(pair), every):
        window, true = pair.sharp.window(number, 5)[None], pair.blurred[number][None]
        path = (EXPOSURE if told is None else told) * own_velocity(window)
        sharp = window[:, 2]
        made = {"not at all": sharp, "Gaussian of 1.5 px": gaussian(sharp), "along the motion": blur_along(sharp, path)}
        for name, one in networks.items():
            net = one.network
            made[name] = net(window, path) if isinstance(net, ToldReblurNetwork) else net(window)
        for name, picture in (made | {"the truth": true}).items():
            value = float(psnr(picture.clamp(0, 1), true)) if picture is not true else math.nan
            found.setdefault(name, []).append((value, *left(picture, sharp, path)))
    return {name: means(rows) for name, rows in found.items()}


def left(picture: Tensor, sharp: Tensor, path: Tensor) -> tuple[float, float]:
    """Shares of a sharp picture's detail that another (1, 3, H, W) has left along paths and across; NaN if still."""
    length = path.norm(dim=1, keepdim=True)
    moves = (length >= MOVES)[..., :-1, :-1]
    x, y = (path / length.clamp(min=1e-6))[..., :-1, :-1].chunk(2, 1)

    def detail(one: Tensor) -> list[float]:
        right = (one[..., :-1, 1:] - one[..., :-1, :-1]).mean(1, keepdim=True)
        down = (one[..., 1:, :-1] - one[..., :-1, :-1]).mean(1, keepdim=True)
        parts = (x * right + y * down, x * down - y * right)
        return [float((part.square() * moves).sum().sqrt()) for part in parts]

    along, across = (
        one / whole if whole else math.nan for one, whole in zip(detail(picture), detail(sharp), strict=True)
    )
    return along, across


def means(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The mean of each column; NaN is left out, and is the mean where there is nothing else."""
    columns = [[value for value in column if not math.isnan(value)] for column in zip(*rows, strict=True)]
    return tuple(fmean(column) if column else math.nan for column in columns)


def table(clips: dict[str, dict[str, Figures]]) -> list[list[str]]:
    """One line a group of clips and way to blur."""
    lines = [["clips", "blurred", "PSNR, dB", "nearer than along the motion", "detail left along it", "across it"]]
    for group, members in clips.items():
        for way in next(iter(members.values())):
            value, *shares = means([one[way] for one in members.values()])
            nearer = sum(one[way][0] > one["along the motion"][0] for one in members.values())
            first = ["", ""] if math.isnan(value) else [f"{value:.2f}", f"{nearer} of {len(members)}"]
            lines.append([group, way, *first, *("" if math.isnan(share) else f"{share:.2f}" for share in shares)])
    return lines


def gaussian(picture: Tensor) -> Tensor:
    """A picture (1, 3, H, W) under a Gaussian of 1.5 px."""
    blurred = cv2.GaussianBlur(np.ascontiguousarray(picture[0].permute(1, 2, 0).numpy()), (0, 0), 1.5)
    return torch.from_numpy(blurred).permute(2, 0, 1)[None]


if __name__ == "__main__":
    main()

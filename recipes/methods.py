"""Compare the ways to adapt under one protocol, several seeds, clips not made with optical flow apart.

    python recipes/methods.py ROOT... -o DIR [--model lite] [--methods flow,self,align,flow+align,flow+self] [--seeds 3]
                              [--meta DIR] [--reblurrer FILE] [--apart hero7] [--crop PX] [--frames N] [--clips A,B]
                              [--steps 40] [--pairs 20] [--patch 160] [--lr 1.5e-4]

ROOT is a folder of paired clips, or builtin. A stopped run goes on with the same command. Writes methods.md, .tex, .csv
and methods.json, with machine, versions and settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from metadeblur.adaptation.stages import AdaptSettings, preset
from metadeblur.data.layouts import open_benchmark
from metadeblur.evaluation.builtin import make_builtin
from metadeblur.evaluation.comparison import LEGEND, compare
from metadeblur.evaluation.protocol import EvaluateSettings
from metadeblur.evaluation.report import write_table
from metadeblur.evaluation.tables import markdown
from metadeblur.models.weights import load_deblurrer, parameters_digest
from metadeblur.reblur.settings import ReblurUpdates
from metadeblur.system.json_files import plain, versions, write_json
from metadeblur.system.machine import describe_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+")
    parser.add_argument("-o", dest="out", type=Path, required=True)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--methods", default="flow,self,align,flow+align,flow+self")
    parser.add_argument("--meta", default="", help="folder that metadeblur train meta wrote, for the method meta")
    parser.add_argument("--reblurrer", default="", help="weights of the reblurring network, for the method finetune")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--apart", default="hero7")
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--clips", default="")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--patch", type=int, default=160)
    parser.add_argument("--lr", type=float, default=1.5e-4)
    given = parser.parse_args()
    benchmarks = {
        Path(root).resolve().name if root != "builtin" else root: (
            make_builtin(given.out / "clips") if root == "builtin" else open_benchmark(Path(root))
        )
        for root in given.roots
    }
    settings = EvaluateSettings(
        methods=tuple(given.methods.split(",")),
        meta=given.meta,
        clips=tuple(name for name in given.clips.split(",") if name),
        crop=given.crop,
        frames=given.frames,
        apart=tuple(given.apart.split(",")),
        # The paper's network is fitted at the paper's ratio to the deblurrer's rate (1e-6 to 2.5e-6), for at its own
        # rate so few steps move nothing. Fusing frames helps every way alike and would hide how they differ.
        adaptation=AdaptSettings(
            steps=given.steps,
            pairs=given.pairs,
            patch=given.patch,
            lr=given.lr,
            fuse=False,
            reblurrer=given.reblurrer,
            updates=ReblurUpdates().faster(given.lr / preset("paper").lr),
        ),
    )
    net = load_deblurrer(given.model)
    lines = compare(
        benchmarks,
        net,
        given.out,
        settings,
        seeds=given.seeds,
        model=given.model,
        say=lambda line: print(line, flush=True),
    )
    write_table(lines, given.out / "methods")
    about = {"seeds": given.seeds, "model": given.model, "weights": parameters_digest(net), "settings": settings}
    record = {"table": lines, "legend": LEGEND, **about, "versions": versions(), "machine": describe_machine()}
    write_json(plain(record), given.out / "methods.json")
    print(markdown(lines), *LEGEND, sep="\n")


if __name__ == "__main__":
    main()

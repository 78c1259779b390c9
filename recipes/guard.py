"""Put the guard on trial: honest adaptations and as many that are spoilt on purpose.

    python recipes/guard.py ROOT... -o DIR [--model lite] [--seeds 1] [--steps 40] [--pairs 20] [--patch 160]

ROOT is a folder of paired clips, or builtin. A stopped run goes on with the same command. Writes guard.md, .tex, .csv
and guard.json, with every adaptation, machine, versions and settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.data.layouts import open_benchmark
from metadeblur.evaluation.builtin import make_builtin
from metadeblur.evaluation.guard_trials import guard_trial, trial_table, verdict
from metadeblur.evaluation.report import write_table
from metadeblur.evaluation.tables import markdown
from metadeblur.models.weights import load_deblurrer, parameters_digest
from metadeblur.system.json_files import plain, versions, write_json
from metadeblur.system.machine import describe_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+")
    parser.add_argument("-o", dest="out", type=Path, required=True)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--patch", type=int, default=160)
    given = parser.parse_args()
    net = load_deblurrer(given.model)
    settings = AdaptSettings(steps=given.steps, pairs=given.pairs, patch=given.patch, fuse=False)
    records = []
    for root in given.roots:
        benchmark = make_builtin(given.out / "clips") if root == "builtin" else open_benchmark(Path(root))
        folder = given.out / "trials" / (Path(root).resolve().name if root != "builtin" else root)
        records += guard_trial(
            benchmark, net, folder, seeds=given.seeds, settings=settings, say=lambda line: print(line, flush=True)
        )
    lines = trial_table(records)
    write_table(lines, given.out / "guard")
    about = {"model": given.model, "weights": parameters_digest(net), "settings": settings}
    record = {"table": lines, "verdict": verdict(records), "trials": records, **about}
    write_json(plain(record | {"versions": versions(), "machine": describe_machine()}), given.out / "guard.json")
    print(markdown(lines))


if __name__ == "__main__":
    main()

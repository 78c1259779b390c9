"""Join evaluations of the same clips with several seeds: one table with spreads, one record.

    python recipes/seeds.py FOLDER... [-o RECORD.json]

Each FOLDER is one that `metadeblur evaluate CLIPS -o FOLDER --seed N` wrote. Prints the table of PSNR with standard
deviations over the seeds, the gain, its 95 % interval over clips (each clip's gain the mean of its seeds), the gain of
the whole adaptation, the harm rate, and the oracle ratio, of each clip too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from metadeblur.evaluation.protocol import read_records, read_summary
from metadeblur.evaluation.records import ClipRecord
from metadeblur.evaluation.summary import interval
from metadeblur.evaluation.tables import markdown, seeds_table, spread
from metadeblur.system.json_files import plain, write_json

MEANS = ("conditions", "psnr", "ssim", "flicker", "intervals", "gain", "harm_rate", "oracle_ratio")
ABOUT = (*MEANS, "versions", "machine")


def of_clip(record: ClipRecord) -> dict[str, Any]:
    """What a record keeps of a clip."""
    adaptation = record.adaptation or {}
    return {
        "psnr": record.psnr,
        "ssim": record.ssim,
        "share": record.share,
        "back_projected": adaptation["back_projected"],
        "exposure": (adaptation.get("reblurrer") or {}).get("exposure"),
        "vetoes": [reason["text"] for reason in adaptation["reasons"] if not reason["passed"]],
        "seconds": record.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-o", dest="out", type=Path, help="JSON file that takes what is kept of each run")
    given = parser.parse_args()
    runs = []
    for folder in given.folders:
        summary = read_summary(folder)
        runs.append((read_records(folder, summary), summary))
    summaries = [summary for _, summary in runs]
    if any(summary.clips != summaries[0].clips for summary in summaries):
        parser.error("the folders hold evaluations of different clips; give those of the same clips with several seeds")
    gains = [
        [run[0][number].psnr["adapted"] - run[0][number].psnr["base"] for run in runs]
        for number in range(len(runs[0][0]))
    ]
    span = interval([fmean(clip) for clip in gains])
    whole = [summary.psnr["adapted_unguarded"] - summary.psnr["base"] for summary in summaries]
    effects = [summary.effect for summary in summaries if summary.effect]
    print(markdown(seeds_table(runs)))
    print("gain:", spread([effect.gain for effect in effects], "+.2f"), "dB")
    if span:
        print(f"95 % over clips: {span[0]:+.2f} to {span[1]:+.2f} dB")
    print("used whole:", spread(whole, "+.2f"), "dB")
    print("oracle ratio:", spread([effect.oracle_ratio for effect in effects if effect.oracle_ratio is not None]))
    print("harm rate:", spread([effect.harm_rate for effect in effects]))
    for number, record in enumerate(runs[0][0]):
        scores = [run[0][number].psnr for run in runs]
        ratios = [
            gain / (score["oracle"] - score["base"])
            for gain, score in zip(gains[number], scores, strict=True)
            if "oracle" in score
        ]
        if ratios:
            print(f"oracle ratio of {record.clip}: {spread(ratios)}")
    if given.out:
        kept = {
            folder.name: {key: value for key, value in plain(summary).items() if key in ABOUT}
            | {"clips": {record.clip: of_clip(record) for record in records}}
            for folder, (records, summary) in zip(given.folders, runs, strict=True)
        }
        write_json(kept, given.out)


if __name__ == "__main__":
    main()

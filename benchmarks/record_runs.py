"""Record when the pieces of a few runs are done, for the test that replays them against the time that was announced.

Run:  python benchmarks/record_runs.py CLIP... -o tests/pipeline/recorded_runs.json [--efforts quick balanced]

Each CLIP, a video or a folder of frames, is restored with each effort by ``lite``, on one thread and a machine with
nothing else to do. A record holds what the run had measured before it announced its time (seconds of the network for a
frame, of a frame on the whole way, of a gradient step) and what became done when.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import metadeblur as md
from metadeblur.adaptation.settings import preset
from metadeblur.pipeline import run as running
from metadeblur.pipeline import time_left
from metadeblur.pipeline.events import Event, FrameRestored, ShotDecided, ShotStarted, StepDone
from metadeblur.pipeline.outputs import Job
from metadeblur.system.json_files import write_whole
from metadeblur.types import Effort

KEPT = ("pairs", "steps", "patch", "batch")  # of the settings: what the announced time is made from


def record(source: Path, effort: Effort) -> dict[str, Any]:
    """One run, from the moment at which its time is announced."""
    settings, found, events = preset(effort), {}, []
    clip, net = md.read_clip(source), md.load_deblurrer("lite")
    height, width = clip.height, clip.width
    began = 0.0
    tried = time_left.tried_costs

    def keep_tried(rough: Any, frame: float, step: float | None, fused: Any) -> Any:
        found.update(frame=frame, step=step)
        return tried(rough, frame, step, fused)

    class Noted(time_left.Forecast):
        """Notes what was measured, and from when on."""

        def announce(self) -> None:
            nonlocal began
            began = time.monotonic()
            found.update(work=asdict(self.work), network=self.costs.network)

    def hear(event: Event) -> None:
        if not began:  # frames of the trial
            return
        now = round(time.monotonic() - began, 2)
        match event:
            case ShotStarted(adapts=adapts, steps=steps):
                events.append([now, "shot", adapts, steps])
            case StepDone(stage="adapt", done=done, total=total):
                events.append([now, "step", done, total])
            case ShotDecided(untouched=untouched, length=length):
                events.append([now, "decided", untouched, length])
            case FrameRestored(seconds=seconds) if seconds is not None:
                events.append([now, "frame"])

    # Short runs announce nothing and try nothing: here all of them do.
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(time_left, "tried_costs", keep_tried),
        patch.object(time_left, "LONG_RUN_SECONDS", 0.0),
        patch.object(running, "Forecast", Noted),
    ):
        job = Job(source, Path(folder) / "out.mp4")
        running.restore_file(job, net, running.RunSettings(adaptation=settings), listener=hear)
    events.append([round(time.monotonic() - began, 2), "end"])
    given = {name: value for name, value in asdict(settings).items() if name in KEPT}
    about = {"clip": f"{len(clip)} frames of {width}x{height}", "effort": effort, "area": height * width}
    measured = {name: value if isinstance(value, dict | None) else round(value, 4) for name, value in found.items()}
    return {**about, **measured, "settings": given, "events": events}


def main(words: Sequence[str] | None = None) -> None:
    """Record the runs that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--efforts", nargs="+", default=["balanced", "quick"])
    args = parser.parse_args(words)
    runs = [record(clip, effort) for clip in args.clips for effort in args.efforts]
    write_whole(args.output, (json.dumps(runs) + "\n").encode())
    print(json.dumps([{name: run[name] for name in ("clip", "effort", "network", "frame", "step")} for run in runs]))


if __name__ == "__main__":
    main()

"""A record and its pictures, as the report is given them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from metadeblur.guard.judge import Reason
from metadeblur.reblur.place import Place
from metadeblur.report.record import RunRecord, ShotRecord
from metadeblur.report.shot import ShotPictures


def frame(seed, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pictures(index=0, adapted=True, frames=3, first=0, **more):
    given = ShotPictures(
        index=index,
        frames=[(first + 2 * n, frame(n), frame(n + 50)) for n in range(frames)],
        base=[frame(n + 90) for n in range(frames)] if adapted else None,
        pairs=[(frame(n, 32, 32), frame(n + 1, 32, 32)) for n in range(10)] if adapted else [],
        sharpness_map=np.linspace(20, 40, 24).reshape(4, 6),
        map_frame=first,
    )
    return replace(given, **more)


def shot(index=0, adapted=True, share=1.0, start=0, stop=5, **more):
    place = Place(start, 4, 8, 32, score=25.04, blurred_frame=start + 3, blurred_score=39.96)
    votes = (
        Reason("held_out_gain", 0.42, 0.05, True, "gain on held-out pairs"),
        Reason("ringing", 0.012 if share > 0 else 0.031, 0.02, share > 0, "overshoot at edges"),
    )
    given = ShotRecord(
        index=index,
        start=start,
        stop=stop,
        outcome="base" if not adapted or share == 0 else "adapted" if share == 1 else "partly",
        adapted=adapted,
        share=share,
        sharper=4,
        reasons=votes if adapted else (),
        pairs=(place,) * 10 if adapted else (),
        scores=(25.0, 31.5, 28.0, 40.0, 26.0),
        losses=tuple({"step": n, "loss": 1 / (n + 1)} for n in range(12)) if adapted else (),
        reblurrer={"name": "flow", "exposure": 0.82} if adapted else None,
        seconds={"adapt": 3.5, "restore": 61.0},
    )
    return replace(given, **more)


def record(*shots, **more):
    given = RunRecord(
        input="/home/anna/shaky.mp4",
        output="/home/anna/shaky-sharp.mp4",
        version="0.1.0",
        settings={"model": "lite", "guard": True, "adaptation": {"lr": 2.5e-5, "blurs": 1}},
        video={"width": 64, "height": 48, "frames": 5, "fps": "30000/1001", "codec": "h264"},
        shots=shots,
        share=1.0,
        seconds={"scan": 1.25, "adapt": 3.5, "restore": 61.0, "total": 66.0},
        peak_memory_mb=1536,
        tile=0,
        precision="fp32",
        versions={"python": "3.11.2", "torch": "2.13.0"},
        machine={"processor": "two cores"},
    )
    return replace(given, **more)

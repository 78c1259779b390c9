"""A record and its pictures, as the report is given them."""

from __future__ import annotations

import numpy as np

from metadeblur.report.page import (
    ShotStory,
)


def frame(seed, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def story(index=0, adapted=True, frames=3, first=0, **more):
    pictures = [(first + 2 * n, frame(n), frame(n + 50)) for n in range(frames)]
    return ShotStory(
        index=index,
        frames=pictures,
        base=[frame(n + 90) for n in range(frames)] if adapted else None,
        pairs=[(frame(n, 32, 32), frame(n + 1, 32, 32)) for n in range(10)] if adapted else [],
        sharpness_map=np.linspace(20, 40, 24).reshape(4, 6),
        history=[{"step": n, "loss": 1 / (n + 1), "seconds": 0.1 * n} for n in range(12)] if adapted else [],
        frame_scores=[25.0, 31.5, 28.0, 40.0, 26.0],
        map_frame=first,
        first_frame=first,
        **more,
    )


def shot(index=0, adapted=True, share=1.0, start=0, stop=5, **more):
    place = {"frame": start, "top": 4, "left": 8, "size": 32, "score": 25.04, "blurred_frame": start + 3}
    values = {
        "index": index,
        "start": start,
        "stop": stop,
        "untouched": False,
        "adapted": adapted,
        "share": share,
        "reasons": [
            {"name": "held_out_gain", "figure": 0.42, "limit": 0.05, "passed": True, "text": "gain on held-out pairs"},
            {
                "name": "ringing",
                "figure": 0.012 if share > 0 else 0.031,
                "limit": 0.02,
                "passed": share > 0,
                "text": "overshoot at edges",
            },
        ]
        if adapted
        else [],
        "pairs": [place | {"blurred_score": 39.96}] * 10 if adapted else [],
        "scores": [25.0, 31.5, 28.0, 40.0, 26.0],
        "losses": [{"step": n, "loss": 1 / (n + 1)} for n in range(12)] if adapted else [],
        "reblurrer": {"name": "flow", "exposure": 0.82} if adapted else None,
        "note": None,
        "seconds": {"adapt": 3.5, "restore": 61.0},
    }
    return values | more


def record(*shots, **more):
    return {
        "input": "/home/anna/shaky.mp4",
        "output": "/home/anna/shaky-sharp.mp4",
        "version": "0.1.0",
        "settings": {"model": "lite", "guard": True, "adaptation": {"lr": 2.5e-5, "blurs": 1}},
        "video": {"width": 64, "height": 48, "frames": 5, "fps": "30000/1001", "codec": "h264"},
        "shots": list(shots),
        "share": 1.0,
        "seconds": {"scan": 1.25, "adapt": 3.5, "restore": 61.0, "total": 66.0},
        "peak_memory_mb": 1536,
        "tile": 0,
        "precision": "fp32",
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "machine": {"processor": "two cores"},
    } | more

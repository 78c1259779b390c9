"""Paired clips: benchmark layouts, synthesis, training patches and windows."""

from typing import TYPE_CHECKING

from metadeblur.system.lazy import lazy_names

if TYPE_CHECKING:
    from metadeblur.data.folders import ClipFolder as ClipFolder
    from metadeblur.data.layouts import LAYOUTS as LAYOUTS
    from metadeblur.data.layouts import Benchmark as Benchmark
    from metadeblur.data.layouts import open_benchmark as open_benchmark
    from metadeblur.data.layouts import plain_clips as plain_clips
    from metadeblur.data.paired import PairedClip as PairedClip
    from metadeblur.data.paired import TrialClip as TrialClip
    from metadeblur.data.paired import read_trial as read_trial
    from metadeblur.data.pairs import PairSampler as PairSampler
    from metadeblur.data.settings import SynthSettings as SynthSettings
    from metadeblur.data.synthesis import synthesize as synthesize
    from metadeblur.data.windows import WindowSampler as WindowSampler

__getattr__ = lazy_names(
    __name__,
    {
        "folders": ["ClipFolder"],
        "layouts": ["LAYOUTS", "Benchmark", "open_benchmark", "plain_clips"],
        "paired": ["PairedClip", "TrialClip", "read_trial"],
        "pairs": ["PairSampler"],
        "settings": ["SynthSettings"],
        "synthesis": ["synthesize"],
        "windows": ["WindowSampler"],
    },
)

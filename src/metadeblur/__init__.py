"""metadeblur restores motion-blurred video with a network that first adapts itself to that video.

>>> import torch
>>> import metadeblur as md
>>> clip = md.Clip(torch.rand(6, 3, 64, 96))
>>> outcome = md.adapt(md.load_deblurrer("lite"), clip, steps=1, pairs=1, seed=0)
>>> sharp = md.restore(outcome.model, clip)
>>> len(sharp), 0 <= outcome.share <= 1
(6, True)
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from metadeblur.version import __version__ as __version__

if TYPE_CHECKING:
    from metadeblur.adaptation.outcome import Outcome
    from metadeblur.adaptation.settings import AdaptSettings
    from metadeblur.adaptation.stages import adapt
    from metadeblur.clip import Clip
    from metadeblur.data.paired import PairedClip
    from metadeblur.errors import MetadeblurError
    from metadeblur.models.deblurrer import Deblurrer
    from metadeblur.models.pretrained import from_pretrained, save_pretrained
    from metadeblur.models.weights import load_deblurrer, save_deblurrer
    from metadeblur.pipeline.one_call import restore_video
    from metadeblur.report.record import RunRecord
    from metadeblur.restoration.clips import restore
    from metadeblur.restoration.restorer import RestoreSettings
    from metadeblur.video import EncodeSettings, read_clip, write_clip

__all__ = [
    "AdaptSettings",
    "Clip",
    "Deblurrer",
    "EncodeSettings",
    "MetadeblurError",
    "Outcome",
    "PairedClip",
    "RestoreSettings",
    "RunRecord",
    "adapt",
    "from_pretrained",
    "load_deblurrer",
    "read_clip",
    "restore",
    "restore_video",
    "save_deblurrer",
    "save_pretrained",
    "write_clip",
]

_HOMES = {
    "AdaptSettings": "adaptation.settings",
    "Clip": "clip",
    "Deblurrer": "models.deblurrer",
    "EncodeSettings": "video",
    "MetadeblurError": "errors",
    "Outcome": "adaptation.outcome",
    "PairedClip": "data.paired",
    "RestoreSettings": "restoration.restorer",
    "RunRecord": "report.record",
    "adapt": "adaptation.stages",
    "from_pretrained": "models.pretrained",
    "load_deblurrer": "models.weights",
    "read_clip": "video",
    "restore": "restoration.clips",
    "restore_video": "pipeline.one_call",
    "save_deblurrer": "models.weights",
    "save_pretrained": "models.pretrained",
    "write_clip": "video",
}

# What the library says goes to the logger "metadeblur", which is silent until the program that uses it says otherwise.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Fetch a public name when it is first used, so that ``metadeblur --help`` need not wait for PyTorch (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"metadeblur.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

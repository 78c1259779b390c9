"""metadeblur restores motion-blurred video with a network that first adapts itself to that video.

>>> import torch
>>> import metadeblur as md
>>> clip = md.Clip(torch.rand(6, 3, 64, 96))
>>> outcome = md.adapt(md.load_deblurrer("lite"), clip, steps=1, pairs=1, seed=0)
>>> sharp = md.restore(outcome.model, clip)
>>> len(sharp), 0 <= outcome.share <= 1
(6, True)
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metadeblur.adaptation.stages import AdaptSettings, Outcome, adapt
    from metadeblur.clip import Clip, PairedClip
    from metadeblur.errors import MetadeblurError
    from metadeblur.models.deblurrer import Deblurrer
    from metadeblur.models.weights import load_deblurrer, save_deblurrer
    from metadeblur.restoration.restorer import RestoreSettings, restore
    from metadeblur.video import EncodeSettings, read_clip, write_clip

__version__ = "0.1.0"

__all__ = [
    "AdaptSettings",
    "Clip",
    "Deblurrer",
    "EncodeSettings",
    "MetadeblurError",
    "Outcome",
    "PairedClip",
    "RestoreSettings",
    "adapt",
    "load_deblurrer",
    "read_clip",
    "restore",
    "save_deblurrer",
    "write_clip",
]

_ROOMS = {
    "AdaptSettings": "adapt",
    "Clip": "clip",
    "Deblurrer": "deblurrer",
    "EncodeSettings": "video",
    "MetadeblurError": "errors",
    "Outcome": "adapt",
    "PairedClip": "clip",
    "RestoreSettings": "restore",
    "adapt": "adapt",
    "load_deblurrer": "weights",
    "read_clip": "video",
    "restore": "restore",
    "save_deblurrer": "weights",
    "write_clip": "video",
}


class _Package(ModuleType):
    """Fetches the public names when they are used, so that ``metadeblur --help`` need not wait for PyTorch.

    A module ``__getattr__`` would not do: importing the room ``metadeblur.adaptation.stages`` puts the room in the place of the
    function of the same name.
    """

    def __getattribute__(self, name: str) -> Any:
        room = _ROOMS.get(name)
        if room is None:
            return super().__getattribute__(name)
        return getattr(import_module(f"metadeblur.{room}"), name)


sys.modules[__name__].__class__ = _Package

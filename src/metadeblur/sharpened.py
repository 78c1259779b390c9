"""Pseudo-sharp patches made sharper: restored once by the base model before they are blurred again.

In a clip without a quiet moment the sharpest patches are blurred themselves, and pairs whose targets are blurred teach
the deblurrer to leave that blur in. Restored first, targets are at least as sharp as what the base model gives.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from metadeblur.clip import Clip
from metadeblur.networks import traits
from metadeblur.restore import Restorer, whole_frames
from metadeblur.support import Place

MARGIN = 64  # px around a patch that are restored too: blur carries their light into it


class Sharpener:
    """Restores the frame of a place in the patch and around it.

    Args:
        net: the base model; not changed.
        clip: that the places lie in; all of one size.

    >>> import torch
    >>> clip = Clip(torch.zeros(5, 3, 40, 40))
    >>> place = Place(frame=2, top=8, left=0, size=32, score=0.0, blurred_frame=0, blurred_score=0.0)
    >>> brighter = Sharpener(nn.Conv2d(3, 3, 1), clip)(place)
    >>> [bool(torch.equal(frame, clip[0])) for frame in brighter]
    [True, True, False, True, True]
    """

    def __init__(self, net: nn.Module, clip: Clip) -> None:
        self.net, self.clip, self.frames = net, clip, traits(net).frames
        self._restorer: Restorer | None = None

    def __call__(self, place: Place) -> Clip:
        """The clip with the place's frame restored there.

        Raises:
            MetadeblurError: the network gives values that are not finite.
        """
        height, width = (min(side, place.size + 2 * MARGIN) for side in (self.clip.height, self.clip.width))
        if self._restorer is None:
            self._restorer = whole_frames(self.net, height, width)
        top = min(max(place.top - MARGIN, 0), self.clip.height - height)
        left = min(max(place.left - MARGIN, 0), self.clip.width - width)
        region = (..., slice(top, top + height), slice(left, left + width))
        window = self.clip.window(place.frame, self.frames)[region]
        frame = self.clip[place.frame].clone()
        frame[region] = self._restorer(window if self.frames > 1 else window[0])
        return Clip(_Replaced(self.clip, place.frame, frame), name=self.clip.name)


@dataclass(frozen=True)
class _Replaced:
    """A clip with another picture as one of its frames."""

    clip: Clip
    index: int
    frame: Tensor

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, index: int) -> Tensor:
        return self.frame if index == self.index else self.clip[index]

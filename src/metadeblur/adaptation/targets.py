"""Pseudo-sharp patches made sharper: restored by the base model, and shrunk, before they are blurred again.

In a clip without a quiet moment the sharpest patches are blurred themselves, and pairs whose targets are blurred teach
the deblurrer to leave that blur in. Restored first, targets are at least as sharp as what the base model gives. Shrunk,
what blur is left is shorter, and the clip's blur is put on things of the clip that are as sharp as its pixels allow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from metadeblur.clip import Clip
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.models.registry import traits
from metadeblur.reblur.place import Place, Shrunk
from metadeblur.restoration.pieces import Piece, PieceRestorer

MARGIN = 32  # px around a patch that are restored too: blur carries their light into it
SMALLER = 2.0  # how many times smaller things are shown at most; what fits into the frame where the patch is large


class Sharpener:
    """Restores the frame of a place in the patch and around it.

    Args:
        net: the base model; not changed.
        clip: that the places lie in; all of one size.
        cache: of the clip.

    Raises:
        MetadeblurError: when a place is restored, the network gives values that are not finite.

    >>> import torch
    >>> clip = Clip(torch.zeros(5, 3, 40, 40))
    >>> place = Place(frame=2, top=8, left=0, size=32, score=0.0, blurred_frame=0, blurred_score=0.0)
    >>> brighter = Sharpener(nn.Hardtanh(0.5, 1), clip)(place)
    >>> [bool(torch.equal(frame, clip[0])) for frame in brighter]
    [True, True, False, True, True]
    """

    def __init__(self, net: nn.Module, clip: Clip, cache: ClipCache | None = None) -> None:
        self.clip, self.frames = clip, traits(net).frames
        self._pieces = PieceRestorer(net, cache or ClipCache())

    def __call__(self, place: Place) -> Clip:
        """The clip with the place's frame restored there."""
        top, left, restored = self._restored(place, MARGIN)
        frame = self.clip[place.frame].clone()
        frame[:, top : top + restored.shape[1], left : left + restored.shape[2]] = restored
        return Clip(_Replaced(self.clip, place.frame, frame), name=self.clip.name)

    def shrunk(self, place: Place) -> Shrunk:
        """What lies around the place, restored and shrunk, with a patch of the place's size in it.

        >>> import torch
        >>> place = Place(frame=0, top=0, left=60, size=32, score=0.0, blurred_frame=0, blurred_score=0.0)
        >>> small = Sharpener(nn.Identity(), Clip(torch.zeros(5, 3, 48, 100))).shrunk(place)
        >>> small.picture.shape, small.place.left, (small.region.top, small.region.left, small.region.size)
        (torch.Size([3, 32, 67]), 35, (0, 52, 48))
        """
        height, width = self.clip.height, self.clip.width
        scale = min(SMALLER, height / place.size, width / place.size)
        side = min(round(place.size * scale), height, width)
        middle = place.size / 2 - side / 2
        wanted = replace(
            place,
            top=min(max(round(place.top + middle), 0), height - side),
            left=min(max(round(place.left + middle), 0), width - side),
            size=side,
        )
        top, left, restored = self._restored(wanted, round(MARGIN * scale))
        rows, columns = (max(round(length / scale), place.size) for length in restored.shape[1:])
        picture = F.interpolate(restored[None], (rows, columns), mode="bilinear", antialias=True)[0]
        down = min(round((wanted.top - top) / scale), rows - place.size)
        right = min(round((wanted.left - left) / scale), columns - place.size)
        # Whole pixels of the picture are not whole pixels of the frame.
        region = replace(
            wanted,
            top=min(top + round(down * scale), height - side),
            left=min(left + round(right * scale), width - side),
        )
        return Shrunk(picture, replace(place, top=down, left=right), region)

    def _restored(self, place: Place, margin: int) -> tuple[int, int, Tensor]:
        """The place's frame restored at the place and around it: where that begins, and (3, h, w) on the CPU."""
        height, width = (min(side, place.size + 2 * margin) for side in (self.clip.height, self.clip.width))
        top = min(max(place.top - margin, 0), self.clip.height - height)
        left = min(max(place.left - margin, 0), self.clip.width - width)
        piece = Piece(place.frame, top, left, height, width)
        # More than half of a frame: other places and the guard's votes will ask for the rest of it.
        whole = Piece(place.frame, 0, 0, self.clip.height, self.clip.width)
        if 2 * height * width < whole.height * whole.width:
            return top, left, self._pieces(piece, lambda: self._window(piece))
        frame = self._pieces(whole, lambda: self._window(whole))
        return top, left, frame[:, top : top + height, left : left + width]

    def _window(self, piece: Piece) -> Tensor:
        """What the network takes to restore a piece."""
        rows, columns = (slice(a, a + b) for a, b in ((piece.top, piece.height), (piece.left, piece.width)))
        window = self.clip.window(piece.frame, self.frames)[..., rows, columns]
        return window if self.frames > 1 else window[0]


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

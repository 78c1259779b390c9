"""Pieces of a clip's frames, restored once for all that look at them: targets of pairs, and the guard's votes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.restoration.restorer import Restorer, fixed_copy, whole_frames
from metadeblur.system.device import choose_device


@dataclass(frozen=True)
class Piece:
    """A part of a frame, in px."""

    frame: int
    top: int
    left: int
    height: int
    width: int


def restorer_for(net: nn.Module, height: int, width: int, cache: ClipCache) -> Restorer:
    """What restores pictures of a size with a network whose weights do not change any more; one for each clip."""
    copied = cache.of(("network", net), lambda: fixed_copy(net, choose_device(None, net)))
    return cache.of(("restorer", net, height, width), lambda: whole_frames(copied, height, width, cache, shared=True))


class PieceRestorer:
    """Restores pieces of a clip's frames; results are kept in the clip's cache.

    Args:
        net: the deblurrer; not changed.
        cache: of the clip.

    >>> import torch
    >>> restored, piece = PieceRestorer(nn.Identity(), ClipCache()), Piece(frame=2, top=0, left=8, height=32, width=40)
    >>> first = restored(piece, lambda: torch.zeros(3, 32, 40))
    >>> restored(piece, lambda: torch.ones(3, 32, 40)) is first
    True
    """

    def __init__(self, net: nn.Module, cache: ClipCache) -> None:
        self.net, self.cache = net, cache

    def __call__(self, piece: Piece, window: Callable[[], Tensor]) -> Tensor:
        """The restored piece (3, h, w), in [0, 1], where the network is.

        ``window`` gives what the network takes there, (N, 3, h, w), or (3, h, w) for an image deblurrer; it is asked
        only where the piece was not restored before.
        """
        return self.cache.of(("restored", self.net, piece), lambda: self._restorer(piece).there(window()))

    def _restorer(self, piece: Piece) -> Restorer:
        return restorer_for(self.net, piece.height, piece.width, self.cache)

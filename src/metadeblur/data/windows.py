"""Random windows of sharp frames with their blurred centre: what a reblurring network is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from metadeblur.data.layouts import ClipFolder
from metadeblur.data.pairs import Bytes, FrameCache, as_tensor, refuse_small, window_numbers


@dataclass(frozen=True)
class Windows:
    """A batch, float32 in [0, 1].

    Attributes:
        sharp: (B, N, 3, P, P), co-located patches of consecutive sharp frames.
        blurred: (B, 3, P, P), the patch of the blurred frame in the middle.
    """

    sharp: Tensor
    blurred: Tensor

    @property
    def centre(self) -> Tensor:
        """The sharp patch in the middle, (B, 3, P, P)."""
        return self.sharp[:, self.sharp.shape[1] // 2]


class WindowSampler:
    """Draws windows; item i of batch k depends on (seed, k, i) alone, so that processes can share a batch.

    Windows at the ends of a clip repeat its end frame (docs/fidelity.md, query windows). Rotation is uniform over four
    quarter turns, a flip has a chance of one half (docs/fidelity.md, augmentation).

    Args:
        clips: paired clips.
        patch: side of the square patches, px.
        seed: the randomness.
        frames: N, odd.
        flip: mirror half of the windows.
        rotate: turn windows by quarter turns.
        cache: where frames are decoded; shared by samplers of the same clips.
    """

    def __init__(
        self,
        clips: Sequence[ClipFolder],
        *,
        patch: int,
        seed: int,
        frames: int = 5,
        flip: bool = True,
        rotate: bool = True,
        cache: FrameCache | None = None,
    ) -> None:
        self._places = [(clip, index) for clip in clips for index in range(len(clip.sharp))]
        self.patch, self.seed, self.frames = patch, seed, frames
        self.flip, self.rotate = flip, rotate
        self._read = cache or FrameCache()

    def __len__(self) -> int:
        """Number of windows, one for each frame."""
        return len(self._places)

    def __call__(self, step: int, numbers: Sequence[int]) -> Windows:
        """The items ``numbers`` of batch ``step``.

        Raises:
            MetadeblurError: a frame smaller than the patch, or not readable.
        """
        drawn = [self._draw(np.random.default_rng((self.seed, step, number))) for number in numbers]
        sharp, blurred = (np.stack([pair[side] for pair in drawn]) for side in (0, 1))
        return Windows(as_tensor(sharp), as_tensor(blurred)[:, 0])

    def _draw(self, rng: np.random.Generator) -> tuple[Bytes, Bytes]:
        """(N, P, P, 3) sharp and (1, P, P, 3) blurred."""
        clip, index = self._places[int(rng.integers(len(self._places)))]
        sharp = [self._read(clip.sharp[number]) for number in window_numbers(index, self.frames, len(clip.sharp))]
        height, width = sharp[0].shape[:2]
        refuse_small(clip.sharp[index], height, width, self.patch)
        top, left = int(rng.integers(height - self.patch + 1)), int(rng.integers(width - self.patch + 1))
        turns, mirror = int(rng.integers(4)) * self.rotate, bool(rng.integers(2)) and self.flip

        def cut(frames: list[Bytes]) -> Bytes:
            pieces = np.stack([frame[top : top + self.patch, left : left + self.patch] for frame in frames])
            turned = np.rot90(pieces, turns, axes=(1, 2))
            return np.ascontiguousarray(turned[:, :, ::-1] if mirror else turned)

        return cut(sharp), cut([self._read(clip.blurred[index])])

"""Random training patches from paired clips, reproducible step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.data.layouts import ClipFolder
from metadeblur.errors import MetadeblurError

Bytes = NDArray[np.uint8]  # (H, W, 3) RGB
_EASY_MSE = 10 ** (-33 / 10) * 255**2


class PairSampler:
    """Draws batches of (blurred, sharp) patches; batch k depends on (seed, k) alone, so a resumed run goes on alike.

    Frames are decoded once and kept as bytes while they fit into ``cache_bytes``.

    Args:
        clips: paired clips.
        patch: side of the square patches in px.
        batch: patches a batch.
        seed: the randomness.
        identity: share of patches whose blurred side is replaced by the sharp one, so that sharp pictures stay sharp.
        easy: chance that a patch is taken whose two sides differ little (more than 33 dB); otherwise one is drawn anew,
            because little can be learnt from it.
        cache_bytes: memory that decoded frames may take.
    """

    def __init__(
        self,
        clips: Sequence[ClipFolder],
        *,
        patch: int,
        batch: int,
        seed: int,
        identity: float = 0.0,
        easy: float = 1.0,
        cache_bytes: int = 8_000_000_000,
    ) -> None:
        self._pairs = [pair for clip in clips for pair in zip(clip.blurred, clip.sharp, strict=True)]
        self.patch, self.batch, self.seed, self.identity, self.easy = patch, batch, seed, identity, easy
        self._cache: dict[Path, Bytes] = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        """Number of frame pairs."""
        return len(self._pairs)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch ``step``: (blurred, sharp), each (B, 3, P, P), float32 in [0, 1]."""
        rng = np.random.default_rng((self.seed, step))
        drawn: list[tuple[Bytes, Bytes]] = []
        while len(drawn) < self.batch:
            pair = self._draw(rng)
            if self.easy >= 1 or rng.random() < self.easy or _differ(*pair):
                drawn.append(pair)
        stacks = (np.stack([pair[side] for pair in drawn]) for side in (0, 1))
        blurred, sharp = (torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255 for stack in stacks)
        return blurred, sharp

    def _draw(self, rng: np.random.Generator) -> tuple[Bytes, Bytes]:
        blur_path, sharp_path = self._pairs[int(rng.integers(len(self._pairs)))]
        sharp = self._read(sharp_path)
        blur = sharp if rng.random() < self.identity else self._read(blur_path)
        height, width = sharp.shape[:2]
        if min(height, width) < self.patch:
            raise MetadeblurError(
                f"{sharp_path}: {width}x{height} is smaller than the training patch; lower --patch from {self.patch}"
            )
        top, left = int(rng.integers(height - self.patch + 1)), int(rng.integers(width - self.patch + 1))
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        colours = rng.permutation(3)

        def cut(frame: Bytes) -> Bytes:
            piece = np.rot90(frame[top : top + self.patch, left : left + self.patch], turns)
            return np.ascontiguousarray((piece[:, ::-1] if mirror else piece)[..., colours])

        return cut(blur), cut(sharp)

    def _read(self, path: Path) -> Bytes:
        if path in self._cache:
            return self._cache[path]
        frame = read_picture(path)
        if frame.nbytes <= self._room:
            self._room -= frame.nbytes
            self._cache[path] = frame
        return frame


def _differ(one: Bytes, other: Bytes) -> bool:
    """Whether two pictures are less than 33 dB alike (by a quarter of their rows)."""
    return float(np.square(one[::4].astype(np.float32) - other[::4]).mean()) > _EASY_MSE


def read_picture(path: Path) -> Bytes:
    """One picture as (H, W, 3) RGB uint8.

    Raises:
        MetadeblurError: the file cannot be decoded.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise MetadeblurError(f"{path}: not readable as a picture; make it again or leave it out")
    return np.ascontiguousarray(picture[..., ::-1], dtype=np.uint8)

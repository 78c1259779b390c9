"""Random training patches from paired clips, reproducible step by step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.data.layouts import ClipFolder
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.optical_flow import window_flows
from metadeblur.system.quiet import silent_libraries

Bytes = NDArray[np.uint8]  # (H, W, 3) RGB
Flows = NDArray[np.float16]  # (N - 1, H, W, 3), x then y, px from the centre to each neighbour; trust 0..1
_EASY_MSE = 10 ** (-33 / 10) * 255**2


@dataclass(frozen=True)
class Batch:
    """Patches to train on, float32 in [0, 1].

    Attributes:
        blurred: (B, 3, P, P), or windows (B, N, 3, P, P).
        sharp: (B, 3, P, P).
        flows: (B, N - 1, 3, P / 2, P / 2), px from the centre to each neighbour and trust 0..1, of windows where they
            were asked for; otherwise None.
        targets: (B, N, 3, P, P), the sharp frames of windows, where they were asked for; otherwise None.
    """

    blurred: Tensor
    sharp: Tensor
    flows: Tensor | None = None
    targets: Tensor | None = None

    @property
    def centre(self) -> Tensor:
        """The blurred patches alone, (B, 3, P, P)."""
        return self.blurred if self.blurred.ndim == 4 else self.blurred[:, self.blurred.shape[1] // 2]


class PairSampler:
    """Draws batches of (blurred, sharp) patches; batch k depends on (seed, k) alone, so a resumed run goes on alike.

    Frames are decoded once and kept as bytes while they fit into ``cache_bytes``.

    Args:
        clips: paired clips.
        patch: side of the square patches in px.
        batch: patches a batch.
        seed: the randomness.
        frames: 1 for single patches, or an odd number for windows, which are clamped at the ends of a clip.
        motion: give windows with the flow from the centre to each neighbour.
        identity: share of patches whose blurred side is replaced by the sharp one, so that sharp pictures stay sharp.
        alone: share of windows that repeat their centre and stand still, as a single picture does.
        easy: chance that a patch is taken whose two sides differ little (more than 33 dB); otherwise one is drawn anew,
            because little can be learnt from it.
        colours: draw the order of the colour channels anew for each patch.
        targets: give windows with the sharp frame of each of theirs.
        cache_bytes: memory that decoded frames may take.
    """

    def __init__(
        self,
        clips: Sequence[ClipFolder],
        *,
        patch: int,
        batch: int,
        seed: int,
        frames: int = 1,
        motion: bool = True,
        identity: float = 0.0,
        alone: float = 0.0,
        easy: float = 1.0,
        colours: bool = True,
        targets: bool = False,
        cache_bytes: int = 8_000_000_000,
    ) -> None:
        self._clips = list(clips)
        self._places = [(clip, index) for clip in self._clips for index in range(len(clip.blurred))]
        self.patch, self.batch, self.seed, self.frames = patch, batch, seed, frames
        self.motion = motion and frames > 1
        self.identity, self.alone, self.easy = identity, alone, easy
        self.colours, self.targets = colours, targets and frames > 1
        self._read = FrameCache(cache_bytes)
        self._known: dict[Path, Flows] = {}

    def __len__(self) -> int:
        """Number of frame pairs."""
        return len(self._places)

    def __call__(self, step: int, numbers: Sequence[int] | None = None) -> Batch:
        """Batch ``step``, or those of its items that ``numbers`` names."""
        rng = np.random.default_rng((self.seed, step))
        drawn: list[_Drawn] = []
        while len(drawn) < self.batch:
            one = self._draw(rng)
            if self.easy >= 1 or rng.random() < self.easy or _differ(one.window[len(one.window) // 2], one.sharp):
                drawn.append(one)
        if numbers is not None:
            drawn = [drawn[number] for number in numbers]
        sharp = as_tensor(np.stack([one.sharp for one in drawn]))
        windows = as_tensor(np.stack([np.stack(one.window) for one in drawn]))
        if self.frames == 1:
            return Batch(windows[:, 0], sharp)
        targets = as_tensor(np.stack([np.stack(one.targets) for one in drawn])) if self.targets else None
        if not self.motion:
            return Batch(windows, sharp, targets=targets)
        flows = np.stack([one.flows for one in drawn if one.flows is not None]).astype(np.float32)
        return Batch(windows, sharp, torch.from_numpy(flows).movedim(-1, -3).contiguous(), targets)

    def _draw(self, rng: np.random.Generator) -> _Drawn:
        clip, index = self._places[int(rng.integers(len(self._places)))]
        side = clip.sharp if rng.random() < self.identity else clip.blurred
        numbers = window_numbers(index, self.frames, len(side))
        still = self.frames > 1 and rng.random() < self.alone
        if still:
            numbers = [index] * self.frames
        frames = [self._read(side[number]) for number in numbers]
        sharp = self._read(clip.sharp[index])
        height, width = sharp.shape[:2]
        refuse_small(clip.sharp[index], height, width, self.patch)
        # Even places, so that the flows, at half the size, are cut at the same ones.
        top, left = (2 * int(rng.integers((extent - self.patch) // 2 + 1)) for extent in (height, width))
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        order = rng.permutation(3)  # drawn in any case, so that all else stays as it is
        colours = order if self.colours else np.arange(3)

        def cut(frame: Bytes) -> Bytes:
            piece = np.rot90(frame[top : top + self.patch, left : left + self.patch], turns)
            return np.ascontiguousarray((piece[:, ::-1] if mirror else piece)[..., colours])

        flows = None
        if self.motion:
            rows, columns = (slice(start // 2, (start + self.patch) // 2) for start in (top, left))
            pieces = [np.rot90(flow[rows, columns], turns) for flow in self._flows(clip, index)]
            turned = [_turned(piece[:, ::-1] if mirror else piece, turns, mirror) for piece in pieces]
            flows = np.stack(turned) * np.array([not still, not still, 1], np.float16)
        targets = [cut(self._read(clip.sharp[number])) for number in numbers] if self.targets else []
        return _Drawn([cut(frame) for frame in frames], cut(sharp), flows, targets)

    def _flows(self, clip: ClipFolder, index: int) -> Flows:
        """Where the pixels of a blurred frame lie in its neighbours, (N - 1, H / 2, W / 2, 3)."""
        key = clip.blurred[index]
        if key not in self._known:
            numbers = window_numbers(index, self.frames, len(clip.blurred))
            window = as_tensor(np.stack([self._read(clip.blurred[number]) for number in numbers]))
            size = [-(-extent // 2) for extent in window.shape[-2:]]
            small = torch.nn.functional.interpolate(window_flows(window), size=size, mode="bilinear")
            self._known[key] = small.movedim(1, -1).numpy().astype(np.float16)
        return self._known[key]


@dataclass(frozen=True)
class _Drawn:
    """One patch: its window of blurred frames, the sharp one, the flows, and the window's sharp frames."""

    window: list[Bytes]
    sharp: Bytes
    flows: Flows | None
    targets: list[Bytes]


def window_numbers(index: int, frames: int, length: int) -> list[int]:
    """Numbers of the frames in a window around a frame of a clip; the ends of the clip are repeated.

    >>> window_numbers(0, 5, 4)
    [0, 0, 0, 1, 2]
    """
    return [min(max(index + shift, 0), length - 1) for shift in range(-(frames // 2), frames // 2 + 1)]


def refuse_small(path: Path, height: int, width: int, patch: int) -> None:
    """Refuse a frame that has no room for a training patch.

    Raises:
        MetadeblurError: names the frame and its size.
    """
    if min(height, width) < patch:
        raise MetadeblurError(
            f"{path}: {width}x{height} is smaller than the training patch; lower --patch from {patch}"
        )


def as_tensor(pictures: Bytes) -> Tensor:
    """(..., H, W, 3) bytes to (..., 3, H, W) in [0, 1]."""
    return torch.from_numpy(pictures).movedim(-1, -3).float() / 255


def _turned(flow: NDArray[np.float16], turns: int, mirror: bool) -> NDArray[np.float16]:
    """The vectors of a field (h, w, 3), x, y and trust, whose places were turned anticlockwise and then mirrored."""
    x, y, trust = np.moveaxis(flow, -1, 0)
    for _ in range(turns):
        x, y = y, -x
    return np.stack([-x if mirror else x, y, trust], -1)


def _differ(one: Bytes, other: Bytes) -> bool:
    """Whether two pictures are less than 33 dB alike (by a quarter of their rows)."""
    return float(np.square(one[::4].astype(np.float32) - other[::4]).mean()) > _EASY_MSE


class FrameCache:
    """Pictures by path, decoded once and kept as bytes while they fit; several threads may ask.

    Args:
        room: bytes that decoded pictures may take.
    """

    def __init__(self, room: int = 8_000_000_000) -> None:
        self._kept: dict[Path, Bytes] = {}
        self._room = room
        self._lock = threading.Lock()

    def __call__(self, path: Path) -> Bytes:
        """The picture as (H, W, 3) RGB uint8; not to be changed."""
        if path in self._kept:
            return self._kept[path]
        frame = read_picture(path)
        with self._lock:
            if path not in self._kept and frame.nbytes <= self._room:
                self._room -= frame.nbytes
                self._kept[path] = frame
        return frame


def read_picture(path: Path) -> Bytes:
    """One picture as (H, W, 3) RGB uint8.

    Raises:
        MetadeblurError: the file cannot be decoded.
    """
    picture = decode(path)
    if picture is None:
        raise MetadeblurError(f"{path}: not readable as a picture; make it again or leave it out")
    return np.ascontiguousarray(picture[..., ::-1], dtype=np.uint8)


def decode(path: Path) -> NDArray[np.uint8] | None:
    """One picture as (H, W, 3) BGR uint8, None where it is none; OpenCV's own reader does not know every name.

    Raises:
        MetadeblurError: the file cannot be read.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise MetadeblurError(f"{path}: cannot be read ({error.strerror})") from error
    with silent_libraries():
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    return None if picture is None else np.asarray(picture, np.uint8)


def write_png(path: Path, frame: Bytes, *options: int) -> None:
    """Write one frame (H, W, 3) RGB uint8; ``options`` are OpenCV's.

    Raises:
        OSError: the system refuses.
    """
    _, data = cv2.imencode(".png", frame[..., ::-1], options)
    path.write_bytes(data.tobytes())

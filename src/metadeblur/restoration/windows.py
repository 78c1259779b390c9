"""The frames of a clip as the network takes them: windows of neighbours, each frame brought to the device once."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.clip import Clip, as_clip
from metadeblur.imaging.brightness import matched_frames, small_frame
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.restoration.prefetching import prefetch

Item = TypeVar("Item")


@dataclass(frozen=True)
class Arrived:
    """A frame (3, H, W) as it was read, and where the network is; the same tensor where that is main memory."""

    read: Tensor
    here: Tensor

    @cached_property
    def small(self) -> NDArray[Any]:
        """What its brightness is compared on, :func:`~metadeblur.imaging.brightness.small_frame` of it as it was read.

        Nothing has to come back from a device for that.
        """
        return small_frame(self.read)


def to_device(frame: Tensor, device: torch.device) -> Tensor:
    """A frame on the device: the one way there."""
    if device.type == "cpu":
        return frame
    # From memory that the system may not move it is copied while the device works on.
    ready = frame.pin_memory() if device.type == "cuda" else frame
    return ready.to(device, torch.float32, non_blocking=True)


def to_memory(frame: Tensor) -> Tensor:
    """A frame in main memory: the one way back."""
    return frame.cpu()


def windows(clip: Any, size: int) -> Iterator[Tensor]:
    """The window (size, 3, H, W) around each frame of a clip in turn; each frame is read once.

    >>> clip = Clip(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 1, 1))
    >>> [window[:, 0, 0, 0].tolist() for window in windows(clip, 3)]
    [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    """
    return (torch.stack(frames) for frames in around_each(as_clip(clip), size))


def around_each(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """The ``size`` (odd) items around each item in turn; those at the ends are repeated.

    >>> list(around_each("abc", 3))
    [('a', 'a', 'b'), ('a', 'b', 'c'), ('b', 'c', 'c')]
    """
    half = size // 2
    recent: deque[Item] = deque(maxlen=size)
    for item in items:
        recent.extend([item] * (1 if recent else half + 1))
        if len(recent) == size:
            yield tuple(recent)
    if not recent:
        return
    last = recent[-1]
    # A clip shorter than half a window has filled none so far: its first frames come only now.
    for _ in range(half):
        recent.append(last)
        if len(recent) == size:
            yield tuple(recent)


def device_windows(
    clip: Clip, size: int, device: torch.device, cache: ClipCache, ahead: int
) -> Generator[tuple[Arrived, Tensor], None, None]:
    """Each frame of a clip with its window (size, 3, H, W) on a device, neighbours in the frame's own brightness.

    Args:
        clip: is read once, in a thread of its own where ``ahead`` is above 0; closing the iterator ends it.
        size: of a window, odd.
        device: that the network is on.
        cache: of the clip.
        ahead: frames that are decoded, and are on their way to the device, before they are needed.
    """

    def arrive(frame: Tensor) -> Arrived:
        arrived = Arrived(frame, to_device(frame, device))
        if size > 1:
            _ = arrived.small  # in the thread that reads, where there is one
        return arrived

    arriving = (arrive(frame) for frame in clip)
    with closing(prefetch(arriving, ahead)) as frames:
        for around in around_each(frames, size):
            here = [frame.here for frame in around]
            if size > 1:
                here = matched_frames(here, [frame.small for frame in around], cache)
            yield around[size // 2], torch.stack(here)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in groups of up to ``size``, in order.

    >>> list(batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) >= size:
            yield group
            group = []
    if group:
        yield group

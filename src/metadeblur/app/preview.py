"""Two seconds of a clip restored by the network as it is, for a person who has just brought it and wants to see."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from metadeblur.clip import clip_of
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.imaging.tiles import middle_box, middle_of
from metadeblur.pipeline.cuts import likeness
from metadeblur.restoration.clips import restore
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.video import VideoReader

SECONDS = 2.0  # of the clip
COST = 5.0  # seconds that restoring them may take: a slow network gets a smaller part of the frames
_MOST_FRAMES = 60
_MOST_LOOKED_AT = 240  # frames, where the first ones have no texture, as in a title or a fade
_PIXELS, _LEAST_PIXELS, _TRIAL_PIXELS = 640 * 480, 160 * 120, 160 * 120  # of a frame
_LEAST_FRAMES = 5
_TEXTURELESS_DB = 60.0  # self-shift score of frames without texture
_SAME_SHOT = 0.5  # neighbours that are less alike belong to another shot
_COMPARED = 96  # px wide: what is compared for that


@dataclass(frozen=True)
class Excerpt:
    """Some frames of a clip, as a player shows them."""

    frames: Tensor  # (N, 3, H, W), uint8
    fps: Fraction
    worst: int  # number of the most blurred of them
    cropped: bool  # whether they are the middle of the clip's frames


def excerpt(reader: VideoReader) -> Excerpt:
    """The first two seconds of a clip that show something, of one shot; of large frames the middle.

    Raises:
        MetadeblurError: no frame can be decoded.
    """
    info = reader.info
    box = middle_box(info.height, info.width, _PIXELS)
    count = max(1, min(_MOST_FRAMES, round(SECONDS * info.fps)))
    kept: list[tuple[Tensor, float]] = []
    plain: deque[tuple[Tensor, float]] = deque(maxlen=count)  # frames without texture, where there are no others
    last = None
    for number, frame in enumerate(reader.decoded()):
        small, pixels = frame.thumbnail(min(_COMPARED, info.width)), frame.rgb(box)
        if last is not None and likeness(last, small) < _SAME_SHOT:
            if len(kept) >= _LEAST_FRAMES:
                break
            kept.clear()
        last, score = small, float(self_shift_score(pixels))
        (kept if kept or score < _TEXTURELESS_DB else plain).append(((pixels * 255).round().to(torch.uint8), score))
        if len(kept) == count or (number >= _MOST_LOOKED_AT and not kept):
            break
    chosen = kept or list(plain)
    if not chosen:
        raise MetadeblurError(f"{info.path}: not one frame could be decoded (damaged file)")
    frames = torch.rot90(torch.stack([pixels for pixels, _ in chosen]), info.rotation // 90, (-2, -1))
    worst = max(range(len(chosen)), key=lambda index: chosen[index][1] if chosen[index][1] < _TEXTURELESS_DB else 0.0)
    return Excerpt(frames, min(max(info.fps, Fraction(1)), Fraction(60)), worst, box[2:] != (info.height, info.width))


def restored_excerpt(
    net: nn.Module, found: Excerpt, progress: Callable[[int, int], None]
) -> tuple[Excerpt, Tensor, float]:
    """Restore an excerpt, or as much of it as time suffices for.

    Args:
        net: the deblurrer.
        found: the frames.
        progress: called with (frames done, frames in all).

    Returns:
        What was restored of it, that restored (N, 3, H, W), float32, and the seconds that a pixel took.
    """
    settings = RestoreSettings(device="auto", tile=0)
    trial = clip_of(middle_of(found.frames[found.worst :][:1], _TRIAL_PIXELS))
    for _ in range(2):  # the first time it is slower than it will be
        began = time.perf_counter()
        restore(net, trial, settings)
    pixels = COST / (time.perf_counter() - began) * trial.height * trial.width  # that can be restored in the time
    count = max(1, min(len(found.frames), max(_LEAST_FRAMES, int(pixels / _LEAST_PIXELS))))
    start = min(max(0, found.worst - count // 2), len(found.frames) - count)
    frames = middle_of(found.frames[start : start + count], max(_LEAST_PIXELS, pixels / count))
    cropped = found.cropped or frames.shape[-2:] != found.frames.shape[-2:]
    began = time.perf_counter()
    restored = restore(net, clip_of(frames, fps=found.fps), settings, progress=progress)
    spent = (time.perf_counter() - began) / (count * restored.height * restored.width)
    part = replace(found, frames=frames, worst=found.worst - start, cropped=cropped)
    return part, torch.stack(list(restored)), spent

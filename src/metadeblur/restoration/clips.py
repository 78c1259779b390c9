"""Whole clips through a deblurrer, frame by frame in constant memory or all at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from metadeblur.arrays import form_of
from metadeblur.clip import Clip, as_clip, clip_of
from metadeblur.limits import refuse_unknown
from metadeblur.restoration.fusion import Given, fuse_given
from metadeblur.restoration.prefetching import pays
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.restoration.windows import batches, device_windows

Frames = TypeVar("Frames")
"""A clip, or frames in a tensor, an array or a list."""

_log = logging.getLogger(__name__)
_QUEUED = 3  # frames decoded ahead of the network


def restore(
    net: nn.Module,
    clip: Frames,
    settings: RestoreSettings | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **overrides: Any,
) -> Frames:
    """Restore every frame of a clip.

    Args:
        net: the deblurrer, a module or what spandrel loads; it is not changed. Half precision is brought to float32.
        clip: the blurred clip; or its frames as a tensor or array, (T, 3, H, W) or (T, H, W, 3), uint8 or float in
            [0, 1], or as a list of single frames.
        settings: tiles, precision and device.
        progress: called with (frames done, frames in all) after each frame.
        **overrides: single fields of the settings, such as ``tile=512``.

    Returns:
        As many frames of the same size, in the kind that came in: of a clip a clip of the same rate and name, kept in
        memory as float32; of an array an array of the same layout and type (uint8 is rounded); of a tensor a tensor on
        the same device; of a list a list.

    Raises:
        MetadeblurError: ``clip`` is no clip, there is no such setting, or see :class:`Restorer`.

    >>> len(restore(nn.Identity(), Clip(torch.zeros(2, 3, 20, 20))))
    2
    >>> restore(nn.Identity(), torch.zeros(2, 20, 30, 3, dtype=torch.uint8)).shape
    torch.Size([2, 20, 30, 3])
    """
    known = [entry.name for entry in fields(RestoreSettings)]
    refuse_unknown(overrides, (*known, "settings", "progress"), "restore")
    form, blurred = form_of(clip), as_clip(clip)
    restorer = Restorer(net, blurred.height, blurred.width, replace(settings or RestoreSettings(), **overrides))
    frames = torch.empty(len(blurred), 3, blurred.height, blurred.width)
    for index, frame in enumerate(restore_frames(restorer, blurred)):
        frames[index] = frame
        if progress:
            progress(index + 1, len(blurred))
    _log.debug("%s: %d frames restored (tile %d, %s)", blurred.name, len(blurred), restorer.tile, restorer.precision)
    if form is not None:
        return cast(Frames, form.back(frames))
    return cast(Frames, clip_of(frames, fps=blurred.fps, name=blurred.name, bit_depth=blurred.bit_depth))


def restore_frames(restorer: Restorer, clip: Any) -> Generator[Tensor, None, None]:
    """The restored frames of a clip in order, (3, H, W) each, in constant memory.

    Where it gains time the next frames are decoded in a thread of their own while the network works; closing the
    iterator ends it.

    Args:
        restorer: for frames of the clip's size.
        clip: a clip, or frames as :func:`restore` takes them.
    """
    with closing(restore_pairs(restorer, clip)) as pairs:
        for _, restored in pairs:
            yield restored


def restore_pairs(restorer: Restorer, clip: Any) -> Generator[tuple[Tensor, Tensor], None, None]:
    """(blurred, restored) frames of a clip in order, (3, H, W) each.

    Frames of an :class:`~metadeblur.models.adapted.AdaptedModel` are fused with their neighbours, so the first ones
    come when some more have been restored.

    Args:
        restorer: for frames of the clip's size.
        clip: a clip, or frames as :func:`restore` takes them.
    """
    clip = as_clip(clip)
    with closing(_restored(restorer, clip)) as given:
        if restorer.fusion is None or len(clip) == 1:
            pairs = ((one.frame.read, one.restored) for one in given)
        else:
            pairs = fuse_given(given, restorer.fusion, restorer.cache)
        with closing(pairs):
            for blurred, restored in pairs:
                yield blurred, restorer.brought_back(restored)


def _restored(restorer: Restorer, clip: Clip) -> Generator[Given, None, None]:
    """Each frame restored by itself, on the restorer's device."""
    ahead = _QUEUED if pays(restorer.device) else 0
    ready = device_windows(clip, restorer.frames, restorer.device, restorer.cache, ahead)
    with closing(ready):
        for group in batches(ready, restorer.batch):
            some = torch.stack([window for _, window in group]) if len(group) > 1 else group[0][1][None]
            if restorer.frames == 1:
                some = some[:, 0]
            if not restorer.is_prepared:
                restorer.prepare(group[0][1])
            for (frame, _), restored in zip(group, restorer.restored(some), strict=True):
                yield Given(frame, restored)

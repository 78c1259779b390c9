"""VapourSynth: ``metadeblur_vs.restore(clip)`` removes motion blur as ``metadeblur restore --effort quick`` does.

VapourSynth asks for frames one by one, in any order, and metadeblur looks at a whole clip before it restores the first
one. So the first frame that is asked for waits until all frames of the clip have come by and lie in a temporary folder;
then the clip is restored once, and every frame is read from there.

No function that VapourSynth calls here asks it for frames itself, which would block the thread that has to make them.
That the first frame waits for all others is told to VapourSynth instead: by a clip of one frame, one pixel large, which
is the mean of the first pixel of all frames.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import vapoursynth as vs

import metadeblur as md
from metadeblur.clip import clip_of
from metadeblur.models.deblurrer import as_deblurrer
from metadeblur.system.device import choose_device
from metadeblur.system.scratch import scratch_folder
from metadeblur.types import Effort

__all__ = ["restore"]

_WHITE = {vs.RGB24: 255, vs.RGB48: 65535, vs.RGBS: 1}  # the formats, and the value of white in each
_DEPTH = {vs.RGB24: 8, vs.RGB48: 16, vs.RGBS: 16}  # bits a channel that the frames of each are kept in
_MEAN = 31  # frames that std.AverageFrames takes together, at most


def restore(
    clip: vs.VideoNode,
    effort: str = "quick",
    model: Any = "lite",
    device: str = "auto",
    seed: int = 0,
    tile: int | None = None,
) -> vs.VideoNode:
    """Remove motion blur from a clip.

    Args:
        clip: RGB24, RGB48 or RGBS of one size; progressive frames.
        effort: "quick" learns no weights; "balanced" and "best" adapt the network to each shot.
        model: a model's name, a weight file, or a network as :func:`metadeblur.restore` takes it.
        device: "auto", "cpu", "cuda", "cuda:1", "mps", "xpu".
        seed: the same seed, settings and frames give the same result on the same machine.
        tile: side of a tile in px; None: chosen from free memory; 0: whole frames.

    Returns:
        A clip of the same format, size, length, rate and frame properties. Its first frame takes as long as all.

    Raises:
        vapoursynth.Error: another format, no such effort, model or device, or a setting out of range.
    """
    if clip.format is None or not clip.width or not clip.height:
        raise vs.Error("metadeblur: frames of the clip differ in format or size; clip.resize makes them equal")
    if clip.format.id not in _WHITE:
        matrix = "" if clip.format.color_family == vs.RGB else ", matrix_in_s='709'"
        raise vs.Error(
            f"metadeblur: the clip is {clip.format.name}; allowed are RGB24, RGB48 and RGBS: "
            f"clip.resize.Bicubic(format=vs.RGBS{matrix})"
        )
    if effort not in get_args(Effort):
        raise vs.Error(f"metadeblur: effort is {effort!r}; allowed: {', '.join(get_args(Effort))}")
    try:
        settings = {"seed": seed, "device": device, "tile": tile}
        md.AdaptSettings(seed=seed)
        choose_device(md.RestoreSettings(tile=tile, device=device).device)
        net = md.load_deblurrer(model) if isinstance(model, str | Path) else as_deblurrer(model)
    except md.MetadeblurError as error:
        raise vs.Error(f"metadeblur: {error}") from error
    whole = _Whole(clip, {"model": net, "effort": effort, **settings})
    standard, frames = vs.core.std, clip.num_frames
    everything = standard.Loop(_all_of(standard.ModifyFrame(clip, clip, whole.keep)), times=frames)
    after = standard.ModifyFrame(clip, [clip, everything], lambda n, f: whole.restored(n, f[0]))
    done = standard.ModifyFrame(clip, clip, whole.restored)
    return standard.FrameEval(clip, lambda **_: done if whole.is_restored else after)


def _all_of(clip: vs.VideoNode) -> vs.VideoNode:
    """A clip of one frame that VapourSynth makes after all frames of another."""
    standard = vs.core.std
    mean = standard.CropAbs(clip, width=1, height=1)
    while mean.num_frames > 1:
        padded = standard.DuplicateFrames(mean, [mean.num_frames - 1] * (_MEAN // 2))
        mean = standard.SelectEvery(standard.AverageFrames(padded, [1] * _MEAN), _MEAN, [_MEAN // 2])
    return mean


class _Whole:
    """A clip whose frames are kept in a folder until there are all, and restored together."""

    def __init__(self, clip: vs.VideoNode, settings: dict[str, Any]) -> None:
        assert clip.format is not None
        self._white, self._depth = _WHITE[clip.format.id], _DEPTH[clip.format.id]
        self._frames, self._settings = clip.num_frames, settings
        self._lock = threading.Lock()
        self._sharp: md.Clip | None = None
        self._failure: str | None = None
        self._folders = ExitStack()
        weakref.finalize(self, self._folders.close)  # also when Python ends
        vs.register_on_destroy(self._folders.close)  # when the script ends, where Python goes on

    @property
    def is_restored(self) -> bool:
        """Whether the frames are there."""
        return self._sharp is not None

    @cached_property
    def _folder(self) -> Path:
        return self._folders.enter_context(scratch_folder())

    def keep(self, n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        """Keep a frame for later, and hand it on."""
        if not self.is_restored:
            path = self._folder / "blurred" / f"{n:08d}.png"
            path.parent.mkdir(exist_ok=True)
            values = torch.from_numpy(_planes(f).astype(np.float32) / self._white)
            md.write_clip(clip_of(_finite(values, n).clamp(0, 1)[None], bit_depth=self._depth), path)
        return f

    def restored(self, n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        """The restored frame in the place of the blurred one, with its properties."""
        with self._lock:
            if self._sharp is None:
                self._sharp = self._restore()
            values = self._sharp[n].numpy() * np.float32(self._white)
        made = f.copy()
        for plane, channel in enumerate(values):
            target = np.asarray(made[plane])
            target[:] = channel if target.dtype == np.float32 else channel.round()
        return made

    def _restore(self) -> md.Clip:
        """Restore all frames, once: what has failed fails again without being tried again."""
        if self._failure is None:
            try:
                target, quoted = self._folder / "restored", _Tenths(self._frames)
                md.restore_video(self._folder / "blurred", target, progress=quoted, **self._settings)
                return md.read_clip(target)
            except (md.MetadeblurError, OSError) as error:
                self._failure = f"metadeblur: {error}"
        raise vs.Error(self._failure)


class _Tenths:
    """Tells VapourSynth's log of each tenth of the frames that is restored."""

    def __init__(self, frames: int) -> None:
        self._frames, self._told = frames, 0

    def __call__(self, done: int, total: int, stage: str) -> None:
        tenth = 10 * done // max(total, 1)
        if stage == "restore" and tenth > self._told:
            self._told = tenth
            vs.core.log_message(vs.MESSAGE_TYPE_INFORMATION, f"metadeblur: {done} of {self._frames} frames restored")


def _planes(frame: vs.VideoFrame) -> np.ndarray:
    """The channels of an RGB frame, (3, H, W)."""
    planes: Sequence[Any] = [frame[plane] for plane in range(3)]
    return np.stack([np.asarray(plane) for plane in planes])


def _finite(values: torch.Tensor, n: int) -> torch.Tensor:
    """The values of a frame, which are numbers."""
    if not bool(torch.isfinite(values).all()):
        raise vs.Error(f"metadeblur: frame {n} of the clip has values that are not numbers (NaN or infinite)")
    return values

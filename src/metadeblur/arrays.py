"""Frames as tensors, arrays and lists: recognised or refused with the reason, and handed back in the same kind."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metadeblur.errors import MetadeblurError

OVERSHOOT = 0.1
"""How far float values may lie outside of [0, 1]: resampling overshoots, other scales go further."""

_SHAPES = "(T, 3, H, W) or (T, H, W, 3)"
_VALUES = "uint8 from 0 to 255, or floats in [0, 1]"


@dataclass(frozen=True)
class Form:
    """How frames were given, so that others can be handed back alike.

    >>> _, form = taken(np.zeros((5, 8, 9, 3), np.uint8))
    >>> back = form.back(torch.ones(5, 3, 8, 9))
    >>> back.shape, back.dtype, int(back.max())
    ((5, 8, 9, 3), dtype('uint8'), 255)
    """

    dtype: torch.dtype | np.dtype[Any]  # of a tensor, or of an array
    channels_last: bool  # (T, H, W, 3)
    device: torch.device | None = None  # of a tensor
    container: type[list[Any]] | type[tuple[Any, ...]] | None = None  # of single frames
    pictures: bool = False  # the single frames are pictures of Pillow

    def back(self, frames: Tensor) -> Any:
        """Frames (T, 3, H, W), float in [0, 1], in this form."""
        if str(self.dtype).endswith("uint8"):
            frames = (frames.clamp(0, 1) * 255).round().to(torch.uint8)
        frames = frames.movedim(1, -1) if self.channels_last else frames
        if isinstance(self.dtype, torch.dtype):
            made: Any = frames.to(self.device, self.dtype).contiguous()
        else:
            made = np.ascontiguousarray(frames.numpy().astype(self.dtype, copy=False))
        if self.container is None:
            return made
        return self.container(map(_picture, made) if self.pictures else made)


def is_frames(value: object) -> bool:
    """Whether a value is what clips are made of: a tensor, an array, or a list of frames."""
    return isinstance(value, Tensor | np.ndarray | list | tuple)


def form_of(value: object) -> Form | None:
    """The form of frames; None where the value is none of what :func:`is_frames` knows, such as a clip."""
    return _form(value) if is_frames(value) else None


def taken(frames: Any) -> tuple[Tensor, Form]:
    """Frames as a clip keeps them, and the form that they came in.

    Args:
        frames: tensor or array, (T, 3, H, W) or (T, H, W, 3), uint8 or float in [0, 1]; or a list or tuple of single
            frames of one size: tensors, arrays or pictures of Pillow.

    Returns:
        (T, 3, H, W), uint8 or float, in main memory, without gradient; a copy but of a tensor that is so already.

    Raises:
        MetadeblurError: says what they are, what they should be, and how to make them so.
    """
    form = _form(frames)
    stacked = _stacked(frames) if form.container is not None else frames
    if isinstance(stacked, Tensor):
        tensor = stacked.detach().cpu()
    else:
        kind = np.uint8 if stacked.dtype == np.uint8 else np.float32
        tensor = torch.from_numpy(np.array(stacked, kind, order="C"))  # whatever its strides and byte order were
    if form.channels_last:
        tensor = tensor.movedim(-1, 1).contiguous()
    if not all(tensor.shape):
        raise MetadeblurError(f"no frames: {tuple(stacked.shape)} holds nothing; a clip needs at least one")
    tensor = tensor.float() if tensor.dtype == torch.float64 else tensor
    if tensor.is_floating_point():
        _check_values(tensor)
    return tensor, form


def no_clip(value: Any) -> MetadeblurError:
    """The error about a value that is no clip and no frames."""
    wanted = f"a clip is an md.Clip, or frames {_SHAPES}"
    if isinstance(value, str | os.PathLike):
        path = str(value)
        return MetadeblurError(
            f"{path!r} is a path, not a clip: md.read_clip({path!r}) reads it, md.restore_video({path!r}) restores the "
            "whole file"
        )
    if hasattr(value, "blurred") and hasattr(value, "sharp"):
        return MetadeblurError(f"a {type(value).__name__} holds the truth too: give its .blurred")
    if hasattr(value, "__next__"):
        return MetadeblurError("a generator gives its frames once, and a clip is read several times: give list(frames)")
    if hasattr(value, "__array__"):
        return MetadeblurError(f"a {type(value).__name__} is no clip: give np.asarray(frames); {wanted}")
    if hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, dict):
        return MetadeblurError(f"a {type(value).__name__} is no clip: md.Clip(frames) reads frames by number; {wanted}")
    return MetadeblurError(f"{_called(value)} is no clip; {wanted}")


def check_source_frame(frame: Any, name: str) -> None:
    """Refuse what an object that is to give frames by number gives.

    Raises:
        MetadeblurError: it is no tensor (3, H, W) of uint8 or floats.
    """
    wanted = "a source of frames gives tensors (3, H, W), uint8 or float in [0, 1], by number"
    if not isinstance(frame, Tensor):
        raise MetadeblurError(f"{name}: its frame 0 is a {type(frame).__name__}; {wanted}")
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise MetadeblurError(f"{name}: its frame 0 is shaped {tuple(frame.shape)}; {wanted}")
    _check_dtype(frame)


# --- what frames are -----------------------------------------------------------------------------------------------


def _form(frames: Any) -> Form:
    """The form of a tensor, an array or a list of frames."""
    if isinstance(frames, list | tuple):
        first, pictures = _one_kind(frames)
        whole = _form_of_one(first[None], single=True)
        return replace(whole, container=list if isinstance(frames, list) else tuple, pictures=pictures)
    return _form_of_one(frames)


def _form_of_one(frames: Tensor | np.ndarray[Any, Any], *, single: bool = False) -> Form:
    _check_dtype(frames)
    shape = tuple(frames.shape)
    if len(shape) != 4 or 3 not in (shape[1], shape[-1]):
        shown = shape[1:] if single else shape
        raise MetadeblurError(f"a clip needs frames shaped {_SHAPES}, not {shown}{_remedy(frames, single)}")
    if shape[1] == shape[-1] == 3:
        raise MetadeblurError(
            f"frames shaped {shape[1:] if single else shape} may be pictures 3 px wide or 3 px high; a clip has larger "
            "ones"
        )
    device = frames.device if isinstance(frames, Tensor) else None
    return Form(frames.dtype, channels_last=shape[-1] == 3, device=device)


def _remedy(frames: Tensor | np.ndarray[Any, Any], single: bool) -> str:
    """What to do about frames of another shape."""
    shape = tuple(frames.shape)
    numpy = isinstance(frames, np.ndarray)
    if single and len(shape) > 4:
        return ": these are clips, not frames; md.adapt takes several, others one at a time"
    if single:
        four = len(shape) == 4 and 4 in (shape[1], shape[-1])
        return ": leave out the fourth channel, transparency" if four else ": grey ones need their channel three times"
    if len(shape) == 5:
        return ": this is a batch of clips; give one at a time, or md.adapt a list of them (list(frames))"
    if len(shape) == 3 and 3 in (shape[0], shape[-1]):
        return ": a single picture is a clip as frames[None]"
    if len(shape) == 3:
        colours = "np.stack([frames] * 3, -1)" if numpy else "frames[:, None].repeat(1, 3, 1, 1)"
        return f": these are grey; {colours} has three colours"
    if len(shape) != 4:
        return ""
    if 1 in (shape[1], shape[-1]):
        axis = 1 if shape[1] == 1 else -1
        colours = f"np.repeat(frames, 3, {axis})" if numpy else f"frames.repeat_interleave(3, {axis})"
        return f": these are grey; {colours} has three colours"
    if 4 in (shape[1], shape[-1]):
        colours = "frames[..., :3]" if shape[-1] == 4 else "frames[:, :3]"
        return f": the fourth channel is usually transparency; {colours} leaves it out"
    if shape[0] == 3:
        swapped = "frames.swapaxes(0, 1)"
        return f": colours come first here; {swapped} has the frames first"
    return ""


def _check_dtype(frames: Tensor | np.ndarray[Any, Any]) -> None:
    dtype = frames.dtype
    if isinstance(dtype, torch.dtype):
        good = dtype == torch.uint8 or (dtype.is_floating_point and dtype.itemsize > 1)
    else:
        good = dtype == np.uint8 or dtype.kind == "f"
    if good:
        return
    name = str(dtype).removeprefix("torch.")
    remedy = {
        "bool": "; a mask is no picture",
        "uint16": "; of 16 bits: frames / 65535",
        "object": "; are the frames of different sizes?",
    }.get(name, "")
    if name.startswith(("int", ">i", "<i")):
        to = "frames.to(torch.uint8)" if isinstance(frames, Tensor) else "frames.astype(np.uint8)"
        remedy = f"; values from 0 to 255: {to}"
    raise MetadeblurError(f"frames of {name}: give {_VALUES}{remedy}")


def _check_values(frames: Tensor) -> None:
    """Refuse floats (T, 3, H, W) of another scale, and what is no number."""
    low, high = math.inf, -math.inf
    for number, frame in enumerate(frames):
        least, most = (float(value) for value in frame.float().aminmax())
        if not (math.isfinite(least) and math.isfinite(most)):
            raise MetadeblurError(f"frames[{number}] has values that are not numbers (NaN or infinite); replace them")
        low, high = min(low, least), max(high, most)
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return
    remedy = "bring them into [0, 1]"
    if low >= -OVERSHOOT and 1.5 < high <= 255.5:
        remedy = "divide them by 255"
    elif low >= -1 - OVERSHOOT and high <= 1 + OVERSHOOT:
        remedy = "(frames + 1) / 2 lies in [0, 1]"
    raise MetadeblurError(f"float frames lie in [0, 1], these go from {low:.4g} to {high:.4g}: {remedy}")


def _one_kind(frames: Sequence[Any]) -> tuple[Any, bool]:
    """The first of single frames as a tensor or array, and whether they are pictures; all are alike."""
    if not frames:
        raise MetadeblurError("no frames; a clip needs at least one")
    first = frames[0]
    if _is_picture(first):
        modes = {picture.mode for picture in frames if _is_picture(picture)}
        if modes != {"RGB"}:
            raise MetadeblurError(f"pictures of mode {', '.join(sorted(modes))}: use picture.convert('RGB')")
    elif isinstance(first, str | os.PathLike):
        raise MetadeblurError("a list of paths is no clip: md.read_clip(folder) reads the pictures of a folder")
    elif not isinstance(first, Tensor | np.ndarray):
        what = "several clips" if hasattr(first, "window") else f"a list of {type(first).__name__}"
        raise MetadeblurError(
            f"{what} is no clip: a list holds its frames (tensors, arrays or pictures); give one clip at a time, "
            "or several to md.adapt"
        )
    seen = {_kind(frame) for frame in frames}
    if len(seen) > 1:
        raise MetadeblurError(f"frames of a clip are of one size and kind, not {' and '.join(sorted(seen)[:3])}")
    return (np.asarray(first), True) if _is_picture(first) else (first, False)


def _kind(frame: Any) -> str:
    """What must be the same of all single frames."""
    if _is_picture(frame):
        return f"a picture of {frame.size[0]}x{frame.size[1]}"
    if not isinstance(frame, Tensor | np.ndarray):
        return f"a {type(frame).__name__}"
    what = "a tensor" if isinstance(frame, Tensor) else "an array"
    return f"{what} {tuple(frame.shape)} of {str(frame.dtype).removeprefix('torch.')}"


def _stacked(frames: Sequence[Any]) -> Any:
    """Single frames of one kind as one tensor or array."""
    if isinstance(frames[0], Tensor):
        return torch.stack([frame.detach() for frame in frames])
    return np.stack([np.asarray(frame) for frame in frames])


def _is_picture(frame: object) -> bool:
    """Whether it is a picture of Pillow, which need not be installed."""
    return hasattr(frame, "mode") and hasattr(frame, "convert") and hasattr(frame, "size")


def _picture(frame: Any) -> Any:
    from PIL import Image

    return Image.fromarray(frame)


def _called(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"

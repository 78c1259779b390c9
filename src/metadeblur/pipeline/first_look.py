"""The first look: one frame restored by the base network before anything else is done, to be seen within seconds."""

from __future__ import annotations

import math
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.pictures import encode_png, side_by_side, to_uint8
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.imaging.tiles import middle_box, middle_of
from metadeblur.models.registry import traits
from metadeblur.pipeline.cuts import likeness
from metadeblur.pipeline.events import Event, FirstLook, Listener, Note
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.system.interrupts import undisturbed
from metadeblur.system.json_files import write_whole
from metadeblur.system.locks import writing
from metadeblur.system.memory import available_bytes, peak_bytes
from metadeblur.system.names import joined, name_limit
from metadeblur.video import VideoReader

FRAMES = 24  # the most blurred of so many is shown
_MOST_FRAMES = 240  # that are decoded where the first ones have no texture, as in a title or a fade
SECONDS = 4.0  # that restoring may take: a slow network gets a smaller part of the frame
_PIXELS, _TRIAL_PIXELS = 640 * 480, 160 * 120  # of a frame, at most, and of the part that shows how long that takes
_TEXTURELESS_DB = 60.0  # self-shift score of frames without texture
_SAME_SHOT = 0.5  # neighbours that are less alike belong to another shot
_COMPARED = 96  # px wide: what is compared for that
_MARK = b"metadeblur first look"  # in the picture, so that it is known again


def try_first_look(reader: VideoReader, net: nn.Module, settings: RestoreSettings) -> FirstLook | None:
    """The same as :func:`take_first_look`; what goes wrong shows later, where the file itself is restored."""
    with suppress(Exception):
        return take_first_look(reader, net, settings)
    return None


def take_first_look(reader: VideoReader, net: nn.Module, settings: RestoreSettings) -> FirstLook | None:
    """Restore the most blurred of the first frames with the base network: the middle of it, where it is large.

    It takes a second or a few, however long the file, however large its frames and however slow the network.

    Args:
        reader: of the input; only its beginning is decoded.
        net: the base deblurrer.
        settings: device and precision.

    Returns:
        The frame before and after; None where no frame has texture.
    """
    found = _most_blurred(reader, traits(net).frames)
    if found is None:
        return None
    number, window = found
    pair = _restored(net, window, replace(settings, tile=0))
    before, after = (to_uint8(torch.rot90(frame, reader.info.rotation // 90, (-2, -1))) for frame in pair)
    return FirstLook(number, (before, after))


def _restored(net: nn.Module, window: Tensor, settings: RestoreSettings) -> tuple[Tensor, Tensor]:
    """The centre of a window before and after, as much of its middle as time and memory suffice for."""
    part = middle_of(window, _TRIAL_PIXELS)
    restorer = Restorer(net, part.shape[-2], part.shape[-1], settings)
    needed = peak_bytes(partial(restorer, part), restorer.device)
    began = time.perf_counter()
    after = restorer(part)
    room = min(SECONDS / (time.perf_counter() - began), available_bytes(restorer.device) / needed)
    larger = middle_of(window, room * part[0, 0].numel())
    if larger[0, 0].numel() > part[0, 0].numel():
        part = larger
        after = Restorer(net, part.shape[-2], part.shape[-1], settings)(part)
    return part[len(part) // 2], after


def _most_blurred(reader: VideoReader, frames: int) -> tuple[int, Tensor] | None:
    """Number and window (N, 3, h, w) of the most blurred of the first frames, better one whose window has no cut."""
    best, found = (False, -math.inf), None
    for number, (window, score, alike) in enumerate(_windows(reader, frames)):
        if score < _TEXTURELESS_DB and (alike, score) > best:
            best, found = (alike, score), (number, window)
        if number + 1 >= (FRAMES if found is not None else _MOST_FRAMES):
            break
    return found


def _windows(reader: VideoReader, size: int) -> Iterator[tuple[Tensor, float, bool]]:
    """The window around each frame, the self-shift score of its centre, and whether all of it is one shot."""
    box = middle_box(reader.info.height, reader.info.width, _PIXELS)
    recent: deque[tuple[Tensor, float, bool]] = deque(maxlen=size)  # frame, score, whether like the one before
    half, last = size // 2, None
    for frame in reader.decoded():
        small = frame.thumbnail(min(_COMPARED, reader.info.width))
        alike = last is None or likeness(last, small) >= _SAME_SHOT
        last, pixels = small, frame.rgb(box)
        newest = (pixels, float(self_shift_score(pixels)), alike)
        recent.extend([newest] * (half + 1 if not recent else 1))
        if len(recent) == size:
            yield _whole_window(recent)
    for _ in range(half if recent else 0):
        recent.append((*recent[-1][:2], True))
        if len(recent) == size:
            yield _whole_window(recent)


def _whole_window(recent: deque[tuple[Tensor, float, bool]]) -> tuple[Tensor, float, bool]:
    frames, scores, alike = zip(*recent, strict=True)
    return torch.stack(frames), scores[len(scores) // 2], all(alike[1:])


class FirstLookFile:
    """A listener that writes the first look beside the output, tells its name, and passes all events on.

    Args:
        output: the file or folder that is being made; the run holds its lock.
        listener: gets the events.
    """

    def __init__(self, output: Path, listener: Listener) -> None:
        self._output, self._listener = output, listener
        self._path: Path | None = None  # where the picture is, or is about to be

    def __call__(self, event: Event) -> None:
        """Write the picture; where that fails the run goes on without."""
        if isinstance(event, FirstLook):
            with suppress(MetadeblurError):
                self._path = next(path for path in _places(self._output) if not path.exists())
                write_whole(self._path, _png(event))
                how = f"frame {event.number + 1} by the base network, until the end"
                self._listener(Note(f"First look: {self._path} ({how})"))
        self._listener(event)

    def remove(self) -> None:
        """Take the picture away: the result is there, or there is none."""
        if self._path is not None:
            _remove(self._path)


@contextmanager
def showing_first_look(output: Path | None, listener: Listener) -> Iterator[Listener]:
    """A listener that writes the first look beside the output, if any; when the block ends, the picture goes."""
    if output is None:
        yield listener
        return
    file = FirstLookFile(output, listener)
    try:
        yield file
    finally:
        with undisturbed():
            file.remove()


def remove_first_look(output: Path) -> None:
    """Take away what a run that was killed has left; the output's lock must be held."""
    for path in _places(output):
        if not path.exists():
            return
        _remove(path)


def clear_first_look(output: Path) -> None:
    """Take away what a killed run has left beside a result that is whole, unless somebody is at work on it."""
    if next(_places(output)).exists():
        with suppress(MetadeblurError), writing(output):
            remove_first_look(output)


def _places(output: Path) -> Iterator[Path]:
    """Where the first look at an output may go: no file of somebody else's is to be in its place.

    >>> next(_places(Path("out.mp4"))).name
    'out_first_look.png'
    """
    for number in count(1):
        ending = "_first_look.png" if number == 1 else f"_first_look_{number}.png"
        yield output.with_name(joined(output.stem, ending, name_limit(output.parent)))


def _remove(path: Path) -> None:
    """Remove a first look, if that is what is there."""
    with suppress(OSError):
        if _is_ours(path):
            path.unlink()


def _is_ours(path: Path) -> bool:
    """Whether a file is a first look."""
    with path.open("rb") as file:
        return _MARK in file.read(200)


def _png(look: FirstLook) -> bytes:
    """Both pictures next to each other, with the mark in a text chunk behind the header."""
    png = encode_png(side_by_side(look.pictures, ("before", "after (base network, before adapting)")))
    chunk = b"tEXtComment\0" + _MARK
    header = 33  # bytes: signature and IHDR
    length, check = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
    return png[:header] + length + chunk + check + png[header:]

"""Clips that are too large for the page are refused before anything of them is decoded."""

from __future__ import annotations

import warnings
from pathlib import Path

import av
from PIL import Image

from metadeblur.app.bounds import Bounds
from metadeblur.errors import MetadeblurError
from metadeblur.video.headers import read_headers
from metadeblur.video.info import main_video, open_media
from metadeblur.video.stills import IMAGE_SUFFIXES

_LISTS = (b"#EXTM3U", b"ffconcat", b"<MPD", b"[playlist]", b"v=0\r\n", b"v=0\n")
"""How files begin that name other files or addresses to read: nothing that a visitor may have read."""
_ADVICE = "use the command line"


def inspect(source: Path, bounds: Bounds) -> None:
    """Refuse a clip that is too large, before anything of it is decoded.

    Args:
        source: a file, or a folder of pictures.
        bounds: what it may have.

    Raises:
        MetadeblurError: it has more, cannot be read at all, or is a list of other files.
    """
    pictures = sorted(source.iterdir()) if source.is_dir() else [source]
    for path in pictures:
        _refuse_lists(path)
    count = 0
    for path in pictures:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            count += _inspect_picture(path, bounds)
            if count > bounds.frames:
                raise _too_long(source, bounds)
        else:
            _inspect_video(path, bounds)


def _refuse_lists(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(2048).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(_LISTS) or b"<MPD" in head:
        raise MetadeblurError(f"{path}: is a list of other files, not a video; choose the video itself")


def _inspect_picture(path: Path, bounds: Bounds) -> int:
    """Look at the headers of a file of pictures, and say how many there are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels and of odd metadata; ours is the only limit
            with Image.open(path) as picture:
                width, height = picture.size
    except Image.DecompressionBombError as error:
        raise MetadeblurError(f"{path}: {_many(bounds)}; make it smaller, or {_ADVICE}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise MetadeblurError(f"{path}: not a picture that can be read, or damaged") from error
    _compare(path, width, height, bounds)
    pictures = read_headers(path) or []
    for header in pictures:
        _compare(path, header.width, header.height, bounds)
    return max(1, len(pictures))


def _inspect_video(path: Path, bounds: Bounds) -> None:
    """Look at what a video says of its size, and count its frames without decoding them."""
    with open_media(path) as container:
        stream = main_video(container, path)
        width, height = stream.codec_context.width, stream.codec_context.height
        if not width * height:  # FFmpeg has refused to look (limit_pixels), or has found nothing
            raise MetadeblurError(f"{path}: {_many(bounds)}, or damaged; {_ADVICE}")
        _compare(path, width, height, bounds)
        if stream.frames > bounds.frames:
            raise _too_long(path, bounds)
        count = 0
        try:
            for packet in container.demux(stream):
                count += packet.size > 0
                if count > bounds.frames:
                    raise _too_long(path, bounds)
        except av.FFmpegError:
            return  # damaged from here on; whoever decodes it says so


def _compare(path: Path, width: int, height: int, bounds: Bounds) -> None:
    if width * height > bounds.pixels:
        raise MetadeblurError(f"{path}: {width}x{height} is {_many(bounds)}; make it smaller, or {_ADVICE}")


def _many(bounds: Bounds) -> str:
    return f"more than the {bounds.pixels / 1e6:g} million pixels a frame that this page takes"


def _too_long(path: Path, bounds: Bounds) -> MetadeblurError:
    return MetadeblurError(
        f"{path}: more than the {bounds.frames:,} frames that this page takes; cut the clip, or {_ADVICE}"
    )

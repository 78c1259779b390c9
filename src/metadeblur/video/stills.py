"""Read pictures upright, and write them in the format of their source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.errors import MetadeblurError
from metadeblur.system.quiet import silent_libraries
from metadeblur.video.headers import Header, mapped, read_headers
from metadeblur.video.labels import Labels, labelled, lost_labels, read_labels
from metadeblur.video.tiff import unmultiplied

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".avif")
"""Pictures that a folder of frames may hold."""
TRANSPARENT_SUFFIXES = (".png", ".tif", ".tiff", ".webp", ".avif")
JPEG_QUALITY = 97

_TIFF = (".tif", ".tiff")
_ANIMATED = (".png", ".webp", ".avif")
_DEEP = (".png", *_TIFF)
_AT_ONCE = 8  # pictures of an animation that are decoded together
_TURNS: dict[int, int] = {
    3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE,
}  # fmt: skip

Samples = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Still:
    """One picture of a file, as its header tells of it."""

    path: Path
    header: Header
    page: int = 0  # its number in the file
    pages: int = 1  # how many there are in the file

    @property
    def transparent(self) -> bool:
        """Whether it has a channel of transparency."""
        return self.header.channels == 4


def stills_of(path: Path) -> list[Still]:
    """The pictures of a file.

    Raises:
        MetadeblurError: it cannot be read, or shows one moment from several sides.
    """
    pages = read_headers(path) or _decoded_headers(path)
    if pages[0].views > 1:
        raise MetadeblurError(
            f"{path}: holds {pages[0].views} pictures of one moment (stereo or panorama); save them as files of their "
            "own first"
        )
    return [Still(path, header, page, len(pages)) for page, header in enumerate(pages)]


def read_picture(path: Path) -> Samples:
    """The first picture of a file as (H, W, 3), RGB, uint8 or uint16, upright.

    Raises:
        MetadeblurError: it cannot be read.
    """
    return colours_of(Still(path, Header(0, 0)))


def colours_of(still: Still) -> Samples:
    """The colours of a picture as (H, W, 3), RGB, uint8 or uint16, upright.

    Raises:
        MetadeblurError: it cannot be read.
    """
    picture = _decoded(still, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if picture is None or picture.dtype not in (np.uint8, np.uint16):
        raise MetadeblurError(f"{still.path}: not a picture of 8 or 16 bits that can be read, or damaged")
    return cast("Samples", picture[..., 2::-1])


def opacity_of(still: Still) -> Samples | None:
    """How opaque a picture is, (H, W), upright; None where it has no channel for that."""
    if not still.transparent:
        return None
    picture = _decoded(still, cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.shape[2] != 4:
        return None
    alpha = picture[..., 3]
    if still.pages == 1 and still.path.suffix.lower() not in _TIFF:
        alpha = _turned(alpha, still.header.orientation)
    return cast("Samples", alpha)


def still_layers(still: Still) -> tuple[Tensor, Tensor] | None:
    """Colours (3, H, W), hidden ones too, and opacity (H, W) of a picture; None where all of it shows."""
    opacity = opacity_of(still)
    return None if opacity is None else (as_tensor(colours_of(still)), as_tensor(opacity))


def still_labels(still: Still) -> Labels:
    """Colour profile, EXIF and XMP records and the like of a picture."""
    if still.pages > 1:
        return Labels()
    with mapped(still.path) as data:
        return read_labels(data, still.page)


def lost_of(stills: Sequence[Still], suffix: str | None = None) -> list[str]:
    """What written files cannot keep of the source pictures, one sentence each.

    Args:
        stills: the pictures.
        suffix: of the pictures to write; None: their own.
    """
    lost: dict[str, list[str]] = {}
    for still in stills:
        own = suffix or still.path.suffix.lower()
        words = list(lost_labels(still_labels(still), own))
        if still.transparent and own not in TRANSPARENT_SUFFIXES:
            words.append("the transparency")
        if still.header.extras and still.page + 1 == still.pages:
            words.append(f"{still.header.extras} further pictures (previews or gain maps)")
        if still.pages > 1 and own in _ANIMATED and still.header.bits > 8:
            words.append("bits beyond the eighth of an animation")
        for word in words:
            lost.setdefault(word, []).append(still.path.name)
    return [f"{word} of {names[0]}{_more(len(set(names)) - 1)}" for word, names in lost.items()]


def _more(others: int) -> str:
    return "" if others < 1 else " and one other" if others == 1 else f" and {others} others"


def several_suffixes(still: Still) -> tuple[str, ...]:
    """The suffixes of files that can hold several pictures as the file of this one does."""
    return _ANIMATED if still.header.milliseconds else _TIFF


def write_picture(
    path: Path,
    frame: Tensor,
    bits: int,
    *,
    grey: bool = False,
    alpha: Tensor | None = None,
    labels: Labels | None = None,
) -> None:
    """Write one frame (3, H, W), RGB in [0, 1], as a picture of 8 bits, or 16 where ``bits`` is more than 8.

    JPEG, BMP and WebP always have 8 bits, AVIF 8 or 10.

    Args:
        path: the file; its suffix says which format.
        frame: the colours.
        bits: a channel.
        grey: write one channel.
        alpha: opacity (H, W), 0 to 1; JPEG and BMP do without.
        labels: colour profile and so on.

    Raises:
        OSError: the system refuses.
    """
    suffix, labels = path.suffix.lower(), labels or Labels()
    deep = bits > 8 and suffix in _DEEP
    depth = 16 if deep else 10 if bits > 8 and suffix == ".avif" else 8
    limit = (1 << depth) - 1
    kind: type[np.integer[Any]] = np.uint8 if depth == 8 else np.uint16
    values = (frame.detach().float().clamp(0, 1) * limit).round()
    picture: NDArray[np.integer[Any]] = values.permute(1, 2, 0).flip(-1).numpy().astype(kind)
    transparent = alpha is not None and suffix in TRANSPARENT_SUFFIXES
    if alpha is not None and transparent:
        opacity = (alpha * limit).round().numpy().astype(kind)
        picture = np.concatenate([picture, opacity[..., None]], axis=2)
    elif grey:
        picture = cast("NDArray[np.integer[Any]]", cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
    picture, options = np.ascontiguousarray(picture), _options(suffix, depth)
    if labels.exif and suffix == ".avif":
        exif = np.frombuffer(labels.exif, np.uint8)
        done, data = cv2.imencodeWithMetadata(suffix, picture, [cv2.IMAGE_METADATA_EXIF], [exif], options)
    else:
        done, data = cv2.imencode(suffix, picture, options)
    if not done:
        raise MetadeblurError(f"{path}: this picture cannot be written as {suffix}; choose .png")
    path.write_bytes(labelled(data.tobytes(), labels, transparent=transparent))


def write_several(path: Path, pictures: Sequence[Path], stills: Sequence[Still]) -> None:
    """Write pictures into one file, as those of ``stills`` lie in theirs.

    Raises:
        OSError: the system refuses.
    """
    suffix = path.suffix.lower()
    decoded: list[NDArray[Any]] = []
    for file in pictures:
        picture = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        assert picture is not None  # it was written a moment ago
        decoded.append(picture)
    if suffix in _TIFF:
        done, data = cv2.imencodemulti(suffix, decoded)
    else:
        animation = cv2.Animation()
        animation.frames = [_with_four_channels(picture) for picture in decoded]
        animation.durations = [still.header.milliseconds for still in stills]
        animation.loop_count = _loops(stills[0].path)
        done, data = cv2.imencodeanimation(suffix, animation, _options(suffix, 8))
    if not done:
        raise MetadeblurError(f"{path}: {len(decoded)} pictures cannot be written as {suffix}; choose a folder")
    path.write_bytes(data.tobytes())


def _with_four_channels(picture: NDArray[Any]) -> NDArray[Any]:
    if picture.dtype == np.uint16:
        picture = (picture // 257).astype(np.uint8)
    if picture.ndim == 2:
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGRA))
    return picture if picture.shape[2] == 4 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2BGRA))


def _loops(path: Path) -> int:
    _, animation = cv2.imdecodeanimation(np.frombuffer(_bytes_of(path), np.uint8), count=1)
    return int(animation.loop_count)


def _options(suffix: str, depth: int) -> list[int]:
    match suffix:
        case ".jpg" | ".jpeg":
            full_chroma = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
            return [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full_chroma]
        case ".webp":
            return [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100 means lossless
        case ".avif":
            return [cv2.IMWRITE_AVIF_QUALITY, 100, cv2.IMWRITE_AVIF_DEPTH, depth]
        case _:
            return []


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MetadeblurError(f"{path}: cannot be read ({error.strerror})") from error


def _decoded(still: Still, flags: int) -> NDArray[Any] | None:
    """A picture decoded by OpenCV, whose own messages are hidden; None where that fails."""
    with silent_libraries():
        if still.header.milliseconds:
            group = _animation(still.path, still.path.stat().st_mtime_ns, still.page // _AT_ONCE)
            picture = group[still.page % _AT_ONCE] if still.page % _AT_ONCE < len(group) else None
            if picture is None or flags == cv2.IMREAD_UNCHANGED or picture.ndim == 3:
                return picture
            return np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))
        content = unmultiplied(_bytes_of(still.path))
        data = np.frombuffer(content, np.uint8)
        if not data.size:
            return None
        if still.pages > 1:
            decodable, pages = cv2.imdecodemulti(data, flags, range=(still.page, still.page + 1))
            return np.asarray(pages[0]) if decodable and pages else None
        picture = cv2.imdecode(data, flags)
        if picture is not None and content[4:12] in (b"ftypavif", b"ftypavis"):
            return _as_shown(picture, content)
        return picture


@lru_cache(maxsize=2)
def _animation(path: Path, _changed: int, group: int) -> list[NDArray[Any]]:
    """Some pictures of an animation one after the other, for each builds on those before it.

    The time of the file's last change is there so that a new file is read anew.
    """
    data = np.frombuffer(_bytes_of(path), np.uint8)
    decodable, animation = cv2.imdecodeanimation(data, start=group * _AT_ONCE, count=_AT_ONCE)
    return list(animation.frames) if decodable else []


def _as_shown(picture: NDArray[Any], content: bytes) -> NDArray[Any]:
    """OpenCV neither turns AVIF pictures as they ask for, nor scales those of 10 or 12 bits."""
    configuration = re.search(rb"av1C(.{4})", content, re.DOTALL)
    if picture.dtype == np.uint16 and configuration:
        bits = 12 if configuration[1][2] & 0x20 else 10
        picture = (picture.astype(np.uint32) * 65535 // ((1 << bits) - 1)).astype(np.uint16)
    turn = re.search(rb"\0\0\0\x09irot(.)", content, re.DOTALL)
    return np.rot90(picture, turn[1][0] & 3) if turn else picture


def _turned(picture: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A picture as stored, turned and mirrored as its EXIF record asks for."""
    if orientation in (2, 4, 5, 7):
        picture = picture[:, ::-1]
        orientation = {2: 1, 4: 3, 5: 8, 7: 6}[orientation]
    turn = _TURNS.get(orientation)
    return picture if turn is None else np.asarray(cv2.rotate(np.ascontiguousarray(picture), turn))


def _decoded_headers(path: Path) -> list[Header]:
    """The pictures of a file whose header is not read here: BMP and AVIF."""
    picture = _decoded(Still(path, Header(0, 0)), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype not in (np.uint8, np.uint16):
        raise MetadeblurError(f"{path}: not a picture of 8 or 16 bits that can be read, or damaged")
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    bits = 8 if picture.dtype == np.uint8 else 16
    times = [0]
    if path.suffix.lower() == ".avif":
        decodable, animation = cv2.imdecodeanimation(np.frombuffer(_bytes_of(path), np.uint8))
        if decodable and len(animation.durations) > 1:
            times = [max(1, int(time)) for time in animation.durations]
    return [Header(picture.shape[1], picture.shape[0], bits, channels, milliseconds=time) for time in times]


def as_tensor(picture: Samples) -> Tensor:
    """Samples as float32 in [0, 1]; (H, W, 3) becomes (3, H, W)."""
    values = torch.from_numpy(picture.astype(np.float32)) / (255 if picture.dtype == np.uint8 else 65535)
    return values.permute(2, 0, 1).contiguous() if values.ndim == 3 else values

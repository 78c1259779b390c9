"""Sentences on what an output video cannot keep of its source."""

from __future__ import annotations

import av

from metadeblur.video.colour import bit_depth, colour_samples, subsampling
from metadeblur.video.info import VideoInfo
from metadeblur.video.marks import lost_marks
from metadeblur.video.mastering import Mastering
from metadeblur.video.stills import lost_of
from metadeblur.video.transparency import has_alpha

_SUBSAMPLED = ("jpg", "jpeg")  # read as RGB, but most have subsampled colour


def lost_in_video(info: VideoInfo, video: av.VideoStream, format_name: str) -> list[str]:
    """What the video stream of an output does not have of the source's, one sentence each.

    Args:
        info: the source.
        video: the stream of the output.
        format_name: the container, as FFmpeg calls it.
    """
    codec = video.codec_context.codec.canonical_name
    opaque = not has_alpha(video.codec_context.pix_fmt or "yuv420p") and video.metadata.get("alpha_mode") != "1"
    lost = []
    if info.transparent and opaque:
        lost.append(
            f"the transparency of {info.path.name}: write to .mov, .mkv or .webm with the codec auto to keep it"
        )
    lost += [note for note in lost_of(info.stills, format_name) if not note.startswith("the transparency")]
    lost += _lost_samples(info, video) + _lost_aspect(info, video, format_name) + _lost_mastering(info, video)
    return lost + lost_marks(info.marks, info.path.name, codec)


def _lost_aspect(info: VideoInfo, video: av.VideoStream, format_name: str) -> list[str]:
    """Pixels that are not square: VP9 and AV1 streams do not hold their shape, nor does FFmpeg write it to Matroska."""
    kept = info.sample_aspect_ratio in (None, 1) or video.codec_context.name not in ("vp9", "av1", "libdav1d")
    if kept or format_name not in ("matroska", "webm"):
        return []
    return [f"the sample aspect ratio {info.sample_aspect_ratio} was left out: H.264 or H.265 would keep it"]


def _lost_samples(info: VideoInfo, video: av.VideoStream) -> list[str]:
    """What the pixel format of the output has less of than the source's: bits, resolution of colour."""
    before, after = info.pix_fmt, str(video.codec_context.pix_fmt)
    lost = []
    if bit_depth(after) < info.bit_depth:
        fewer = info.bit_depth - bit_depth(after)
        lost.append(f"{fewer} of {info.bit_depth} bits a channel; FFV1 in .mkv would keep them")
    if (
        subsampling(before) != "gray"
        and info.codec not in _SUBSAMPLED
        and colour_samples(after) < colour_samples(before)
    ):
        names = ["RGB" if kind == "rgb" else ":".join(kind) for kind in map(subsampling, (before, after))]
        lost.append(f"the full resolution of the colours ({names[0]} became {names[1]}); FFV1 in .mkv would keep it")
    return lost


def _lost_mastering(info: VideoInfo, video: av.VideoStream) -> list[str]:
    """HDR10 mastering data, which only H.265 keeps here."""
    if info.mastering == Mastering() or video.codec_context.name == "hevc":
        return []
    return ["what the video tells of the screen that it was mastered on (HDR10) was left out: H.265 would keep it"]

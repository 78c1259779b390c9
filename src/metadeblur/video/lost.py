"""What a video file that was made cannot hold of its source, in sentences."""

from __future__ import annotations

import av

from metadeblur.video.info import VideoInfo
from metadeblur.video.marks import lost_marks
from metadeblur.video.mastering import Mastering
from metadeblur.video.stills import lost_of
from metadeblur.video.transparency import has_alpha


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
    lost += _lost_aspect(info, video, format_name) + _lost_mastering(info, video)
    return lost + lost_marks(info.marks, info.path.name, codec)


def _lost_aspect(info: VideoInfo, video: av.VideoStream, format_name: str) -> list[str]:
    """VP9 and AV1 do not tell the shape of their pixels, and the Matroska muxer cannot be told either."""
    told = info.sample_aspect_ratio in (None, 1) or video.codec_context.name not in ("vp9", "av1", "libdav1d")
    if told or format_name not in ("matroska", "webm"):
        return []
    return [f"the sample aspect ratio {info.sample_aspect_ratio} was left out: H.264 or H.265 would keep it"]


def _lost_mastering(info: VideoInfo, video: av.VideoStream) -> list[str]:
    """Only H.265 is told what HDR10 video says of the screen that it was made on."""
    if info.mastering == Mastering() or video.codec_context.name == "hevc":
        return []
    return ["what the video tells of the screen that it was mastered on (HDR10) was left out: H.265 would keep it"]

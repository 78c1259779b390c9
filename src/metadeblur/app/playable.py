"""A copy of a restored clip that every browser plays: H.264 of 8 bits in MP4, with its sound as AAC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from metadeblur.imaging.pictures import Picture, to_uint8
from metadeblur.system.names import for_ffmpeg
from metadeblur.video import VideoReader, whole
from metadeblur.video.info import main_video, open_media

_SOUND = ("aac", "mp3")
_CLOCK = Fraction(1, 90_000)  # seconds of a tick of the copy's time stamps


def plays_everywhere(path: Path) -> bool:
    """Whether a file is one that every browser plays."""
    if path.suffix.lower() not in (".mp4", ".m4v"):
        return False
    with open_media(path) as container:
        stream = main_video(container, path)
        sound = [other.codec_context.name in _SOUND for other in container.streams.audio]
        return stream.codec_context.codec.canonical_name == "h264" and stream.pix_fmt == "yuv420p" and all(sound)


def write_playable(source: Path, target: Path) -> None:
    """Write a copy of a video or folder of frames that browsers play, turned upright, with its first sound track.

    Args:
        source: as :class:`metadeblur.video.VideoReader` takes it.
        target: an .mp4 file.

    Raises:
        MetadeblurError: the source cannot be read, or the disk is full.
    """
    reader = VideoReader(source)
    info, times = reader.info, reader.times
    upright = (to_uint8(torch.rot90(rgb, info.rotation // 90, (-2, -1))) for rgb in reader)
    seconds = (stamp * times.time_base for stamp in times.stamps)
    aspect = info.sample_aspect_ratio if info.rotation % 180 == 0 else None
    with _mp4(target) as output:
        sound = _Sound(info.path, output) if info.audio_streams else None
        _write(output, zip(seconds, upright, strict=True), info.fps, aspect)
        if sound is not None:
            sound.write()


def write_frames(frames: Iterable[Picture], fps: Fraction, target: Path) -> None:
    """Write pictures as a video that browsers play.

    Raises:
        MetadeblurError: the disk is full.
    """
    with _mp4(target) as output:
        _write(output, ((number / fps, frame) for number, frame in enumerate(frames)), fps)


@contextmanager
def _mp4(target: Path) -> Iterator[av.container.OutputContainer]:
    with whole(target) as draft, av.open(for_ffmpeg(draft), "w", options={"movflags": "+faststart"}) as output:
        yield output


def _write(
    output: av.container.OutputContainer,
    pictures: Iterable[tuple[Fraction, Picture]],
    fps: Fraction,
    aspect: Fraction | None = None,
) -> None:
    """Encode pictures, each with the second at which it is shown; an odd last row or column is left out."""
    stream = output.add_stream("libx264", rate=min(max(fps, Fraction(1)), Fraction(240)))
    stream.pix_fmt, stream.time_base = "yuv420p", _CLOCK
    stream.codec_context.time_base = _CLOCK
    stream.options = {"crf": "18", "preset": "veryfast"}
    stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
    stream.sample_aspect_ratio = aspect or Fraction(1)
    for seconds, picture in pictures:
        height, width = (side - side % 2 for side in picture.shape[:2])
        if not stream.codec_context.is_open:
            stream.height, stream.width = height, width
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        frame.pts, frame.time_base = round(seconds / _CLOCK), _CLOCK
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


class _Sound:
    """The first sound track of a file, encoded as AAC.

    Its stream is added before the first packet of any is written, as MP4 wants it.
    """

    def __init__(self, source: Path, output: av.container.OutputContainer) -> None:
        self._source, self._output = source, output
        with open_media(source) as container:
            rate = container.streams.audio[0].rate
        self._stream = output.add_stream("aac", rate=rate if rate in _AAC_RATES else 48_000)
        self._stream.layout = "stereo"

    def write(self) -> None:
        """Decode, encode and write all of it."""
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=self._stream.rate)
        with open_media(self._source) as container:
            for decoded in container.decode(audio=0):
                for frame in resampler.resample(decoded):
                    self._output.mux(self._stream.encode(frame))
        self._output.mux(self._stream.encode(None))


_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

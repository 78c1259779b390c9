"""Small media files made on the spot, for the tests of everything that reads or writes them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.packet import Packet
from numpy.typing import NDArray

ROTATED_90 = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
"""A display matrix of a quarter turn, as phones write it."""

VARIABLE_STEPS = (1, 2, 1, 3, 1, 1, 4)
"""How many ticks of 1/fps the frames of a variable frame rate file last, over and over."""


def moving_picture(frames: int, height: int, width: int, *, seed: int = 0, step: float = 1.5) -> NDArray[np.uint8]:
    """A smooth random picture seen by a camera that moves: (T, H, W, 3), RGB, well inside the gamut of YUV."""
    random = np.random.default_rng(seed)
    margin = int(abs(step) * frames) + 8
    coarse = random.uniform(60, 190, ((height + margin) // 8 + 4, (width + margin) // 8 + 4, 3)).astype(np.float32)
    grey = coarse.mean(axis=2, keepdims=True)
    coarse = grey + 0.35 * (coarse - grey)
    scene = cv2.resize(coarse, (width + margin + 8, height + margin + 8), interpolation=cv2.INTER_CUBIC)
    shots = []
    for index in range(frames):
        shift = np.float32([[1, 0, -step * index], [0, 1, -0.5 * step * index]])
        moved = cv2.warpAffine(scene, shift, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        shots.append(np.clip(moved, 16, 240).round().astype(np.uint8))
    return np.stack(shots)


@dataclass(frozen=True)
class Colour:
    """Colour tags as FFmpeg numbers them (2: not said; range 0: not said, 1: limited, 2: full)."""

    matrix: int = 2
    range: int = 0
    primaries: int = 2
    transfer: int = 2


def make_video(
    path: Path,
    frames: int | NDArray[np.uint8] = 8,
    *,
    size: tuple[int, int] = (64, 96),
    fps: Fraction | int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    vfr: bool = False,
    audio_tracks: int = 0,
    subtitles: int = 0,
    attachment: bytes | None = None,
    data: bool = False,
    chapters: bool = False,
    metadata: dict[str, str] | None = None,
    matrix: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    colour: Colour | None = None,
    first_pts: int = 0,
) -> Path:
    """Write a video with whatever is asked for; the number of frames, or the frames themselves (T, H, W, 3).

    Args:
        path: the file; its suffix says which container.
        frames: a number of frames of :func:`moving_picture`, or the pictures.
        size: (height, width) where ``frames`` is a number; with H.265 at least 64 wide, narrower ones crash x265.
        fps: frames a second; the time base is a tenth of one frame's duration.
        codec: encoder, as FFmpeg calls it.
        pix_fmt: pixel format of the stream.
        options: encoder options; the default for H.264 and H.265 is fast and nearly lossless.
        vfr: let the frames last 1 to 4 ticks (:data:`VARIABLE_STEPS`).
        audio_tracks: so many tones, AAC (Opus in WebM), languages eng, fra, deu.
        subtitles: so many subtitle tracks: SubRip in Matroska, mov_text in MP4.
        attachment: bytes of a font to attach (Matroska only).
        data: add a stream of timed data (MP4 and MOV only).
        chapters: add two named chapters.
        metadata: tags of the container.
        matrix: display matrix, for instance :data:`ROTATED_90`.
        aspect: sample aspect ratio.
        colour: colour tags, also used to convert to YUV.
        first_pts: time stamp of the first frame, in tenths of a frame.

    Returns:
        ``path``.
    """
    pictures = moving_picture(frames, *size) if isinstance(frames, int) else frames
    height, width = pictures.shape[1:3]
    rate = Fraction(fps)
    time_base = 1 / rate / 10
    tags = colour or Colour()
    if options is None:
        options = {"crf": "4", "preset": "ultrafast", "bf": "2"} if codec in ("libx264", "libx265") else {}
    if codec == "libx265":
        options = {"x265-params": "log-level=none", **options}
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        video = container.add_stream(codec, rate=rate, options=options)
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        context = video.codec_context
        context.time_base = time_base
        video.time_base = time_base
        context.thread_count = 1
        context.color_range, context.colorspace = tags.range, tags.matrix
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if matrix is not None:
            video.set_display_matrix(list(matrix))
        duration = float(len(pictures) * (2 if vfr else 1) / rate)
        sound = [_add_audio(container, number) for number in range(audio_tracks)]
        texts = [_add_subtitles(container, path, number) for number in range(subtitles)]
        timed = container.add_data_stream("bin_data") if data else None
        if timed is not None:
            timed.time_base = Fraction(1, 1000)
        if attachment is not None:
            container.add_attachment("font.ttf", "application/x-truetype-font", attachment)
        if chapters:
            half = int(duration * 500)
            container.set_chapters(
                [
                    {"id": 1, "start": 0, "end": half, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}},
                    {
                        "id": 2,
                        "start": half,
                        "end": 2 * half,
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": "two"},
                    },
                ]
            )
        container.start_encoding()
        for stream in sound:
            _write_tone(container, stream, duration)
        for number, stream in enumerate(texts):
            _write_texts(container, stream, number, duration, movtext=path.suffix != ".mkv")
        if timed is not None:
            for moment in range(0, int(duration * 1000), 100):
                packet = Packet(struct.pack(">I", moment) * 4)
                packet.stream, packet.time_base = timed, Fraction(1, 1000)
                packet.pts = packet.dts = moment
                packet.duration = 100
                container.mux(packet)
        pts = first_pts
        for index, picture in enumerate(pictures):
            container.mux(video.encode(_frame(picture, pix_fmt, tags, pts, time_base)))
            pts += 10 * (VARIABLE_STEPS[index % len(VARIABLE_STEPS)] if vfr else 1)
        container.mux(video.encode(None))
    return path


def make_frames(
    folder: Path,
    frames: int | NDArray[np.uint8] = 5,
    *,
    size: tuple[int, int] = (64, 96),
    suffix: str = ".png",
    bits: int = 8,
) -> Path:
    """Write a folder of numbered pictures (1, 2, ... 10: natural order matters) of 8 or 16 bits."""
    pictures = moving_picture(frames, *size) if isinstance(frames, int) else frames
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures, start=1):
        deep = picture if bits == 8 else (picture.astype(np.uint16) * 257 + index).clip(0, 65535).astype(np.uint16)
        done, data = cv2.imencode(suffix, np.ascontiguousarray(deep[..., ::-1]))
        assert done
        (folder / f"frame{index}{suffix}").write_bytes(data.tobytes())
    return folder


def video_packets(path: Path) -> dict[int, list[tuple[int | None, int | None, int | None, bytes]]]:
    """Every packet of every stream: {stream: [(pts, dts, duration, bytes), ...]}, in the order of the file."""
    found: dict[int, list[tuple[int | None, int | None, int | None, bytes]]] = {}
    with av.open(str(path)) as container:
        for stream in container.streams:
            found[stream.index] = []
        for packet in container.demux():
            if packet.size:
                found[packet.stream_index].append((packet.pts, packet.dts, packet.duration, bytes(packet)))
    return found


def _frame(picture: NDArray[np.uint8], pix_fmt: str, tags: Colour, pts: int, time_base: Fraction) -> av.VideoFrame:
    """The picture as a frame of the stream's own pixel format, converted by the matrix and range of the tags."""
    matrices = {1: 1, 5: 5, 6: 5, 9: 9}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
        format=pix_fmt,
        src_colorspace=matrices.get(tags.matrix, 5),
        dst_colorspace=matrices.get(tags.matrix, 5),
        dst_color_range=tags.range or 1,
    )
    frame.colorspace, frame.color_range = tags.matrix, tags.range
    frame.color_primaries, frame.color_trc = tags.primaries, tags.transfer
    frame.pts, frame.time_base = pts, time_base
    return frame


def _add_audio(container: av.container.OutputContainer, number: int) -> av.AudioStream:
    webm = container.format.name == "webm"
    stream = container.add_stream("libopus" if webm else "aac", rate=48000)
    stream.metadata["language"] = ("eng", "fra", "deu")[number % 3]
    if number == 0:
        stream.disposition = 1
    return stream


def _write_tone(container: av.container.OutputContainer, stream: av.AudioStream, duration: float) -> None:
    size = 960
    pitch = 440 * (stream.index + 1)
    total = int(48000 * duration)
    for start in range(0, total, size):
        times = np.arange(start, start + size) / 48000
        wave = (0.2 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _add_subtitles(container: av.container.OutputContainer, path: Path, number: int) -> av.stream.Stream:
    codec = "subrip" if path.suffix == ".mkv" else "mov_text"
    stream = container.add_mux_stream(codec)
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = ("eng", "fra", "deu")[number % 3]
    return stream


def _write_texts(
    container: av.container.OutputContainer, stream: av.stream.Stream, number: int, duration: float, *, movtext: bool
) -> None:
    for line, moment in enumerate(range(0, int(duration * 1000), 120)):
        text = f"line {line} of {number}".encode()
        packet = Packet(struct.pack(">H", len(text)) + text if movtext else text)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = moment
        packet.duration = 100
        container.mux(packet)

"""Colours through the whole job: grey, RGB, chroma at all resolutions; which of several videos is taken."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from cases import case
from kept import passed
from media import make_video, moving_picture

from metadeblur.video import VideoReader, check_output, probe

FRAMES = 3


def full_range(frames: int) -> np.ndarray:
    """Pictures that reach from black to white."""
    pictures = moving_picture(frames, 64, 96).astype(np.float32)
    low, high = pictures.min(), pictures.max()
    return ((pictures - low) * 255 / (high - low)).round().astype(np.uint8)


def likeness(one: Path, other: Path) -> float:
    """PSNR in dB between two files as FFmpeg itself decodes them."""

    def decoded(path: Path) -> np.ndarray:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)

    error = ((decoded(one) - decoded(other)) ** 2).mean()
    return 10 * math.log10(255**2 / max(error, 1e-9))


def pix_fmt(path: Path) -> str:
    with av.open(str(path)) as container:
        return str(container.streams.video[0].codec_context.pix_fmt)


GREY = {
    "ffv1.mkv": ("ffv1", "gray"),
    "deep.mkv": ("ffv1", "gray10le"),
    "deeper.mkv": ("ffv1", "gray12le"),
    "x265.mkv": ("libx265", "gray"),
    "x264.mp4": ("libx264", "gray"),
    "photo.mov": ("png", "gray"),
    "raw.avi": ("rawvideo", "gray"),
}


@case(
    "Files and streams",
    "grey video, with or without a tag that tells its range",
    "it has the full range from 0 to 255, as FFmpeg reads and writes it",
    "kept: every level, nothing is clipped",
)
@pytest.mark.parametrize(
    ("name", "target"),
    [(name, target) for name in GREY for target in (".mkv", ".mp4")]
    + [(name, target) for name in ("ffv1.mkv", "raw.avi") for target in (".avi", ".webm")],
)
def test_grey_video_keeps_its_levels(tmp_path: Path, name: str, target: str) -> None:
    codec, layout = GREY[name]
    source = make_video(tmp_path / name, full_range(FRAMES), codec=codec, pix_fmt=layout)
    output = tmp_path / f"out{target}"
    assert passed(source, output) == []
    assert likeness(source, output) > 38
    if target == ".mkv":
        passed(source, tmp_path / "exact.mkv", codec="ffv1")
        assert all(map(torch.equal, VideoReader(source), VideoReader(tmp_path / "exact.mkv")))


@case(
    "Files and streams",
    "recordings of a screen in RGB: H.264 RGB, FFV1, PNG, QuickTime Animation, AVI",
    "H.264 and H.265 RGB stay RGB, FFV1 and lossless too; otherwise YUV 4:4:4, where the codec has it",
    "kept: the resolution of the colours; told where a codec has less (AVI's MPEG-4, AV1)",
)
@pytest.mark.parametrize(
    ("name", "codec", "layout", "target", "encoding", "expected"),
    [
        ("a.mp4", "libx264rgb", "rgb24", ".mp4", {}, "gbrp"),
        ("a.mkv", "libx265", "gbrp", ".mkv", {"codec": "h265"}, "gbrp"),
        ("a.mkv", "ffv1", "bgr0", ".mkv", {}, "yuv444p"),
        ("a.mkv", "ffv1", "bgr0", ".mkv", {"codec": "ffv1"}, "bgr0"),
        ("a.mov", "png", "rgb24", ".mp4", {}, "yuv444p"),
        ("a.mov", "qtrle", "rgb24", ".webm", {}, "yuv444p"),
        ("a.avi", "rawvideo", "bgr24", ".avi", {}, None),
        ("a.avi", "rawvideo", "bgr24", ".webm", {"codec": "av1"}, None),
    ],
)
def test_rgb_keeps_the_resolution_of_its_colours_or_says_so(
    tmp_path: Path, name: str, codec: str, layout: str, target: str, encoding: dict[str, str], expected: str | None
) -> None:
    options = {} if codec in ("libx264rgb", "libx265") else None
    source = make_video(tmp_path / name, FRAMES, codec=codec, pix_fmt=layout, options=options)
    output = tmp_path / f"out{target}"
    lost = passed(source, output, **encoding)
    if expected is None:
        assert lost == ["the full resolution of the colours (RGB became 4:2:0); FFV1 in .mkv would keep it"]
    else:
        assert lost == []
        assert pix_fmt(output) == expected
        assert likeness(source, output) > 38


@pytest.mark.parametrize(
    ("layout", "target", "encoding", "expected", "lost"),
    [
        ("yuv422p", ".mp4", {}, "yuv422p", None),
        ("yuv444p10le", ".mp4", {}, "yuv444p10le", None),
        ("yuv411p", ".mp4", {}, "yuv422p", None),
        ("yuv410p", ".mp4", {}, "yuv420p", None),
        ("yuv422p12le", ".mkv", {}, "yuv422p12le", None),
        ("yuv422p10le", ".webm", {}, "yuv420p10le", "4:2:2 became 4:2:0"),
        ("yuv444p16le", ".mkv", {}, "yuv444p12le", "4 of 16 bits"),
        ("yuv420p10le", ".mp4", {"codec": "h264"}, "yuv420p10le", None),
        ("yuv420p12le", ".webm", {}, "yuv420p10le", "2 of 12 bits"),
    ],
)
def test_bits_and_chroma_are_kept_or_told(
    tmp_path: Path, layout: str, target: str, encoding: dict[str, str], expected: str, lost: str | None
) -> None:
    source = make_video(tmp_path / "a.mkv", FRAMES, codec="ffv1", pix_fmt=layout)
    told = check_output(source, tmp_path / f"b{target}")
    found = passed(source, tmp_path / f"b{target}", **encoding)
    assert pix_fmt(tmp_path / f"b{target}") == expected
    assert len(found) == (lost is not None)
    if lost is not None:
        assert lost in found[0]
        assert found[0] in told


def test_full_range_in_a_container_that_cannot_tell_it(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "a.avi", full_range(FRAMES), codec="mjpeg", pix_fmt="yuvj420p", options={"qmin": "1"}
    )
    passed(source, tmp_path / "b.avi", quality=1)
    assert likeness(source, tmp_path / "b.avi") > 33


# Several videos ------------------------------------------------------------------------------------------------------


def two_videos(path: Path, sizes: tuple[tuple[int, int], ...], default: int | None) -> Path:
    with av.open(str(path), "w") as container:
        streams = []
        for number, (height, width) in enumerate(sizes):
            stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.disposition = int(number == default)
            streams.append(stream)
        for index in range(6):
            for number, stream in enumerate(streams):
                picture = moving_picture(6, stream.height, stream.width, seed=number)[index]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@case(
    "Files and streams",
    "a file with two videos",
    "the one that players show is restored: marked as default, then the largest, then the first; the other is copied",
    "told: which one is restored",
)
@pytest.mark.parametrize(
    ("suffix", "sizes", "default", "taken"),
    [
        (".mkv", ((64, 96), (32, 48)), 1, 1),
        (".mkv", ((32, 48), (64, 96)), None, 1),
        (".mkv", ((64, 96), (64, 96)), None, 0),
        (".ts", ((32, 48), (64, 96)), None, 1),  # it has no default
    ],
)
def test_of_two_videos_the_one_that_players_show_is_restored(
    tmp_path: Path, suffix: str, sizes: tuple[tuple[int, int], ...], default: int | None, taken: int
) -> None:
    source, output = two_videos(tmp_path / f"a{suffix}", sizes, default), tmp_path / "out.mkv"
    info = probe(source)
    assert (info.stream, info.other_videos, (info.height, info.width)) == (taken, 1, sizes[taken])
    passed(source, output, preset="ultrafast")
    with av.open(str(source)) as before, av.open(str(output)) as after:
        assert [(s.height, s.width) for s in after.streams.video] == list(sizes)
        packets = [
            [bytes(packet) for packet in container.demux(container.streams.video[1 - taken]) if packet.size]
            for container in (before, after)
        ]
    if suffix == ".mkv":  # MPEG-TS has other starts of packets
        assert packets[0] == packets[1]
    assert len(packets[0]) == len(packets[1]) == 6


# Streams of a kind that nobody knows ----------------------------------------------------------------------------------


@case(
    "Files and streams",
    "a file whose sound or subtitles have a codec that nobody knows (as in a damaged file)",
    "the video is restored; the stream is left out",
    "told: not kept, the stream and that its kind is unknown",
)
@pytest.mark.parametrize(
    ("name", "known", "unknown"),
    [
        ("a.mkv", b"A_AAC", b"A_XYZ"),
        ("a.mkv", b"S_TEXT/UTF8", b"S_TEXT/XYZW"),
        ("a.avi", b"\xff\x00\x02\x00\x80\xbb", b"\x77\x77\x02\x00\x80\xbb"),
    ],
)
@pytest.mark.parametrize("target", [".mkv", ".mp4"])
def test_a_stream_of_unknown_kind_is_left_out_and_told(
    tmp_path: Path, name: str, known: bytes, unknown: bytes, target: str
) -> None:
    codec = "mpeg4" if name == "a.avi" else "libx264"
    source = make_video(
        tmp_path / name, 4, codec=codec, audio_tracks=1, subtitles=int(known.startswith(b"S_")), options={}
    )
    data = source.read_bytes()
    assert known in data
    source.write_bytes(data.replace(known, unknown))
    (lost,) = [note for note in passed(source, tmp_path / f"b{target}") if "unknown kind" in note]
    assert "cannot hold stream" in lost
    assert len(VideoReader(tmp_path / f"b{target}").times) == 4

"""When frames are shown: joined recordings, clocks that jump, stamps that are wrong or missing, rates that lie."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from cases import case
from kept import passed
from media import make_video, moving_picture, video_packets

from metadeblur.video import TimeTable, TimeTableBuilder, VideoReader, check_output, probe, read_clip, write_clip
from metadeblur.video.timing import measured_rate

FRAMES = 12


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def steps(path: Path) -> list[Fraction]:
    """How long each frame lasts, seconds."""
    times = VideoReader(path).times
    return [(after - before) * times.time_base for before, after in pairwise(times.stamps)]


def starts(path: Path, kind: str) -> list[Fraction]:
    """When each packet of the first stream of a kind is shown, seconds, in order."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return sorted(packet.pts * packet.time_base for packet in container.demux(stream) if packet.size)


def raw_video(path: Path, frames: int, rate: Fraction | int, codec: str, size: tuple[int, int] = (64, 96)) -> Path:
    """A video in a format that has no clock, or an odd one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "rgb8" if codec == "gif" else "yuv420p"
        for picture in moving_picture(frames, *size):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# Joined recordings -------------------------------------------------------------------------------------------------


@case(
    "Files and streams",
    "recordings joined byte for byte (`cat a.ts b.ts`), with sound or without, in MPEG-TS or Matroska",
    "the clock goes on from one to the next, for frames and for all other streams alike",
    "kept: every frame and packet, the rate; told: so many recordings are joined",
)
@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
@pytest.mark.parametrize("target", [".mp4", ".mkv"])
@pytest.mark.parametrize("sound", [0, 1])
def test_the_clock_goes_on_through_joined_recordings(tmp_path: Path, suffix: str, target: str, sound: int) -> None:
    part = make_video(tmp_path / f"a{suffix}", FRAMES, audio_tracks=sound)
    count = 3 if suffix == ".ts" else 2  # FFmpeg does not find the third one in Matroska
    source, output = joined(tmp_path / f"in{suffix}", *[part] * count), tmp_path / f"out{target}"
    assert passed(source, output, preset="ultrafast") == []
    assert probe(output).fps == 25
    assert set(steps(output)) == {Fraction(1, 25)}
    assert len(steps(output)) == count * FRAMES - 1
    if sound:
        before, after = starts(part, "audio"), starts(output, "audio")
        assert len(after) == count * len(before)
        # Sound and picture of each recording keep their distance.
        gap = starts(part, "video")[0] - before[-1]
        assert abs(starts(output, "video")[(count - 1) * FRAMES] - after[-1] - gap) < Fraction(1, 100)


@pytest.mark.parametrize("begins", [(0, 9000), (9000, 0), (9000, 9000 + FRAMES * 5)])
def test_clocks_that_jump_either_way(tmp_path: Path, begins: tuple[int, int]) -> None:
    parts = [
        make_video(tmp_path / f"{number}.ts", FRAMES, first_pts=first, audio_tracks=1)
        for number, first in enumerate(begins)
    ]
    source = joined(tmp_path / "in.ts", *parts)
    reader = VideoReader(source)
    assert len(reader.times) == 2 * FRAMES
    assert reader.info.recordings == 2
    passed(source, tmp_path / "out.mp4", preset="ultrafast")
    assert set(steps(tmp_path / "out.mp4")) == {Fraction(1, 25)}
    sound = [packet[1] for packet in video_packets(tmp_path / "out.mp4")[1]]
    assert all(before < after for before, after in pairwise(sound))


def test_one_wrong_time_is_no_new_recording() -> None:
    table = TimeTableBuilder(Fraction(1, 1000), 40)
    told: list[int | None] = list(range(0, 1200, 40))
    told[3], told[5], told[6], told[12] = 7, told[4], None, 9000  # out of order, repeated, missing, far off
    for stamp in told:
        table.add(stamp, 40)
    times = table.build()
    assert times.stamps == tuple(range(0, 1200, 40))
    assert not times.exact
    assert not times.joined


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_any_frame_of_joined_recordings_is_the_one_that_reading_in_order_gives(tmp_path: Path, name: str) -> None:
    part = make_video(tmp_path / name, 70, size=(32, 64), options={"preset": "medium", "g": "15", "bf": "2"})
    reader = VideoReader(joined(tmp_path / f"in-{name}", part, part))
    frames = list(reader)
    assert reader.times.exact
    for index in (0, 139, 60, 69, 70, 71, 85, 120, 55):
        assert torch.equal(reader.read(index, index + 1)[0], frames[index]), index


def test_the_clock_of_a_transport_stream_may_run_over(tmp_path: Path) -> None:
    limit = 2**33 * 250 // 90_000  # of MPEG-TS, in tenths of a frame
    source = make_video(tmp_path / "a.ts", FRAMES, first_pts=limit - 420, audio_tracks=1)
    assert set(steps(source)) == {Fraction(1, 25)}
    passed(source, tmp_path / "b.mp4", preset="ultrafast")
    assert set(steps(tmp_path / "b.mp4")) == {Fraction(1, 25)}
    assert starts(tmp_path / "b.mp4", "audio")[-1] < 2


def test_a_long_gap_in_a_file_with_a_true_clock_stays(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for place, picture in zip((0, 1, 2, 900, 901), moving_picture(5, 32, 32), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert max(steps(tmp_path / "a.mkv")) == Fraction(898, 25)


# Stamps that are late ----------------------------------------------------------------------------------------------


@case(
    "Files and streams",
    "AVI with frames that depend on later ones (B-frames), which tells only when packets are decoded",
    "frames follow one another as the packets do, from the start on",
    "kept: when each frame is shown beside the sound",
)
@pytest.mark.parametrize(("codec", "options"), [("mpeg4", {"bf": "2"}), ("libx264", {"preset": "medium", "bf": "3"})])
def test_avi_with_frames_out_of_order(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    source = make_video(tmp_path / "a.avi", 30, codec=codec, options=options, size=(32, 48))
    for path in (source, tmp_path / "b.mp4"):
        if path != source:
            write_clip(read_clip(source), path, like=source)
        times = VideoReader(path).times
        assert [stamp * times.time_base for stamp in times.stamps] == [Fraction(place, 25) for place in range(30)]
    reader = VideoReader(source)
    frames = list(reader)
    assert all(torch.equal(reader.read(index, index + 1)[0], frames[index]) for index in (29, 3, 17, 0))


# Rates -------------------------------------------------------------------------------------------------------------

RATES = {
    "pal.dv": ("dvvideo", Fraction(25), (576, 720)),
    "a.h264": ("libx264", Fraction(60), (64, 96)),
    "film.h264": ("libx264", Fraction(24000, 1001), (64, 96)),
    "a.hevc": ("libx265", Fraction(50), (64, 96)),
    "a.m2v": ("mpeg2video", Fraction(30000, 1001), (64, 96)),
    "a.ts": ("libx264", Fraction(60000, 1001), (64, 96)),
    "a.gif": ("gif", Fraction(100, 3), (64, 96)),
    "a.wmv": ("wmv2", Fraction(25), (64, 96)),
    "a.flv": ("flv", Fraction(30), (64, 96)),
}


@case(
    "Files and streams",
    "rates that containers lie about: raw DV (60,000 a second), raw H.264 and H.265 (25), GIF, MPEG-TS",
    "the rate is what the time stamps say; the encoder and the file get it",
    "kept: the true rate and all times",
)
@pytest.mark.parametrize("name", list(RATES))
def test_the_rate_is_what_the_time_stamps_say(tmp_path: Path, name: str) -> None:
    codec, rate, size = RATES[name]
    source = raw_video(tmp_path / name, 3 if name == "pal.dv" else FRAMES, rate, codec, size)
    assert probe(source).fps == rate
    reader = VideoReader(source)
    assert len(reader.times) == 3 if name == "pal.dv" else FRAMES
    assert reader.info.fps == rate
    if name in ("pal.dv", "a.h264"):
        assert check_output(source, tmp_path / "b.mkv") == ()
        passed(source, tmp_path / "b.mkv", preset="ultrafast")
        with av.open(str(tmp_path / "b.mkv")) as container:
            assert container.streams.video[0].average_rate == rate


@pytest.mark.parametrize(
    ("told", "stamps", "time_base", "rate"),
    [
        (Fraction(60000), range(0, 24000, 2400), Fraction(1, 60000), 25),
        (Fraction(1000), range(0, 1000, 40), Fraction(1, 1000), 25),
        (Fraction(90000), [round(n * 3003) for n in range(9)], Fraction(1, 90000), Fraction(30000, 1001)),
        (Fraction(30000, 1001), [round(n * 33.37) for n in range(90)], Fraction(1, 1000), Fraction(30000, 1001)),
        (Fraction(15), range(30), Fraction(1, 30), 30),
        (Fraction(25), [0, 40, 80, 200, 240, 400], Fraction(1, 1000), 25),  # variable: as told, it is of that order
        (Fraction(1000), [0, 33, 66, 133, 166, 300], Fraction(1, 1000), Fraction(50, 3)),
    ],
)
def test_measured_rates(told: Fraction, stamps: list[int], time_base: Fraction, rate: Fraction | int) -> None:
    assert measured_rate(told, TimeTable(tuple(stamps), time_base, stamps[1] - stamps[0])) == rate


def test_stamps_that_only_count_are_spread_by_the_duration() -> None:
    table = TimeTableBuilder(Fraction(1, 1_200_000), 48_000)
    for number in range(4):
        table.add(number, 48_000)
    assert table.build().stamps == (0, 48_000, 96_000, 144_000)


def test_frames_in_disorder_are_put_in_order() -> None:
    table = TimeTableBuilder(Fraction(1, 25), 1)
    for stamp in (1, 3, 4, 2, 6, 7, 5, 9, 10, 8):
        table.add(stamp, 1)
    assert table.build().stamps == tuple(range(1, 11))
    assert np.all(np.diff(table.build().stamps) > 0)

"""A part of a video: the frames of that time and no others, with the sound and the texts of the same time."""

from __future__ import annotations

import pickle
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media import make_frames, make_video, moving_picture, video_packets

from metadeblur.errors import MetadeblurError
from metadeblur.pipeline.cuts import find_shots
from metadeblur.video import EncodeSettings, Part, SegmentWriter, VideoReader, assemble
from metadeblur.video.cutting import later_timecode

FRAMES = 70
SIZE = (32, 64)
LONG_GROUPS = {"preset": "medium", "g": "20", "bf": "2", "crf": "10"}


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def source_of(folder: Path, name: str) -> Path:
    """A video of the kind that its name tells."""
    path = folder / f"{name}"
    stem = path.stem
    if stem == "joined":
        one = make_video(folder / f"one{path.suffix}", FRAMES // 2, size=SIZE, options=LONG_GROUPS)
        return joined(path, one, one)
    if path.suffix == ".avi":
        return make_video(path, FRAMES, size=SIZE, codec="mpeg4", options={"g": "20", "bf": "2"})
    first = 1000 if stem == "late" else 0
    return make_video(path, FRAMES, size=SIZE, options=LONG_GROUPS, vfr=stem == "vfr", first_pts=first)


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "late.ts", "vfr.mp4", "vfr.mkv", "a.avi", "joined.ts", "joined.mkv"]
)
def test_the_frames_of_a_part_are_those_of_that_time(tmp_path: Path, name: str) -> None:
    path = source_of(tmp_path, name)
    whole = VideoReader(path)
    frames, times = list(whole), whole.times
    at = [float((stamp - times.stamps[0]) * times.time_base) for stamp in times.stamps]
    for start, end in ((0.93, 1.61), (0.52, 0.56), (1.8, None), (0.0, 0.5)):
        wanted = [number for number, moment in enumerate(at) if moment >= start - 1e-6 and moment < (end or 99) - 1e-6]
        reader = VideoReader(path, part=Part(start, end))
        read = list(reader)
        assert len(read) == len(wanted), (start, end)
        assert all(torch.equal(frame, frames[number]) for frame, number in zip(read, wanted, strict=True))
        assert reader.times.stamps == tuple(times.stamps[number] for number in wanted)
        assert reader.info.frames == len(wanted)
        scan = find_shots(VideoReader(path, part=Part(start, end)))
        assert (scan.shots[0].start, scan.shots[-1].stop, scan.times.stamps) == (0, len(wanted), reader.times.stamps)
        elsewhere = VideoReader(path, times=pickle.loads(pickle.dumps(scan.times)), part=Part(start, end))
        last = len(wanted) - 1
        assert torch.equal(elsewhere.read(last, last + 9)[0], frames[wanted[-1]])


def test_little_more_than_the_part_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import metadeblur.video.decoding as decoding

    path = make_video(tmp_path / "a.mp4", 200, size=SIZE, options={**LONG_GROUPS, "preset": "ultrafast"})
    decoded = []
    original = decoding.decoder

    def counting(stream: av.VideoStream) -> object:
        decode = original(stream)

        def one(packet: object) -> list[av.VideoFrame]:
            frames = decode(packet)  # type: ignore[arg-type]
            decoded.extend(frames)
            return frames

        return one

    monkeypatch.setattr(decoding, "decoder", counting)
    assert len(list(VideoReader(path, part=Part(6.0, 6.4)))) == 10
    assert len(decoded) < 80


def test_any_frame_of_a_long_part_is_found(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", 150, size=SIZE, options=LONG_GROUPS)
    frames = list(VideoReader(path))
    reader = VideoReader(path, part=Part(1.0, 5.6))
    assert len(reader.times) == 115
    for number in (0, 1, 114, 60, 49, 80, 113):
        assert torch.equal(reader.read(number, number + 1)[0], frames[25 + number]), number
    assert len(reader.read(100, 999)) == 15


def test_times_are_told_to_a_millisecond(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", 40, size=SIZE, fps=30)  # its stamps are whole milliseconds: 0, 33, 67, 100
    for start, end, first, stop in ((0.3333333, 0.6666667, 10, 20), (0.333, 0.667, 10, 20), (1 / 30, 2 / 30, 1, 2)):
        frames, reader = list(VideoReader(path)), VideoReader(path, part=Part(start, end))
        assert len(reader.times) == stop - first, (start, end)
        assert torch.equal(next(iter(reader)), frames[first])


def written(path: Path, output: Path, part: Part) -> tuple[VideoReader, Path]:
    """The part of a video written anew, with all that belongs to it."""
    reader = VideoReader(path, part=part)
    times = reader.times
    segment = output.parent / f"segment-{output.name}"
    lossless = EncodeSettings(quality="lossless", preset="ultrafast")
    with SegmentWriter(segment, reader.info, lossless, output=output, source=reader) as writer:
        for frame in reader:
            writer.write(frame)
    assemble([segment], reader.info, output, times=times)
    return reader, output


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("vfr", [False, True])
def test_sound_texts_and_chapters_are_cut_to_the_part(tmp_path: Path, suffix: str, vfr: bool) -> None:
    source = make_video(
        tmp_path / f"in{suffix}",
        60,
        size=SIZE,
        vfr=vfr,
        audio_tracks=2,
        subtitles=1,
        chapters=True,
        data=suffix == ".mp4",
        attachment=b"font" * 50 if suffix == ".mkv" else None,
        metadata={"title": "A title"},
        options=LONG_GROUPS,
    )
    reader, output = written(source, tmp_path / f"out{suffix}", Part(0.5, 1.28))
    before, after = VideoReader(source), VideoReader(output)
    origin = reader.times.stamps[0]
    assert after.times.stamps[0] == 0
    assert [stamp * after.times.time_base for stamp in after.times.stamps] == [
        (stamp - origin) * reader.times.time_base for stamp in reader.times.stamps
    ]
    begin, end = float(origin * before.times.time_base), 1.28
    old, new = video_packets(source), video_packets(output)
    with av.open(str(source)) as first, av.open(str(output)) as second:
        assert second.metadata["title"] == "A title"
        assert second.start_time in (0, None)
        assert [s.type for s in first.streams] == [s.type for s in second.streams]
        kinds = [(s.index, s.type, float(s.time_base or 1), float(n.time_base or 1)) for s, n in
                 zip(first.streams, second.streams, strict=True)]  # fmt: skip
        told = [float(c["start"] * c["time_base"]) for c in first.chapters()]
        expected = [max(0.0, start - begin) for start in told if start < end]
        found = [float(c["start"] * c["time_base"]) for c in second.chapters()]
        assert found == pytest.approx(expected, abs=0.002)
    for index, kind, unit, new_unit in kinds:
        if kind == "audio":
            kept = [p for p in old[index] if begin - 1e-6 <= p[0] * unit < end]
            assert [p[3] for p in new[index]] == [p[3] for p in kept]
            for packet, was in zip(new[index], kept, strict=True):
                assert packet[0] >= 0
                assert abs(packet[0] * new_unit - (was[0] * unit - begin)) < 2 * max(unit, new_unit)
        if kind == "subtitle":
            said = [p for p in new[index] if len(p[3]) > 2]
            assert [p[3] for p in said] == [
                p[3] for p in old[index] if len(p[3]) > 2 and (p[0] + p[2]) * unit > begin + 0.002 and p[0] * unit < end
            ]
            assert said[0][0] >= 0
            assert (said[-1][0] + said[-1][2]) * new_unit <= end - begin + 0.003
    packets = new[next(index for index, kind, *_ in kinds if kind == "video")]
    assert all(one < other for one, other in pairwise(dts for _, dts, _, _ in packets))
    assert all(dts <= pts for pts, dts, _, _ in packets)


def test_a_last_frame_that_lasts_ends_with_the_part(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for picture, stamp in zip(moving_picture(4, *SIZE), (0, 40, 2000, 2040), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    times = VideoReader(path, part=Part(0.0, 1.0)).times
    assert times.stamps == (0, 40)
    assert 40 + times.duration <= 1000
    assert times.end is not None
    assert times.end <= 1000


def test_a_cover_picture_stays_with_every_part(tmp_path: Path) -> None:
    source = make_video(tmp_path / "plain.mp4", 40, size=SIZE, audio_tracks=1)
    cover = tmp_path / "cover.png"
    with av.open(str(cover), "w", format="image2") as image:
        stream = image.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb24"
        image.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        image.mux(stream.encode(None))
    with av.open(str(source)) as old, av.open(str(cover)) as image, av.open(str(tmp_path / "in.mp4"), "w") as new:
        copies = {s.index: new.add_stream_from_template(s, opaque=True) for s in old.streams}
        attached = new.add_stream_from_template(image.streams[0], opaque=True)
        attached.disposition = av.stream.Disposition.attached_pic
        for packet in image.demux(image.streams[0]):
            if packet.size:
                packet.stream = attached
                new.mux(packet)
        for packet in old.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                new.mux(packet)
    _, output = written(tmp_path / "in.mp4", tmp_path / "out.mp4", Part(0.8, 1.2))
    with av.open(str(output)) as container:
        pictures = [s for s in container.streams.video if s.disposition & av.stream.Disposition.attached_pic]
        assert len(pictures) == 1


def test_the_time_code_moves_with_the_part(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mov", 60, size=SIZE, metadata={"timecode": "01:00:00:20"})
    _, output = written(source, tmp_path / "out.mov", Part(0.4, 1.2))
    with av.open(str(output)) as container:
        assert {s.metadata.get("timecode") for s in container.streams} == {"01:00:01:05"}


@pytest.mark.parametrize(
    ("code", "frames", "rate", "later"),
    [
        ("00:00:59;28", 2, Fraction(30000, 1001), "00:01:00;02"),
        ("00:09:59;29", 1, Fraction(30000, 1001), "00:10:00;00"),
        ("00:00:59;58", 2, Fraction(60000, 1001), "00:01:00;04"),
        ("23:59:59:24", 1, Fraction(25), "00:00:00:00"),
        ("none", 5, Fraction(25), "none"),
    ],
)
def test_later_time_codes(code: str, frames: int, rate: Fraction, later: str) -> None:
    assert later_timecode(code, frames, rate) == later


def test_an_hour_of_dropped_numbers_is_an_hour() -> None:
    assert later_timecode("00:00:00;00", 107_892, Fraction(30000, 1001)) == "01:00:00;00"


def test_what_has_no_such_part_is_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 20, size=SIZE)
    for part in (Part(0.8), Part(5, 6), Part(0.41, 0.42)):
        with pytest.raises(MetadeblurError, match=r"no frame of it lies in the part from .*; it lasts 0\.800 s"):
            find_shots(VideoReader(path, part=part))
    folder = make_frames(tmp_path / "walk", 3)
    for other, what in ((folder, "a folder of frames"), (folder / "frame1.png", "a picture")):
        with pytest.raises(MetadeblurError, match=f"is {what}, which has no times"):
            VideoReader(other, part=Part(0, 1))
    with pytest.raises(MetadeblurError, match="end is 1; the end comes after the start"):
        Part(2.0, 1.0)
    assert len(VideoReader(path, part=Part(0.4, 99)).times) == 10  # a part may end behind the video

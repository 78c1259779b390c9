"""Video files in and out: what must be kept, packet by packet, and what must be refused."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from media import ROTATED_90, Colour, make_frames, make_video, moving_picture, video_packets
from torch import Tensor

from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.video import (
    EncodeSettings,
    SegmentWriter,
    TimeTable,
    VideoReader,
    assemble,
    check_output,
    probe,
    read_clip,
    write_clip,
)

LOSSLESS = EncodeSettings(quality="lossless", preset="ultrafast")
FAST = EncodeSettings(preset="ultrafast")


def through(source: Path, output: Path, settings: EncodeSettings = FAST, *, cuts: tuple[int, ...] = (3,)) -> Path:
    """The whole way without a network: read, encode the shots one by one, assemble."""
    reader = VideoReader(source)
    times, frames = reader.times, list(reader)
    edges = [0, *(cut for cut in cuts if cut < len(frames)), len(frames)]
    segments = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        segment = output.parent / f"segment-{number}-{output.name}"
        with SegmentWriter(segment, reader.info, settings, output=output) as writer:
            for frame in frames[start:stop]:
                writer.write(frame)
        segments.append(segment)
    assemble(segments, reader.info, output, times=times)
    return output


def seconds(path: Path) -> list[Fraction]:
    times = VideoReader(path).times
    return [stamp * times.time_base for stamp in times.stamps]


def error_of(one: Path, other: Path) -> float:
    """Largest difference between the frames of two files, in levels of 8 bits."""
    pairs = zip(VideoReader(one), VideoReader(other), strict=True)
    return max((first - second).abs().max().item() for first, second in pairs) * 255


# Kept: streams, time stamps, tags ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_everything_else_is_kept_packet_by_packet(tmp_path: Path, suffix: str) -> None:
    source = make_video(
        tmp_path / f"in{suffix}",
        9,
        vfr=True,
        audio_tracks=2,
        subtitles=2,
        chapters=True,
        data=suffix == ".mp4",
        attachment=b"font" * 50 if suffix == ".mkv" else None,
        metadata={"title": "A title", "comment": "said", "my.own.tag": "7"} if suffix != ".mov" else {"title": "T"},
    )
    output = through(source, tmp_path / f"out{suffix}")
    assert seconds(output) == seconds(source)
    with av.open(str(source)) as before, av.open(str(output)) as after:
        assert [s.type for s in before.streams] == [s.type for s in after.streams]
        for old, new in zip(before.streams, after.streams, strict=True):
            assert new.disposition == old.disposition
            assert new.metadata.get("language") == old.metadata.get("language")
            if old.type == "attachment":
                assert (new.name, new.mimetype, new.data) == (old.name, old.mimetype, old.data)
        for name in ("title", "comment", "my.own.tag"):
            assert after.metadata.get(name) == before.metadata.get(name)
        assert [c["metadata"] for c in after.chapters()] == [c["metadata"] for c in before.chapters()]
        assert [c["start"] * c["time_base"] for c in after.chapters()] == [
            c["start"] * c["time_base"] for c in before.chapters()
        ]
        bases = [(old.time_base, new.time_base) for old, new in zip(before.streams, after.streams, strict=True)]
        kinds = [s.type for s in before.streams]
    old_packets, new_packets = video_packets(source), video_packets(output)
    assert kinds.count("audio") == 2
    assert kinds.count("subtitle") == 2
    for index, kind in enumerate(kinds):
        if kind == "video":
            assert len(old_packets[index]) == len(new_packets[index]) == 9
            continue
        old_base, new_base = bases[index]
        assert len(old_packets[index]) == len(new_packets[index])
        for old, new in zip(old_packets[index], new_packets[index], strict=True):
            assert old[3] == new[3]
            assert [None if v is None else v * old_base for v in old[:3]] == [
                None if v is None else v * new_base for v in new[:3]
            ]


def test_decoding_times_rise_and_never_pass_the_time_of_showing(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 24, vfr=True, size=(32, 48))
    output = through(source, tmp_path / "out.mp4", EncodeSettings(preset="medium"), cuts=(1, 9, 10))
    packets = video_packets(output)[0]
    decoding = [dts for _, dts, _, _ in packets]
    assert all(a < b for a, b in pairwise(decoding))
    assert all(dts <= pts for pts, dts, _, _ in packets)
    assert [pts for pts, _, _, _ in packets] != decoding  # there are frames out of order, so the test means something
    assert seconds(output) == seconds(source)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("cuts", [(), (5,), (1, 2, 7)])
def test_frames_come_back_in_order_however_they_were_cut(tmp_path: Path, suffix: str, cuts: tuple[int, ...]) -> None:
    source = make_video(tmp_path / f"in{suffix}", 10, size=(48, 64))
    output = through(source, tmp_path / f"out{suffix}", EncodeSettings(quality="lossless", preset="medium"), cuts=cuts)
    assert error_of(source, output) < 0.51
    # Every segment can be reached alone: seeking gives the same frames as reading from the start.
    in_order = list(VideoReader(output))
    for start in range(10):
        assert torch.equal(VideoReader(output).read(start, start + 1)[0], in_order[start])


@pytest.mark.parametrize(
    ("source", "target"), [(".mkv", ".mp4"), (".mp4", ".mkv"), (".mp4", ".mov"), (".avi", ".mp4"), (".mp4", ".avi")]
)
def test_from_one_container_to_another(tmp_path: Path, source: str, target: str) -> None:
    given = make_video(tmp_path / f"in{source}", 8, audio_tracks=0 if ".avi" in (source, target) else 1)
    output = through(given, tmp_path / f"out{target}", EncodeSettings())
    assert seconds(output) == seconds(given)
    assert [p[3] for p in video_packets(given).get(1, [])] == [p[3] for p in video_packets(output).get(1, [])]


def test_a_late_start_is_kept(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 6, audio_tracks=1, first_pts=33)
    assert seconds(source)[0] > 0
    assert seconds(through(source, tmp_path / "out.mp4")) == seconds(source)


def test_the_clock_of_a_transport_stream_begins_at_zero(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.ts", 8, audio_tracks=1, first_pts=1000)
    output = through(source, tmp_path / "out.mp4")
    before, after = seconds(source), seconds(output)
    assert [t - before[0] for t in before] == [t - after[0] for t in after]
    assert before[0] > 4
    with av.open(str(source)) as old, av.open(str(output)) as new:
        gaps = []
        for container in (old, new):
            starts = [s.start_time * s.time_base for s in container.streams]
            gaps.append(starts[1] - starts[0])
        assert abs(gaps[0] - gaps[1]) < Fraction(1, 1000)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_rotation_is_kept_and_not_applied(tmp_path: Path, suffix: str) -> None:
    source = make_video(tmp_path / f"in{suffix}", 4, matrix=ROTATED_90, size=(64, 96))
    output = through(source, tmp_path / f"out{suffix}", LOSSLESS)
    info = probe(output)
    assert (info.rotation, info.width, info.height) == (probe(source).rotation, 96, 64)
    assert info.rotation == -90
    assert error_of(source, output) < 0.51
    with pytest.raises(MetadeblurError, match="rotation"):
        check_output(source, tmp_path / "out.avi")


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "h264"), (".mkv", "h264"), (".mp4", "h265"), (".mkv", "h265")])
def test_sample_aspect_ratio_is_kept(tmp_path: Path, suffix: str, codec: str) -> None:
    source = make_video(tmp_path / f"in{suffix}", 3, aspect=Fraction(16, 11))
    settings = EncodeSettings(codec=codec, preset="ultrafast")  # type: ignore[arg-type]
    assert probe(through(source, tmp_path / f"out{suffix}", settings)).sample_aspect_ratio == Fraction(16, 11)


def test_a_lost_aspect_ratio_is_told(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 3, aspect=Fraction(16, 11))
    notes = check_output(source, tmp_path / "out.webm")
    assert len(notes) == 1
    assert "16/11" in notes[0]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    "tags", [Colour(1, 1, 1, 1), Colour(5, 1, 5, 6), Colour(1, 2, 1, 1), Colour(9, 1, 9, 16), Colour()]
)
def test_colour_tags_and_colours_are_kept(tmp_path: Path, suffix: str, tags: Colour) -> None:
    source = make_video(tmp_path / f"in{suffix}", 3, colour=tags)
    output = through(source, tmp_path / f"out{suffix}", LOSSLESS)
    assert probe(output).colour == probe(source).colour
    assert error_of(source, output) < 0.51
    assert probe(source).colour.matrix == tags.matrix


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"])
def test_lossless_gives_the_samples_back(tmp_path: Path, pix_fmt: str) -> None:
    source = make_video(tmp_path / "in.mkv", 3, pix_fmt=pix_fmt, codec="ffv1")
    output = through(source, tmp_path / "out.mkv", LOSSLESS)
    for before, after in zip(raw_planes(source), raw_planes(output), strict=True):
        for one, other in zip(before, after, strict=False):  # gray gets neutral chroma
            assert np.array_equal(one, other)


def raw_planes(path: Path) -> Iterator[list[np.ndarray]]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
            yield [np.frombuffer(memoryview(p), kind).reshape(p.height, -1)[:, : p.width].copy() for p in frame.planes]


@pytest.mark.parametrize("codec", ["h264", "h265", "ffv1", "vp9"])
def test_lossless_rgb(tmp_path: Path, codec: str) -> None:
    source = make_video(tmp_path / "in.mkv", 3, pix_fmt="bgr0", codec="ffv1")
    settings = EncodeSettings(codec=codec, quality="lossless")  # type: ignore[arg-type]
    assert error_of(source, through(source, tmp_path / "out.mkv", settings)) == 0


@pytest.mark.parametrize(("suffix", "tags"), [(".mkv", Colour()), (".mp4", Colour(9, 1, 9, 16))])
def test_ten_bits_stay_ten_bits(tmp_path: Path, suffix: str, tags: Colour) -> None:
    source = make_video(tmp_path / f"in{suffix}", 4, codec="libx265", pix_fmt="yuv420p10le", colour=tags)
    output = through(source, tmp_path / f"out{suffix}", LOSSLESS)
    info = probe(output)
    assert (info.codec, info.pix_fmt, info.bit_depth) == ("hevc", "yuv420p10le", 10)
    assert error_of(source, output) < 0.13  # half a step of ten bits


def test_eight_bits_become_h264_visually_lossless(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 6, size=(96, 128))
    output = through(source, tmp_path / "out.mp4", EncodeSettings())
    assert probe(output).codec == "h264"
    errors = [(a - b).square().mean().item() for a, b in zip(VideoReader(source), VideoReader(output), strict=True)]
    assert -10 * np.log10(np.mean(errors)) > 40


@pytest.mark.parametrize("codec", ["h264", "h265", "ffv1", "vp9"])
@pytest.mark.parametrize("size", [(63, 95), (64, 95), (63, 96)])
def test_odd_sizes(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    source = make_video(tmp_path / "in.mkv", 3, size=size, codec="ffv1")
    settings = EncodeSettings(codec=codec, quality="lossless")  # type: ignore[arg-type]
    output = through(source, tmp_path / "out.mkv", settings)
    info = probe(output)
    assert (info.height, info.width) == size
    assert error_of(source, output) < 1.6  # chroma of 4:2:0 is enlarged on the way where the encoder needs even sizes


@pytest.mark.parametrize(("bits", "codec"), [(8, "vp9"), (10, "av1")])
def test_webm(tmp_path: Path, bits: int, codec: str) -> None:
    pix_fmt = "yuv420p" if bits == 8 else "yuv420p10le"
    source = make_video(tmp_path / "in.mkv", 4, codec="ffv1", pix_fmt=pix_fmt, size=(64, 96))
    output = through(source, tmp_path / "out.webm", EncodeSettings())
    assert (probe(output).codec, probe(output).bit_depth) == (codec, bits)
    assert seconds(output) == seconds(source)


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="scheduling is asked for on Linux only")
def test_av1_leaves_the_process_its_usual_scheduling(tmp_path: Path) -> None:
    before = os.sched_getscheduler(0)
    clip = Clip(torch.zeros(2, 3, 64, 64))
    write_clip(clip, tmp_path / "a.mkv", settings=EncodeSettings(codec="av1"))
    assert os.sched_getscheduler(0) == before


def test_a_cover_picture_stays(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 3)
    cover = cv2.imencode(".jpg", moving_picture(1, 16, 16)[0])[1].tobytes()
    with_cover = tmp_path / "cover.mkv"
    with av.open(str(source)) as old, av.open(str(with_cover), "w") as new:
        copy = new.add_stream_from_template(old.streams[0], opaque=True)
        new.add_attachment("cover.jpg", "image/jpeg", cover)
        for packet in old.demux(old.streams[0]):
            if packet.size:
                packet.stream = copy
                new.mux(packet)
    info = probe(with_cover)
    assert (info.width, info.other_streams) == (96, 1)
    output = through(with_cover, tmp_path / "out.mkv")
    assert [p[3] for p in video_packets(output)[1]] == [cover]


def test_a_cover_picture_stays_in_mp4(tmp_path: Path) -> None:
    cover = cv2.imencode(".jpg", moving_picture(1, 16, 16)[0])[1].tobytes()
    source = tmp_path / "cover.mp4"
    with av.open(str(make_video(tmp_path / "in.mp4", 3))) as old, av.open(str(source), "w") as new:
        copy = new.add_stream_from_template(old.streams[0], opaque=True)
        picture = new.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 16, 16, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        new.start_encoding()
        packet = av.Packet(cover)
        packet.stream, packet.time_base, packet.is_keyframe = picture, Fraction(1, 90000), True
        packet.pts = packet.dts = 0
        new.mux(packet)
        for packet in old.demux(old.streams[0]):
            if packet.size:
                packet.stream = copy
                new.mux(packet)
    output = through(source, tmp_path / "out.mp4")
    assert [p[3] for p in video_packets(output)[1]] == [p[3] for p in video_packets(source)[1]] == [cover]


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("vfr", [False, True])
def test_the_time_code_is_kept(tmp_path: Path, suffix: str, vfr: bool) -> None:
    source = make_video(tmp_path / f"in{suffix}", 5, vfr=vfr, metadata={"timecode": "01:02:03:04"})
    output = through(source, tmp_path / f"out{suffix}")
    for path in (source, output):
        with av.open(str(path)) as container:
            assert [s.metadata.get("timecode") for s in container.streams] == ["01:02:03:04"] * 2
    assert seconds(output) == seconds(source)


def test_measurements_in_a_form_of_their_own_are_kept_or_told(tmp_path: Path) -> None:
    known = make_video(tmp_path / "known.mp4", 5, data=True).read_bytes()
    source = tmp_path / "in.mov"
    source.write_bytes(known.replace(b"gpmd", b"mebx"))
    assert check_output(source, tmp_path / "out.mov") == ()
    output = through(source, tmp_path / "out.mov")
    assert [p[3] for p in video_packets(output)[1]] == [p[3] for p in video_packets(source)[1]]
    (note,) = check_output(source, tmp_path / "out.mp4")
    assert "stream 1 (data)" in note
    assert ".mov would keep it" in note


def test_preview_ends_everything_early(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 40, audio_tracks=1, subtitles=1, chapters=True)
    reader = VideoReader(source)
    times = reader.times.first(10)
    with SegmentWriter(tmp_path / "part", reader.info, FAST) as writer:
        for frame in reader.read(0, 10):
            writer.write(frame)
    assemble([tmp_path / "part"], reader.info, tmp_path / "out.mkv", times=times)
    packets = video_packets(tmp_path / "out.mkv")
    assert len(packets[0]) == 10
    assert 15 < len(packets[1]) < 25
    assert len(packets[2]) == 4
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert len(container.chapters()) == 1


def test_side_by_side_is_twice_as_wide_and_keeps_its_colours(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 3, size=(64, 700), audio_tracks=1)  # untold BT.601, which 1400 px are not
    reader = VideoReader(source)
    output = tmp_path / "out.mkv"
    with SegmentWriter(tmp_path / "part", reader.info, LOSSLESS, output=output) as writer:
        for frame in reader:
            writer.write(torch.cat([frame, frame], dim=2))
    assemble([tmp_path / "part"], reader.info, output, times=reader.times)
    for before, after in zip(reader, VideoReader(output), strict=True):
        assert (after[:, :, :690] - before[:, :, :690]).abs().max() < 0.004


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 6, audio_tracks=1)
    for codec in ("h264", "h265", "vp9", "ffv1"):
        settings = EncodeSettings(codec=codec)  # type: ignore[arg-type]
        one = through(source, tmp_path / f"one-{codec}.mkv", settings)
        other = through(source, tmp_path / f"other-{codec}.mkv", settings)
        assert one.read_bytes() == other.read_bytes()


# Folders of frames and pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "bits"), [(".png", 8), (".png", 16), (".tif", 8), (".tiff", 16), (".bmp", 8)])
def test_frame_folders_come_back_exactly(tmp_path: Path, suffix: str, bits: int) -> None:
    source = make_frames(tmp_path / "in", 11, suffix=suffix, bits=bits)
    info = probe(source)
    assert (info.kind, info.frames, info.bit_depth) == ("frames", 11, bits)
    output = through(source, tmp_path / "out")
    assert sorted(f.name for f in output.iterdir()) == sorted(f.name for f in source.iterdir())
    for file in source.iterdir():
        before, after = (cv2.imread(str(f / file.name), cv2.IMREAD_UNCHANGED) for f in (source, output))
        assert before.dtype == (np.uint8 if bits == 8 else np.uint16)
        assert np.array_equal(before, after)


def test_jpeg_folders_and_the_order_of_numbers(tmp_path: Path) -> None:
    pictures = np.stack([np.full((16, 24, 3), 20 * index, np.uint8) for index in range(12)])
    source = make_frames(tmp_path / "in", pictures, suffix=".jpg")
    assert [round(frame.mean().item() * 255 / 20) for frame in VideoReader(source)] == list(range(12))
    output = through(source, tmp_path / "out")
    assert (output / "frame10.jpg").exists()
    assert error_of(source, output) < 3


def test_folder_to_video_and_back(tmp_path: Path) -> None:
    source = make_frames(tmp_path / "in", 5)
    video = through(source, tmp_path / "out.mp4", LOSSLESS)
    info = VideoReader(video).times
    assert (len(info), info.rate, info.variable) == (5, 30, False)
    folder = through(video, tmp_path / "frames")
    assert [f.name for f in sorted(folder.iterdir())] == [f"frame{n:06d}.png" for n in range(1, 6)]
    assert error_of(source, folder) < 3


def test_single_pictures(tmp_path: Path) -> None:
    folder = make_frames(tmp_path / "in", 1, bits=16)
    source = folder / "frame1.png"
    assert (probe(source).kind, len(read_clip(source))) == ("image", 1)
    check_output(source, tmp_path / "out.png")
    output = through(source, tmp_path / "out.png")
    assert np.array_equal(*(cv2.imread(str(f), cv2.IMREAD_UNCHANGED) for f in (source, output)))
    write_clip(read_clip(source), tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == output.read_bytes()


def test_a_turned_photograph_is_read_upright(tmp_path: Path) -> None:
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :8] = 255  # bright on the left; the tag says the camera was held on its side
    plain = cv2.imencode(".jpg", picture)[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = tmp_path / "photo.jpg"
    turned.write_bytes(plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:])
    frame = read_clip(turned)[0]
    assert tuple(frame.shape) == (3, 32, 16)
    assert frame[:, :6].mean() > 0.9  # a quarter turn clockwise brings the left side to the top


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    source = make_frames(tmp_path / "in", 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(MetadeblurError, match=r"thesis\.txt"):
        check_output(source, tmp_path / "out")
    with pytest.raises(MetadeblurError, match=r"thesis\.txt"):
        through(source, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"
    shutil.rmtree(tmp_path / "out")
    through(source, tmp_path / "out")
    through(source, tmp_path / "out")  # its own frames of an earlier run are replaced


# write_clip ---------------------------------------------------------------------------------------------------------


def test_write_clip_makes_a_playable_file(tmp_path: Path) -> None:
    frames = torch.from_numpy(moving_picture(6, 64, 96)).permute(0, 3, 1, 2)
    write_clip(Clip(frames, fps=Fraction(30000, 1001)), tmp_path / "out.mp4")
    reader = VideoReader(tmp_path / "out.mp4")
    assert (len(reader.times), reader.info.fps, reader.info.codec) == (6, Fraction(30000, 1001), "h264")
    assert (reader.info.colour.matrix, reader.info.colour.range) == (1, 1)
    assert [f.name for f in tmp_path.iterdir()] == ["out.mp4"]
    back = read_clip(tmp_path / "out.mp4")
    assert (back.frames - frames / 255).abs().mean() < 2 / 255


def test_write_clip_like_another_takes_its_sound_and_time_stamps(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 7, vfr=True, audio_tracks=2, subtitles=1)
    clip = read_clip(source).in_memory()
    write_clip(clip, tmp_path / "out.mkv", like=source)
    assert seconds(tmp_path / "out.mkv") == seconds(source)
    old, new = video_packets(source), video_packets(tmp_path / "out.mkv")
    assert [old[index] for index in (1, 2, 3)] == [new[index] for index in (1, 2, 3)]
    with pytest.raises(MetadeblurError, match="7 frames, the clip 5"):
        write_clip(clip.part(0, 5), tmp_path / "short.mkv", like=source)


def test_write_clip_of_deep_frames(tmp_path: Path) -> None:
    clip = Clip(torch.rand(3, 3, 32, 48), bit_depth=10)
    write_clip(clip, tmp_path / "out.mkv")
    assert probe(tmp_path / "out.mkv").bit_depth == 10
    write_clip(clip, tmp_path / "out")
    assert probe(tmp_path / "out").bit_depth == 16


# Refused ------------------------------------------------------------------------------------------------------------


def test_output_equal_to_input_is_refused(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 3)
    (tmp_path / "link.mp4").symlink_to(source)
    os.link(source, tmp_path / "hard.mp4")
    for output in (source, tmp_path / "link.mp4", tmp_path / "hard.mp4", tmp_path / "." / "in.mp4"):
        with pytest.raises(MetadeblurError, match="same file"):
            check_output(source, output)
    folder = make_frames(tmp_path / "frames", 3)
    for output in (folder, folder / "out"):
        with pytest.raises(MetadeblurError):
            check_output(folder, output)


@pytest.mark.parametrize(
    ("output", "settings", "text"),
    [
        ("out.xyz", EncodeSettings(), "cannot write .xyz"),
        ("missing/out.mp4", EncodeSettings(), "not there"),
        ("out.mp4", EncodeSettings(codec="ffv1"), "cannot hold ffv1"),
        ("out.mp4", EncodeSettings(quality=60), "too large"),
        ("out.png", EncodeSettings(), "cannot hold 3 frames"),
        ("out.mp4", EncodeSettings(preset="sloppy"), "preset"),
    ],
)
def test_impossible_outputs_are_refused_before_the_work(
    tmp_path: Path, output: str, settings: EncodeSettings, text: str
) -> None:
    source = make_video(tmp_path / "in.mkv", 3)
    with pytest.raises(MetadeblurError, match=text):
        check_output(source, tmp_path / output, settings)


@pytest.mark.parametrize(("codec", "quality"), [("h266", None), ("h264", "best"), ("h264", -3)])
def test_wrong_settings(codec: str, quality: int | str | None) -> None:
    with pytest.raises(MetadeblurError):
        EncodeSettings(codec=codec, quality=quality)  # type: ignore[arg-type]


def test_a_stream_the_container_cannot_hold_is_named(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 3, subtitles=1)
    with pytest.raises(MetadeblurError, match=r"stream 1 \(subtitle, subrip\).*\.mkv"):
        check_output(source, tmp_path / "out.mp4")
    with pytest.raises(MetadeblurError, match=re.escape(str(tmp_path / "out.mp4"))):
        check_output(source, tmp_path / "out.mp4")
    source = make_video(tmp_path / "in.mp4", 3, subtitles=1)
    with pytest.raises(MetadeblurError, match=r"stream 1 \(subtitle, mov_text\).*\.mp4"):
        check_output(source, tmp_path / "out.mkv")


def test_segments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 4)
    reader = VideoReader(source)
    frames = list(reader)
    for name, part, settings in (("a", frames[:2], FAST), ("b", frames[2:], EncodeSettings(preset="slow"))):
        with SegmentWriter(tmp_path / name, reader.info, settings) as writer:
            for frame in part:
                writer.write(frame)
    with pytest.raises(MetadeblurError, match="2 frames and the source 4"):
        assemble([tmp_path / "a"], reader.info, tmp_path / "out.mkv", times=reader.times)
    with pytest.raises(MetadeblurError, match="different settings"):
        assemble([tmp_path / "a", tmp_path / "b"], reader.info, tmp_path / "out.mkv", times=reader.times)


def test_frames_of_another_size_in_a_segment(tmp_path: Path) -> None:
    info = probe(make_video(tmp_path / "in.mkv", 3))
    writer = SegmentWriter(tmp_path / "part", info)
    writer.write(torch.zeros(3, 64, 96))
    with pytest.raises(MetadeblurError, match="the first was"):
        writer.write(torch.zeros(3, 64, 64))
    assert [f.name for f in tmp_path.iterdir()] == ["in.mkv"]


# Nothing half-written ---------------------------------------------------------------------------------------------


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: the system refuses to write as it does when a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm", ""])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    frames = torch.randint(0, 256, (6, 3, 96, 128), dtype=torch.uint8)
    output = tmp_path / f"out{suffix}"
    with disk_of(20_000), pytest.raises(MetadeblurError, match=f"^{re.escape(str(output))}: the disk is full"):
        write_clip(Clip(frames), output, settings=EncodeSettings(quality=1))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_while_assembling(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 8, audio_tracks=2, size=(96, 128))
    reader = VideoReader(source)
    with SegmentWriter(tmp_path / "part", reader.info, FAST) as writer:
        for frame in reader:
            writer.write(frame)
    output = tmp_path / "out.mkv"
    output.write_bytes(b"an earlier result")
    with disk_of((tmp_path / "part").stat().st_size), pytest.raises(MetadeblurError, match="disk is full"):
        assemble([tmp_path / "part"], reader.info, output, times=reader.times)
    assert output.read_bytes() == b"an earlier result"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["in.mkv", "out.mkv", "part"]


class Interrupted(Clip):
    """A clip during which the user presses Ctrl-C."""

    def __getitem__(self, index: int) -> Tensor:
        if index == 3:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ""])
def test_ctrl_c_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    clip = Interrupted(torch.zeros(6, 3, 32, 48))
    with pytest.raises(KeyboardInterrupt):
        write_clip(clip, tmp_path / f"out{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    source = make_video(tmp_path / "in.mkv", 3)
    locked.chmod(0o500)
    try:
        if os.access(locked, os.W_OK):
            locked = Path("/proc/1")  # the administrator may write everywhere but there
        with pytest.raises(MetadeblurError, match=r"permission|not there"):
            check_output(source, locked / "out.mkv")
        with pytest.raises(MetadeblurError, match=r"permission|not there"):
            write_clip(read_clip(source), locked / "out.mkv")
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_a_table_cut_short_knows_its_end() -> None:
    table = TimeTable((0, 10, 25, 30), Fraction(1, 100), 10)
    short = table.first(2)
    assert (short.stamps, short.duration, short.end) == ((0, 10), 15, 25)
    assert table.first(9) is table


def test_narrow_frames_do_not_crash_the_h265_encoder(tmp_path: Path) -> None:
    clip = Clip(torch.randint(0, 256, (40, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    for _ in range(3):
        write_clip(clip, tmp_path / "out.mkv", settings=EncodeSettings(codec="h265", preset="ultrafast"))
    assert probe(tmp_path / "out.mkv").width == 48


def test_a_missing_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_video(tmp_path / "in.mkv", 3)

    def lacking(*what: str) -> None:
        raise av.codec.codec.UnknownCodecError(what[0])

    monkeypatch.setattr(av, "Codec", lacking)
    with pytest.raises(MetadeblurError, match="no encoder libx264"):
        check_output(source, tmp_path / "out.mkv")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_hdr10_keeps_what_it_tells_of_its_screen(tmp_path: Path, suffix: str) -> None:
    told = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"
    options = {"x265-params": f"log-level=none:{told}", "preset": "ultrafast"}
    colour = Colour(9, 1, 9, 16)
    source = make_video(
        tmp_path / f"in{suffix}", 6, codec="libx265", pix_fmt="yuv420p10le", options=options, colour=colour
    )
    output = through(source, tmp_path / f"out{suffix}")
    before, after = probe(source), probe(output)
    assert before.mastering.x265() == f":{told}"
    assert (after.mastering, after.colour, after.bit_depth) == (before.mastering, before.colour, 10)
    notes = check_output(source, tmp_path / "out.mkv", EncodeSettings("ffv1"))
    assert any("mastered" in note for note in notes)
    assert probe(make_video(tmp_path / "plain.mkv", 2)).mastering.x265() == ""


@pytest.mark.slow
def test_the_encoders_do_not_depend_on_what_was_in_memory_before(tmp_path: Path) -> None:
    """Each process finds its memory filled with another byte: an encoder that reads what it never wrote differs."""
    program = (
        "import hashlib, sys, torch; from pathlib import Path; from media import moving_picture\n"
        "from metadeblur.clip import Clip; from metadeblur.video import EncodeSettings, write_clip\n"
        "for codec, frames in (('h264', (8, 180, 320)), ('h264', (12, 66, 98)), ('h265', (8, 180, 320))):\n"
        "    output = Path(sys.argv[1], codec + '.mkv')\n"
        "    clip = Clip(torch.from_numpy(moving_picture(*frames, seed=3)).permute(0, 3, 1, 2))\n"
        "    write_clip(clip, output, settings=EncodeSettings(codec))\n"
        "    print(hashlib.sha256(output.read_bytes()).hexdigest())\n"
    )
    found = []
    for fill in ("8", "104", "170"):
        environment = os.environ | {"MALLOC_PERTURB_": fill, "PYTHONPATH": str(Path(__file__).parents[1] / "helpers")}
        command = [sys.executable, "-c", program, str(tmp_path)]
        found.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found[0].split()) == 3
    assert found[0] == found[1] == found[2]

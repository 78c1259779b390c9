"""Reading: probing, faults, seeking, interlaced video, lazy clips."""

from __future__ import annotations

import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from cases import case
from media import make_frames, make_video, moving_picture

from metadeblur.errors import MetadeblurError
from metadeblur.video import VideoReader, probe, read_clip

INTERLACED = {"x264-params": "tff=1", "crf": "4", "preset": "ultrafast"}


def interlaced_frames(count: int) -> np.ndarray:
    """What a camera with fields sees: odd rows half a frame later than even ones."""
    fields = moving_picture(2 * count, 64, 96, step=3)
    woven = fields[::2].copy()
    woven[:, 1::2] = fields[1::2, 1::2]
    return woven


def combing(frame: torch.Tensor) -> float:
    """How much rows differ from their neighbours more than from the rows next to those."""
    near = (frame[:, 1:-1] - (frame[:, :-2] + frame[:, 2:]) / 2).abs().mean()
    far = (frame[:, 2:] - frame[:, :-2]).abs().mean()
    return (near / far).item()


def test_probe_tells_what_is_in_the_file(tmp_path: Path) -> None:
    info = probe(make_video(tmp_path / "a.mkv", 8, size=(48, 80), fps=24, audio_tracks=2, subtitles=1, attachment=b"x"))
    assert (info.kind, info.width, info.height, info.fps) == ("video", 80, 48, 24)
    assert (info.audio_streams, info.subtitle_streams, info.other_streams) == (2, 1, 1)
    assert (info.codec, info.pix_fmt, info.bit_depth, info.interlaced) == ("h264", "yuv420p", 8, False)
    record = info.to_record()
    assert record["fps"] == "24"
    assert record["path"].endswith("a.mkv")


def test_frames_are_counted_by_decoding_and_variable_rate_is_seen(tmp_path: Path) -> None:
    for vfr in (False, True):
        reader = VideoReader(make_video(tmp_path / "a.mkv", 9, vfr=vfr, fps=30))
        assert len(reader.times) == len(list(reader)) == 9
        assert reader.info.frames == 9
        assert reader.info.variable_frame_rate is vfr


CODED = (
    ("a.mp4", "libx264", {"preset": "medium", "g": "12"}),
    ("a.mkv", "libx264", {"preset": "medium", "g": "10", "x264-params": "open-gop=1"}),
    ("a.ts", "libx264", {"preset": "medium", "g": "15"}),
    ("a.mp4", "libx265", {"preset": "ultrafast", "bf": "3", "g": "12"}),
    ("a.webm", "libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    ("a.avi", "mpeg4", {"g": "9"}),
    ("a.mkv", "ffv1", {}),
    ("a.mp4", "libx264", {"preset": "medium", "g": "12", "x264-params": "tff=1"}),
    ("a.mkv", "libx264", {"preset": "medium", "g": "10", "x264-params": "open-gop=1:tff=1"}),
)


@pytest.mark.parametrize(("name", "codec", "options"), CODED)
def test_any_frame_is_the_one_that_reading_in_order_gives(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    interlaced = "tff=1" in options.get("x264-params", "")
    frames = 130
    path = make_video(tmp_path / name, frames, size=(32, 64), codec=codec, options=options, vfr=name == "a.mkv")
    in_order = list(VideoReader(path))
    reader = VideoReader(path)
    assert reader.info.interlaced is interlaced
    wanted = [0, 129, 128, 60, 61, 72, 71, 100, 49, 50, 96]
    for index in wanted:
        assert torch.equal(reader.read(index, index + 1)[0], in_order[index]), index
    assert len(reader.read(120, 500)) == 10
    clip = read_clip(path)
    order = list(range(frames))
    random.Random(0).shuffle(order)
    for index in order[:20]:
        assert torch.equal(clip.window(index, 5)[2], in_order[index])


def test_lazy_clips_decode_neighbours_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = read_clip(make_video(tmp_path / "a.mp4", 20, size=(32, 48)))
    decoded = []
    original = VideoReader.decoded

    def counted(self: VideoReader, start: int = 0, **more: object) -> object:
        decoded.append(start)
        return original(self, start, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoReader, "decoded", counted)
    for index in range(20):
        clip.window(index, 5)
    assert decoded == []  # the clip looked at its first frame when it was made; that pass went on


def test_read_clip_of_a_part(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 10, fps=Fraction(30000, 1001))
    whole = read_clip(path)
    part = read_clip(path, 4, 9)
    assert (len(whole), len(part), part.fps, part.name, part.bit_depth) == (10, 5, Fraction(30000, 1001), "a", 8)
    assert torch.equal(part[0], whole[4])
    assert torch.equal(part[-1], whole[8])
    for start, stop in ((5, 5), (-1, 3), (20, 30)):
        with pytest.raises(MetadeblurError, match="no frames from"):
            read_clip(path, start, stop)


def test_interlaced_video_is_recognised_and_deinterlaced_frame_for_frame(tmp_path: Path) -> None:
    woven = interlaced_frames(8)
    path = make_video(tmp_path / "a.mkv", woven, options=INTERLACED, vfr=True)
    reader = VideoReader(path)
    assert reader.info.interlaced
    frames = list(reader)
    assert len(frames) == len(reader.times) == 8
    with av.open(str(path)) as container:
        assert [f.pts for f in container.decode(video=0)] == list(reader.times.stamps)
    before = [combing(torch.from_numpy(picture).permute(2, 0, 1).float()) for picture in woven]
    after = [combing(frame) for frame in frames]
    assert np.mean(after) < 0.6 * np.mean(before)


def test_folders_are_read_in_natural_order(tmp_path: Path) -> None:
    pictures = np.stack([np.full((16, 24, 3), 20 * index, np.uint8) for index in range(11)])
    folder = make_frames(tmp_path / "in", pictures)
    (folder / ".hidden.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("nor this")
    clip = read_clip(folder)
    assert (clip.name, clip.fps, len(clip)) == ("in", 30, 11)
    assert [round(frame.mean().item() * 255 / 20) for frame in clip] == list(range(11))


def test_sixteen_bits_are_read_as_such(tmp_path: Path) -> None:
    clip = read_clip(make_frames(tmp_path / "in", 2, bits=16))
    assert clip.bit_depth == 16
    levels = (clip[0] * 65535).round()
    assert torch.equal(levels / 65535, clip[0])
    assert (levels % 257 != 0).any()


# Faults -----------------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MetadeblurError, match="no such file"):
        probe(tmp_path / "missing.mp4")


def test_folder_without_frames(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("no pictures")
    with pytest.raises(MetadeblurError, match="no frames in this folder"):
        probe(tmp_path / "in")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.txt", "a.avi", "a.png", "a.tif"])
@pytest.mark.parametrize("content", [b"this is a text\n" * 100, b""])
def test_text_by_any_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MetadeblurError) as caught:
        probe(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_sound_without_a_picture(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 8, audio_tracks=1)
    with av.open(str(source)) as old, av.open(str(tmp_path / "sound.mp4"), "w") as new:
        copy = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(old.streams.audio[0]):
            if packet.pts is not None:
                packet.stream = copy
                new.mux(packet)
    with pytest.raises(MetadeblurError, match="no video in it"):
        probe(tmp_path / "sound.mp4")


@pytest.mark.parametrize("faststart", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_mp4(tmp_path: Path, share: float, faststart: bool) -> None:
    """Cut off in the middle, with the table of packets at the end of the file (gone) or at its beginning (a lie)."""
    source = make_video(tmp_path / "in.mp4", 20, audio_tracks=1, size=(96, 128))
    if faststart:
        with (
            av.open(str(source)) as old,
            av.open(str(tmp_path / "fast.mp4"), "w", container_options={"movflags": "faststart"}) as new,
        ):
            copies = [new.add_stream_from_template(stream, opaque=True) for stream in old.streams]
            for packet in old.demux():
                if packet.pts is not None:
                    packet.stream = copies[packet.stream_index]
                    new.mux(packet)
        source = tmp_path / "fast.mp4"
    data = source.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MetadeblurError, match=r"cut\.mp4"):
        probe(tmp_path / "cut.mp4")


def test_damage_in_the_middle_is_survived_and_counted_the_same_each_time(tmp_path: Path) -> None:
    data = bytearray(make_video(tmp_path / "in.mkv", 30).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 900] = bytes(900)
    (tmp_path / "bad.mkv").write_bytes(bytes(data))
    reader = VideoReader(tmp_path / "bad.mkv")
    assert 10 < len(reader.times) <= 30
    assert len(list(reader)) == len(reader.times)


def test_frames_of_different_sizes_are_named(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg", ".tif"):
        folder = make_frames(tmp_path / suffix, 4, suffix=suffix)
        other = make_frames(tmp_path / f"other{suffix}", 1, size=(64, 90), suffix=suffix)
        (other / f"frame1{suffix}").rename(folder / f"frame3{suffix}")
        with pytest.raises(MetadeblurError, match=rf"frame1\{suffix} is 96x64, frame3\{suffix} is 90x64"):
            probe(folder)


def test_a_damaged_picture_among_good_ones(tmp_path: Path) -> None:
    folder = make_frames(tmp_path / "in", 3)
    broken = folder / "frame2.png"
    broken.write_bytes(broken.read_bytes()[:40] + b"rubbish")
    with pytest.raises(MetadeblurError, match=r"frame2\.png"):
        list(VideoReader(folder))


def test_one_frame(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.webm"):
        path = make_video(tmp_path / name, 1, codec="libvpx-vp9" if name == "a.webm" else "libx264")
        reader = VideoReader(path)
        assert (len(reader.times), len(list(reader)), reader.info.variable_frame_rate) == (1, 1, False)
        assert reader.times.duration > 0
        assert len(read_clip(path)) == 1


def test_the_picture_changes_size_in_the_middle(tmp_path: Path) -> None:
    parts = [make_video(tmp_path / f"{n}.ts", 6, size=size) for n, size in enumerate(((64, 96), (48, 64)))]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(MetadeblurError, match="changes from 96x64 to 64x48"):
        list(VideoReader(tmp_path / "a.ts"))


PROBED = "import sys; from metadeblur.video import probe; print({probe(sys.argv[1]).codec for _ in range(120)})"


@case(
    "Files and streams",
    "a video so damaged that the decoder complains from threads of its own",
    "read as far as it can be read",
    "nothing; it used to wait for ever where FFmpeg was listened to",
)
@pytest.mark.slow
def test_complaints_of_decoding_threads_never_lock(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 16, size=(240, 320))
    data, chance = bytearray(path.read_bytes()), random.Random(0)
    for _ in range(200):
        data[chance.randrange(data.index(b"mdat") + 900, len(data) - 3000)] ^= 255
    path.write_bytes(data)
    done = subprocess.run([sys.executable, "-c", PROBED, path], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("{'h264'}\n", "")

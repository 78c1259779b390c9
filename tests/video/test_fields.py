"""Interlaced video: found by what frames tell or how they look, wherever it begins; only woven frames are changed."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import case
from kept import Same
from listening import Lines
from media import make_video, moving_picture
from numpy.typing import NDArray

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.pipeline.cuts import find_shots
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.video import VideoReader, probe

Pictures = NDArray[np.uint8]
SIZE = (64, 96)


def scene(frames: int, seed: int = 0, step: float = 3) -> Pictures:
    return moving_picture(frames, *SIZE, seed=seed, step=step)


def woven(fields: Pictures, *, bottom_first: bool = False) -> Pictures:
    """Each frame of two pictures: the rows of one field from the first, those of the other from the second."""
    frames = fields[::2].copy()
    later = 0 if bottom_first else 1
    frames[:, later::2] = fields[1::2, later::2]
    return frames


def telecined(film: Pictures) -> Pictures:
    """Five frames of each four, two of which are woven of different ones."""
    frames = []
    for start in range(0, len(film) - 3, 4):
        first, second, third, fourth = film[start : start + 4]
        mixed = [second.copy(), third.copy()]
        mixed[0][1::2], mixed[1][1::2] = third[1::2], fourth[1::2]
        frames += [first, second, *mixed, fourth]
    return np.stack(frames)


def orders(path: Path) -> str:
    """A letter for each frame: t and b: which field is first, a: as it tells, a dot: progressive."""
    times = VideoReader(path).times
    return "".join((times.order_of(index) or ".")[0] for index in range(len(times)))


UNTOLD = {
    "woven": (woven(scene(40)), "t" * 20),
    "bottom": (woven(scene(40), bottom_first=True), "b" * 20),
    "later": (np.concatenate([scene(20), woven(scene(40, 1))]), "." * 20 + "t" * 20),
    "part": (np.concatenate([scene(20), woven(scene(30, 1)), scene(20, 2, 2)]), "." * 20 + "t" * 15 + "." * 20),
    "order": (np.concatenate([woven(scene(40)), woven(scene(40, 1), bottom_first=True)]), "t" * 20 + "?" + "b" * 19),
    "film": (telecined(scene(40)), "..tt." * 10),
    "film later": (np.concatenate([scene(20), telecined(scene(40, 1))]), "." * 20 + "..tt." * 10),
    "progressive": (scene(30), "." * 30),
    "slow": (scene(30, step=0.3), "." * 30),
    "still": (np.repeat(scene(1), 20, axis=0), "." * 20),
    "noise": (np.random.default_rng(0).integers(16, 235, (20, *SIZE, 3)).astype(np.uint8), "." * 20),
    "cuts": (np.concatenate([scene(3, seed) for seed in range(8)]), "." * 24),
}


@case(
    "Files and streams",
    "interlaced video that does not say so, begins later, ends earlier, changes the order of its fields, or is "
    "telecined film",
    "all frames are looked at; those that are woven are deinterlaced, one frame for each frame, all others pass as is",
    "told: so many of the frames are deinterlaced; in the record: interlaced_frames",
)
@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
@pytest.mark.parametrize("name", list(UNTOLD))
def test_woven_frames_are_found_by_their_looks(tmp_path: Path, name: str, codec: str) -> None:
    frames, expected = UNTOLD[name]
    path = make_video(tmp_path / "a.mkv", frames, codec=codec, options={"crf": "12"} if codec == "libx264" else {})
    assert fnmatch(orders(path), expected)
    reader = VideoReader(path)
    assert not reader.info.interlaced
    read = list(reader)
    assert len(read) == len(reader.times) == len(frames)
    assert reader.info.interlaced_frames == len(expected) - expected.count(".")
    assert reader.info.interlaced == (set(expected) != {"."})


def test_deinterlaced_frames_come_closer_to_the_truth_and_others_stay(tmp_path: Path) -> None:
    fields = scene(40, 1)
    frames = np.concatenate([scene(20), woven(fields)])
    reader = VideoReader(make_video(tmp_path / "a.mkv", frames, codec="ffv1", pix_fmt="bgr0"))
    truth = np.concatenate([scene(20), fields[::2]])
    pairs = [
        (frame.permute(1, 2, 0).numpy() * 255, made, true)
        for frame, made, true in zip(reader, frames, truth, strict=True)
    ]
    assert all(np.array_equal(read.round(), made) for read, made, _ in pairs[:20])
    before, after = (np.mean([(picture[place] - picture[2]) ** 2 for picture in pairs[20:]]) for place in (1, 0))
    assert after < 0.35 * before


def test_any_frame_is_the_one_that_reading_in_order_gives(tmp_path: Path) -> None:
    frames = np.concatenate(
        [scene(60), woven(scene(30, 1)), telecined(scene(32, 2)), woven(scene(20, 3), bottom_first=True)]
    )
    path = make_video(tmp_path / "a.mkv", frames, options={"preset": "medium", "g": "10", "crf": "12"})
    in_order = list(VideoReader(path))  # judged on the way
    times = find_shots(path).times
    reader = VideoReader(path, times=times)
    assert len(times.fields) >= 10
    for index in (0, 59, 60, 61, 75, 74, 77, 78, 90, 104, 114, 115, 116, len(frames) - 1):
        assert torch.equal(reader.read(index, index + 1)[0], in_order[index]), index


def test_interlacing_that_is_told_later_on(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "crf": "8", "bf": "0"}
    plain = make_video(tmp_path / "a.ts", scene(30), options=options)
    told = make_video(tmp_path / "b.ts", woven(scene(40, 1)), options={**options, "x264-params": "tff=1"})
    path = tmp_path / "c.ts"
    path.write_bytes(plain.read_bytes() + told.read_bytes())
    assert not probe(path).interlaced
    found = orders(path)
    assert found[:30] == "." * 30
    assert set(found[30:]) <= {"t", "a"}
    assert len(found) == 50


def test_a_wrong_order_that_frames_tell_is_seen(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "crf": "8", "x264-params": "tff=1"}
    assert set(orders(make_video(tmp_path / "a.mkv", woven(scene(40), bottom_first=True), options=options))) == {"b"}


def test_what_is_deinterlaced_is_said(tmp_path: Path) -> None:
    source, lines = make_video(tmp_path / "a.mkv", UNTOLD["part"][0], codec="ffv1"), Lines()
    settings = RunSettings(
        adapt=False,
        adaptation=AdaptSettings(guard=False),
        restoration=RestoreSettings(device="cpu", precision="fp32"),
    )
    record = restore_file(Job(source, tmp_path / "b.mkv"), Same(), settings, listener=lines)
    assert record.video["interlaced"]
    assert record.video["interlaced_frames"] == 15
    (line,) = (line for line in lines.lines if line.startswith("a.mkv is"))
    assert line == "a.mkv is interlaced in parts: 15 of 55 frames are deinterlaced, one frame for each frame"

"""Shots: real cuts to the frame, and none where the camera only shakes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from cases import case
from media import make_frames, make_video, moving_picture

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.pipeline.cuts import Scan, Shot, find_shots
from metadeblur.video import VideoReader


def shaky(count: int, seed: int, *, height: int = 90, width: int = 160, reach: float = 14) -> np.ndarray:
    """A textured scene from a hand that trembles violently: jumps, turns, and motion blur in every third frame."""
    random = np.random.default_rng(seed)
    scene = np.full((height, width, 3), random.uniform(70, 180, 3), np.float32)
    for cells, strength in ((3, 60), (6, 40), (14, 25), (40, 15)):  # as in photographs, the larger the stronger
        noise = random.normal(0, strength, (cells, cells * 2, 3)).astype(np.float32)
        scene += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    scene = scene.clip(0, 255)
    frames = []
    for index in range(count):
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-3, 3), 1.2)
        turn[:, 2] += random.uniform(-reach, reach, 2)
        frame = cv2.warpAffine(scene, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
        if index % 3 == 0:
            frame = cv2.blur(frame, (int(random.integers(5, 25)), 1))
        frames.append(frame.round().astype(np.uint8))
    return np.stack(frames)


def edges(scan: Scan) -> list[int]:
    assert scan.shots[0].start == 0
    assert scan.shots[-1].stop == scan.frames
    assert all(a.stop == b.start for a, b in zip(scan.shots, scan.shots[1:], strict=False))
    return [shot.start for shot in scan.shots[1:]]


@pytest.mark.parametrize("seed", range(4))
def test_shake_and_motion_blur_are_no_cuts(tmp_path: Path, seed: int) -> None:
    path = make_video(tmp_path / "a.mp4", shaky(40, seed))
    assert edges(find_shots(path)) == []


@pytest.mark.parametrize("lengths", [(12, 15, 9), (5, 5, 5, 5), (20, 3), (4, 25)])
def test_cuts_between_shaky_shots_are_found_to_the_frame(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    frames = np.concatenate([shaky(n, 10 + seed, reach=6) for seed, n in enumerate(lengths)])
    scan = find_shots(make_video(tmp_path / "a.mp4", frames))
    assert edges(scan) == list(np.cumsum(lengths)[:-1])
    assert [len(shot) for shot in scan.shots] == list(lengths)


def test_cuts_of_real_footage(shared: Path, tmp_path: Path) -> None:
    names = sorted(folder.name for folder in (shared / "data" / "val").iterdir() if folder.is_dir())
    pictures, starts = [], []
    for name in names:
        starts.append(len(pictures))
        for file in sorted((shared / "data" / "val" / name / "blur").iterdir())[:8]:
            pictures.append(cv2.resize(cv2.imread(str(file)), (160, 90), interpolation=cv2.INTER_AREA)[..., ::-1])
    assert edges(find_shots(make_video(tmp_path / "a.mp4", np.stack(pictures)))) == starts[1:]


def test_a_jolt_and_a_flash_are_no_cuts(tmp_path: Path) -> None:
    still = shaky(1, 3, reach=0)[0]
    moved = np.roll(still, (9, 14), axis=(0, 1))
    bright = np.clip(still.astype(int) * 3 // 2 + 40, 0, 255).astype(np.uint8)
    for middle in ([moved] * 8, [bright] + [still] * 7):
        frames = np.stack([still] * 8 + middle)
        assert edges(find_shots(make_video(tmp_path / "a.mp4", frames))) == []


PLAIN = {"black": 0, "white": 255, "grey": 120, "dark": 45}


@case(
    "Pictures",
    "a cut to or from black, white or any one colour, also of a single frame at either end or in the middle",
    "it is found, and begins a shot",
    "the record lists the shots",
)
@pytest.mark.parametrize("tone", PLAIN)
@pytest.mark.parametrize("lengths", [(9, 4), (9, 1), (1, 9), (4, 9), (7, 2, 7), (7, 1, 7)])
def test_cuts_to_and_from_one_colour(tmp_path: Path, tone: str, lengths: tuple[int, ...]) -> None:
    height, width = 64, 96
    frames, shown = shaky(sum(lengths), 3, height=height, width=width, reach=5), 0
    noise = np.random.default_rng(0).normal(0, 2, (sum(lengths), height, width, 3))
    for length in lengths:
        # The plain part is the shorter one.
        if length == min(lengths):
            frames[shown : shown + length] = (PLAIN[tone] + noise[:length]).clip(0, 255)
        shown += length
    flash = tone == "white" and lengths == (7, 1, 7)
    expected = [] if flash else list(np.cumsum(lengths)[:-1])
    assert edges(find_shots(make_video(tmp_path / "a.mkv", frames))) == expected


def test_a_fade_is_one_shot_until_nothing_is_left(tmp_path: Path) -> None:
    frames = shaky(20, 3, reach=5).astype(np.float32)
    frames *= np.clip(1 - (np.arange(20) - 4) / 12, 0, 1)[:, None, None, None]
    found = edges(find_shots(make_video(tmp_path / "a.mkv", frames.astype(np.uint8))))
    assert all(edge >= 15 for edge in found)


def test_a_cut_between_still_pictures(tmp_path: Path) -> None:
    frames = np.concatenate([np.repeat(shaky(1, seed, reach=0), 7, axis=0) for seed in (5, 6)])
    assert edges(find_shots(make_video(tmp_path / "a.mp4", frames))) == [7]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_very_short_videos(tmp_path: Path, count: int) -> None:
    scan = find_shots(make_video(tmp_path / "a.mp4", count))
    assert scan.shots == (Shot(0, count),)
    assert len(scan.sharpness) == len(scan.times) == scan.frames == scan.info.frames == count


def test_one_pass_counts_times_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharp = shaky(9, 1, height=64, width=96)
    sharp[4] = cv2.blur(sharp[4], (15, 1))
    reader = VideoReader(make_video(tmp_path / "a.mkv", sharp, vfr=True))
    passes, told = [], []
    original = VideoReader.decoded

    def counted(self: VideoReader, start: int = 0, **more: object) -> object:
        passes.append(start)
        return original(self, start, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoReader, "decoded", counted)
    scan = find_shots(reader, progress=lambda done, total: told.append((done, total)))
    assert len(reader.times) == 9
    assert passes == [0]
    assert [done for done, _ in told] == list(range(1, 10))
    assert reader.times is scan.times
    assert scan.times.variable
    expected = [self_shift_score(frame).item() for frame in reader]
    assert scan.sharpness == pytest.approx(expected)
    assert int(np.argmax(scan.sharpness)) in (0, 3, 4, 6)  # the blurred ones


def test_folders_and_pictures(tmp_path: Path) -> None:
    frames = np.concatenate([moving_picture(6, 64, 96, seed=1), 255 - moving_picture(6, 64, 96, seed=9)])
    folder = make_frames(tmp_path / "in", frames)
    scan = find_shots(folder)
    assert edges(scan) == [6]
    assert scan.times.stamps == tuple(range(12))
    assert find_shots(folder / "frame1.png").shots == (Shot(0, 1),)


def test_faults(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(MetadeblurError, match="not a video"):
        find_shots(tmp_path / "a.mp4")

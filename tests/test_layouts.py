"""Paired clips on disk: found, paired by name, refused where something is missing."""

import cv2
import numpy as np
import pytest

from metadeblur.data.layouts import plain_clips
from metadeblur.errors import MetadeblurError


def make(root, clip, side, names):
    folder = root / clip / side
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((8, 8, 3), np.uint8))


def test_clips_are_found_at_any_depth_and_paired_by_name_whatever_the_format(tmp_path):
    make(tmp_path, "train/b", "blur", ["2.png", "1.png"])
    make(tmp_path, "train/b", "sharp", ["1.jpg", "2.jpg"])
    make(tmp_path, "a", "blur", ["x.png"])
    make(tmp_path, "a", "sharp", ["x.png"])
    clips = plain_clips(tmp_path)
    assert [clip.name for clip in clips] == ["a", "train/b"]
    assert [(one.stem, other.stem) for one, other in zip(clips[1].blurred, clips[1].sharp, strict=True)] == [
        ("1", "1"),
        ("2", "2"),
    ]


def test_many_lonely_frames_are_summed_up(tmp_path):
    make(tmp_path, "a", "blur", [f"{n}.png" for n in range(9)])
    make(tmp_path, "a", "sharp", ["0.png"])
    with pytest.raises(MetadeblurError, match=r"a: frames without a partner.*1, 2, 3, 4, 5 and 3 more"):
        plain_clips(tmp_path)


def test_a_clip_in_the_making_is_passed_over(tmp_path):
    make(tmp_path, ".clip_00001.part", "blur", ["1.png", "2.png"])
    make(tmp_path, ".clip_00001.part", "sharp", ["1.png"])
    with pytest.raises(MetadeblurError, match="no clip found"):
        plain_clips(tmp_path)

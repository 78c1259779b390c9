"""Benchmarks as datasets of PyTorch: every layout, windows and clips, the same crop on both sides."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from trees import TREES, hide, make, plain, realblur

from metadeblur.data import ClipDataset, WindowDataset
from metadeblur.errors import MetadeblurError


@pytest.fixture
def numbered(tmp_path):
    """Two clips of 5 and 3 frames: red is 20 for each clip and 1 for each frame, 100 more if sharp; others ramps."""
    for clip, count in enumerate((5, 3)):
        for side, more in (("blur", 0), ("sharp", 100)):
            folder = tmp_path / f"clip{clip}" / side
            folder.mkdir(parents=True)
            for number in range(count):
                picture = np.empty((24, 32, 3), np.uint8)
                picture[..., 0], picture[..., 1] = np.arange(32), np.arange(24)[:, None]
                picture[..., 2] = 20 * clip + number + more  # red, as OpenCV orders it
                cv2.imwrite(str(folder / f"{number:03d}.png"), picture)
    return tmp_path


def levels(frames):
    return (frames * 255).round().to(torch.int64)


def reds(frames):
    return levels(frames)[..., 0, 0, 0].tolist()


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.__name__)
def test_every_layout(tmp_path, tree):
    tree(tmp_path)
    windows = WindowDataset(tmp_path, tree.__name__)
    assert len(windows) == windows.benchmark.frames
    blurred, sharp = windows[0]
    assert tuple(blurred.shape) == tuple(sharp.shape) == (3, 8, 8)
    if tree is hide:
        with pytest.raises(MetadeblurError, match="do not follow one another"):
            ClipDataset(tmp_path)
        with pytest.raises(MetadeblurError, match="use frames=1"):
            WindowDataset(tmp_path, frames=3)
    else:
        assert len(ClipDataset(tmp_path)[0][0]) == len(windows.clips[0].blurred)


def test_windows_have_their_neighbours_and_their_sharp_frame(numbered):
    windows = WindowDataset(numbered, frames=5)
    assert len(windows) == 8
    blurred, sharp = windows[0]
    assert (tuple(blurred.shape), tuple(sharp.shape)) == ((5, 3, 24, 32), (3, 24, 32))
    assert (reds(blurred), reds(sharp)) == ([0, 0, 0, 1, 2], 100)
    assert (reds(windows[-1][0]), reds(windows[-1][1])) == ([20, 21, 22, 22, 22], 122)  # never from another clip
    assert windows.places[5] == (1, 0)
    with pytest.raises(IndexError):
        windows[8]
    assert sum(1 for _ in windows) == 8


def test_patches_are_the_same_on_both_sides_and_drawn_by_pytorch(numbered):
    windows = WindowDataset(numbered, frames=3, patch=16)
    torch.manual_seed(0)
    drawn = [windows[1] for _ in range(8)]
    for blurred, sharp in drawn:
        assert tuple(blurred.shape) == (3, 3, 16, 16)
        assert torch.equal(levels(blurred)[1, 1:], levels(sharp)[1:])  # rows and columns, in green and blue
    assert len({tuple(levels(sharp)[1:, 0, 0].tolist()) for _, sharp in drawn}) > 3
    torch.manual_seed(0)
    assert all(torch.equal(windows[1][1], sharp) for _, sharp in drawn)


def test_clips_and_pieces_of_clips(numbered):
    whole = ClipDataset(numbered)
    assert [len(blurred) for blurred, _ in (whole[0], whole[1])] == [5, 3]
    pieces = ClipDataset(numbered, length=2)
    assert [reds(blurred) for blurred, _ in (pieces[n] for n in range(len(pieces)))] == [[0, 1], [2, 3], [20, 21]]
    overlapping = ClipDataset(numbered, length=3, step=1)
    assert [reds(sharp)[0] for _, sharp in (overlapping[n] for n in range(len(overlapping)))] == [100, 101, 102, 120]
    with pytest.raises(MetadeblurError, match="no clip has 9 frames; the longest has 5"):
        ClipDataset(numbered, length=9)


def test_loaders_make_batches_with_workers(numbered):
    mirrored = WindowDataset(numbered, frames=3, patch=16, transform=lambda *both: tuple(one.flip(-1) for one in both))
    batches = list(DataLoader(mirrored, batch_size=4, shuffle=True))
    assert [tuple(blurred.shape) for blurred, _ in batches] == [(4, 3, 3, 16, 16)] * 2
    assert all((levels(sharp)[:, 2, 0].diff() == -1).all() for _, sharp in batches)
    (blurred, sharp) = next(iter(DataLoader(WindowDataset(numbered), batch_size=8, num_workers=1)))
    assert (tuple(blurred.shape), reds(sharp)) == ((8, 3, 24, 32), [100, 101, 102, 103, 104, 120, 121, 122])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layout": "gopr"}, r"'gopr' is not known.*did you mean gopro\?"),
        ({"frames": 2}, "frames is 2"),
        ({"patch": 0}, "patch is 0"),
        ({"part": "test"}, "part 'test' is not known in the layout plain"),
    ],
)
def test_what_cannot_be_is_refused(numbered, options, said):
    with pytest.raises(MetadeblurError, match=said):
        WindowDataset(numbered, **options)


def test_frames_that_cannot_be_used_are_named(tmp_path):
    plain(tmp_path)
    with pytest.raises(MetadeblurError, match="8x8 is smaller than the patch; lower patch from 99"):
        WindowDataset(tmp_path, patch=99)[0]
    realblur(tmp_path / "sizes")
    first = WindowDataset(tmp_path / "sizes", "realblur").clips[0]
    make(first.blurred[0].parent, [first.blurred[0].name])
    cv2.imwrite(str(first.blurred[1]), np.zeros((12, 8, 3), np.uint8))
    with pytest.raises(MetadeblurError, match=r"frames of different sizes \(8x12 and 8x8\)"):
        WindowDataset(tmp_path / "sizes", "realblur", frames=3)[0]

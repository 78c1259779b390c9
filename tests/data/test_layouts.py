"""Paired clips on disk: each benchmark's folders recognised, frames paired by name, what is missing refused."""

import pytest
from trees import REALBLUR_J, REALBLUR_R, TREES, bsd, dvd, gopro, hide, make, plain, realblur, reds

from metadeblur.data.layouts import DVD_TEST, LAYOUTS, open_benchmark, plain_clips
from metadeblur.errors import MetadeblurError


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.__name__)
@pytest.mark.parametrize("named", [True, False], ids=["named", "recognised"])
@pytest.mark.parametrize("enclosed", [True, False], ids=["inside-a-folder", "itself"])
def test_every_layout_is_found_with_the_part_that_papers_report(tmp_path, tree, named, enclosed):
    part, inputs, names = TREES[tree]
    tree(tmp_path / "Data" if enclosed else tmp_path)
    found = open_benchmark(tmp_path, tree.__name__ if named else "auto")
    assert (found.layout, found.part, found.inputs) == (tree.__name__, part, inputs)
    assert [clip.name.split("/")[-1] for clip in found.clips] == names
    assert all(path.is_file() for clip in found.clips for path in (*clip.blurred, *clip.sharp))
    assert found.frames == sum(len(clip.sharp) for clip in found.clips)
    assert (len(found.notes) > 0) == bool(LAYOUTS[tree.__name__].published)


SIDE_BY_SIDE = {
    gopro: "GOPRO_Large",
    dvd: "DeepVideoDeblurring_Dataset",
    reds: "REDS",
    realblur: "RealBlur",
    hide: "HIDE",
}


@pytest.mark.parametrize("straight", [*SIDE_BY_SIDE, bsd], ids=lambda tree: tree.__name__)
def test_sets_unpacked_side_by_side_are_all_found(tmp_path, straight):
    straight(tmp_path)
    others = {tree: tmp_path / name for tree, name in SIDE_BY_SIDE.items() if tree != straight}
    for tree, home in others.items():
        tree(home)
    for tree, home in {**others, straight: tmp_path}.items():
        found = open_benchmark(tmp_path, tree.__name__)
        assert (found.part, [clip.name for clip in found.clips]) == (TREES[tree][0], TREES[tree][2])
        assert all(path.is_relative_to(home) for clip in found.clips for path in clip.blurred)
    with pytest.raises(MetadeblurError, match="several benchmarks"):
        open_benchmark(tmp_path)


def test_sets_that_share_one_folder_are_told_apart(tmp_path):
    for tree in (gopro, dvd, reds, realblur):
        tree(tmp_path)
    for tree in (gopro, dvd, reds, realblur):
        assert [clip.name for clip in open_benchmark(tmp_path, tree.__name__).clips] == TREES[tree][2]
    assert [clip.name for clip in open_benchmark(tmp_path, "gopro", part="train").clips] == ["GOPR0372_07_00"]


def test_parts_of_a_set_in_folders_of_their_own_are_told_apart(tmp_path):
    reds(tmp_path / "all")
    for part in ("train", "val"):
        (tmp_path / f"REDS_{part}").mkdir()
        (tmp_path / "all" / part).rename(tmp_path / f"REDS_{part}" / part)
    (tmp_path / "all").rmdir()
    assert open_benchmark(tmp_path, "reds").part == "val"
    assert open_benchmark(tmp_path, "reds", part="train").clips[0].blurred[0].is_relative_to(tmp_path / "REDS_train")
    assert open_benchmark(tmp_path).part == "val"


def test_what_is_not_the_published_set_is_said(tmp_path):
    gopro(tmp_path)
    notes = " ".join(open_benchmark(tmp_path).notes)
    assert "those of blur" in notes
    assert "2 clips with 4 images are here, the published set has 11 with 1,111" in notes
    training = open_benchmark(tmp_path, part="train", inputs="blur_gamma")
    assert [clip.blurred[0].parent.name for clip in training.clips] == ["blur_gamma"]
    assert "published set has 22 with 2,103" in " ".join(training.notes)
    assert "blur_gamma" in training.notes[0]


def test_dvd_takes_the_ten_test_clips_and_says_which_are_missing(tmp_path):
    dvd(tmp_path)
    found = open_benchmark(tmp_path)
    assert {clip.name for clip in found.clips} <= set(DVD_TEST)
    assert "IMG_0049" in found.notes[0]
    assert "IMG_0003" not in found.notes[0]
    assert [clip.name for clip in open_benchmark(tmp_path, part="train").clips] == ["IMG_0001"]


def test_realblur_follows_the_official_list_and_pairs_by_number(tmp_path):
    realblur(tmp_path)
    (scene,) = open_benchmark(tmp_path).clips
    assert [path.name for path in scene.blurred] == ["blur_1.png", "blur_2.png", "blur_10.png"]
    assert [path.name for path in scene.sharp] == ["gt_1.png", "gt_2.png", "gt_10.png"]
    assert scene.sizes_differ
    assert open_benchmark(tmp_path, part="R").clips[0].blurred[0].parts[-4] == REALBLUR_R
    assert open_benchmark(tmp_path / REALBLUR_R).part == "R"
    (tmp_path / "RealBlur_J_test_list.txt").unlink()
    everything = open_benchmark(tmp_path)
    assert [clip.name for clip in everything.clips] == ["scene004", "scene230"]
    assert "all scenes" in " ".join(everything.notes)


def test_hide_pictures_do_not_follow_one_another(tmp_path):
    hide(tmp_path)
    close = open_benchmark(tmp_path).clips[0]
    assert not close.video
    assert [path.name for path in close.blurred] == ["2fromGOPR0950.png", "10fromGOPR0950.png"]


def test_clips_are_found_at_any_depth_and_paired_by_name_whatever_the_format(tmp_path):
    make(tmp_path / "train/b/blur", ["2.png", "10.png"])
    make(tmp_path / "train/b/sharp", ["10.jpg", "2.jpg"])
    make(tmp_path / "a/blur", ["x.png"])
    make(tmp_path / "a/sharp", ["x.png"])
    clips = plain_clips(tmp_path)
    assert [clip.name for clip in clips] == ["a", "train/b"]
    pairs = [(one.stem, other.stem) for one, other in zip(clips[1].blurred, clips[1].sharp, strict=True)]
    assert pairs == [("2", "2"), ("10", "10")]


def lose(root, pattern):
    (next(iter(sorted(root.rglob(pattern))))).unlink()


def lose_folder(root, folder):
    for path in (root / folder).iterdir():
        path.unlink()
    (root / folder).rmdir()


REFUSALS = [
    (gopro, lambda root: lose(root / "test", "sharp/000002.png"), "GOPR0384_11_00: frames without a partner.*000002"),
    (gopro, lambda root: lose_folder(root, "test/GOPR0410_11_00/sharp"), "GOPR0410_11_00: no folder.*sharp"),
    (dvd, lambda root: lose(root, "IMG_0003/GT/00000.jpg"), "IMG_0003: frames without a partner.*00000"),
    (reds, lambda root: lose_folder(root, "val/val_sharp/001"), "001: no folder val/val_sharp/001"),
    (reds, lambda root: lose(root, "val_blur/000/00000001.png"), "000: frames without a partner.*00000001"),
    (realblur, lambda root: lose(root, f"{REALBLUR_J}/scene230/gt/gt_2.png"), "scene230: files of.*list.*gt/gt_2.png"),
    (bsd, lambda root: lose(root / "BSD_2ms16ms" / "test", "RGB/00000000.png"), "024: frames without a partner.*00000"),
    (hide, lambda root: lose(root, "GT/3fromGOPR0950.png"), "test-long-shot: pictures without a partner.*3fromGOPR"),
    (plain, lambda root: lose(root, "sharp/00001.jpg"), "goat: frames without a partner.*00001"),
    (plain, lambda root: lose_folder(root, "goat/sharp"), "goat: no folder goat/sharp"),
    (plain, lambda root: [lose(root, "0*.jpg") for _ in range(4)], "goat: no pictures"),
]


@pytest.mark.parametrize(("tree", "damage", "complaint"), REFUSALS)
def test_what_is_missing_is_named_and_refused(tmp_path, tree, damage, complaint):
    tree(tmp_path)
    damage(tmp_path)
    with pytest.raises(MetadeblurError, match=complaint):
        open_benchmark(tmp_path)


def test_every_clip_with_a_fault_is_named_at_once(tmp_path):
    reds(tmp_path)
    lose(tmp_path, "val_blur/000/*.png")
    lose(tmp_path, "val_blur/001/*.png")
    with pytest.raises(MetadeblurError, match=r"000: frames.*\| 001: frames"):
        open_benchmark(tmp_path)


def test_many_lonely_frames_are_summed_up(tmp_path):
    make(tmp_path / "a/blur", [f"{n}.png" for n in range(9)])
    make(tmp_path / "a/sharp", ["0.png"])
    with pytest.raises(MetadeblurError, match=r"a: frames without a partner.*1, 2, 3, 4, 5 and 3 more"):
        plain_clips(tmp_path)


def test_a_clip_in_the_making_is_passed_over(tmp_path):
    make(tmp_path / ".clip_00001.part/blur", ["1.png", "2.png"])
    make(tmp_path / ".clip_00001.part/sharp", ["1.png"])
    with pytest.raises(MetadeblurError, match="no clip found"):
        plain_clips(tmp_path)


def test_what_cannot_be_meant_is_refused(tmp_path):
    with pytest.raises(MetadeblurError, match="not a folder"):
        open_benchmark(tmp_path / "nowhere")
    with pytest.raises(MetadeblurError, match="no clip found"):
        open_benchmark(tmp_path)
    gopro(tmp_path / "GOPRO_Large")
    for arguments, complaint in (
        ({"layout": "kitti"}, "layout 'kitti'.*allowed: auto, gopro"),
        ({"layout": "dvd"}, "no clips in the layout dvd"),
        ({"part": "validation"}, "part 'validation'.*test, train"),
        ({"inputs": "input"}, "inputs 'input'.*blur_gamma"),
    ):
        with pytest.raises(MetadeblurError, match=complaint):
            open_benchmark(tmp_path, **arguments)
    dvd(tmp_path / "DVD")
    with pytest.raises(MetadeblurError, match=r"several benchmarks.*dvd in .*gopro in"):
        open_benchmark(tmp_path)
    assert open_benchmark(tmp_path, "dvd").layout == "dvd"
    bsd(tmp_path / "BSD")
    bsd(tmp_path / "BSD", "BSD_1ms8ms")
    with pytest.raises(MetadeblurError, match=r"several exposures.*BSD_1ms8ms, BSD_2ms16ms"):
        open_benchmark(tmp_path / "BSD", "bsd")

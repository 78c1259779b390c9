"""Folders of videos and patterns as inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from metadeblur.errors import MetadeblurError, UsageError
from metadeblur.pipeline.archive import Input, find_inputs, shard
from metadeblur.pipeline.outputs import existing, plan, refuse_existing


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Clips at two depths, a folder of frames, a result of an earlier run and things that are no clips."""
    for name in ("b.mp4", "a.MOV", "trip/c.mkv", "trip/day/d.mts", "walk/001.png", "walk/002.png", "notes.txt",
                 ".hidden.mp4", ".parts/x.mp4", "b_deblurred.mp4", "trip/poster.png"):  # fmt: skip
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "clips"


def names(inputs: list[Input], root: Path) -> list[str]:
    return [each.source.relative_to(root).as_posix() for each in inputs]


def test_a_folder_with_videos_stands_for_all_of_them(archive):
    found = find_inputs([archive])
    assert names(found, archive) == ["a.MOV", "b.mp4", "trip/c.mkv", "trip/day/d.mts", "walk"]
    assert [each.folder.as_posix() for each in found] == [".", ".", "trip", "trip/day", "."]


def test_a_folder_of_pictures_is_one_input(archive):
    assert find_inputs([archive / "walk"]) == [Input(archive / "walk")]
    (archive / "walk" / "sub").mkdir()
    (archive / "walk" / "sub" / "1.png").touch()
    assert find_inputs([archive / "walk"]) == [Input(archive / "walk")]


def test_patterns_are_expanded_and_keep_their_places(archive):
    found = find_inputs([archive / "**" / "*.m*"])
    assert names(found, archive) == ["b.mp4", "trip/c.mkv", "trip/day/d.mts"]
    assert found[2].folder == Path("trip/day")
    assert names(find_inputs([archive / "[ab].*", archive / "b.mp4"]), archive) == ["a.MOV", "b.mp4"]  # each once
    assert names(find_inputs([archive / "w*"]), archive) == ["walk"]
    with pytest.raises(MetadeblurError, match="matches this pattern"):
        find_inputs([archive / "*.avi"])


def test_a_name_with_brackets_that_is_there_is_no_pattern(tmp_path):
    clip = tmp_path / "clip[1].mp4"
    clip.touch()
    assert find_inputs([clip]) == [Input(clip)]


def test_what_lies_in_the_output_is_no_input(archive):
    (archive / "out").mkdir()
    (archive / "out" / "b_deblurred.mp4").touch()
    assert "out/b_deblurred.mp4" not in names(find_inputs([archive], archive / "out"), archive)


def test_the_structure_is_mirrored(archive, tmp_path):
    jobs = plan(find_inputs([archive]), tmp_path / "out", report=tmp_path / "pages")
    assert jobs[3].output == tmp_path / "out" / "trip" / "day" / "d_deblurred.mkv"
    assert jobs[3].report == tmp_path / "pages" / "trip" / "day" / "d_deblurred"
    assert jobs[3].output.parent.is_dir()
    (one,) = plan(find_inputs([archive / "trip" / "day"]), tmp_path / "one")  # also where there is but one
    assert one.output == tmp_path / "one" / "d_deblurred.mkv"


def test_shards_share_an_archive_out(archive):
    inputs = find_inputs([archive])
    parts = [shard(inputs, f"{number}/2") for number in (1, 2)]
    assert sorted(each.source for part in parts for each in part) == sorted(each.source for each in inputs)
    for wrong in ("0/2", "3/2", "2", "a/b", "1/"):
        with pytest.raises(UsageError, match="--shard 1/4"):
            shard(inputs, wrong)


def test_outputs_that_are_there_are_found_and_refused(archive, tmp_path):
    jobs = plan(find_inputs([archive]), tmp_path / "out")
    assert existing(jobs) == []
    jobs[1].output.touch()
    jobs[4].output.mkdir()
    assert existing(jobs) == [jobs[1]]  # an empty folder is no result
    with pytest.raises(MetadeblurError, match=r"b_deblurred.mp4: there already; --overwrite"):
        refuse_existing(existing(jobs))
    refuse_existing([])

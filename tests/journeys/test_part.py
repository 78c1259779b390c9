"""Restoring a part of a video through the command: --start and --end with everything that goes with them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from journey import decoded, names, run, shaky_video, small_model
from media import make_frames, video_packets
from torch import Tensor, nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.resume import parts_folder
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.video import Part, VideoReader

PLAIN = ("--no-adapt", "--no-guard", "--precision", "fp32", "--quality", "lossless")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 25 frames a second, in three shots, with sound and texts."""
    folder = tmp_path_factory.mktemp("film")
    return shaky_video(
        folder / "film.mp4", (12, 20, 18), audio_tracks=1, subtitles=1, options={"g": "30", "bf": "2", "crf": "10"}
    )


def test_a_part_is_restored_as_in_the_whole_with_all_that_goes_with_it(tmp_path, film, model, capsys):
    words = ("restore", film, "--model", model, *PLAIN)
    assert run(*words, "-o", tmp_path / "whole.mp4") == 0
    extras = ("--side-by-side", tmp_path / "both.mp4", "--report", tmp_path / "page", "--preview", "0.2")
    more = ("--json", tmp_path / "r.json", "--start", "0:00:00.6", "--end", "1.6")
    assert run(*words, "-o", tmp_path / "part.mp4", *extras, *more) == 0
    assert "film.mp4, from 0.6 s to 1.6 s: 25 frames" in capsys.readouterr().err
    whole, part = decoded(tmp_path / "whole.mp4"), decoded(tmp_path / "part.mp4")
    assert len(part) == 25
    # Windows reach two frames to each side of a shot, which begins anew with the part.
    assert np.array_equal(part[3:15], whole[18:30])
    assert np.array_equal(part[17:23], whole[32:38])
    assert len(decoded(tmp_path / "both.mp4")) == 25
    assert len(decoded(tmp_path / "part_preview.mp4")) == 5
    for name in ("part.mp4", "both.mp4", "part_preview.mp4"):
        packets = video_packets(tmp_path / name)
        assert min(packet[0] for packet in packets[0]) == 0
        assert len(packets) == 3
        assert len(packets[1]) >= 8
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["settings"]["part"] == {"start": 0.6, "end": 1.6}
    assert record["video"]["frames"] == 25
    assert [(shot["start"], shot["stop"]) for shot in record["shots"]] == [(0, 17), (17, 25)]
    assert (tmp_path / "page" / "index.html").is_file()


def test_processes_restore_the_same_part(tmp_path, film, model):
    shutil.copy(film, tmp_path / "other.mp4")
    words = ("restore", film, tmp_path / "other.mp4", "--model", model, *PLAIN, "--start", "0.48", "--end", "0.8")
    assert run(*words, "-o", tmp_path / "one") == 0
    assert run(*words, "-o", tmp_path / "two", "--workers", "2") == 0
    for name in ("film_deblurred.mp4", "other_deblurred.mp4"):
        assert np.array_equal(decoded(tmp_path / "one" / name), decoded(tmp_path / "two" / name))


def test_a_part_that_is_sharp_is_written_too(tmp_path, film, capsys):
    words = ("restore", film, "-o", tmp_path / "out.mp4", "--quality", "lossless", "--start", "1.4", "--end", "1.48")
    assert run(*words, "--effort", "quick") == 0
    assert len(decoded(tmp_path / "out.mp4")) == 2
    capsys.readouterr()


class Stops(nn.Module):
    """A network that fails when it is called for the n-th time."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = iter(range(at))

    def forward(self, x: Tensor) -> Tensor:
        if next(self.left, None) is None:
            raise RuntimeError("the power failed")
        return x * 0.9


def test_the_same_part_is_gone_on_with_and_another_is_not(tmp_path, film):
    job = Job(film, tmp_path / "out.mp4")
    base = RunSettings(
        adapt=False,
        adaptation=AdaptSettings(guard=False),
        restoration=RestoreSettings(device="cpu", precision="fp32", tile=0),
    )
    for later, said in ((Part(0.2, 1.6), "resuming out.mp4: 1 shot"), (Part(0.2, 1.4), "cannot resume out.mp4: part")):
        first = replace(base, part=Part(0.2, 1.6))
        with pytest.raises(RuntimeError, match="the power failed"):
            restore_file(job, Stops(14), first)
        assert parts_folder(job.output).is_dir()
        notes: list[object] = []
        again = replace(base, part=later, resume=True)
        restore_file(job, Stops(999), again, listener=notes.append)
        assert any(said in str(note) for note in notes), notes
        assert len(VideoReader(job.output).times) == round((later.end - 0.2) * 25)
        assert names(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize(
    ("times", "code", "said"),
    [
        (("--start", "5", "--end", "3"), 2, "--end is 3; give a time after --start, which is 5"),
        (("--start", "1:00", "--end", "60"), 2, "--end is 60; give a time after --start, which is 1:00"),
        (("--end", "0"), 2, "--end is 0"),
        (("--start", "1:75"), 2, "--start is 1:75; give seconds, such as 75.5, or H:MM:SS, such as 0:01:15.5"),
        (("--start", "-1"), 2, "--start is -1; give seconds"),
        (("--start", "nan"), 2, "--start is nan; give seconds"),
        (("--end", "soon"), 2, "--end is soon; give seconds"),
        (("--start", "1:0:0:0"), 2, "--start is 1:0:0:0; give seconds"),
        (("--start", "75"), 1, "film.mp4: no frame of it lies in the part from 75 s on; it lasts 2.000 s"),
    ],
)
def test_impossible_parts_are_refused_in_one_line(tmp_path, film, model, times, code, said, capsys):
    assert run("restore", film, "-o", tmp_path / "out.mp4", "--model", model, *PLAIN, *times) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert names(tmp_path) == []


def test_parts_of_what_has_no_times_are_refused(tmp_path, model, capsys):
    folder = make_frames(tmp_path / "walk", 3)
    for source in (folder, folder / "frame1.png"):
        assert run("restore", source, "-o", tmp_path / "out.mkv", "--model", model, "--end", "1") == 1
        told = capsys.readouterr().err
        assert "which has no times; --start and --end are for videos" in told
        assert told.count("\n") == 1
    assert names(tmp_path) == ["walk"]


def test_a_part_from_a_settings_file(tmp_path, film, model, capsys):
    file = tmp_path / "mine.toml"
    file.write_text('start = "0:00:01.2"\nend = 1.6\nadapt = false\nguard = false\n')
    assert run("restore", film, "-o", tmp_path / "out.mp4", "--model", model, "--config", file) == 0
    assert len(VideoReader(tmp_path / "out.mp4").times) == 10
    assert run("restore", film, "-o", tmp_path / "b.mp4", "--model", model, "--config", file, "--end", "1.4") == 0
    assert len(VideoReader(tmp_path / "b.mp4").times) == 5
    file.write_text("start = true\n")
    assert run("restore", film, "--config", file) == 2
    assert "start is true" in capsys.readouterr().err

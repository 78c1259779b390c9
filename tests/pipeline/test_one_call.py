"""One call for a whole file: what the command does, from Python."""

from __future__ import annotations

import json
import logging
from functools import partial

import pytest
from journey import decoded, run, shaky_video, small_model
from torch import nn

import metadeblur as md

QUICK = {"steps": 2, "pairs": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return shaky_video(tmp_path_factory.mktemp("video") / "shaky.mp4", (6,), audio_tracks=1)


@pytest.fixture(scope="module")
def restored(tmp_path_factory, video, model):
    """The result, its record, and what was told of it."""
    out, told = tmp_path_factory.mktemp("out") / "sharp.mp4", []
    record = md.restore_video(
        str(video), str(out), model=str(model), progress=lambda *how_far: told.append(how_far), **QUICK
    )
    return out, record, told


def test_it_does_what_the_command_does(restored, video, model, tmp_path):
    out, record, _ = restored
    target, kept = tmp_path / "by_command.mp4", tmp_path / "record.json"
    words = ["--steps", 2, "--pairs", 2, "--model", model, "--json", kept, "--quiet"]
    assert run("restore", video, "-o", target, *words) == 0
    assert (decoded(out) == decoded(target)).all()
    assert out.read_bytes() == target.read_bytes()
    written = json.loads(kept.read_text())
    assert (record.share, len(record.shots)) == (written["share"], len(written["shots"]))
    assert record.settings["adaptation"] == written["settings"]["adaptation"]
    assert record.settings["model"] == str(model)


def test_the_record_is_shown_in_short(restored):
    _, record, _ = restored
    assert isinstance(record, md.RunRecord)
    assert repr(record).startswith("RunRecord('")
    assert len(repr(record)) < 400
    assert "<b>" in record._repr_html_()


def test_progress_is_a_function(restored):
    _, _, told = restored
    stages = {stage for _, _, stage in told}
    assert stages == {"scan", "adapt", "restore"}
    for stage in stages:
        done = [(done, total) for done, total, what in told if what == stage]
        assert [one for one, _ in done] == sorted(one for one, _ in done)
        assert done[-1][0] == done[-1][1] == (2 if stage == "adapt" else 6)


def test_progress_true_shows_it(video, model, tmp_path, capsys):
    md.restore_video(video, tmp_path / "shown.mp4", model=model, progress=True, **QUICK)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "restoring: 6 of 6 frames" in shown.err
    assert "shown.mp4" in shown.err


def test_without_progress_it_is_silent_and_logs(video, model, tmp_path, capsys, caplog):
    md.restore_video(video, tmp_path / "silent.mp4", model=model, **QUICK)
    shown = capsys.readouterr()
    assert (shown.out, shown.err, caplog.records) == ("", "", [])
    with caplog.at_level(logging.INFO, logger="metadeblur"):
        md.restore_video(video, tmp_path / "logged.mp4", model=model, **QUICK)
    assert any("logged.mp4" in record.getMessage() for record in caplog.records)


def test_networks_of_ones_own(video, tmp_path):
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, blurred):
            return blurred + 0.01 * self.conv(blurred)

    net = Mine().half()
    record = md.restore_video(video, tmp_path / "mine.mp4", model=net, adapt=False, guard=False)
    assert record.settings["model"] == "Mine"
    assert len(decoded(tmp_path / "mine.mp4")) == 6
    with pytest.raises(md.MetadeblurError, match="is a class"):
        md.restore_video(video, tmp_path / "no.mp4", model=Mine)


def test_settings_reach_their_places(video, model, tmp_path):
    record = md.restore_video(
        video, tmp_path / "all.mkv", model=model, effort="quick", codec="ffv1", tile=64, precision="fp32", seed=3,
        guard="cheap", device="cpu", side_by_side=tmp_path / "both.mkv", report=tmp_path / "page",
        json=tmp_path / "all.json",
    )  # fmt: skip
    assert record.tile == 64
    assert record.settings["encoding"]["codec"] == "ffv1"
    asked = record.settings["adaptation"]
    assert (asked["steps"], asked["seed"], asked["guard"], asked["precision"]) == (0, 3, "cheap", "fp32")
    assert all((tmp_path / name).exists() for name in ("both.mkv", "page/index.html", "all.json"))


def test_an_output_that_is_there_is_replaced_only_when_asked(video, model, tmp_path):
    out = tmp_path / "there.mp4"
    out.write_bytes(b"mine")
    again = partial(md.restore_video, video, out, model=model, adapt=False)
    with pytest.raises(md.MetadeblurError, match="there already; overwrite=True replaces it"):
        again()
    assert out.read_bytes() == b"mine"
    again(overwrite=True)
    assert len(decoded(out)) == 6


def test_a_failing_progress_ends_the_run_and_leaves_nothing(video, model, tmp_path):
    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        md.restore_video(video, tmp_path / "none.mp4", model=model, progress=fail, **QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"path": md.Clip}, "takes the path of one file or folder"),
        ({"path": ["a.mp4", "b.mp4"]}, r"not a list; md.restore\(net, clip\)"),
        ({"path": "missing.mp4"}, "missing.mp4"),
        ({"progress": "yes"}, "progress is 'yes'; give True, or a function"),
        ({"model": "lit"}, "did you mean lite"),
        ({"stepss": 3}, "did you mean steps"),
        ({"budget": 3}, "did you mean budget_seconds"),
        ({"steps": -1}, "steps is -1"),
    ],
)
def test_what_cannot_be_is_refused(video, tmp_path, how, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(md.MetadeblurError, match=said):
        md.restore_video(**{"path": video, "out": tmp_path / "no.mp4"} | how)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_videos_is_several(video, tmp_path):
    with pytest.raises(md.MetadeblurError, match="holds several videos"):
        md.restore_video(video.parent, tmp_path / "no.mp4")

"""The job of a whole file, and the small rooms that it is made of: names, parts, records, decisions, progress."""

from __future__ import annotations

import io
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import case
from hypothesis import given, settings
from hypothesis import strategies as st
from journey import PLAIN, decoded, names, run, shaky, shaky_video, small_model
from listening import Lines
from media import ROTATED_90, make_frames, make_video, moving_picture, video_packets
from rich.console import Console
from torch import nn

import metadeblur.pipeline.console
import metadeblur.pipeline.policy
import metadeblur.pipeline.run
import metadeblur.pipeline.time_left
from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.errors import MetadeblurError
from metadeblur.guard.judge import Reason
from metadeblur.pipeline.console import Terminal
from metadeblur.pipeline.outputs import Job, default_name, plan, preview_path
from metadeblur.pipeline.policy import informative_stretch, shared_budget
from metadeblur.pipeline.resume import Parts, differences, parts_folder
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.report.record import RunRecord
from metadeblur.report.shot_pictures import frames_to_show
from metadeblur.restoration import restorer as restoring
from metadeblur.restoration.prefetching import BackgroundWriter
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.identity import identify
from metadeblur.system.json_files import plain, to_json
from metadeblur.system.names import in_words

BASE = RunSettings(
    adapt=False, adaptation=AdaptSettings(guard=False), restoration=RestoreSettings(device="cpu", precision="fp32")
)


class Darker(nn.Module):
    """A network whose work can be seen."""

    def forward(self, x):
        return x * 0.5


# --- where results go ----------------------------------------------------------------------------------------------


def test_default_names_lie_beside_the_input(tmp_path):
    video, folder = tmp_path / "a.MP4", make_frames(tmp_path / "walk")
    assert [job.output for job in plan([video, folder])] == [tmp_path / "a_deblurred.MP4", tmp_path / "walk_deblurred"]
    assert default_name(Path("a.wmv")) == "a_deblurred.mkv"
    assert preview_path(tmp_path / "walk") == tmp_path / "walk_preview"


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(make_frames(tmp_path / "walk"))
    assert plan([Path()])[0].output == tmp_path / "walk_deblurred"


def test_several_inputs_share_folders(tmp_path):
    jobs = plan(
        [tmp_path / "a.mp4", tmp_path / "b.mp4"],
        tmp_path / "out",
        side_by_side=tmp_path / "side",
        report=tmp_path / "r",
    )
    assert jobs[1] == Job(
        tmp_path / "b.mp4",
        tmp_path / "out" / "b_deblurred.mp4",
        tmp_path / "side" / "b_deblurred.mp4",
        tmp_path / "r" / "b_deblurred",
    )
    assert (tmp_path / "out").is_dir()


@case(
    "Files and streams",
    "-o with a slash at its end, or a folder that is there; -o with a new name without a suffix",
    "the video goes into that folder under its default name; a folder of pictures is made",
    "the same rule whether the folder is there or not",
)
def test_a_folder_takes_a_video_under_its_default_name(tmp_path):
    video = tmp_path / "a.mp4"
    assert plan([video], tmp_path)[0].output == tmp_path / "a_deblurred.mp4"
    slash = f"{tmp_path}/new/inner/"
    (job,) = plan([video], slash, side_by_side=f"{tmp_path}/both/")
    assert job.output == tmp_path / "new" / "inner" / "a_deblurred.mp4"
    assert job.side_by_side == tmp_path / "both" / "a_deblurred.mp4"
    assert (tmp_path / "new" / "inner").is_dir()
    assert plan([video], slash)[0].output == job.output  # it is there now
    assert plan([video], f"{tmp_path}/pictures")[0].output == tmp_path / "pictures"
    folder = make_frames(tmp_path / "frames", 1)
    assert plan([folder], f"{tmp_path}/restored/")[0].output == tmp_path / "restored"


def test_the_command_tells_a_folder_for_the_file_from_a_folder_of_pictures(tmp_path):
    video, model = shaky_video(tmp_path / "a.mp4", (3,)), small_model(tmp_path / "m.safetensors")
    flags = ("--model", model, *PLAIN)
    assert run("restore", video, "-o", f"{tmp_path}/folder/", *flags) == 0
    assert run("restore", video, "-o", tmp_path / "pictures", *flags) == 0
    assert names(tmp_path / "folder") == ["a_deblurred.mp4"]
    assert names(tmp_path / "pictures") == ["frame000001.png", "frame000002.png", "frame000003.png"]


@pytest.mark.parametrize("output", ["a.mp4", "./sub/../a.mp4", "link.mp4"])
def test_output_equal_to_input_is_refused(tmp_path, output):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    with pytest.raises(MetadeblurError, match="the output is the input"):
        plan([tmp_path / "a.mp4"], tmp_path / output)


def test_outputs_that_would_meet_are_refused(tmp_path):
    one, two = tmp_path / "x" / "a.mp4", tmp_path / "y" / "a.mp4"
    with pytest.raises(MetadeblurError, match="two results"):
        plan([one, two], tmp_path / "out")
    with pytest.raises(MetadeblurError, match="two results"):
        plan([one], tmp_path / "b.mp4", side_by_side=tmp_path / "b.mp4")
    with pytest.raises(MetadeblurError, match="the output is the input"):
        plan([one, two], tmp_path / "out", json=one)
    folder = make_frames(tmp_path / "frames")
    for output in (folder / "out", tmp_path):
        with pytest.raises(MetadeblurError, match="lies inside the other"):
            plan([folder], output)


# --- parts and resumption ------------------------------------------------------------------------------------------


def test_parts_are_found_again(tmp_path):
    output, mark = tmp_path / "out.mp4", {"steps": 40, "input": "abc"}
    parts, lines = Parts.open(output, mark, resume=False)
    assert not lines
    assert parts.noted("tile") is None
    parts.note("tile", 0)
    parts.finish(2, {"index": 2, "loss": math.nan})
    again, (line,) = Parts.open(output, mark, resume=True)
    assert "1 shot is finished already" in line
    assert (again.shot(2), again.shot(0), again.noted("tile")) == ({"index": 2, "loss": None}, None, 0)
    again.discard()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "resume", "said"),
    [
        ({"steps": 20}, True, "cannot resume out.mp4: steps was 40, is 20; starting anew"),
        ({}, False, "dropping 1 finished shot of an earlier run (--resume would have used them)"),
    ],
)
def test_parts_that_do_not_fit_start_anew_and_say_so(tmp_path, change, resume, said):
    output, mark = tmp_path / "out.mp4", {"steps": 40, "input": "abc"}
    parts, _ = Parts.open(output, mark, resume=False)
    parts.finish(0, {})
    again, (line,) = Parts.open(output, {**mark, **change}, resume=resume)
    assert line == said
    assert again.finished == 0


@pytest.mark.parametrize("state", ["", "{", "[]", '{"format": 99, "shots": {}}', '{"format": 1}'])
def test_a_damaged_state_starts_anew(tmp_path, state):
    folder = parts_folder(tmp_path / "out.mp4")
    folder.mkdir()
    (folder / "state.json").write_text(state)
    parts, (line,) = Parts.open(tmp_path / "out.mp4", {}, resume=True)
    assert "nothing to resume" in line
    assert parts.finished == 0


def test_an_input_is_recognised_by_its_files(tmp_path):
    folder = make_frames(tmp_path / "f", 3)
    before = identify(folder)
    assert identify(folder) == before
    (folder / "frame3.png").write_bytes(b"other")
    assert identify(folder) != before
    assert differences({"a": 1}, {"a": 1, "b": 2}) == "b was None, is 2"


# --- decisions -----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(10, 100), min_size=1, max_size=60), st.integers(5, 70))
@settings(deadline=None)
def test_the_stretch_is_inside_and_of_the_wanted_length(scores, limit):
    start, stop = informative_stretch(scores, limit)
    assert 0 <= start < stop <= len(scores)
    assert stop - start == min(limit, len(scores))


def test_the_stretch_holds_sharp_and_blurred_frames_but_not_a_fade():
    scores = [30.0] * 100 + [30.0, 38.0] * 20 + [30.0] * 60 + [100.0] * 5 + [30.0] * 60
    start, stop = informative_stretch(scores, 30)
    assert max(start, 100) < min(stop, 140)
    assert sum(score == 38 for score in scores[start:stop]) >= 8


@given(st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_a_budget_is_shared_by_length(counts):
    whole = AdaptSettings(budget_seconds=60)
    shares = [shared_budget(whole, count, counts).budget_seconds for count in counts if count >= 5]
    assert not shares or math.isclose(sum(shares), 60)
    assert shared_budget(AdaptSettings(), counts[0], counts).budget_seconds == 0


@given(st.lists(st.floats(20, 60), min_size=1, max_size=40), st.integers(1, 500))
def test_the_report_shows_different_frames_in_order(scores, shots):
    shown = frames_to_show(scores, shots)
    assert 1 <= len(shown) <= 5
    assert list(shown) == sorted(set(shown))
    assert 0 <= shown[0] <= shown[-1] < len(scores)


# --- the whole job -------------------------------------------------------------------------------------------------


def test_every_frame_goes_through_the_network(tmp_path):
    source = make_video(tmp_path / "a.mp4", shaky((6,)), audio_tracks=1)
    progress = Lines()
    record = restore_file(Job(source, tmp_path / "b.mp4"), Darker(), BASE, model="darker", listener=progress)
    before, after = decoded(source).astype(float), decoded(tmp_path / "b.mp4")
    assert np.abs(after - before / 2).mean() < 2
    assert names(tmp_path) == ["a.mp4", "b.mp4"]
    assert video_packets(source)[1] == video_packets(tmp_path / "b.mp4")[1]
    assert plain(RunRecord.from_json(json.loads(to_json(record)))) == plain(record)
    shot = record.shots[0]
    assert (shot.start, shot.stop, shot.adapted, shot.share) == (0, 6, False, 0.0)
    assert len(shot.scores) == 6
    assert record.settings["model"] == "darker"
    assert record.video["frames"] == 6
    assert {"scan", "restore", "assemble", "total"} <= record.seconds.keys()
    assert record.peak_memory_mb > 100
    assert "b.mp4" in progress.lines[-1]


def test_short_shots_and_pictures_get_the_base_model_and_the_record_says_so(tmp_path):
    video = shaky_video(tmp_path / "a.mp4", (3, 8))
    wanted = replace(BASE, adapt=True, adaptation=AdaptSettings(pairs=2, steps=1, patch=48, guard=False))
    net = nn.Conv2d(3, 3, 1)
    record = restore_file(Job(video, tmp_path / "b.mp4"), net, wanted)
    assert [(shot.stop - shot.start, shot.adapted) for shot in record.shots] == [(3, False), (8, True)]
    assert "3 frames are too few" in record.shots[0].note
    assert record.share == pytest.approx(8 / 11)
    assert {pair.frame for pair in record.shots[1].pairs} <= set(range(3, 11))
    picture = make_frames(tmp_path / "f", 1) / "frame1.png"
    record = restore_file(Job(picture, tmp_path / "b.png"), Darker(), wanted)
    assert "single picture" in record.shots[0].note


def sharp_where(test):
    """A stand-in for the guard's check that calls some shots sharp already."""

    def check(clip, _cache):
        return Reason("sharp already", 50.0, 40.0, True, "this is sharp already") if test(clip) else None

    return check


def test_a_sharp_file_is_copied_byte_for_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(metadeblur.pipeline.policy, "sharp_already", sharp_where(len))
    guarded = replace(BASE, adaptation=AdaptSettings(guard=True))
    video = shaky_video(tmp_path / "a.mp4", (6, 6))
    progress = Lines()
    side = tmp_path / "side.mp4"
    record = restore_file(Job(video, tmp_path / "b.mp4", side), Darker(), guarded, listener=progress)
    assert (tmp_path / "b.mp4").read_bytes() == video.read_bytes()
    assert record.untouched
    assert record.shots[0].reasons[0].text == "this is sharp already"
    assert "Already sharp: nothing was changed." in progress.lines
    assert decoded(side).shape == (12, 64, 192, 3)
    folder = make_frames(tmp_path / "f", 6)
    restore_file(Job(folder, tmp_path / "g"), Darker(), guarded)
    assert names(tmp_path / "g") == names(folder)
    assert all((tmp_path / "g" / name).read_bytes() == (folder / name).read_bytes() for name in names(folder))


def test_sharp_shots_pass_while_others_are_restored(tmp_path, monkeypatch):
    monkeypatch.setattr(metadeblur.pipeline.policy, "sharp_already", sharp_where(lambda clip: len(clip) == 6))
    video = shaky_video(tmp_path / "a.mkv", (6, 9))
    guarded = replace(BASE, adaptation=AdaptSettings(guard=True))
    record = restore_file(Job(video, tmp_path / "b.mkv"), Darker(), guarded)
    before, after = decoded(video).astype(float), decoded(tmp_path / "b.mkv").astype(float)
    assert [shot.untouched for shot in record.shots] == [True, False]
    assert np.abs(after[:6] - before[:6]).mean() < 2
    assert np.abs(after[6:] - before[6:] / 2).mean() < 2


def test_side_by_side_is_blurred_then_restored(tmp_path):
    video = shaky_video(tmp_path / "a.mp4", (6,))
    restore_file(Job(video, tmp_path / "b.mp4", tmp_path / "s.mp4"), Darker(), BASE)
    both, before = decoded(tmp_path / "s.mp4").astype(float), decoded(video).astype(float)
    assert np.abs(both[:, :, :96] - before).mean() < 2
    assert np.abs(both[:, :, 96:] - before / 2).mean() < 2


def test_side_by_side_of_a_turned_video_lies_side_by_side_when_shown(tmp_path):
    video = shaky_video(tmp_path / "a.mp4", (6,), matrix=ROTATED_90)
    restore_file(Job(video, tmp_path / "b.mp4", tmp_path / "s.mp4"), Darker(), BASE)
    both = decoded(tmp_path / "s.mp4").astype(float)
    assert both.shape[1:3] == (128, 96)
    import av

    with av.open(str(tmp_path / "s.mp4")) as container:
        rotation = next(container.decode(video=0)).rotation
    shown = np.rot90(both[0], k=round(rotation / 90))
    assert shown[:, :64].mean() > 1.5 * shown[:, 64:].mean()


def test_preview_holds_the_first_seconds_and_the_whole_follows(tmp_path):
    video = shaky_video(tmp_path / "a.mp4", (6, 9), audio_tracks=1)
    progress = Lines()
    restore_file(Job(video, tmp_path / "b.mp4"), Darker(), replace(BASE, preview_seconds=0.4), listener=progress)
    preview, whole = decoded(tmp_path / "b_preview.mp4"), decoded(tmp_path / "b.mp4")
    assert (len(preview), len(whole)) == (10, 15)
    assert np.abs(preview.astype(float) - whole[:10]).mean() < 2
    assert any("b_preview.mp4; going on" in line for line in progress.lines)
    restore_file(Job(video, tmp_path / "c.mp4"), Darker(), replace(BASE, preview_seconds=60), listener=progress)
    assert not (tmp_path / "c_preview.mp4").exists()
    assert any("no preview" in line for line in progress.lines)


def stopped(job, settings, monkeypatch, frames):
    """Start a run that is interrupted after so many frames; returns the exception."""
    counted = {"left": frames}
    forward = Darker.forward

    def count(self, x):
        counted["left"] -= 1
        if counted["left"] < 0:
            raise KeyboardInterrupt
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(Darker, "forward", count)
        with pytest.raises(KeyboardInterrupt) as caught:
            restore_file(job, Darker(), settings)
    return caught.value


def test_an_interrupted_run_keeps_finished_shots_and_goes_on_to_the_same_file(tmp_path, monkeypatch):
    video = shaky_video(tmp_path / "a.mp4", (6, 6, 9), audio_tracks=1)
    job = Job(video, tmp_path / "b.mp4", tmp_path / "s.mp4", tmp_path / "r")
    restore_file(job, Darker(), BASE)
    whole = [path.read_bytes() for path in (job.output, job.side_by_side)]
    job.output.unlink()
    job.side_by_side.unlink()
    error = stopped(job, BASE, monkeypatch, frames=16)
    assert error.__notes__ == ["2 finished shots are kept: run it again with --resume to go on"]
    assert not job.output.exists()
    calls = []
    forward = Darker.forward
    monkeypatch.setattr(Darker, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    progress = Lines()
    record = restore_file(job, Darker(), replace(BASE, resume=True), listener=progress)
    assert "2 shots are finished already" in progress.lines[0]
    assert len(calls) <= 9 + 4  # the last shot, and what is measured and settled on a first frame
    assert [path.read_bytes() for path in (job.output, job.side_by_side)] == whole
    assert len(record.shots) == 3
    assert names(tmp_path) == ["a.mp4", "b.mp4", "r", "s.mp4"]


def test_an_interrupted_first_shot_leaves_nothing(tmp_path, monkeypatch):
    video = shaky_video(tmp_path / "a.mp4", (12,))
    error = stopped(Job(video, tmp_path / "b.mp4"), BASE, monkeypatch, frames=5)
    assert not getattr(error, "__notes__", [])
    assert names(tmp_path) == ["a.mp4"]


def test_other_settings_are_not_resumed(tmp_path, monkeypatch):
    video = shaky_video(tmp_path / "a.mp4", (6, 9))
    job = Job(video, tmp_path / "b.mp4")
    stopped(job, BASE, monkeypatch, frames=11)
    progress = Lines()
    changed = replace(BASE, encoding=replace(BASE.encoding, quality=30), resume=True)
    restore_file(job, Darker(), changed, listener=progress)
    assert "cannot resume b.mp4: encoding.quality was None, is 30; starting anew" in progress.lines[0]


def test_a_missing_segment_is_made_again(tmp_path, monkeypatch):
    video = shaky_video(tmp_path / "a.mp4", (6, 9))
    job = Job(video, tmp_path / "b.mp4")
    stopped(job, BASE, monkeypatch, frames=11)
    (parts_folder(job.output) / "shot-00000").unlink()
    record = restore_file(job, Darker(), replace(BASE, resume=True))
    assert len(decoded(job.output)) == 15
    assert len(record.shots) == 2


class Settled:
    """A machine whose free memory and arithmetic can be set; remembers what frames were restored with."""

    def __init__(self, monkeypatch):
        self.free, self.bf16, self.used = 1 << 40, False, []
        monkeypatch.setattr(restoring, "available_bytes", lambda _: self.free)
        monkeypatch.setattr(restoring, "has_native_bf16", lambda _: self.bf16)
        whole = restoring.Restorer.restored

        def remember(restorer, windows):
            restored = whole(restorer, windows)
            self.used.append((restorer.tile, restorer.precision))
            return restored

        monkeypatch.setattr(restoring.Restorer, "restored", remember)


def chosen_freely(adapt=False):
    return replace(BASE, adapt=adapt, restoration=RestoreSettings(device="cpu"))


def test_all_shots_use_tile_and_precision_of_the_first(tmp_path, monkeypatch):
    video = make_video(tmp_path / "a.mkv", shaky((6, 6), (128, 192)))
    machine = Settled(monkeypatch)
    machine.free = 1 << 19
    forward = Darker.forward

    def grow(self, x):
        machine.free, machine.bf16 = 1 << 40, True  # what is free once the run is under way decides nothing
        return forward(self, x)

    restorer = restoring.Restorer(Darker(), 128, 192, RestoreSettings(device="cpu"))
    restorer.prepare(torch.zeros(3, 128, 192))
    assert 0 < restorer.tile < 128
    monkeypatch.setattr(Darker, "forward", grow)
    machine.used.clear()
    record = restore_file(Job(video, tmp_path / "b.mkv"), Darker(), chosen_freely())
    assert set(machine.used) == {(record.tile, record.precision)}
    assert {(shot.tile, shot.precision) for shot in record.shots} == {(record.tile, "fp32")}


@pytest.mark.parametrize("frames", [4, 16])  # stopped in the first shot, and in the second
def test_a_killed_run_goes_on_with_the_tile_and_precision_that_it_began_with(tmp_path, monkeypatch, frames):
    video = make_video(tmp_path / "a.mkv", shaky((6, 9), (128, 192)))
    machine = Settled(monkeypatch)
    job = Job(video, tmp_path / "b.mkv")
    # As a kill would leave it: nothing is cleaned up.
    monkeypatch.setattr(Parts, "discard", lambda _: None)
    machine.bf16 = True
    stopped(job, chosen_freely(), monkeypatch, frames)
    began_with = set(machine.used)
    machine.used.clear()
    machine.free, machine.bf16 = 1 << 19, False
    record = restore_file(job, Darker(), replace(chosen_freely(), resume=True))
    assert set(machine.used) == began_with == {(0, "bf16")}
    assert (record.tile, record.precision) == (0, "bf16")


def test_a_tile_that_had_to_be_lowered_stays_so_for_a_resumed_run(tmp_path, monkeypatch):
    video = make_video(tmp_path / "a.mkv", shaky((6, 9), (128, 192)))
    machine = Settled(monkeypatch)
    forward = Darker.forward

    def small_only(self, x):
        if x.shape[-1] >= 192:
            raise MemoryError
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(Darker, "forward", small_only)
        job = Job(video, tmp_path / "b.mkv")
        stopped(job, replace(BASE, restoration=RestoreSettings(device="cpu", precision="fp32")), patch, frames=30)
    lowered = {tile for tile, _ in machine.used[1:]}
    machine.used.clear()
    resumed = RunSettings(
        adapt=False,
        adaptation=BASE.adaptation,
        restoration=RestoreSettings(device="cpu", precision="fp32"),
        resume=True,
    )
    restore_file(job, Darker(), resumed)
    assert {tile for tile, _ in machine.used} == lowered != {0}


def test_a_long_run_is_announced_as_a_range(tmp_path, monkeypatch):
    class Slow(Darker):
        def forward(self, x):
            time.sleep(0.02)
            return x * 0.5

    monkeypatch.setattr(metadeblur.pipeline.time_left, "LONG_RUN_SECONDS", 0.0)
    video = shaky_video(tmp_path / "a.mp4", (6, 12))
    progress = Lines()
    restore_file(Job(video, tmp_path / "b.mp4"), Slow(), BASE, listener=progress)
    found = re.fullmatch(r"expected time: .* to .* \(([\d.]+) to ([\d.]+) s a frame for 18 frames\)", progress.lines[0])
    assert found
    assert float(found[1]) >= 0.02
    assert float(found[2]) >= 1.25 * float(found[1])
    assert names(tmp_path) == ["a.mp4", "b.mp4"]


def test_the_time_to_adapt_is_announced_and_every_piece_is_counted(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(metadeblur.pipeline.time_left, "LONG_RUN_SECONDS", 0.0)
    monkeypatch.setattr(
        metadeblur.pipeline.run,
        "Forecast",
        lambda *given: made.append(metadeblur.pipeline.time_left.Forecast(*given)) or made[-1],
    )
    video = shaky_video(tmp_path / "a.mp4", (3, 8, 9))
    wanted = replace(BASE, adapt=True, adaptation=AdaptSettings(pairs=2, steps=3, patch=48, guard=True))
    for output, how in (("b.mp4", wanted), ("c.mp4", replace(wanted, preview_seconds=0.3))):
        progress = Lines()
        restore_file(Job(video, tmp_path / output), nn.Conv2d(3, 3, 1), how, listener=progress)
        assert re.search(r" s a frame for 2\d frames, .* to adapt\)$", progress.lines[0])
        assert made[-1].work == metadeblur.pipeline.time_left.Work()


def test_a_time_limit_that_nothing_fits_in_is_said_beforehand_and_at_the_end(tmp_path):
    video, progress = shaky_video(tmp_path / "a.mp4", (8,)), Lines()
    few = AdaptSettings(pairs=4, steps=8, patch=48, budget_seconds=0.1)
    record = restore_file(
        Job(video, tmp_path / "b.mp4"), nn.Conv2d(3, 3, 1), replace(BASE, adapt=True, adaptation=few), listener=progress
    )
    assert progress.lines[0].startswith("0.1 s for adapting is less than the least that makes sense, about ")
    assert progress.lines[1].endswith("Nothing learnt in this time: restored with the network as it is.")
    assert (record.shots[0].adapted, record.shots[0].losses) == (False, ())


def test_interlaced_input_is_said(tmp_path):
    video = make_video(
        tmp_path / "a.mp4", moving_picture(6, 64, 96), options={"flags": "+ildct+ilme", "x264-params": "tff=1"}
    )
    progress = Lines()
    record = restore_file(Job(video, tmp_path / "b.mp4"), Darker(), BASE, listener=progress)
    if record.video["interlaced"]:
        assert any("deinterlaced" in line for line in progress.lines)


def test_the_network_is_not_changed(tmp_path):
    video = shaky_video(tmp_path / "a.mp4", (6,))
    net = nn.Conv2d(3, 3, 1).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    wanted = replace(BASE, adapt=True, adaptation=AdaptSettings(pairs=2, steps=2, patch=48, guard=False))
    restore_file(Job(video, tmp_path / "b.mp4"), net, wanted)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


# --- lines, bars, threads ------------------------------------------------------------------------------------------


def shown_on(live: bool) -> tuple[Terminal, io.StringIO]:
    screen = io.StringIO()
    terminal = Terminal()
    terminal.console = Console(file=screen, force_terminal=live, width=100)
    return terminal, screen


def test_a_bar_shows_late_and_only_on_a_terminal(monkeypatch):
    for live, delay, shown in ((True, 0.0, True), (True, 60.0, False), (False, 0.0, False)):
        monkeypatch.setattr(metadeblur.pipeline.console, "DELAY_SECONDS", delay)
        terminal, screen = shown_on(live)
        with terminal.bar("restoring") as bar:
            for done in range(3):
                bar(done, 3, "shot 1 of 1")
        assert ("restoring, shot 1 of 1" in screen.getvalue()) == shown


def test_lines_are_printed_as_they_are():
    terminal, screen = shown_on(False)
    terminal.say("[bold] :smile: " + "long " * 60 + "line")
    assert screen.getvalue() == "[bold] :smile: " + "long " * 60 + "line\n"


@given(st.floats(0, 1e6))
def test_durations_have_a_unit(seconds):
    assert in_words(seconds).split()[-1] in ("s", "min")


def test_what_fails_behind_fails_in_front():
    def fail():
        raise OSError("disk full")

    with BackgroundWriter() as background:
        background.do(fail)
        with pytest.raises(OSError, match="disk full"):
            background.finish()

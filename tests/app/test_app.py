"""The page without a browser: uploads, previews, restorations, the line, what is deleted, what is served to whom."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra [app] is not installed: pip install '.[app]'")

import av
import numpy as np
from app_server import Place, bring, multipart, new_service, until, uploaded
from fastapi.testclient import TestClient
from journey import decoded, run, shaky, shaky_video
from media import make_frames, make_video
from torch import nn

from metadeblur.adaptation.settings import preset
from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.app import preview as previewing
from metadeblur.app import service as served_by
from metadeblur.app import tasks as work
from metadeblur.app.hosts import Hosts
from metadeblur.app.html import headline, progress
from metadeblur.app.playable import plays_everywhere, write_playable
from metadeblur.app.preview import excerpt
from metadeblur.app.queue import QueuedTask, TaskProcesses, TaskQueue
from metadeblur.app.server import Site, make_app
from metadeblur.app.service import Service, UploadedClip, Visit, clean_name
from metadeblur.cli.app import App, warnings
from metadeblur.cli.entry import parse
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.tiles import middle_of
from metadeblur.pipeline.events import FrameRestored, FrameScanned, Position, ShotStarted, StepDone, TimeLeft
from metadeblur.pipeline.run import RunSettings
from metadeblur.system.extras import how_to_install
from metadeblur.types import Effort
from metadeblur.video import VideoReader

DOCS = Path(__file__).parents[2] / "docs" / "web-page.md"


@pytest.fixture
def service() -> Iterator[Service]:
    service = new_service()
    yield service
    service.close()


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def restored(service: Service, visit: Visit, clip: UploadedClip, effort: Effort = "quick") -> work.Done:
    """A clip's result."""
    service.begin(visit, clip, "lite", effort)
    until(lambda: clip.work.over)
    assert clip.error == ""
    return clip.done


# --- uploads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x.mp4", "/etc/x.mp4", "..\\..\\x.mp4", "C:\\x.mp4", "x\0.mp4", "a/" * 400])
def test_names_from_outside_never_lead_out_of_a_visitor_s_folder(service, tmp_path, name):
    visit = service.open()
    (clip,) = bring(service, visit, (name, shaky_video(tmp_path / "v.mp4", (5,)).read_bytes()))
    assert clip.error == ""
    assert everything(clip.folder) == ["in", str(clip.source)]
    assert clip.source.parent == Path("in")
    assert not {"/", "\\", "\0", ".."} & set(clip.name)
    assert clip.name != ".."


def test_names_keep_what_people_need():
    assert clean_name("Ünïcode: 東京 (1).mp4") == "Ünïcode_ 東京 (1).mp4"
    assert clean_name("<script>.mov") == "_script_.mov"
    assert clean_name("-o.mp4") == "o.mp4"
    assert len(clean_name("a" * 500 + ".mp4")) == 84


def test_folders_are_private(service, tmp_path):
    visit = service.open()
    (clip,) = bring(service, visit, ("a.mp4", shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()))
    for folder in (service.folder, service.uploads, service.shown):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert service.folder in clip.folder.parents
    assert service.shown in clip.shown.parents


def test_too_large_a_clip_leaves_nothing(service):
    visit = service.open()
    with pytest.raises(MetadeblurError, match=r"^big\.mp4: larger than the 2 MB"):
        bring(service, visit, ("big.mp4", bytes(2_000_001)))
    with pytest.raises(MetadeblurError, match="larger than"):  # all frames of a clip together
        bring(service, visit, ("1.png", bytes(1_500_000)), ("2.png", bytes(600_000)))
    assert visit.clips == {}
    assert everything(service.uploads) == [service.shown.name]


def test_more_clips_than_one_visitor_may_have_are_refused(service, monkeypatch, tmp_path):
    monkeypatch.setattr(served_by, "MOST_CLIPS", 2)
    visit = service.open()
    content = shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()
    with pytest.raises(MetadeblurError, match="more than 2 clips; delete some"):
        bring(service, visit, *((f"{number}.mp4", content + bytes(number)) for number in range(3)))
    assert visit.clips == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"this is a text\n" * 50, r"^notes\.mp4: "),
        (b"", r"^notes\.mp4: "),
        (b"#EXTM3U\n/etc/passwd\n", "is a list of other files"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "is a list of other files"),
        (b"<?xml version='1.0'?><MPD></MPD>", "is a list of other files"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(service, content, says):
    visit = service.open()
    (clip,) = bring(service, visit, ("notes.mp4", content))
    assert re.search(says, clip.error)
    assert "\n" not in clip.error
    assert "in/" not in clip.error
    with pytest.raises(MetadeblurError, match="has not been looked at"):
        service.begin(visit, clip, "lite", "quick")
    service.delete(visit, clip)
    assert not clip.folder.exists()


def test_videos_are_clips_and_pictures_the_frames_of_one_in_the_order_of_their_names(service, tmp_path):
    files = sorted(make_frames(tmp_path / "walk", shaky((11,), (40, 64))).iterdir())  # frame1, frame10, frame11, frame2
    video = shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()
    hidden = ("walk/.DS_Store", b"x")
    named = [(f"walk/{path.name}", path.read_bytes()) for path in files]
    first, second = bring(service, service.open(), *named, hidden, ("a.mp4", video))
    assert (first.name, first.error, first.seen.info.frames) == ("a.mp4", "", 5)
    assert (second.seen.info.kind, second.seen.info.frames, second.names[1]) == ("frames", 11, "frame2.png")


def test_the_same_file_may_be_brought_by_many_at_the_same_moment(service, tmp_path):
    content = shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()
    files = [uploaded(service, "a.mp4", content) for _ in range(3)]  # one path, as Gradio names it by what is in it
    visits = [service.open() for _ in files]
    clips = [service.bring(visit, [file], "lite")[0] for visit, file in zip(visits, files, strict=True)]
    assert [(clip.folder / clip.source).read_bytes() == content for clip in clips] == [True] * 3


def test_what_was_not_uploaded_is_not_taken(service, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"x")
    for path in (
        secret,
        service.shown / "x" / "y.mp4",
        service.uploads / ("0" * 64) / ".." / "x.mp4",
        Path("/etc/passwd"),
    ):
        with pytest.raises(MetadeblurError):
            service.bring(service.open(), [(path, "a.mp4")], "lite")
    assert secret.exists()


def test_a_visit_expires_and_what_nobody_has_taken_is_deleted(service, tmp_path, monkeypatch):
    content = shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()
    visit, empty = service.open(), service.open()
    (clip,) = bring(service, visit, ("a.mp4", content))
    left, _ = uploaded(service, "left.mp4", b"x")
    monkeypatch.setattr(served_by, "AWAY_SECONDS", -1.0)
    monkeypatch.setattr(served_by, "UPLOAD_SECONDS", -1.0)
    service.sweep()
    assert not left.exists()
    assert clip.folder.is_dir()  # longer than its page is open
    assert service.get(empty.token) is None
    service.keep = -1.0
    service.sweep()
    assert not clip.folder.exists()
    assert not clip.shown.exists()
    assert service.get(visit.token) is None


# --- previews and restorations ---------------------------------------------------------------------------------------


def test_the_preview_comes_first_and_shows_two_seconds_before_and_after(service, tmp_path):
    visit = service.open()
    began = time.monotonic()
    (clip,) = bring(
        service, visit, ("clip.mp4", make_video(tmp_path / "clip.mp4", shaky((12,), (240, 320))).read_bytes())
    )
    assert time.monotonic() - began < 10.0
    pair = clip.seen.preview
    assert pair.moving
    before, after = (decoded(Path(path)) for path in (pair.before, pair.after))
    assert before.shape == after.shape
    assert pair.part or before.shape == (12, 240, 320, 3)  # less of it on a busy machine
    assert plays_everywhere(Path(pair.before))
    assert np.abs(before.astype(int) - after).mean() > 0.5
    assert clip.seen.pixel_seconds > 0


def test_a_preview_leaves_out_titles_and_ends_at_a_cut(tmp_path):
    black = np.zeros((6, 64, 96, 3), np.uint8)
    reader = VideoReader(make_video(tmp_path / "a.mkv", np.concatenate([black, *map(np.stack, [shaky((9, 20))])])))
    found = excerpt(reader)
    assert len(found.frames) == 9
    assert float(found.frames.float().std()) > 10
    plain = excerpt(VideoReader(make_video(tmp_path / "b.mkv", black)))
    assert len(plain.frames) == 6


def test_a_slow_network_previews_a_part(tmp_path, monkeypatch):
    found = excerpt(VideoReader(make_video(tmp_path / "a.mkv", shaky((12,), (240, 320)))))
    monkeypatch.setattr(previewing, "COST", 1e-9)
    part, after, _ = previewing.restored_excerpt(nn.Identity(), found, lambda *_: None)
    assert part.cropped
    assert after.shape == part.frames.shape
    assert (len(part.frames), part.frames.shape[-2] * part.frames.shape[-1] <= 160 * 120) == (5, True)
    assert bool((part.frames[part.worst] == middle_of(found.frames, 160 * 120)[found.worst]).all())


@pytest.mark.slow
def test_the_result_is_the_command_line_s(service, tmp_path, monkeypatch):
    few = RunSettings(adaptation=AdaptSettings(pairs=2, steps=2))
    monkeypatch.setattr(served_by, "RunSettings", lambda **_: few)
    source = make_video(tmp_path / "my clip.mov", shaky((9,)), audio_tracks=1)
    visit = service.open()
    (clip,) = bring(service, visit, ("my clip.mov", source.read_bytes()))
    assert clip.seen.info.audio_streams == 1
    done = restored(service, visit, clip, "balanced")
    assert Path(done.file).name == "my clip_deblurred.mov"
    assert run("restore", source, "-o", tmp_path / "out.mov", "--pairs", "2", "--steps", "2") == 0
    assert np.array_equal(decoded(Path(done.file)), decoded(tmp_path / "out.mov"))
    assert done.verdict.headline.startswith(("Sharper", "Hardly sharper"))
    report = Path(done.file).with_name("report.html").read_text()
    assert "my clip.mov" in report
    assert str(service.folder) not in report
    pair = done.compared
    assert (pair.moving, pair.frames) == (True, 9)
    with av.open(pair.after) as played, av.open(pair.before) as before:
        assert played.streams.video[0].codec_context.codec.canonical_name == "h264"
        assert before.streams.video[0].codec_context.codec.canonical_name == "h264"
        assert played.streams.audio[0].codec_context.name == "aac"
        assert sum(frame.samples for frame in played.decode(audio=0)) > 10_000


def test_frames_come_back_as_an_archive_under_their_own_names(service, tmp_path):
    folder = make_frames(tmp_path / "walk", shaky((6,), (40, 64)))
    visit = service.open()
    (clip,) = bring(service, visit, *((path.name, path.read_bytes()) for path in sorted(folder.iterdir())))
    done = restored(service, visit, clip)
    assert run("restore", folder, "-o", tmp_path / "out", "--effort", "quick") == 0
    with zipfile.ZipFile(done.file) as archive:
        assert archive.namelist() == [f"frame{number}.png" for number in range(1, 7)]
        assert archive.read("frame2.png") == (tmp_path / "out" / "frame2.png").read_bytes()
    assert len(decoded(Path(done.compared.after))) == 6


@pytest.mark.slow
def test_cancelling_ends_the_process_at_once_and_leaves_the_clip_alone(service):
    visit = service.open()
    clip = service.example(visit, next(iter(work.EXAMPLES)), "lite")
    until(lambda: clip.seen)
    service.begin(visit, clip, "lite", "best")
    task = clip.work
    until(lambda: task.phase == "restore")  # in the middle of choosing patches, where nothing asks whether to stop
    began = time.monotonic()
    service.cancel(visit, clip)
    assert time.monotonic() - began < 2.0
    assert not task.process.is_alive()
    assert (task.state, clip.work, clip.seen is not None) == ("cancelled", None, True)
    assert everything(clip.folder) == ["in", "in/shaky.mp4"]
    assert len(service.line) == 0


def test_clips_wait_in_line_and_are_told_their_place(service, tmp_path):
    visit, other = service.open(), service.open()
    content = shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()
    first, second = bring(service, visit, ("a.mp4", content), ("b.mp4", content + b"x"))
    (third,) = bring(service, other, ("c.mp4", content + b"xx"))
    service.begin(visit, first, "lite", "best")
    until(lambda: first.work.state == "running")
    service.begin(visit, second, "lite", "quick")
    service.begin(other, third, "lite", "quick")
    assert [service.line.before(clip.work) for clip in (first, second, third)] == [0, 1, 2]
    assert headline(third.work, 2) == "In line: 2 restorations are before yours"
    with pytest.raises(MetadeblurError, match="is being restored already"):
        service.begin(visit, second, "lite", "quick")
    service.cancel(visit, second)  # one that waits
    assert service.line.before(third.work) == 1
    service.cancel(visit, first)
    until(lambda: third.work.over)
    assert (third.work.state, third.error) == ("done", "")


class _Pretended:
    """Processes that do nothing until they are ended."""

    def __init__(self) -> None:
        self.pipes: list[Any] = []

    def start(self, *_: Any) -> Any:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = SimpleNamespace(kill=theirs.close, join=lambda: None, exitcode=-9)
        self.pipes.append(theirs)
        return process, ours


def test_processes_started_at_the_same_time_leave_the_program_its_name(monkeypatch):
    processes = TaskProcesses()
    slow = SimpleNamespace(start=lambda: time.sleep(0.05))
    monkeypatch.setattr(processes, "_context", SimpleNamespace(Pipe=multiprocessing.Pipe, Process=lambda **_: slow))
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", "here.py", raising=False)
    with ThreadPoolExecutor(4) as pool:
        for started in [pool.submit(processes.start, Path(), work.look) for _ in range(4)]:
            started.result()
    assert main.__file__ == "here.py"


def test_nobody_waits_for_one_whose_browser_has_died():
    here = {"first": True, "second": True, "third": True}
    queue = TaskQueue(_Pretended())
    first, second, third = (
        queue.add(QueuedTask(Path(), work.look, (), wanted=lambda name=name: here[name])) for name in here
    )
    assert [task.state for task in (first, second, third)] == ["running", "waiting", "waiting"]
    here["second"] = False
    assert queue.before(third) == 1
    here["first"] = False  # under way, and left
    queue.turn()
    assert [task.state for task in (first, second, third)] == ["waiting", "waiting", "running"]
    here |= dict.fromkeys(here, True)  # they come back, and have kept their places
    assert [queue.before(task) for task in (first, second)] == [0, 1]
    queue.cancel(third)
    assert [task.state for task in (first, second, third)] == ["running", "waiting", "cancelled"]
    second.limit = -1.0
    queue.cancel(first)
    queue.turn()
    assert (second.state, "it took longer than" in second.error) == ("failed", True)
    assert len(queue) == 0


def test_a_closed_page_leaves_a_moment_to_be_loaded_again(service):
    visit = service.open()
    visit.pages |= {"one", "two"}
    service.left("one")
    assert time.monotonic() - visit.heard < 5.0
    service.left("two")
    assert visit.here
    assert time.monotonic() - visit.heard > served_by.AWAY_SECONDS - served_by.LEFT_SECONDS - 1.0
    assert service.get(visit.token) is visit
    assert time.monotonic() - visit.heard < 5.0


def test_several_may_run_at_the_same_time():
    service = new_service(jobs=2)
    visit = service.open()
    clips = [service.example(visit, next(iter(work.EXAMPLES)), "lite") for _ in range(3)]
    until(lambda: all(clip.seen for clip in clips))
    for clip in clips:
        service.begin(visit, clip, "lite", "best")
    until(lambda: [clip.work.state for clip in clips] == ["running", "running", "waiting"])
    assert service.line.before(clips[2].work) == 1
    tasks = [clip.work for clip in clips]
    service.close()
    assert [task.state for task in tasks] == ["cancelled"] * 3


def test_a_process_that_dies_is_told(service, tmp_path):
    visit = service.open()
    (clip,) = bring(service, visit, ("a.mp4", shaky_video(tmp_path / "a.mp4", (9,)).read_bytes()))
    service.begin(visit, clip, "lite", "best")
    clip.work.process.kill()
    until(lambda: clip.work.over)
    assert clip.work.state == "failed"
    assert "memory ran out" in clip.error


def test_a_process_that_cannot_be_started_is_told(service, monkeypatch):
    def refuse(*_: Any) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(service.workers, "start", refuse)
    clip = service.example(service.open(), next(iter(work.EXAMPLES)), "lite")
    assert clip.looking.state == "failed"
    assert "--jobs" in clip.error
    assert len(service.looks) == 0


def test_a_single_picture_comes_back_as_one(service, tmp_path):
    (path,) = make_frames(tmp_path / "one", shaky((1,), (40, 64))).iterdir()
    visit = service.open()
    (clip,) = bring(service, visit, ("holiday.png", path.read_bytes()))
    assert clip.seen.info.kind == "image"
    assert not clip.seen.preview.moving
    done = restored(service, visit, clip, "balanced")
    assert Path(done.file).name == "holiday_deblurred.png"
    assert not done.compared.moving
    assert Path(done.compared.after).read_bytes()[:2] == b"\xff\xd8"


def test_what_a_visitor_may_not_ask_for(service, tmp_path):
    visit = service.open()
    (clip,) = bring(service, visit, ("a.mp4", shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()))
    with pytest.raises(MetadeblurError, match="is not here"):
        service.begin(visit, clip, "/etc/passwd", "quick")
    with pytest.raises(MetadeblurError, match="is not here"):
        service.look(visit, clip, "/etc/passwd")
    with pytest.raises(MetadeblurError):
        service.begin(visit, clip, "lite", "x")
    assert clip.work is None


def test_closing_deletes_everything():
    service = new_service()
    visit = service.open()
    clip = service.example(visit, next(iter(work.EXAMPLES)), "lite")
    until(lambda: clip.seen)
    service.begin(visit, clip, "lite", "best")
    process = clip.work.process
    service.close()
    assert not service.folder.exists()
    assert not service.shown.exists()
    assert not process.is_alive()


def test_more_to_do_is_expected_to_take_longer(tmp_path):
    info = replace(VideoReader(make_video(tmp_path / "a.mkv", 5)).info, width=640, height=480, frames=45)
    seen = work.Look(info, work.Compared("", "", True), "lite", 1e-6)
    efforts = ("quick", "balanced", "best")
    times = [work.expected_seconds(seen, effort) for effort in efforts]
    assert times == sorted(times)
    assert all(low < high for low, high in times)
    for effort in efforts:
        words = work.as_flags("lite", effort).split()
        assert (
            parse(["restore", "a.mp4", *words]).run_settings().adaptation
            == RunSettings(adaptation=preset(effort)).adaptation
        )


def test_every_clip_gets_a_copy_that_browsers_play(tmp_path):
    deep = make_video(tmp_path / "deep.mkv", 5, size=(41, 63), pix_fmt="yuv444p10le", audio_tracks=1, vfr=True)
    plain = make_video(tmp_path / "plain.mp4", 5)
    assert plays_everywhere(plain)
    assert not plays_everywhere(deep)
    write_playable(deep, tmp_path / "copy.mp4")
    assert plays_everywhere(tmp_path / "copy.mp4")
    stamps = [
        [float(stamp * times.time_base) for stamp in times.stamps]
        for times in (VideoReader(path).times for path in (deep, tmp_path / "copy.mp4"))
    ]
    assert stamps[0] == pytest.approx(stamps[1], abs=1e-3)
    assert decoded(tmp_path / "copy.mp4").shape == (5, 40, 62, 3)


def test_what_is_said_at_each_stage():
    job = QueuedTask(Path("/"), work.restore, (), state="running")
    at = Position(1, 3, 3, 9)
    lines = []
    for phase, event in (
        (None, None),
        ("scan", FrameScanned(3, 9)),
        ("measure", FrameRestored(Position(0, 1, 1, 9), 0.1, None)),
        ("restore", None),
        ("restore", ShotStarted(at, True, 40)),
        ("restore", StepDone(at, "adapt", 5, 40)),
        ("restore", StepDone(at, "adapt", 40, 40)),
        ("restore", FrameRestored(at, 0.1, None)),
        ("restore", work.Finishing()),
    ):
        job.phase, job.event = phase, event
        lines.append(headline(job, 0))
    assert lines == [
        "Starting",
        "Looking through the clip",
        "Measuring how long it will take",
        "Choosing what to learn from",
        "Shot 2 of 3: choosing what to learn from",
        "Shot 2 of 3: learning from the clip",
        "Shot 2 of 3: checking whether it helped",
        "Shot 2 of 3: restoring the frames",
        "Preparing the result",
    ]
    job.event = StepDone(at, "adapt", 5, 40)
    page = progress(job, "5 s", 2.0)
    assert "step 5 of 40, 2.0 s so far, expected: 5 s" in page
    assert 'value="5" max="40"' in page
    job.time_left = TimeLeft(3, 5, "slower", "slower than expected: 3 to 5 s are left")
    page = progress(job, "5 s", 2.0)
    assert "Slower than expected: 3 to 5 s are left." in page
    assert "expected: 5 s" not in page  # one estimate, the better one
    job.event = ShotStarted(Position(0, 1, 0, 9), True, 0)
    assert headline(job, 0) == "Checking whether its frames can help each other"


# --- the network ---------------------------------------------------------------------------------------------------


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with TestClient(make_app(service, Site()), base_url="http://127.0.0.1") as client:
        yield client


def test_a_visitor_s_files_are_for_who_knows_their_names(service, client, tmp_path):
    visit, other = service.open(), service.open()
    content = shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()
    body, kind = multipart(("my clip.mp4", content))
    (sent,) = client.post("/gradio_api/upload", content=body, headers={"Content-Type": kind}).json()
    assert client.get(f"/gradio_api/file={sent}").status_code == 404  # nobody needs it back
    (clip,) = service.bring(visit, [(Path(sent), "my clip.mp4")], "lite")
    assert not Path(sent).exists()
    until(lambda: clip.looking.over)
    done = restored(service, visit, clip)
    got = client.get(f"/gradio_api/file={done.file}")
    assert got.content == Path(done.file).read_bytes()
    assert "my%20clip_deblurred.mp4" in got.headers["content-disposition"]
    assert got.headers["cache-control"] == "private, no-store"
    assert client.get(f"/gradio_api/file={done.file}", headers={"Range": "bytes=0-9"}).content == got.content[:10]
    report = client.get(f"/gradio_api/file={Path(done.file).with_name('report.html')}")
    assert "sandbox" in report.headers["content-security-policy"]
    assert "my clip.mp4" in report.text
    path = clip.folder / clip.source
    for address in (
        f"/gradio_api/file={path}",
        f"/gradio_api//file={path}",
        f"/gradio_api/run/../file={path}",
        f"/gradio_api/file={service.shown}/../../{path.relative_to(service.folder)}",
        f"/gradio_api/file={service.shown}",
        f"/gradio_api/file={clip.shown}",
        f"/gradio_api/file={service.shown}/x/{Path(done.file).name}",
        f"/file={path}",
        f"/file/{path}",
        f"/gradio_api/proxy=http://127.0.0.1{path}",
        f"/static/{path}",
        f"/static/../../{path}",
        "/gradio_api/info",
    ):
        answer = client.get(address)
        assert content[100:200] not in answer.content, address
        assert answer.status_code in (400, 403, 404, 422), (address, answer.status_code)
    assert len(clip.shown.name) > 40  # nobody can guess it
    assert service.get(other.token).clips == {}
    service.delete(visit, clip)
    assert client.get(f"/gradio_api/file={done.file}").status_code == 404


def test_the_page_may_load_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["cache-control"] == "no-store"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.headers["content-security-policy"]
    assert "fonts.g" not in page.text + client.get("/theme.css").text


def test_a_password_is_asked_for(service):
    with TestClient(make_app(service, Site(password="öpen")), base_url="http://127.0.0.1") as client:
        assert client.get("/config").status_code == 401
        assert client.post("/gradio_api/run/predict", json={"data": [], "fn_index": 0}).status_code == 401
        wrong = client.post("/login", data={"username": "anyone", "password": "no"})
        assert wrong.status_code == 400
        assert client.post("/login", data={"username": "anyone", "password": "öpen"}).status_code == 200
        assert client.get("/config").status_code == 200


def test_a_space_s_program_as_the_docs_show_it(tmp_path):
    (program,) = re.findall(r"```python\n(.+?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 5
    (tmp_path / "app.py").write_text(program, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    space = {"SPACE_HOST": "me-deblur.hf.space", "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **space, "TMPDIR": str(tmp_path)}
    environment.pop("GRADIO_TEMP_DIR", None)
    server = subprocess.Popen(
        [sys.executable, "app.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout.readline().startswith("metadeblur app: http://0.0.0.0:")
        place = Place(None, port)
        link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}
        page = place.ask("/", host="me-deblur.hf.space", **link)  # inside huggingface.co
        assert page.status == 200
        assert page.headers["content-security-policy"].endswith("frame-ancestors 'self' https://huggingface.co")
        assert page.headers["x-frame-options"] is None
        assert place.ask("/", host="evil.example").status == 421
        assert place.ask("/config", host="me-deblur.hf.space", Origin="https://evil.example").status == 403
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    finally:
        server.kill()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["app.py"]


def test_behind_a_proxy_the_page_knows_where_it_is(service):
    with TestClient(make_app(service, Site(root_path="/deblur")), base_url="http://127.0.0.1") as client:
        assert client.get("/config").json()["root"].endswith("/deblur")


# --- the command ---------------------------------------------------------------------------------------------------


def test_what_another_address_means_is_said():
    assert (
        warnings("127.0.0.1", password=False) == warnings("localhost", password=False) == warnings("::1", False) == []
    )
    said = warnings("0.0.0.0", password=False)
    assert "everybody who can reach" in said[0]
    assert said[1].startswith("warning: there is no password")
    assert len(warnings("192.168.1.5", password=True)) == 1


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr("metadeblur.cli.app.find_spec", lambda _: None)
    assert run("app") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"metadeblur: error: the page needs Gradio, which is not installed: {how_to_install('app')}"
    ]


def test_a_port_that_is_taken_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run("app", "--port", taken.getsockname()[1], "--no-browser") == 1
    assert "choose another port with --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--jobs", "0"],
        ["--keep", "0"],
        ["--max-upload", "0"],
        ["--max-frames", "0"],
        ["--max-megapixels", "0"],
        ["--max-megapixels", "nan"],
        ["--port", "70000"],
        ["--root-path", "x"],
        ["--allow-host", "https://deblur.example.org"],
        ["--allow-host", "deblur.example.org:8080"],
        ["--allow-host", "*"],
        ["--proxy", "localhost"],
        ["--proxy", "0.0.0.0/0"],
    ],
)
def test_wrong_usage(words, capsys):
    assert run("app", *words) == 2
    error = capsys.readouterr().err
    assert f"{words[0]} {words[1]}" in error or f"{words[0]} is {words[1]}; give" in error


def test_several_hosts_and_proxies_may_be_named():
    hosts = ["--allow-host", "Deblur.example.org", "--allow-host", "2001:db8::1"]
    site = parse(["app", *hosts, "--proxy", "::1", "--proxy", "10.0.0.0/8"])._site("secret")
    assert (site.further_hosts, site.proxies) == (("Deblur.example.org", "2001:db8::1"), ("::1", "10.0.0.0/8"))
    assert Hosts.of(site.host, site.further_hosts).answer("deblur.example.org", None)


@pytest.mark.parametrize("words", [["--help"], ["app", "--help"]])
def test_help_loads_neither_torch_nor_gradio(words):
    looks = "assert not {'torch', 'gradio'} & set(sys.modules)"
    code = f"import sys; from metadeblur.cli.entry import main; main({words}); {looks}"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_there_is_no_share():
    assert not [name for name in vars(App()) if "share" in name]

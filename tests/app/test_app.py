"""The page without a browser: uploads, jobs, the line, what is deleted, and what is served to whom."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra [app] is not installed: pip install '.[app]'")

import av
import numpy as np
from fastapi.testclient import TestClient
from journey import decoded, run, shaky, shaky_video
from media import make_frames, make_video

import metadeblur.app.uploads as uploads
from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.app import tasks as work
from metadeblur.app.hosts import Hosts
from metadeblur.app.html import chosen, headline, progress, result
from metadeblur.app.playable import plays_everywhere, write_playable
from metadeblur.app.queue import QueuedTask
from metadeblur.app.server import Site, make_app
from metadeblur.app.service import Service
from metadeblur.app.uploads import UploadedClip, Visit, clean_name
from metadeblur.cli.app import App, warnings
from metadeblur.cli.entry import parse
from metadeblur.errors import MetadeblurError
from metadeblur.pipeline.events import FrameRestored, FrameScanned, Position, ShotStarted, StepDone, TimeLeft
from metadeblur.pipeline.run import RunSettings
from metadeblur.system.extras import how_to_install
from metadeblur.video import VideoReader

PATIENCE = 120.0  # seconds, for a busy machine


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(limit=2_000_000)
    yield service
    service.close()


def until(happened: Callable[[], Any]) -> Any:
    """Wait for something."""
    end = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 100_000):
        yield content[start : start + 100_000]


def bring(service: Service, visit: Visit, *files: tuple[str, bytes]) -> None:
    """Upload files."""
    for number, (name, content) in enumerate(files):
        asyncio.run(service.visits.receive(visit, number, name, _pieces(content)))


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- uploads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x.mp4", "/etc/x.mp4", "..\\..\\x.mp4", "C:\\x.mp4", "x\0.mp4", "a/" * 400])
def test_names_from_outside_never_reach_a_path(service, tmp_path, name):
    visit = service.visits.open()
    source = shaky_video(tmp_path / "v.mp4", (5,))
    bring(service, visit, (name, source.read_bytes()))
    clip = service.clip_of(visit)
    (path,) = [entry for entry in visit.folder.rglob("*") if entry.is_file()]
    assert path.parent == visit.uploads
    assert path.name in ("clip.mp4", "clip.png", "clip")
    assert not {"/", "\\", "\0", ".."} & set(clip.name)
    assert clip.name != ".."


def test_names_keep_what_people_need():
    assert clean_name("Ünïcode: 東京 (1).mp4") == "Ünïcode_ 東京 (1).mp4"
    assert clean_name("<script>.mov") == "_script_.mov"
    assert len(clean_name("a" * 500 + ".mp4")) == 84


def test_folders_are_private(service, tmp_path):
    visit = service.visits.open()
    bring(service, visit, ("a.mp4", shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()))
    for folder in (service.visits.folder, visit.folder, visit.uploads):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_too_large_an_upload_leaves_nothing(service):
    visit = service.visits.open()
    with pytest.raises(MetadeblurError, match=r"^big\.mp4: larger than the 2 MB"):
        bring(service, visit, ("big.mp4", bytes(2_000_001)))
    assert everything(visit.folder) == []
    with pytest.raises(MetadeblurError, match="larger than"):  # all files of a clip together
        bring(service, visit, ("1.png", bytes(1_500_000)), ("2.png", bytes(600_000)))
    assert everything(visit.folder) == []


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
def test_what_is_no_video_is_refused_in_one_line_and_deleted(service, content, says):
    visit = service.visits.open()
    bring(service, visit, ("notes.mp4", content))
    with pytest.raises(MetadeblurError, match=says) as refusal:
        service.clip_of(visit)
    assert "\n" not in str(refusal.value)
    assert "upload/" not in str(refusal.value)
    assert everything(visit.folder) == []


def test_several_files_are_frames_in_the_order_of_their_names(service, tmp_path):
    folder = make_frames(tmp_path / "walk", shaky((11,), (40, 64)))
    files = sorted(folder.iterdir())  # frame1, frame10, frame11, frame2 ...
    visit = service.visits.open()
    bring(service, visit, *((f"walk/{path.name}", path.read_bytes()) for path in files))
    clip = service.clip_of(visit)
    assert (clip.facts.kind, clip.facts.frames, clip.names[1]) == ("frames", 11, "frame2.png")
    bring(service, visit, ("a.png", files[0].read_bytes()), ("b.mp4", b"x"))
    with pytest.raises(MetadeblurError, match=r"^b\.mp4: several files must be the frames of one clip"):
        service.clip_of(visit)


def test_an_upload_out_of_order_is_refused(service):
    visit = service.visits.open()
    with pytest.raises(MetadeblurError, match="interrupted"):
        asyncio.run(service.visits.receive(visit, 3, "a.png", _pieces(b"x")))


def test_who_is_not_heard_of_is_deleted(service, monkeypatch):
    visit = service.visits.open()
    service.sweep()
    assert visit.folder.is_dir()
    monkeypatch.setattr(uploads, "AWAY_SECONDS", -1.0)
    service.sweep()
    assert not visit.folder.exists()
    assert service.visits.get(visit.token) is None


# --- jobs ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_result_is_the_command_line_s(service, tmp_path, monkeypatch):
    few = RunSettings(adaptation=AdaptSettings(pairs=2, steps=2))
    monkeypatch.setattr(work, "run_settings", lambda *_: few)
    flags = work.as_flags("lite", "balanced").split()
    source = make_video(tmp_path / "clip.mov", shaky((9,)), audio_tracks=1)
    visit = service.visits.open()
    bring(service, visit, ("clip.mov", source.read_bytes()))
    clip = service.clip_of(visit)
    assert clip.facts.sound
    job = service.begin(visit, "lite", "balanced", 0)
    until(lambda: job.over)
    assert job.error == ""
    done = service.finished(visit)
    assert run("restore", source, "-o", tmp_path / "out.mov", *flags, "--pairs", "2", "--steps", "2") == 0
    assert np.array_equal(decoded(visit.folder / done.file), decoded(tmp_path / "out.mov"))
    assert job.shown is not None
    assert done.verdict.headline.startswith(("Sharper", "Hardly sharper"))
    assert str(service.visits.folder) not in (visit.run / "report" / "index.html").read_text()
    with av.open(str(visit.folder / done.video)) as played:
        assert played.streams.video[0].codec_context.codec.canonical_name == "h264"
        assert played.streams.audio[0].codec_context.name == "aac"
        assert sum(frame.samples for frame in played.decode(audio=0)) > 10_000
    before, after = (service.picture(visit, side, 8) for side in ("before", "after"))
    assert before[:2] == after[:2] == b"\xff\xd8"
    assert before != after
    assert service.picture(visit, "after", 9) is service.picture(visit, "../x", 0) is None


def test_frames_come_back_as_an_archive_under_their_own_names(service, tmp_path):
    folder = make_frames(tmp_path / "walk", shaky((6,), (40, 64)))
    visit = service.visits.open()
    bring(service, visit, *((path.name, path.read_bytes()) for path in sorted(folder.iterdir())))
    service.clip_of(visit)
    job = service.begin(visit, "lite", "quick", 0)
    until(lambda: job.over)
    done = service.finished(visit)
    assert run("restore", folder, "-o", tmp_path / "out", "--effort", "quick") == 0
    with zipfile.ZipFile(visit.folder / done.file) as archive:
        assert archive.namelist() == [f"frame{number}.png" for number in range(1, 7)]
        assert archive.read("frame2.png") == (tmp_path / "out" / "frame2.png").read_bytes()
    assert len(decoded(visit.folder / done.video)) == 6


@pytest.mark.slow
def test_cancelling_ends_the_process_at_once_and_leaves_the_upload_alone(service):
    visit = service.visits.open()
    service.example(visit, "small")
    job = service.begin(visit, "lite", "best", 0)
    until(lambda: job.phase == "restore")  # in the middle of choosing patches, where nothing asks whether to stop
    began = time.monotonic()
    service.cancel(visit)
    assert time.monotonic() - began < 2.0
    assert not job.process.is_alive()
    assert (job.state, visit.job) == ("cancelled", None)
    assert everything(visit.folder) == ["upload", "upload/clip.mp4"]
    assert len(service.line) == 0


def test_jobs_wait_in_line_and_are_told_their_place(service, tmp_path):
    source = shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()
    visits = [service.visits.open() for _ in range(3)]
    for visit in visits:
        bring(service, visit, ("a.mp4", source))
        service.clip_of(visit)
    first = service.begin(visits[0], "lite", "best", 0)
    until(lambda: first.state == "running")
    second, third = (service.begin(visit, "lite", "quick", 0) for visit in visits[1:])
    assert [service.line.before(job) for job in (first, second, third)] == [0, 1, 2]
    assert headline(third, 2) == "In line: 2 restorations are before yours"
    with pytest.raises(MetadeblurError, match="under way already"):
        service.begin(visits[1], "lite", "quick", 0)
    service.cancel(visits[1])  # one that waits
    assert service.line.before(third) == 1
    service.cancel(visits[0])
    until(lambda: third.over)
    assert (second.state, third.state, third.error) == ("cancelled", "done", "")


def test_several_may_run_at_the_same_time():
    service = Service(limit=2_000_000, jobs=2)
    visits = [service.visits.open() for _ in range(3)]
    for visit in visits:
        service.example(visit, "small")
    jobs = [service.begin(visit, "lite", "best", 0) for visit in visits]
    until(lambda: [job.state for job in jobs] == ["running", "running", "waiting"])
    assert service.line.before(jobs[2]) == 1
    service.close()
    assert [job.state for job in jobs] == ["cancelled"] * 3


def test_a_process_that_dies_is_told(service, tmp_path):
    visit = service.visits.open()
    bring(service, visit, ("a.mp4", shaky_video(tmp_path / "a.mp4", (9,)).read_bytes()))
    service.clip_of(visit)
    job = service.begin(visit, "lite", "best", 0)
    until(lambda: job.process is not None)
    job.process.kill()
    until(lambda: job.over)
    assert job.state == "failed"
    assert "memory ran out" in job.error


def test_a_process_that_cannot_be_started_is_told(service, monkeypatch):
    def refuse(*_: Any) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    visit = service.visits.open()
    service.example(visit, "small")
    monkeypatch.setattr(service.workers, "start", refuse)
    job = service.begin(visit, "lite", "quick", 0)
    until(lambda: job.over)
    assert job.state == "failed"
    assert "--jobs" in (job.error or "")
    assert len(service.line) == 0


def test_a_single_picture_comes_back_as_one(service, tmp_path):
    (path,) = make_frames(tmp_path / "one", shaky((1,), (40, 64))).iterdir()
    visit = service.visits.open()
    bring(service, visit, ("holiday.png", path.read_bytes()))
    assert service.clip_of(visit).facts.kind == "image"
    job = service.begin(visit, "lite", "balanced", 0)
    until(lambda: job.over)
    done = service.finished(visit)
    assert (done.video, done.file.name, done.frames) == (None, "restored.png", 1)
    assert result(visit.token, done, visit.clip, "").count("<video") == 0
    assert service.picture(visit, "after", 0)[:2] == b"\xff\xd8"


def test_what_a_visitor_may_not_ask_for(service):
    visit = service.visits.open()
    with pytest.raises(MetadeblurError, match="there is no clip yet"):
        service.begin(visit, "lite", "quick", 0)
    with pytest.raises(MetadeblurError, match="is not here"):
        service.begin(visit, "/etc/passwd", "quick", 0)
    with pytest.raises(MetadeblurError, match="effort 'x'"):
        service.begin(visit, "lite", "x", 0)
    with pytest.raises(MetadeblurError, match="above 0"):
        service.begin(visit, "lite", "budget", 0)


def test_closing_deletes_everything():
    service = Service(limit=2_000_000)
    visit = service.visits.open()
    service.example(visit, "small")
    job = service.begin(visit, "lite", "best", 0)
    until(lambda: job.state == "running")
    service.close()
    assert not service.visits.folder.exists()
    assert not job.process.is_alive()


def test_more_to_do_is_expected_to_take_longer():
    facts = work.Facts("video", 640, 480, 45, 1.5, False, b"")
    settings = [work.run_settings(*effort) for effort in (("budget", 1.0), ("quick",), ("balanced",), ("best",))]
    times = [work.expected_seconds(facts, 1e-6, each) for each in settings]
    assert times == sorted(times)
    assert all(low < high for low, high in times)
    assert work.as_flags("mprnet", "budget", 1) == "--model mprnet --budget 1"
    assert settings[2] == RunSettings()
    for effort, how in zip(("quick", "balanced", "best"), settings[1:], strict=True):
        words = work.as_flags("lite", effort).split()
        assert parse(["restore", "a.mp4", *words]).run_settings() == replace(how, first_look=True)


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
    job = QueuedTask(Path("/"), work.check, (), state="running")
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
    job.event, job.shown = StepDone(at, "adapt", 5, 40), (3, b"x", b"y")
    page = progress(job, "5 s", None, 2.0)
    assert "A first look" not in page
    assert "step 5 of 40, 2.0 s so far, expected: 5 s" in page
    assert 'value="5" max="40"' in page
    assert 'alt="Frame 4, restored"' in page
    job.time_left = TimeLeft(3, 5, "slower", "slower than expected: 3 to 5 s are left")
    page = progress(job, "5 s", None, 2.0)
    assert "Slower than expected: 3 to 5 s are left." in page
    assert "expected: 5 s" not in page  # one estimate, the better one
    job.event = ShotStarted(Position(0, 1, 0, 9), True, 0)
    assert headline(job, 0) == "Checking whether its frames can help each other"


def test_the_first_look_is_shown_at_once_and_gives_way_to_the_frames_being_written(service, tmp_path):
    visit = service.visits.open()
    bring(service, visit, ("clip.mp4", make_video(tmp_path / "clip.mp4", shaky((9,))).read_bytes()))
    clip = service.clip_of(visit)
    job = service.begin(visit, "lite", "balanced", 0)
    until(lambda: job.shown is not None)
    assert job.first_look
    assert not isinstance(job.event, StepDone | FrameRestored)
    number, before, after = job.shown
    assert before[:2] == after[:2] == b"\xff\xd8"
    assert before != after
    page = progress(job, "", clip.facts, 2.0)
    assert "A first look, by the base network" in page
    assert f'alt="Frame {number + 1}, restored"' in page
    until(lambda: job.over or not job.first_look)
    assert job.error == ""
    service.cancel(visit)


def test_names_are_written_as_text():
    clip = UploadedClip(
        Path("x"), clean_name("<img onerror=x>.mp4"), facts=work.Facts("video", 2, 2, 1, 1.0, False, b"")
    )
    assert "<img onerror" not in chosen(clip)


# --- the network ---------------------------------------------------------------------------------------------------


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with TestClient(make_app(service, Site()), base_url="http://127.0.0.1") as client:
        yield client


def test_a_visitor_s_files_are_for_that_visitor_alone(service, client, tmp_path):
    visit, other = service.visits.open(), service.visits.open()
    content = shaky_video(tmp_path / "a.mp4", (5,)).read_bytes()
    sent = client.post(f"/visit/{visit.token}/upload", params={"number": 0, "name": "my clip.mp4"}, content=content)
    assert sent.status_code == 204
    clip = service.clip_of(visit)
    job = service.begin(visit, "lite", "quick", 0)
    until(lambda: job.over)
    got = client.get(f"/visit/{visit.token}/file")
    assert got.content == (visit.folder / service.finished(visit).file).read_bytes()
    assert got.headers["content-disposition"] == "attachment; filename*=utf-8''my%20clip_deblurred.mp4"
    assert client.get(f"/visit/{visit.token}/video", headers={"Range": "bytes=0-9"}).content == got.content[:10]
    assert "sandbox" in client.get(f"/visit/{visit.token}/report").headers["content-security-policy"]
    assert client.get(f"/visit/{visit.token}/after/0").headers["cache-control"] == "private, no-store"
    path = visit.folder / clip.path
    for address in (
        f"/visit/{other.token}/file",
        f"/visit/{other.token}/after/0",
        "/visit/x/file",
        f"/visit/{visit.token}/..%2fupload%2fclip.mp4",
        f"/gradio_api/file={path}",
        f"/gradio_api//file={path}",
        f"/gradio_api/run/../file={path}",
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
    assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 404


def test_a_closed_page_is_deleted_at_once(service, client):
    visit = service.visits.open()
    service.example(visit, "small")
    job = service.begin(visit, "lite", "best", 0)
    until(lambda: job.state == "running")
    assert client.post(f"/visit/{visit.token}/leave").status_code == 204
    assert not visit.folder.exists()
    assert not job.process.is_alive()
    assert client.post(f"/visit/{visit.token}/here").status_code == 404


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
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run("app", "--port", taken.getsockname()[1], "--no-browser") == 1
    assert "choose another port with --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--jobs", "0"],
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

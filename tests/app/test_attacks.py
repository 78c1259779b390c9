"""The page under attack and load: paths, other visitors, bombs, script in names and tags, full disks, the end."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("gradio", reason="the extra [app] is not installed: pip install '.[app]'")

import av
import cv2
import numpy as np
from app_server import Answer, Place, bring, new_service, served, until, uploaded
from cases import case
from journey import shaky, shaky_video
from media import make_video
from PIL import Image

from metadeblur.app import service as served_by
from metadeblur.app.bounds import Bounds
from metadeblur.app.html import links, preview, progress, result
from metadeblur.app.page import _view
from metadeblur.app.server import Site, closed_terminal_ends, make_server
from metadeblur.app.service import UploadedClip, Visit, different
from metadeblur.errors import MetadeblurError
from metadeblur.system.scratch import sweep

PATIENCE = 120.0  # seconds, for a busy machine
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return shaky_video(tmp_path_factory.mktemp("clip") / "a.mp4", (5,)).read_bytes()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with served(new_service(3_000_000, bounds=Bounds(frames=200))) as place:
        yield place


@pytest.fixture(scope="module")
def visit(place: Place, clip: bytes) -> Visit:
    """A visitor with a result."""
    visit = place.service.open()
    restore(place, visit, *bring(place.service, visit, ("clip.mp4", clip)))
    return visit


def restore(place: Place, visit: Visit, clip: UploadedClip) -> UploadedClip:
    """Have a clip restored."""
    place.service.begin(visit, clip, "lite", "quick")
    until(lambda: clip.work.over)
    assert clip.error == ""
    return clip


def load(place: Place, path: str | Path) -> Answer:
    """What a browser gets of a file."""
    return place.ask(f"/gradio_api/file={quote(str(path))}")


# --- paths ---------------------------------------------------------------------------------------------------------

_UP = ["..", "%2e%2e", "..%2f..", "..%5c..", "..\\..", "%252e%252e", "....//", ".%00.", "%c0%ae%c0%ae", "\u2025"]


def addresses(target: str, shown: Path) -> Iterator[str]:
    """Ways to ask for a file of the computer."""
    bare = target.lstrip("/")
    for start in (
        "/gradio_api/file=",
        "/gradio_api/file/",
        "/gradio_api//file=",
        "//gradio_api/file=",
        "/gradio_api/./file=",
        "/gradio_api/run/../file=",
        "/gradio_api%2ffile=",
        "/gradio_api/%66ile=",
        "/GRADIO_API/file=",
        "/x/gradio_api/file=",
        "/gradio_api/proxy=http://127.0.0.1",
        "/gradio_api/stream/",
        "/gradio_api/custom_component/",
        "/file=",
        "/file/",
        "/proxy=file://",
        "/static/",
        "/assets/",
        "/svelte/",
        "/visit/",
        f"/gradio_api/file={shown}/",
        f"/gradio_api/file={shown}",
        f"/gradio_api/file=/x/..{shown}/",
    ):
        yield f"{start}{target}"
        for up in _UP:
            yield f"{start}{'/'.join([quote(up, safe='%./') if up.isascii() is False else up] * 12)}/{bare}"


@case(
    "The page",
    "addresses and file names that leave their folder (`../`, `%2e`, `\\`, NUL, absolute, Gradio's file routes)",
    "404; only known addresses exist, and a visitor's file names never become paths",
    "nothing to tell",
)
def test_no_address_leads_to_a_file_of_the_computer(place, visit, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("do not tell")
    (done,) = visit.clips.values()
    upload = done.folder / done.source
    content = upload.read_bytes()
    for target in (str(secret), str(upload), "/etc/passwd"):
        for address in addresses(target, place.service.shown):
            answer = place.ask(address.replace("\\", "%5c").replace(" ", "%20"))
            assert answer.status in (400, 403, 404, 414, 422), address
            assert b"do not tell" not in answer.content, address
            assert b"root:" not in answer.content, address
            assert content[100:300] not in answer.content, address
    assert place.say(b"GET /static/..\\..\\x HTTP/1.1\r\nHost: localhost\r\n\r\n")[:4] in (b"400 ", b"404 ")


def test_names_of_uploads_lead_nowhere(place, clip):
    before = set(place.service.folder.parent.iterdir())
    for name in (
        "../../x.mp4",
        "/etc/x.mp4",
        "..\\..\\x.mp4",
        "C:\\x.mp4",
        "x\0.mp4",
        "%2e%2e%2fx.mp4",
        "a/" * 400,
        "..",
    ):
        sent = place.upload((name, clip))
        if sent.status != 200:
            assert sent.status == 400
            continue
        (path,) = json.loads(sent.content)
        assert Path(path).parent.parent == place.service.uploads
        (taken,) = place.service.bring(place.service.open(), [(Path(path), name)], "lite")
        (kept,) = [entry for entry in taken.folder.rglob("*") if entry.is_file()]
        assert kept.parent == taken.folder / "in"
        assert not {"/", "\\", "\0"} & set(taken.name)
    # Other programs come and go in a folder for temporary files.
    new = set(place.service.folder.parent.iterdir()) - before
    assert not [path for path in new if path.suffix == ".mp4"]


# --- other visitors ------------------------------------------------------------------------------------------------


@case(
    "The page",
    "another visitor asks for, cancels or deletes what is not theirs, or calls all of the page with anything",
    "there is nothing at such an address; nothing of anybody else changes",
    "404",
)
def test_what_is_another_visitor_s_cannot_be_had(place, visit):
    (clip,) = visit.clips.values()
    file = Path(clip.done.file)
    assert load(place, file).status == 200
    for folder in ("x", "", "*", "..", clip.shown.name[:-1], clip.shown.name.swapcase(), f"{clip.shown.name}x"):
        assert load(place, place.service.shown / folder / file.relative_to(clip.shown)).status in (400, 404)
    for path in (place.service.shown, clip.shown, file.parent, clip.folder / clip.source, clip.folder):
        assert load(place, path).status == 404
    for method in ("POST", "HEAD"):
        assert place.ask(f"/gradio_api/file={quote(str(file))}", method, body=b"").status in (200, 405)
    assert file.exists()
    other = place.service.open()
    place.service.delete(other, clip) if clip.key in other.clips else None
    for token in ("", "x", visit.token[:-1], visit.token.swapcase(), None, [visit.token], {"a": 1}):
        assert place.service.get(token) is None


@pytest.mark.parametrize("value", [None, [], {}, 1e308, -1, "x" * 1000, SCRIPT, {"path": "/etc/passwd"}, [[1]]])
def test_calling_everything_with_anything_changes_nothing_of_others(place, visit, capfd, value):
    config = json.loads(place.ask("/config").content)
    (clip,) = visit.clips.values()
    before = sorted(path.name for path in (*clip.folder.rglob("*"), *clip.shown.rglob("*")))
    for call in config["dependencies"]:
        for data in ([value] * len(call["inputs"]), [clip.key] * len(call["inputs"]), []):
            body = {"data": data, "fn_index": call["id"], "session_hash": f"stranger{call['id']}"}
            answer = place.ask("/gradio_api/run/predict", "POST", body=body)
            assert b"Traceback" not in answer.content
            assert str(place.service.folder).encode() not in answer.content
            assert visit.token not in answer.text
            assert clip.shown.name not in answer.text
    for number in (-1, 10_000, "x", None, [1], 2**70):
        body = {"data": [], "fn_index": number, "session_hash": "stranger"}
        assert place.ask("/gradio_api/run/predict", "POST", body=body).status >= 400
    assert sorted(path.name for path in (*clip.folder.rglob("*"), *clip.shown.rglob("*"))) == before
    assert load(place, clip.done.file).status == 200
    capfd.readouterr()  # what Gradio says of it


def call_of(place: Place, target: str) -> dict[str, Any]:
    """The call that an event of a component of the page makes."""
    config = json.loads(place.ask("/config").content)
    name, _, event = target.partition(".")
    (number,) = [part["id"] for part in config["components"] if part["props"].get("elem_id") == name]
    (call,) = [call for call in config["dependencies"] if [number, event] in call["targets"]]
    return call


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/dev/zero", "http://127.0.0.1:1/x.mp4", "file:///etc/passwd", "", "x"]
)
def test_what_is_said_to_be_an_upload_must_be_one(place, path, capfd):
    call = call_of(place, "files.upload")
    file = {"path": path, "orig_name": "a.mp4", "url": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [[file], "", None, "lite", "quick"], "fn_index": call["id"], "session_hash": "stranger"}
    before = len(list(place.service.folder.glob("clip-*")))
    answer = place.ask("/gradio_api/run/predict", "POST", body=body)
    assert answer.status >= 400
    assert len(list(place.service.folder.glob("clip-*"))) == before
    capfd.readouterr()


def test_a_page_brings_clips_to_a_visit_of_its_own(place, visit, clip):
    """The address of a visit may have been passed on: nobody's clip is to end up at who did that."""
    (path,) = json.loads(place.upload(("mine.mp4", clip + b"mine")).content)
    call, load_call = call_of(place, "files.upload"), None
    config = json.loads(place.ask("/config").content)
    load_call = next(call for call in config["dependencies"] if call["targets"][0][1] == "load" and call["backend_fn"])
    asked = {"data": ["", None, "quick"], "fn_index": load_call["id"], "session_hash": "guest"}
    shown = place.ask(f"/gradio_api/run/predict?job={visit.token}", "POST", body=asked)
    assert "clip.mp4" in shown.text
    file = {"path": path, "orig_name": "mine.mp4", "meta": {"_type": "gradio.FileData"}}
    data = [[file], "", None, "lite", "quick"]
    body = {"data": data, "fn_index": call["id"], "session_hash": "guest"}
    answer = place.ask(f"/gradio_api/run/predict?job={visit.token}", "POST", body=body)
    assert answer.status == 200
    assert [clip.name for clip in visit.clips.values()] == ["clip.mp4"]
    token = json.loads(answer.content)["data"][0]
    assert [clip.name for clip in place.service.get(token).clips.values()] == ["mine.mp4"]


def test_visitors_who_have_nothing_make_room(monkeypatch):
    monkeypatch.setattr(served_by, "MOST_VISITS", 3)
    service = new_service()
    try:
        kept = service.open()
        kept.clips["x"] = None
        seen = [service.open() for _ in range(10)]
        assert len(service.visits) == 3
        assert service.get(kept.token) is kept
        assert [service.get(visit.token) is visit for visit in seen] == [False] * 8 + [True] * 2
        for visit in seen:
            visit.clips["x"] = None
        with pytest.raises(MetadeblurError, match="too many people"):
            service.open()
    finally:
        service.close()


# --- bombs ---------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A black picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), bytes((width + 7) // 8 + 1)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def gif(frames: int, width: int = 16, height: int = 16) -> bytes:
    """One of many frames of a single pixel each."""
    head = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\0\x04\0\0\0" + b"\x2c\0\0\0\0\x01\0\x01\0\0" + b"\x02\x02\x44\x01\0"
    return head + frame * frames + b"\x3b"


def encoded(folder: Path, suffix: str, codec: str, width: int, height: int, count: int = 1) -> bytes:
    """A black video."""
    with av.open(str(folder / f"x{suffix}"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = width, height
        stream.pix_fmt = {"png": "gray", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        frame = av.VideoFrame(width, height, "gray")
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        for _ in range(count):
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
    return (folder / f"x{suffix}").read_bytes()


def claiming(picture: bytes, kind: str, width: int, height: int) -> bytes:
    """A small picture that says it is large."""
    data = bytearray(picture)
    if kind == ".bmp":
        data[18:26] = struct.pack("<ii", width, height)
    elif kind == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def small(suffix: str) -> bytes:
    return cv2.imencode(suffix, np.zeros((16, 16, 3), np.uint8))[1].tobytes()


def several(path: Path, *sizes: tuple[int, int]) -> bytes:
    """Several pictures in one file."""
    first, *rest = [Image.new("L", size, number % 2 * 255) for number, size in enumerate(sizes)]
    form = {"compression": "packbits"} if path.suffix == ".tif" else {}
    first.save(path, save_all=True, append_images=rest, **form)
    return path.read_bytes()


_BOMBS: dict[str, Callable[[Path], list[tuple[str, bytes]]]] = {
    "png": lambda _: [("a.png", png(30_000, 30_000))],
    "png under another name": lambda _: [("a.bmp", png(30_000, 30_000))],
    "png as a video": lambda _: [("a.mp4", png(12_000, 12_000))],
    "jpg": lambda _: [("a.jpg", claiming(small(".jpg"), ".jpg", 60_000, 60_000))],
    "bmp": lambda _: [("a.bmp", claiming(small(".bmp"), ".bmp", 30_000, 30_000))],
    "among others": lambda _: [("1.png", png(16, 16)), ("2.bmp", claiming(small(".bmp"), ".bmp", 30_000, 30_000))],
    "endless gif": lambda _: [("a.gif", gif(50_000))],
    "wide gif": lambda _: [("a.gif", gif(2, 65_535, 65_535))],
    "video of huge frames": lambda folder: [("a.mov", encoded(folder, ".mov", "png", 9000, 6000))],
    "long video": lambda folder: [("a.mkv", encoded(folder, ".mkv", "mjpeg", 16, 16, 300))],
    "pages": lambda folder: [("a.tif", several(folder / "a.tif", (16, 16), (9000, 6000)))],
    "many pages": lambda folder: [("a.tif", several(folder / "a.tif", *[(16, 16)] * 201))],
    "long animation": lambda folder: [("a.png", several(folder / "a.png", *[(16, 16)] * 201))],
    "long webp": lambda folder: [("a.webp", several(folder / "a.webp", *[(16, 16)] * 201))],
    "many pictures": lambda _: [(f"{number}.png", png(16, 16)) for number in range(201)],
}


@case(
    "The page",
    "bombs: a PNG of 30,000 x 30,000, an endless GIF, huge declared frames, one huge picture among small ones",
    "refused by their headers, before anything is decoded (`--max-megapixels`, `--max-frames`)",
    "one line with the size and the limit",
)
@pytest.mark.parametrize("kind", list(_BOMBS))
def test_bombs_are_refused_before_they_go_off(place, tmp_path, kind):
    visit = place.service.open()
    files = _BOMBS[kind](tmp_path)
    began = time.monotonic()
    (clip,) = bring(place.service, visit, *files)
    assert time.monotonic() - began < 20.0
    assert "more than the" in clip.error
    assert "\n" not in clip.error
    assert "in/" not in clip.error
    assert list(clip.shown.rglob("*.*")) == []


def test_frames_that_grow_in_the_middle_of_a_video_are_not_decoded(place, tmp_path):
    grows = encoded(tmp_path, ".mjpeg", "mjpeg", 96, 64, 5) + encoded(tmp_path, ".mjpeg", "mjpeg", 9000, 6000)
    visit = place.service.open()
    (clip,) = bring(place.service, visit, ("a.avi", grows))
    assert "\n" not in clip.error  # its first frames, or a line
    if clip.seen is not None:
        assert clip.seen.preview.frames == 5
        place.service.begin(visit, clip, "lite", "quick")
        until(lambda: clip.work.over)
        assert clip.done is None or clip.done.compared.frames == 5


def test_clips_of_a_usual_size_pass(place, tmp_path):
    for name, content in (("a.gif", gif(20)), ("a.mkv", encoded(tmp_path, ".mkv", "mjpeg", 96, 64, 20))):
        (clip,) = bring(place.service, place.service.open(), (name, content))
        assert clip.error == ""
        assert clip.seen.info.frames > 1


# --- script --------------------------------------------------------------------------------------------------------


def raw(words: str) -> bool:
    """Whether something of the script is there as markup."""
    return "<script>alert" in words or "<img src=x" in words or "onerror=alert(2)>" in words


@case(
    "The page",
    "script in file names, in tags of the video and in names of frames",
    "shown as text on the page and in the report, which is served in a sandbox; downloads are attachments",
    "nothing to tell",
)
def test_script_in_names_and_tags_stays_text(place, tmp_path):
    tags = dict.fromkeys(("title", "artist", "comment", "encoder", SCRIPT), SCRIPT)
    source = make_video(tmp_path / "a.mkv", shaky((5,)), audio_tracks=1, metadata=tags)
    visit = place.service.open()
    (taken,) = bring(place.service, visit, (f"{SCRIPT}\r\nSet-Cookie: a=b\r\n.mkv", source.read_bytes()))
    shown = [preview(taken.seen), progress(taken.looking, SCRIPT, 1.0)]
    done = restore(place, visit, taken).done
    shown += [result(done), links(done, taken), str(_view(place.service, visit, taken, "quick"))]
    assert not any(map(raw, shown))
    report = load(place, Path(done.file).with_name("report.html"))
    assert report.status == 200
    assert not raw(report.text)
    for part in ("default-src 'none'", "sandbox allow-scripts", "frame-ancestors 'self'", "form-action 'none'"):
        assert part in report.headers["content-security-policy"]
    assert "allow-same-origin" not in report.headers["content-security-policy"]
    file = load(place, done.file)
    assert file.status == 200
    assert file.headers["content-disposition"].startswith("attachment; filename")
    assert not {"<", ">", "\r", "\n"} & set(file.headers["content-disposition"])
    assert "set-cookie" not in file.headers
    assert file.headers["content-type"] == "application/octet-stream"
    assert file.headers["x-content-type-options"] == "nosniff"


def test_script_in_what_goes_wrong_stays_text(place):
    visit = place.service.open()
    (clip,) = bring(place.service, visit, (f"{SCRIPT}.mp4", b"no video"))
    assert clip.error
    assert not raw(clip.error)
    assert not raw(str(_view(place.service, visit, clip, "quick")))
    answer = place.upload((SCRIPT.replace('"', ""), bytes(3_000_001)))
    assert answer.status == 413
    assert not raw(answer.text)


def test_frames_of_the_same_name_all_come_back():
    names = ["a.png", "a.png", "1_a.png", "A.png", "2_a.png", "a.png"]
    made = different(names)
    assert len({name.casefold() for name in made}) == len(names)
    assert [name.endswith(given) for name, given in zip(made, names, strict=True)] == [True] * len(names)


# --- load ----------------------------------------------------------------------------------------------------------


@case(
    "The page",
    "ten visitors upload and restore at the same moment",
    "each gets their own clip back, one after the other; the page answers all the time",
    "their place in the line",
)
def test_ten_at_once_get_each_their_own(place):
    (walk,) = shaky((1,), (40, 64))
    pictures = [cv2.imencode(".png", walk // 2 + number * 12)[1].tobytes() for number in range(10)]

    def whole_way(number: int) -> UploadedClip:
        visit = place.service.open()
        (path,) = json.loads(place.upload((f"{number}.png", pictures[number])).content)
        (clip,) = place.service.bring(visit, [(Path(path), f"{number}.png")], "lite")
        until(lambda: clip.looking.over)
        place.service.begin(visit, clip, "lite", "quick")
        return clip

    with ThreadPoolExecutor(10) as people:
        waiting = [people.submit(whole_way, number) for number in range(10)]
        while not all(future.done() and future.result().work.over for future in waiting):
            began = time.monotonic()
            assert place.ask("/config").status == 200
            assert time.monotonic() - began < 10.0
            time.sleep(0.2)
    clips = [future.result() for future in waiting]
    assert [clip.error for clip in clips] == [""] * 10
    means = []
    for number, clip in enumerate(clips):
        back = load(place, clip.done.file)
        assert back.headers["content-disposition"].endswith(f'{number}_deblurred.png"')
        means.append(cv2.imdecode(np.frombuffer(back.content, np.uint8), cv2.IMREAD_COLOR).mean())
    assert np.all(np.diff(means) > 6)


@case(
    "The page",
    "the disk of the computer that runs the page is full",
    "the upload or the visit is refused, nothing half of it stays",
    "no room at the moment; come back later",
)
def test_a_full_disk_is_said_and_leaves_nothing(place, clip, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(place.service.uploads.iterdir())
    monkeypatch.setattr("gradio.route_utils.GradioUploadFile.write", full)
    answer = place.upload(("a.mp4", clip))
    monkeypatch.undo()
    assert answer.status == 400
    assert "no room" in answer.text
    assert str(place.service.folder) not in answer.text
    assert sorted(place.service.uploads.iterdir()) == before
    visit, file = place.service.open(), uploaded(place.service, "a.mp4", clip)
    monkeypatch.setattr(served_by.shutil, "move", full)
    with pytest.raises(MetadeblurError, match="no room"):
        place.service.bring(visit, [file], "lite")
    assert visit.clips == {}
    assert not file[0].exists()


def test_a_visitor_whose_clip_is_deleted_in_the_middle_leaves_nothing(place, clip):
    visit = place.service.open()
    (taken,) = place.service.bring(visit, [uploaded(place.service, "a.mp4", clip)], "lite")
    place.service.delete(visit, taken)
    assert taken.looking.over
    assert not taken.folder.exists()
    assert not taken.shown.exists()
    with pytest.raises(MetadeblurError):
        place.service.begin(visit, taken, "lite", "quick")


# --- the end -------------------------------------------------------------------------------------------------------

_BUSY = """
import shutil, sys, time
from metadeblur.app import server
from metadeblur.cli.entry import main

real = server.serve

def serve(service, site, ready):
    def begun(address):
        upload = service.uploads / ("0" * 64) / "a.mp4"
        upload.parent.mkdir()
        shutil.copyfile(sys.argv[1], upload)
        visit = service.open()
        (clip,) = service.bring(visit, [(upload, "a.mp4")], "lite")
        while clip.seen is None:
            time.sleep(0.01)
        service.begin(visit, clip, "lite", "best")
        print(clip.work.process.pid, flush=True)
        ready(address)
    real(service, site, begun)

server.serve = serve
sys.exit(main(["app", "--port", "0", "--no-browser"]))
"""


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def children(process: int) -> set[int]:
    """A process's children and theirs."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]
        own = {int(word) for line in lists for word in line.split()}
    except OSError:
        return set()
    return own.union(*map(children, own))


@case(
    "The page",
    "the page is ended while it restores (Ctrl-C, SIGTERM, closed terminal) or killed outright",
    "every process ends, and private folders are deleted (after a kill: when the page is started next)",
    "that what visitors brought is deleted",
)
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="it looks for processes in /proc")
def test_the_end_ends_every_process_and_deletes_everything(tmp_path):
    shaky_video(tmp_path / "a.mp4", (30,))
    ends = {"SIGINT": 0, "SIGTERM": 0, "SIGKILL": -9}
    servers = {}
    for name in ends:
        (tmp_path / name).mkdir()
        environment = {**os.environ, "TMPDIR": str(tmp_path / name), "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        servers[name] = subprocess.Popen([sys.executable, "-c", _BUSY, tmp_path / "a.mp4"], env=environment, **pipes)
    family = {}
    try:
        for name, server in servers.items():
            job = server.stdout.readline()
            assert job.strip().isdigit(), server.stderr.read()
            assert server.stdout.readline().startswith("metadeblur app: http://127.0.0.1:")
            family[name] = children(server.pid)
            assert int(job) in family[name]
            server.send_signal(getattr(signal, name))
        for name, server in servers.items():
            said, errors = server.communicate(timeout=PATIENCE)
            assert (name, server.returncode, errors) == (name, ends[name], "")
            assert ("deleted" in said) == (name != "SIGKILL")
            until(lambda name=name: not any(map(alive, family[name])), 20.0)
    finally:
        for server in servers.values():
            server.kill()
    assert [len(list((tmp_path / name).iterdir())) for name in ("SIGINT", "SIGTERM")] == [0, 0]
    assert len(list((tmp_path / "SIGKILL").glob("metadeblur-app-*"))) == 1
    sweep(tmp_path / "SIGKILL")  # as every page does at its start
    assert list((tmp_path / "SIGKILL").glob("metadeblur-app-*")) == []


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no such signal")
def test_a_closed_terminal_is_a_request_to_end(place):
    server = make_server(place.service, Site())
    before = signal.getsignal(signal.SIGHUP)
    with closed_terminal_ends(server):
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: server.should_exit, 5.0)
    assert signal.getsignal(signal.SIGHUP) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with closed_terminal_ends(server):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_page_that_is_alive_is_not_cleaned_away(place):
    sweep(place.service.folder.parent)
    assert place.service.folder.is_dir()

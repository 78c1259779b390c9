"""The page in a real browser: Debian's chromium, driven by Playwright, against ``metadeblur app`` in a process."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")

from browser import CHROMIUM, PATIENCE_MS, running
from journey import decoded, run, shaky, start
from media import make_video

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gradio") is None, reason="no extra [app]: pip install '.[app]'"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps what visitors bring."""
    return tmp_path_factory.mktemp("visitors")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where the page is."""
    os.environ["TMPDIR"], before = str(folder), os.environ.get("TMPDIR")
    try:
        server = start(["app", "--port", "0", "--no-browser", "--max-upload", "1"])
    finally:
        os.environ.pop("TMPDIR") if before is None else os.environ.update(TMPDIR=before)
    try:
        line = server.stdout.readline()
        assert line.startswith("metadeblur app: http://127.0.0.1:"), line + server.stderr.read()
        yield line.split()[2]
        with urlopen(f"{line.split()[2]}gradio_api/heartbeat/open"):  # a page that is still open
            server.send_signal(signal.SIGINT)
            said, errors = server.communicate(timeout=120)
    finally:
        server.kill()
    assert (server.returncode, errors) == (0, "")
    assert "deleted" in said
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running() as browser:
        yield browser


class Visitor:
    """One person with a browser window; everything it asks for is noted."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.page.locator("input.files:enabled").first.wait_for(state="attached")

    def brightness(self) -> tuple[int, int]:
        """Of the ground and of the letters, 0 to 765."""
        style = "getComputedStyle(document.body)"
        ground, ink = (self.page.evaluate(f"{style}.{name}") for name in ("backgroundColor", "color"))
        return tuple(sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink))

    def bring(self, *files: tuple[str, bytes]) -> None:
        payload = [{"name": name, "mimeType": "application/octet-stream", "buffer": data} for name, data in files]
        self.page.get_by_label("Choose a video or pictures").set_input_files(payload)

    def restore(self, effort: str) -> None:
        self.page.get_by_text("Expected time").wait_for()
        self.page.get_by_role("radio", name=effort).check()
        self.page.get_by_role("button", name="Restore", disabled=False).click()

    def sees(self, text: str | re.Pattern[str]) -> None:
        self.page.get_by_text(text).first.wait_for()

    def becomes(self, expression: str) -> None:
        self.page.wait_for_function(expression)


@pytest.fixture
def visitor(chromium: Any, address: str) -> Iterator[Visitor]:
    visitor = Visitor(chromium, address)
    yield visitor
    visitor.context.close()
    assert [url for url in visitor.asked if not url.startswith((address, "data:", "blob:"))] == []
    assert visitor.errors == []


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", shaky((9,)), audio_tracks=1)


def test_from_upload_to_download(visitor, clip, tmp_path):
    page = visitor.page
    ground, ink = visitor.brightness()
    assert ground - ink > 400
    visitor.bring(("../my clip.mp4", clip.read_bytes()))
    visitor.sees("96\u00d764, 9 frames, 0.4 s, with sound")
    visitor.restore("Quick")
    visitor.sees("Restored with")

    visitor.becomes("document.querySelector('video').readyState >= 3")
    assert page.evaluate("document.querySelector('video').duration") == pytest.approx(9 / 25, abs=0.05)
    page.evaluate("document.querySelector('video').play()")
    visitor.becomes("document.querySelector('video').webkitAudioDecodedByteCount > 0")

    frame, divider = (page.get_by_role("slider", name=name) for name in ("Frame", "Divider"))
    divider.focus()
    page.keyboard.press("End")
    assert page.locator(".md-compare .stage").evaluate("stage => stage.style.getPropertyValue('--at')") == "100%"
    frame.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.get_by_alt_text("Frame 3 as it was").wait_for()
    for side in ("before", "after"):
        assert page.locator(f".md-compare .{side}").get_attribute("src").endswith(f"/{side}/2")
        visitor.becomes(
            f"(img => img.complete && img.naturalWidth === 96)(document.querySelector('.md-compare .{side}'))"
        )

    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "my clip_deblurred.mp4"
    download.value.save_as(tmp_path / "page.mp4")
    assert run("restore", clip, "-o", tmp_path / "command.mp4", "--effort", "quick") == 0
    assert np.array_equal(decoded(tmp_path / "page.mp4"), decoded(tmp_path / "command.mp4"))

    with visitor.context.expect_page() as opened:
        page.get_by_role("link", name="What it did").click()
    opened.value.get_by_role("heading", name="Restored with").wait_for(timeout=PATIENCE_MS)

    page.get_by_role("button", name="Delete my clip").click()
    visitor.sees("Your clip and its result are deleted.")
    assert page.get_by_role("link", name="Download").count() == 0


def test_progress_and_cancel(visitor, folder):
    page = visitor.page
    page.get_by_role("button", name="Shaky hand, small").click()
    visitor.sees("320\u00d7240, 20 frames")
    visitor.restore("Best")
    visitor.sees("A first look, by the base network")
    visitor.sees(re.compile("Frame .+, restored"))
    page.get_by_role("progressbar", name="Progress of this stage").wait_for()
    assert list(folder.glob("metadeblur-app-*/visit-*/run"))
    page.get_by_role("button", name="Cancel").click()
    visitor.sees("Cancelled; nothing of it is left")
    assert not list(folder.glob("metadeblur-app-*/visit-*/run"))
    page.get_by_role("button", name="Restore", disabled=False).wait_for()


def test_a_bad_file_gets_one_clear_line(visitor):
    dropped = visitor.page.evaluate_handle(
        "() => { const all = new DataTransfer(); all.items.add(new File(['not a video'], 'notes.mp4')); return all; }"
    )
    visitor.page.dispatch_event(".md-drop", "drop", {"dataTransfer": dropped})
    line = visitor.page.get_by_role("alert").first
    line.wait_for()
    assert line.inner_text().lower().startswith("notes.mp4: ")
    assert "\n" not in line.inner_text()
    assert visitor.page.get_by_role("button", name="Restore").is_disabled()
    visitor.bring(("large.mp4", bytes(1_100_000)))
    visitor.sees("This is 2 MB; at most 1 MB are taken.")
    visitor.bring(("1.png", b"x"), ("2.mp4", b"y"))
    visitor.sees("2.mp4: several files must be the frames of one clip")


def test_two_at_once_wait_for_each_other(chromium, visitor, address, clip, folder):
    visitor.page.get_by_role("button", name="Shaky hand, small").click()
    visitor.restore("Best")
    visitor.page.get_by_role("button", name="Cancel").wait_for()
    other = Visitor(chromium, address)
    other.bring(("other.mp4", clip.read_bytes()))
    other.restore("Quick")
    other.sees("In line: 1 restoration is before yours")
    for path in folder.glob("metadeblur-app-*/visit-*/upload/*"):
        assert other.page.request.get(f"{address}gradio_api/file={path}").status == 404
    visitor.page.get_by_role("button", name="Cancel").click()
    other.sees("Restored with")
    before = len(list(folder.glob("metadeblur-app-*/visit-*")))
    other.page.close()
    _until(visitor, lambda: len(list(folder.glob("metadeblur-app-*/visit-*"))) < before)
    other.context.close()


def _until(visitor: Visitor, happened: Any) -> None:
    """Wait for something outside of the browser."""
    for _ in range(PATIENCE_MS // 50):
        if happened():
            return
        visitor.page.wait_for_timeout(50)
    raise AssertionError("it did not happen")


def test_on_a_dark_phone(chromium, address, clip):
    size = {"width": 390, "height": 844}
    visitor = Visitor(chromium, address, viewport=size, has_touch=True, color_scheme="dark")
    ground, ink = visitor.brightness()
    assert ink - ground > 400
    page = visitor.page
    visitor.bring(("clip.mp4", clip.read_bytes()))
    visitor.restore("Quick")
    page.get_by_role("link", name="Download").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    controls = page.locator("button:visible, input:visible, select:visible, a:visible, video:visible")
    names = controls.evaluate_all(
        "all => all.map(e => e.ariaLabel || [...(e.labels || [])].map(l => l.innerText).join() || e.innerText)"
    )
    assert len(names) > 10
    assert all(names), names
    assert page.get_by_role("group", name="Effort").count() == 1
    visitor.context.close()

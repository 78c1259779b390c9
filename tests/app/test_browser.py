"""The page in a real browser: Debian's chromium, driven by Playwright, against ``metadeblur app`` in a process."""

from __future__ import annotations

import os
import re
import signal
import time
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
        # Without a graphics card a comparison that moves keeps a processor busy: only where that is what is looked at.
        self.context = browser.new_context(**{"reduced_motion": "reduce"} | options)
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.arrived()

    def arrived(self) -> None:
        self.page.locator("#files input[type=file]").wait_for(state="attached")

    def brightness(self) -> tuple[int, int]:
        """Of the ground and of the letters, 0 to 765."""
        style = "getComputedStyle(document.body)"
        ground, ink = (self.page.evaluate(f"{style}.{name}") for name in ("backgroundColor", "color"))
        return tuple(sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink))

    def bring(self, *files: tuple[str, bytes]) -> None:
        payload = [{"name": name, "mimeType": "video/mp4", "buffer": data} for name, data in files]
        self.page.locator("#files input[type=file]").set_input_files(payload)

    def restore(self, effort: str) -> None:
        self.sees("Expected time")
        self.page.get_by_role("radio", name=effort).check()
        self.page.get_by_role("button", name="Restore", exact=True, disabled=False).click()

    def choose(self, clip: str | re.Pattern[str]) -> None:
        self.page.get_by_role("radio", name=clip).check()

    def compared(self, function: str) -> list[Any]:
        """What a JavaScript function gives for each video of a comparison."""
        return self.page.evaluate(f"[...document.querySelectorAll('.md-compare video')].map({function})")

    def previewed(self) -> None:
        """Wait for both videos of a comparison."""
        self.becomes("[...document.querySelectorAll('.md-compare video')].filter(v => v.readyState >= 2).length === 2")

    def sees(self, text: str | re.Pattern[str]) -> None:
        self.page.get_by_text(text).first.wait_for()

    def becomes(self, expression: str) -> None:
        self.page.wait_for_function(expression)


@pytest.fixture
def visitor(chromium: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    visitor = Visitor(chromium, address, **getattr(request, "param", {}))
    yield visitor
    visitor.context.close()
    assert [url for url in visitor.asked if not url.startswith((address, "data:", "blob:"))] == []
    assert visitor.errors == []


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", shaky((9,)), audio_tracks=1)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("larger") / "clip.mp4", shaky((12,), (240, 320)))


def test_a_preview_within_ten_seconds_and_a_reload_in_the_middle(visitor, larger):
    page = visitor.page
    ground, ink = visitor.brightness()
    assert ground - ink > 400
    began = time.monotonic()
    visitor.bring(("clip.mp4", larger.read_bytes()))
    visitor.sees("320\u00d7240, 12 frames, 0.5 s, no sound")
    visitor.previewed()
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # with others on this machine
    assert time.monotonic() - began < 10.0 * busy
    visitor.restore("Best")
    page.get_by_role("button", name="Cancel").wait_for()
    assert re.search(r"[?&]job=[\w-]{40,}", page.url)

    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.reload()
    assert asked == ["beforeunload"]
    visitor.arrived()
    visitor.previewed()
    page.get_by_role("progressbar", name="Progress of this stage").wait_for()
    page.get_by_role("button", name="Cancel").click()
    visitor.sees("Expected time")
    page.reload()  # nobody is asked now
    assert asked == ["beforeunload"]
    page.get_by_role("button", name="Delete this clip").click()
    visitor.sees("as soon as there is one")


@pytest.mark.parametrize("visitor", [{"reduced_motion": "no-preference"}], indirect=True, ids=["moving"])
def test_from_upload_to_download(visitor, clip, tmp_path):
    page = visitor.page
    visitor.bring(("../my clip.mp4", clip.read_bytes()))
    visitor.sees("96\u00d764, 9 frames, 0.4 s, with sound")
    width = page.locator("#theirs").bounding_box()["width"]
    visitor.restore("Quick")
    visitor.sees("Restored with")
    page.reload()
    visitor.arrived()
    visitor.sees("Restored with")
    assert page.locator("#theirs").bounding_box()["width"] == width
    assert page.get_by_role("heading", name="Restored with").evaluate(
        "e => e.getBoundingClientRect().top < innerHeight"
    )

    visitor.previewed()
    both = "(f => [...document.querySelectorAll('.md-compare video')].map(f))"
    visitor.becomes(f"{both}(v => !v.paused && v.currentTime > 0).every(Boolean)")  # it moves by itself
    frame, divider = (page.get_by_role("slider", name=name) for name in ("Frame", "Divider"))
    frame.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    visitor.becomes("document.querySelector('.md-compare .frame').ariaValueText === '2 of 9'")
    visitor.becomes(f"{both}(v => v.paused && !v.seeking && Math.abs(v.currentTime - 1.5 / 25) < 0.01).every(Boolean)")
    divider.focus()
    page.keyboard.press("End")
    assert page.locator(".md-compare .view").evaluate("view => view.style.getPropertyValue('--at')") == "100%"
    page.get_by_role("button", name="4x").click()
    assert page.locator(".md-compare .before").bounding_box()["width"] == 4 * 96
    page.get_by_role("button", name="Most blurred frame").click()
    page.get_by_role("button", name="Play", exact=True).click()
    visitor.becomes(f"{both}(v => !v.paused).every(Boolean)")

    visitor.becomes("document.querySelector('#video video').readyState >= 3")
    assert page.evaluate("document.querySelector('#video video').duration") == pytest.approx(9 / 25, abs=0.05)
    page.evaluate("document.querySelector('#video video').play()")
    visitor.becomes("document.querySelector('#video video').webkitAudioDecodedByteCount > 0")

    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "my clip_deblurred.mp4"
    download.value.save_as(tmp_path / "page.mp4")
    assert run("restore", clip, "-o", tmp_path / "command.mp4", "--effort", "quick") == 0
    assert np.array_equal(decoded(tmp_path / "page.mp4"), decoded(tmp_path / "command.mp4"))

    with visitor.context.expect_page() as opened:
        page.get_by_role("link", name="What it did").click()
    opened.value.get_by_role("heading", name="Restored with").wait_for(timeout=PATIENCE_MS)
    assert "my clip.mp4" in opened.value.content()

    page.get_by_role("button", name="Delete this clip").click()
    visitor.sees("as soon as there is one")
    assert page.locator("#download").count() == 0


def test_an_example_and_a_second_clip_in_the_queue(visitor, clip, folder):
    page = visitor.page
    others = set(folder.glob("metadeblur-app-*/clip-*"))
    page.locator("#examples button").first.click()
    visitor.previewed()
    visitor.restore("Best")
    visitor.sees("being restored")
    visitor.bring(("second.mp4", clip.read_bytes()), ("third.mp4", clip.read_bytes() + b"x"))
    visitor.sees("third.mp4: preview ready")
    visitor.choose(re.compile("third.mp4"))
    visitor.restore("Quick")
    visitor.sees("In line: 1 restoration is before yours")
    visitor.choose(re.compile("shaky.mp4"))
    page.get_by_role("progressbar", name="Progress of this stage").wait_for()
    (shaky,) = (path.parents[1] for path in folder.glob("metadeblur-app-*/clip-*/in/shaky.mp4"))
    assert (shaky / "run").is_dir()
    page.get_by_role("button", name="Cancel").click()
    visitor.sees("shaky.mp4: preview ready")
    assert not (shaky / "run").exists()
    visitor.sees("third.mp4: done")
    for path in folder.glob("metadeblur-app-*/clip-*/in/*"):
        address = page.url.partition("?")[0]
        assert page.request.get(f"{address}gradio_api/file={path}").status == 404
    page.get_by_role("button", name="Delete everything").click()
    visitor.sees("The clips of this visit are deleted.")
    assert set(folder.glob("metadeblur-app-*/clip-*")) == others
    assert "job=" not in page.url


def test_a_bad_file_gets_one_clear_line(visitor):
    visitor.bring(("notes.mp4", b"not a video"))
    line = visitor.page.get_by_role("alert").first
    line.wait_for()
    assert line.inner_text().lower().startswith("notes.mp4: ")
    assert "\n" not in line.inner_text()
    assert visitor.page.get_by_role("button", name="Restore", exact=True).is_disabled()
    visitor.bring(("large.mp4", bytes(1_100_000)))
    visitor.sees(re.compile("maximum|exceed|larger"))


def test_two_visitors_wait_for_each_other_and_a_link_shows_a_visit(chromium, visitor, address, clip, larger):
    visitor.bring(("mine.mp4", larger.read_bytes()))
    visitor.restore("Best")
    visitor.page.get_by_role("button", name="Cancel").wait_for()
    other = Visitor(chromium, address)
    other.bring(("other.mp4", clip.read_bytes() + b"x"))
    other.restore("Quick")
    other.sees("In line: 1 restoration is before yours")
    guest = Visitor(chromium, other.page.url)  # whoever is given the address
    guest.sees("other.mp4: in line")
    assert visitor.compared("v => [v.readyState >= 2, v.played.length]") == [[True, 0]] * 2  # its system asks for that
    visitor.page.get_by_role("button", name="Cancel").click()
    guest.sees("Restored with")
    other.sees("Restored with")
    for each in (other, guest):
        each.context.close()


def test_on_phones_and_screens_dark_and_light(chromium, address, clip):
    size = {"width": 390, "height": 844}
    visitor = Visitor(chromium, address, viewport=size, has_touch=True, color_scheme="dark")
    ground, ink = visitor.brightness()
    assert ink - ground > 400
    page = visitor.page
    visitor.bring(("clip.mp4", clip.read_bytes()))
    visitor.restore("Quick")
    page.locator("#download").wait_for()
    visitor.previewed()
    visitor.becomes("document.querySelector('#stage').getBoundingClientRect().top < innerHeight / 2")  # it is seen
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    controls = page.locator("button:visible, input:visible, select:visible, a:visible, video:visible")
    named = "e.ariaLabel || e.title || [...(e.labels || [])].map(l => l.innerText)[0] || e.innerText"
    assert controls.count() > 10
    assert controls.evaluate_all(f"all => all.filter(e => !({named})).map(e => e.outerHTML)") == []
    for name in ("Effort", "Clips"):
        assert page.get_by_role("group", name=name).count() == 1
    for width, scheme, darker in ((390, "light", False), (1280, "light", False), (1280, "dark", True)):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme)
        page.reload()
        page.locator("#download").wait_for()
        ground, ink = visitor.brightness()
        assert ((ink - ground) if darker else (ground - ink)) > 400
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    visitor.context.close()

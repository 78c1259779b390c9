"""The site of the documents: built without a warning, its links lead somewhere, its search works from the disk."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import metadeblur as md
from metadeblur.cli.entry import COMMANDS, main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COMMANDS_PAGE = "reference/commands.md"


class Page(HTMLParser):
    """What a page of the site fetches by itself, where its links lead, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.words = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.fetched += [given[name] or "" for name in ("src", "srcset", "data", "poster") if name in given]
        self.anchors.add(given.get("id") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.fetched.append(given.get("href") or "")
        elif tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")

    def handle_data(self, data: str) -> None:
        self.words += len(data.split())


def built(folder: Path) -> Path:
    """The site, built beside copies of what it is made of, as nothing is written into the repository by tests."""
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("commands.md", "__pycache__"))
    shutil.copy(ROOT / "zensical.toml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, folder / "docs" / "make.py"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=folder)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "warning" not in said.lower(), said
    return folder / "site"


def introduced(command: str) -> set[str]:
    """The flags that the help of a command explains."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([*command.split(), "--help"])
    lines = re.findall(r"^[ \u2502]{1,4}(-.*?)(?:  |$)", printed.getvalue(), re.MULTILINE)
    return {flag for line in lines for flag in re.findall(r"--[a-z][\w-]*", line)}


def search_from_the_disk(page: Path) -> None:
    """Find something in the site as it lies on the disk, where browsers let no page fetch anything."""
    browser = pytest.importorskip("browser", reason="playwright is not installed: pip install '.[dev]'")
    if not browser.CHROMIUM.exists():
        return
    with browser.running() as chromium:
        shown = chromium.new_page(viewport={"width": 1280, "height": 900})
        asked: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(page.as_uri())
        shown.keyboard.press("/")
        shown.keyboard.type("rolling shutter", delay=20)
        shown.wait_for_selector('a[href*="known-limits.html"] :text("rolling shutter")', timeout=browser.PATIENCE_MS)
        assert [url for url in asked if not url.startswith(("file:", "data:", "about:", "blob:"))] == []


@pytest.mark.slow
def test_the_site_is_built_without_warnings_fetches_nothing_and_can_be_searched(tmp_path):
    site = built(tmp_path)
    pages = {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}
    assert {f"{path.stem}.html" for path in DOCS.glob("*.md")} <= set(pages)
    assert not list(site.rglob("*.py"))
    for name, page in pages.items():
        assert page.words > 100 or name == "404.html", name
        assert [target for target in page.fetched if urlsplit(target).netloc] == []
        for target in (*page.fetched, *page.links):
            parts = urlsplit(target)
            if parts.netloc or parts.scheme or name == "404.html":
                continue
            goal = ((site / name).parent / unquote(parts.path)).resolve() if parts.path else site / name
            assert goal.exists(), f"{name}: {target}"
            other = pages.get(goal.relative_to(site.resolve()).as_posix())
            assert not parts.fragment or other is None or unquote(parts.fragment) in other.anchors, f"{name}: {target}"
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert not any(re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style) for style in styles)
    anchors = pages["reference/commands.html"].anchors
    for command in COMMANDS:
        name = command.replace(" ", "-")
        assert f"metadeblur-{name}" in anchors
        assert {f"{name}{flag}" for flag in introduced(command)} <= anchors, command
    assert {"restore--effort", "restore--no-adapt", "train-deblur--network", "doctor--json"} <= anchors
    reference = "".join(
        (site / "reference" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("package", "adapting", "restoring")
    )
    assert set(md.__all__) <= set(re.findall(r'id="metadeblur\.[\w.]*?(\w+)"', reference))
    assert "<blockquote" not in reference  # doctests are examples
    search_from_the_disk(site / "index.html")


def menu() -> list:
    return tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]


def test_every_page_is_in_the_menu():
    listed = re.findall(r"[\w/-]+\.md", str(menu()))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | {COMMANDS_PAGE}
    assert sorted(listed) == sorted(pages)


def test_measurements_are_folded_away_in_the_menu():
    (results,) = (entry["Results"] for entry in menu() if "Results" in entry)
    open_, (folded,) = results[:-1], results[-1].values()
    assert open_ == ["figures.md", "results/README.md"]
    assert all(page.startswith("results/") for page in folded)

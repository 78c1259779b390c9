"""Every code block of the how-to pages runs, word for word, in a folder with small inputs."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

import metadeblur as md
from journey import command, run, shaky
from media import make_frames, make_video

DOCS = Path(__file__).parents[1] / "docs"
ELSEWHERE = {"add-a-network.md"}  # tests/test_deblurrer.py: it needs a checkpoint of its own
PAGES = sorted(page.name for page in DOCS.glob("*.md") if page.name not in ELSEWHERE)
SHELL = set("|&;<>$`*?~#!\\(){}")  # what only a shell understands


def blocks(page: str) -> list[tuple[str, str]]:
    """The (language, text) of the code blocks that run."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if language in ("bash", "python")]


def run_bash(text: str) -> None:
    """Lines that are plain calls of the command run in this process, which need not load everything each time."""
    lines = text.strip().splitlines()
    if all(line.startswith("metadeblur ") and not SHELL & set(line) for line in lines):
        for line in lines:
            assert run(*shlex.split(line)[1:]) == 0, line
        return
    path = f"{Path(command()).parent}:/usr/bin:/bin"
    subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True, env={"PATH": path})


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("shaky.mp4", "other.mp4"):
        make_video(tmp_path / name, shaky((5,), (40, 64)), audio_tracks=1)
    make_frames(tmp_path / "walk", shaky((5,), (40, 64)))
    make_frames(tmp_path / "photographs", 3, size=(300, 420), suffix=".jpg")
    names: dict[str, object] = {"__name__": page}
    found = blocks(page)
    assert found
    for language, text in found:
        if language == "bash":
            run_bash(text)
        else:
            exec(compile(text, page, "exec"), names)
    if page == "restore-a-video.md":
        made = ("shaky_deblurred.mp4", "sharp.mp4", "both.mp4", "record.json", "page/index.html", "sharp.mkv")
        assert [name for name in made if not (tmp_path / name).is_file()] == []
        assert len(md.read_clip("shaky_deblurred.mp4")) == len(md.read_clip("walk_sharp")) == 5


@pytest.mark.parametrize("page", [*PAGES, *ELSEWHERE])
def test_links_lead_somewhere(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            goal = DOCS / name if name else DOCS / page
            assert goal.exists(), target
            titles = re.findall(r"^#+ (.*)$", goal.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {title.lower().replace(" ", "-") for title in titles}, target
    assert len(text.splitlines()) < 120


def test_readme_links_to_every_page():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"docs/{page}" in readme for page in (*PAGES, *ELSEWHERE))

"""Every code block of the pages runs, word for word, in a folder with small inputs; the tutorial in an empty one.

With METADEBLUR_INSTALL set, the tutorial's own installation is used: a fresh virtual environment, downloads and all.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from journey import command, run, shaky, small_model
from media import make_frames, make_video

import metadeblur as md
from metadeblur.cli.entry import parse
from metadeblur.models import weights

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIAL = "tutorial.md"
MADE = DOCS / "reference" / "commands.md"  # when the site is built, by docs/make.py
ELSEWHERE = {
    "add-a-network.md",  # tests/models/test_deblurrer.py: it needs a checkpoint of its own
    "model-cards.md",  # figures and pictures
    "difficult-files.md",  # a table
    "figures.md",  # likewise
    "reproduce-the-paper.md",  # it needs the paper's data, and GPUs for days
    "verdicts.md",  # likewise
    "pipe.md",  # tests/cli/test_pipe.py: it needs ffmpeg
    "index.md",  # it has no code that a test could run: installing takes too long, and the demonstration
    "install.md",  # likewise; its commands are looked at below
    "containers.md",  # it needs Docker
    "known-limits.md",  # pictures
    "other-programs.md",  # they are not here; its chain is one of pipe.md
    "steady.md",  # it needs FFmpeg's program
    TUTORIAL,  # in an empty folder, below
}
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


@pytest.fixture
def small_built_in(tmp_path_factory, monkeypatch):
    """The built-in network is a very small one: a page takes seconds instead of minutes, and says the same."""
    path = weights.built_in_path
    small = small_model(tmp_path_factory.mktemp("assets") / "lite.safetensors")
    monkeypatch.setattr(weights, "built_in_path", lambda name: small if name == "lite" else path(name))


@pytest.mark.usefixtures("small_built_in")
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.slow
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


def tutorial() -> tuple[list[str], list[str]]:
    """The lines that install the program, and those that are copied after them."""
    found = blocks(TUTORIAL)
    assert {language for language, _ in found} == {"bash"}
    lines = [text.splitlines() for _, text in found]
    return lines[0], [line for block in lines[1:] for line in block]


def follow(commands: list[str], folder: Path, programs: Path) -> None:
    """What a person does who copies line after line, and what they must then have."""
    path = f"{programs}:/usr/bin:/bin"
    assert list(folder.iterdir()) == []
    for line in commands:
        words = ["bash", "-euo", "pipefail", "-c", line]
        done = subprocess.run(words, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    blurred, sharp = (md.read_clip(folder / "practice" / name) for name in ("shaky.mp4", "sharp.mp4"))
    assert (len(sharp), sharp.height, sharp.width) == (len(blurred), blurred.height, blurred.width)
    assert max(float((one - other).abs().mean()) for one, other in zip(blurred, sharp, strict=True)) > 1 / 255
    text = (DOCS / TUTORIAL).read_text(encoding="utf-8")
    named = re.findall(r"^- `(practice/\S+)`", text, re.MULTILINE)
    assert len(named) == 3
    assert [name for name in named if not (folder / name).is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize("size", ["128x96", pytest.param("224x168", marks=pytest.mark.long)])
def test_the_tutorial_alone_leads_to_a_restored_video(size, tmp_path):
    """Word for word in the long run; otherwise its practice video is smaller."""
    _, commands = tutorial()
    width, height = size.split("x")
    smaller = [line.replace("--width 224 --height 168", f"--width {width} --height {height}") for line in commands]
    assert (smaller == commands) == (size == "224x168")
    follow(smaller, tmp_path, Path(command()).parent)


def test_the_tutorial_installs_as_the_readme_does():
    install, _ = tutorial()
    made, entered, line = install
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folder = made.split()[-1]
    assert made in readme
    assert entered == f". {folder}/bin/activate"
    assert f"{folder}/bin/{line}" in readme  # the same words, of the pip in that folder
    assert (ROOT / "constraints.txt").is_file()
    assert (ROOT / "pyproject.toml").is_file()


@pytest.mark.skipif("METADEBLUR_INSTALL" not in os.environ, reason="METADEBLUR_INSTALL is not set: downloads take long")
def test_the_tutorial_installs_the_program(tmp_path):
    install, commands = tutorial()
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "project" / name)
    subprocess.run(["bash", "-euo", "pipefail", "-c", "\n".join(install)], cwd=tmp_path / "project", check=True)
    (tmp_path / "empty").mkdir()
    follow(commands, tmp_path / "empty", tmp_path / "project" / ".venv" / "bin")


@pytest.mark.parametrize("page", sorted({*PAGES, *ELSEWHERE}))
def test_commands_that_are_not_run_are_possible(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("metadeblur "):
                parse(shlex.split(line)[1:])


def slug(title: str) -> str:
    """The anchor that the site, and GitHub, give a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_installing_names_the_versions_that_the_tests_ran_with():
    text = (DOCS / "install.md").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"uv pip install torch==(\S+) --torch-backend (\S+)", text)
    assert {version for version, _ in named} == {pins["torch"]}
    builds = {build for _, build in named} | set(re.findall(r"^\| .* \| `(cu\d+)` \|$", text, re.M))
    assert {"cpu", "cu126", "cu130"} <= builds
    extras = re.findall(r"'\.\[(\w+)\]'", text)
    assert set(extras) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@pytest.mark.parametrize("page", sorted({*PAGES, *ELSEWHERE}))
def test_links_lead_somewhere(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            goal = DOCS / name if name else DOCS / page
            assert goal.exists() or goal == MADE, target
            titles = re.findall(r"^#+ (.*)$", goal.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {slug(title) for title in titles}, target
    assert len(text.splitlines()) < 120 or page == "difficult-files.md"  # a line a test


def test_readme_links_to_every_page():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"docs/{page}" in readme for page in {*PAGES, *ELSEWHERE})


FIGURES = [path for path in (DOCS / "results").glob("*.md") if path.name != "README.md"]
FIGURES += [ROOT / "README.md", *(DOCS / f"{name}.md" for name in ("figures", "known-limits", "model-cards"))]


@pytest.mark.parametrize("page", sorted(FIGURES), ids=lambda path: path.name)
def test_figures_carry_the_version_and_commit_that_they_were_measured_with(page):
    text = page.read_text(encoding="utf-8")
    measured = re.search(r"metadeblur \d+\.\d+\.\d+,\s(?:as\sof\s)?commit\s[0-9a-f]{7,40}\b", text)
    assert measured or "**Not measured.**" in text

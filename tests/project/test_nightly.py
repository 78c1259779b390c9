"""What is run once a night: every recipe in its smallest form, and one that fails does not keep others from running."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NIGHTLY = ROOT / "recipes" / "nightly.sh"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="recipes are scripts of bash")


def test_every_recipe_is_run():
    text = NIGHTLY.read_text(encoding="utf-8")
    recipes = {path.name for path in NIGHTLY.parent.iterdir() if path.suffix in (".py", ".sh")} - {NIGHTLY.name}
    assert {name for name in recipes if f'"$here/{name}"' not in text} == set()
    assert "pytest -m long" in text


def test_every_step_that_is_listed_is_there():
    text = NIGHTLY.read_text(encoding="utf-8")
    listed = " ".join(re.findall(r"^\s*(?:.*\|\| )?steps\+?=\(([^)]*)\)", text, re.MULTILINE)).split()
    defined = set(re.findall(r"^(\w+)\(\) \{", text, re.MULTILINE))
    assert set(listed) - {'"$@"'} == defined


@pytest.mark.parametrize("script", sorted((ROOT / "recipes").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_can_be_read(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_one_that_fails_is_told_and_the_others_are_done(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, code in (("metadeblur", 0), ("python", "$(case $1 in *guard.py) echo 3;; *) echo 0;; esac)")):
        stand_in = programs / name
        stand_in.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\necho last words\nexit {code}\n')
        stand_in.chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin"}
    words = ["bash", str(NIGHTLY), str(tmp_path / "out"), "lite", "guard", "seeds"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.findall(r"^(\w+) +(\w+)", done.stdout, re.MULTILINE)[:2] == [("done", "lite"), ("FAILED", "guard")]
    assert "last words" in done.stdout
    assert done.stdout.endswith("failed: guard\n")
    calls = (tmp_path / "calls").read_text()
    assert "seeds.py" in calls.splitlines()[-1]
    assert "--width 192 --height 192" in calls  # clips are small, and few
    assert calls.count("--clips 1 ") == 10


def test_the_workflow_runs_it_by_the_clock():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8"))
    assert workflow[True]["schedule"]  # "on" is a truth value to YAML 1.1
    assert any("recipes/nightly.sh" in str(step.get("run")) for step in workflow["jobs"]["long"]["steps"])

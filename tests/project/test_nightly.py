"""What is run once a night: every recipe in its smallest form, and one that fails does not keep others from running."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from metadeblur.cli.entry import parse

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


STAND_IN = """#!/bin/sh
# Notes what it is told, and makes what a later command looks for.
printf '%s\\037' NAME "$@" >> CALLS; echo >> CALLS
for word; do
  if [ "$before" = -o ]; then
    mkdir -p "$word/clip_00000" "$word/clip_00001" "$word/clip_00002"
    : > "$word/weights.safetensors"
  fi
  before=$word
done
echo last words
case $1 in *FAILS) exit 3 ;; esac
"""


def nightly(folder: Path, *steps: str, fails: str = "nothing") -> tuple[Any, list[list[str]]]:
    """What it says with programs that do nothing, and how they were called."""
    programs, calls = folder / "programs", folder / "calls"
    programs.mkdir()
    for name in ("metadeblur", "python"):
        stand_in = programs / name
        text = STAND_IN.replace("NAME", name).replace("CALLS", str(calls)).replace("FAILS", fails)
        stand_in.write_text(text, encoding="utf-8")
        stand_in.chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "MAXIM": str(folder / "maxim.tgz")}
    words = ["bash", str(NIGHTLY), str(folder / "out"), *steps]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return done, [line.split("\037")[:-1] for line in calls.read_text(encoding="utf-8").splitlines()]


def test_one_that_fails_is_told_and_the_others_are_done(tmp_path):
    done, calls = nightly(tmp_path, "lite", "guard", "seeds", fails="guard.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.findall(r"^(\w+) +(\w+)", done.stdout, re.MULTILINE)[:2] == [("done", "lite"), ("FAILED", "guard")]
    assert "last words" in done.stdout
    assert done.stdout.endswith("failed: guard\n")
    assert calls[-1][1].endswith("seeds.py")
    made = [words for words in calls if words[1] == "synth"]
    assert len(made) == 13
    assert all(words[words.index("--width") + 1] == "192" for words in made)  # clips are small, and few
    assert all(words[words.index("--clips") + 1] == "1" for words in made)


def test_every_command_that_it_calls_is_possible(tmp_path):
    steps = re.findall(r"^(\w+)\(\) \{", NIGHTLY.read_text(encoding="utf-8"), re.MULTILINE)
    left_out = {"long", "gpu"}  # the second one counts with what Python prints
    done, calls = nightly(tmp_path, *(step for step in steps if step not in left_out))
    assert done.returncode == 0, done.stdout + done.stderr
    commands = [words[1:] for words in calls if words[0] == "metadeblur"]
    assert {words[0] for words in commands} >= {"synth", "train", "evaluate", "reproduce", "demo", "restore", "weights"}
    different = {(words[0], *(word for word in words if word.startswith("-"))): words for words in commands}
    for words in different.values():
        parse(words)
    for _, script, *words in (words for words in calls if words[0] == "python" and words[1].endswith(".py")):
        text = Path(script).read_text(encoding="utf-8")
        known = (
            {f"--{name}" for name in re.findall(r"^    (\w+): ", text, re.MULTILINE)} if "tyro.cli" in text else set()
        )
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in text and word not in known] == []


def test_the_workflow_runs_it_by_the_clock():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8"))
    assert workflow[True]["schedule"]  # "on" is a truth value to YAML 1.1
    assert any("recipes/nightly.sh" in str(step.get("run")) for step in workflow["jobs"]["long"]["steps"])

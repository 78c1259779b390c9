"""Files that other programs read follow the schemas of those programs: workflows, compose file, citation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("check_jsonschema", reason="not installed: pip install '.[dev]'")

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
FILES = {
    "github-workflows": WORKFLOWS,
    "compose-spec": [ROOT / "containers" / "compose.yaml"],
    "citation-file-format": [ROOT / "CITATION.cff"],
}
NODE_24 = {"checkout": 5, "setup-python": 6, "upload-artifact": 6, "download-artifact": 7}
"""The first versions of actions that run on Node 24: GitHub has no older one any more."""


def told(schema, files):
    """What check-jsonschema says, and its exit code."""
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("schema", FILES)
def test_files_follow_their_schema(schema):
    assert told(schema, FILES[schema]) == (0, "ok -- validation done\n")


@pytest.mark.parametrize(
    ("schema", "before", "after"),
    [
        ("github-workflows", "runs-on:", "runs_on:"),
        ("compose-spec", "cap_drop: [ALL]", "cap_drop: ALL"),
        ("citation-file-format", "family-names: Liu", "family_names: Liu"),
    ],
)
def test_a_mistake_is_found(schema, before, after, tmp_path):
    text = FILES[schema][0].read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace(before, after, 1), encoding="utf-8")
    code, said = told(schema, [wrong])
    assert code == 1, said
    assert "validation errors" in said


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_run_on_a_node_that_github_has(path):
    used = re.findall(r"uses: actions/([\w-]+)@[0-9a-f]{40} # v(\d+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert used
    assert [name for name, version in used if int(version) < NODE_24[name]] == []

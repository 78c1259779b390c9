"""What others build on stays as it is, unless somebody decides otherwise."""

from __future__ import annotations

from difflib import unified_diff

from api import RENEW, SNAPSHOT, api

import metadeblur
from metadeblur.cli.entry import COMMANDS


def test_the_public_names_and_flags_are_those_of_the_snapshot():
    known, here = SNAPSHOT.read_text(encoding="utf-8").splitlines(), api().splitlines()
    changes = [line for line in unified_diff(known, here, "known", "here", lineterm="", n=0) if line[:2] != "@@"]
    assert not changes, "\n".join(
        [f"the public API is not as it was; if that is meant, run {RENEW} (CONTRIBUTING, Deprecation)", *changes]
    )


def test_the_snapshot_holds_every_public_name_and_command():
    text = SNAPSHOT.read_text(encoding="utf-8")
    package = text.split("\n## ")[1]
    for name in metadeblur.__all__:
        assert f"\nclass {name}" in package or f"\ndef {name}(" in package, name
    for command in COMMANDS:
        assert f"\n## metadeblur {command}\n" in text
    assert "--effort {quick,balanced,best}" in text
    assert "def adapt(net: " in package

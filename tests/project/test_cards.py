"""The cards in the form of model hubs are made of what the package knows, and hubs can read them."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from published_cards import CARDS, cards

from metadeblur.evaluation.builtin import CLIPS, FRAMES
from metadeblur.models.cards import card
from metadeblur.models.weights import built_in_path

MADE = cards()
MODELS = [path for path in MADE if path.parent.name != "builtin"]


def parts(text: str) -> tuple[dict, str]:
    """The facts of a card, and its text."""
    before, head, rest = text.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(head), rest


def test_the_cards_are_those_of_the_package():
    assert {path: path.read_text(encoding="utf-8") for path in CARDS.rglob("*.md")} == MADE, (
        "run: python tests/helpers/published_cards.py"
    )


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parent.name)
def test_a_hub_reads_what_weights_are(path):
    head, text = parts(MADE[path])
    about = json.loads(built_in_path(path.parent.name).with_suffix(".json").read_text(encoding="utf-8"))
    assert head["license"] == "apache-2.0"
    assert head["pipeline_tag"] == "image-to-image"
    assert all(re.fullmatch(r"[a-z0-9-]+", tag) for tag in head["tags"])
    (entry,) = head["model-index"]
    assert entry["name"] == about["name"]
    for result in entry["results"]:
        assert {"type", "name"} <= result["task"].keys() & result["dataset"].keys()
        assert result["metrics"]
        assert all(isinstance(metric["value"], int | float) for metric in result["metrics"])
    assert about["sha256"] in text
    assert all(limit[1:].rstrip(".") in text for limit in about["limits"])
    assert "@inproceedings{liu2022meta," in text


def test_a_hub_reads_what_the_benchmark_is():
    head, text = parts(MADE[CARDS / "builtin" / "README.md"])
    assert head["license"] == "cc-by-4.0"
    assert head["task_categories"] == ["image-to-image"]
    assert head["size_categories"] == ["n<1K"]
    assert len(CLIPS) * FRAMES < 1000
    photographs = json.loads((built_in_path("lite").parent / "photographs" / "photographs.json").read_text())
    for photograph in photographs:
        assert photograph["author"] in text
        assert photograph["licence"] in text
    for clip in CLIPS:
        assert f"| {clip.name} | {clip.says} |" in text
    assert "metadeblur evaluate builtin -o scores" in text


def test_facts_are_yaml_whatever_they_hold():
    facts = {
        "a": "plain words",
        "b": "yes",
        "c": 'with "quotes": and #',
        "d": ["x", "1.0", "é: ü"],
        "e": {"f": [1, None]},
    }
    head, text = parts(card({**facts, "none": None, "empty": []}, "text"))
    assert head == facts
    assert text.strip() == "text"

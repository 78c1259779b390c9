"""Difficult inputs, each beside the test that proves what becomes of it; docs/difficult-files.md is made of them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TOPICS = ("Pictures", "Files and streams", "Names", "Numbers and words", "Interrupted runs", "Weight files", "The page")


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    topic: str  # one of TOPICS
    given: str  # the input
    happens: str  # what happens to it
    told: str  # what is kept, or what the user is told
    test: str  # where it is proved: file::function


def case(topic: str, given: str, happens: str, told: str) -> pytest.MarkDecorator:
    """Mark a test as the proof of a row; all four must be plain strings, for the page is made without running them.

    >>> case("Names", "12:30:05.mp4", "it is read as a file", "nothing to tell").name
    'case'
    """
    assert topic in TOPICS, f"{topic!r} is not one of {TOPICS}"
    return pytest.mark.case(given, happens, told)


def collect() -> list[Case]:
    """The rows of all tests, by topic and in the order of the files."""
    cases = []
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "case":
                    topic, given, happens, told = (ast.literal_eval(word) for word in mark.args)
                    cases.append(Case(topic, given, happens, told, f"{path.relative_to(TESTS)}::{node.name}"))
    return sorted(cases, key=lambda one: TOPICS.index(one.topic))


def page(cases: list[Case]) -> str:
    """The page as Markdown."""
    lines = [
        "# Difficult files: what happens",
        "",
        "Each row is proved by the test in its last column. `python tests/helpers/cases.py` makes this page of them.",
    ]
    for topic in TOPICS:
        rows = [one for one in cases if one.topic == topic]
        if rows:
            lines += [
                "",
                f"## {topic}",
                "",
                "| input | what happens | kept or said | test |",
                "| --- | --- | --- | --- |",
            ]
            lines += [f"| {one.given} | {one.happens} | {one.told} | `{one.test}` |" for one in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (TESTS.parent / "docs" / "difficult-files.md").write_text(page(collect()), encoding="utf-8")

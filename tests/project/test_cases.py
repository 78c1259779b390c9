"""The page of difficult files says what the tests prove."""

from __future__ import annotations

from cases import TESTS, collect, page

PAGE = TESTS.parent / "docs" / "difficult-files.md"


def test_the_page_is_made_of_the_tests():
    assert PAGE.read_text(encoding="utf-8") == page(collect()), "run: python tests/helpers/cases.py"


def test_no_row_is_told_twice():
    rows = [(one.topic, one.given) for one in collect()]
    assert sorted(rows) == sorted(set(rows))

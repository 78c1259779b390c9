"""The report in a real browser: the blinded comparison judged to its end, and the viewer that it shares code with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from math import comb
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")

from browser import CHROMIUM, PATIENCE_MS, running
from reported import pictures, record, shot

from metadeblur.report.page import write_report

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not here: apt-get install chromium")

FRAMES = 8  # of the first shot; the second, whose frames were fused, has three
KINDS = """() => Object.fromEntries([...document.querySelectorAll('.strip button')].flatMap(({dataset}) =>
    ['base', 'after'].map(kind => [dataset[kind], [dataset.frame, kind]])))"""
ON_STAGE = "section => [...section.querySelectorAll('.blind-pane img')].map(({alt, src}) => [alt, src])"
SHOWN = ".blind-pane img.shown"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    shots = [shot(), shot(1, fused=True, start=20, stop=30)]
    seen = [pictures(frames=FRAMES), pictures(1, first=20)]
    # No two pictures of the page may be equal, or it could not be told which is shown.
    frames = [(number, before, 255 - after) for number, before, after in seen[1].frames]
    seen[1] = replace(seen[1], frames=frames, base=[255 - picture for picture in seen[1].base])
    return write_report(tmp_path_factory.mktemp("page"), record(*shots), seen).as_uri()


@pytest.fixture(scope="module")
def window(chromium: Any) -> Iterator[Any]:
    # Without reduced motion the page scrolls smoothly, and a place would be read while it still moves.
    context = chromium.new_context(viewport={"width": 800, "height": 600}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script("Math.random = () => { throw new Error('not a source of fair draws'); };")
    yield context
    assert context.storage_state() == {"cookies": [], "origins": []}
    context.close()


@pytest.fixture
def page(window: Any, address: str) -> Iterator[Any]:
    page = window.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(address)
    yield page
    page.close()
    assert said == []


def test_the_tally_is_of_what_the_pictures_truly_were(page):
    truth, section = page.evaluate(KINDS), page.locator(".blind").first
    assert len(truth) == 2 * (FRAMES + 3)
    wanted = ["after", "after", "base", "neither", "after", "after", "neither", "after"]
    section.get_by_role("button", name="Judge 8 frames").click()
    for restart in range(2):
        expected = []
        for number, preferred in enumerate(wanted):
            section.get_by_text(f"Comparison {number + 1} of {FRAMES}", exact=True).wait_for()
            (first, a), (second, b) = section.evaluate(ON_STAGE)
            assert (first, second) == ("Picture A", "Picture B")
            (frame, kind_a), (same, kind_b) = truth[a], truth[b]
            assert frame == same
            assert {kind_a, kind_b} == {"base", "after"}
            place = {kind_a: 0, kind_b: 1, "neither": 2}[preferred]
            if restart:
                section.locator("[data-answer]").nth(place).click()
            else:
                page.keyboard.press("123"[place])
            names = {"base": "the base model", "after": "the adapted model", "neither": "no difference"}
            choice = ("A, ", "B, ", "")[place] + names[preferred]
            expected.append([frame, names[kind_a], names[kind_b], choice])
        result = section.locator("tbody tr")
        result.first.wait_for()
        cells = result.evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")
        assert cells == expected
        assert len({frame for frame, *_ in cells}) == FRAMES
        tally, chance = section.get_by_role("status").locator("p").all_inner_texts()
        assert tally == (
            "You preferred the adapted model in 5 of 8 frames, the base model in 1, and saw no difference in 2."
        )
        assert "could well be chance" in chance
        assert "each of the 6 frames" in chance
        assert "22 %" in chance
        assert section.evaluate(ON_STAGE) == []
        section.get_by_role("button", name="Start again").click()
    assert section.get_by_role("status").inner_text() == ""


def test_both_orders_are_drawn_and_nothing_but_the_pictures_differs(page):
    truth = page.evaluate(KINDS)
    rounds = page.locator(".blind").first.evaluate(
        """async section => {
            const press = name => section.querySelector(name).click();
            const rounds = [];
            for (let round = 0; round < 32; round++) {
                press('.blind-start');
                while (!section.querySelector('.blind-pane img.shown')) await new Promise(requestAnimationFrame);
                const first = section.querySelector('.blind-pane img').src;
                const visible = section.cloneNode(true);
                visible.querySelector('.blind-result').remove();
                for (const picture of visible.querySelectorAll('img')) picture.src = '';
                rounds.push([first, visible.outerHTML]);
                press('.blind-reveal');
            }
            return rounds;
        }"""
    )
    frames, kinds = zip(*(truth[first] for first, _ in rounds), strict=True)
    assert set(kinds) == {"base", "after"}  # 32 equal draws come once in two thousand million runs
    assert len(set(frames)) > 1
    # The first round stands apart: its button had another name.
    assert len({markup.replace("Judge 8 frames", "Start again") for _, markup in rounds}) == 1


def test_flipping_and_magnifying_keep_the_place_and_keys_work_only_inside(page):
    section = page.locator(".blind").first
    section.get_by_role("button", name="Judge 8 frames").click()
    page.locator(SHOWN).wait_for()
    seen = []
    for key in "abBA":
        page.keyboard.press(key)
        seen.append((page.locator(SHOWN).get_attribute("alt"), section.locator(".tag").inner_text()))
        assert section.get_by_role("button", name=seen[-1][1], exact=True).get_attribute("aria-pressed") == "true"
    assert seen == [("Picture A", "A"), ("Picture B", "B"), ("Picture B", "B"), ("Picture A", "A")]
    section.get_by_role("button", name="4\u00d7").click()
    section.get_by_role("group", name="The picture to judge").focus()
    page.keyboard.press("ArrowLeft")
    place = section.locator(".blind-pane").get_attribute("style")
    assert "scale(4)" in place
    box = page.locator(SHOWN).bounding_box()
    page.keyboard.press("b")
    assert page.locator(SHOWN).bounding_box() == box
    assert section.locator(".blind-pane").get_attribute("style") == place
    page.locator(".strip button").first.focus()
    page.keyboard.press("1")
    page.keyboard.press("a")
    assert section.locator(".tag").inner_text() == "B"
    assert section.locator(".blind-where").inner_text() == f"Comparison 1 of {FRAMES}"
    section.locator("[data-answer]").first.dblclick()
    section.get_by_text(f"Comparison 2 of {FRAMES}").wait_for()
    page.keyboard.press("3")
    section.get_by_text(f"Comparison 3 of {FRAMES}").wait_for()


def test_what_they_were_can_be_shown_early_and_fused_frames_are_what_you_got(page):
    truth, section = page.evaluate(KINDS), page.locator(".blind").nth(1)
    section.get_by_role("button", name="Judge 3 frames").click()
    section.get_by_text("Comparison 1 of 3").wait_for()
    frame, kind = truth[section.evaluate(ON_STAGE)[0][1]]
    assert 20 <= int(frame) < 30
    page.keyboard.press("1")
    section.get_by_text("Comparison 2 of 3").wait_for()
    section.get_by_role("button", name="Show what they were").click()
    tally, chance = section.get_by_role("status").locator("p").all_inner_texts()
    chosen, other = (1, 0) if kind == "after" else (0, 1)
    assert tally.startswith(f"You preferred what you got in {chosen} of 1 frame, the base model in {other}, ")
    assert "could well be chance" in chance
    rows = section.locator("tbody tr").all_inner_texts()
    assert len(rows) == 2
    assert rows[1].endswith("not judged")
    section.get_by_role("button", name="Start again").click()
    section.get_by_role("button", name="Show what they were").click()
    assert section.get_by_role("status").inner_text() == "You judged no frame."


def test_what_chance_explains(page):
    pairs = [(some, others) for some in range(25) for others in range(25)]
    shares = page.evaluate("pairs => pairs.map(([some, others]) => chanceOf(some, others))", pairs)
    for (some, others), share in zip(pairs, shares, strict=True):
        tail = sum(comb(some + others, heads) for heads in range(min(some, others) + 1))
        assert share == pytest.approx(min(1, 2 * tail / 2 ** (some + others)), abs=1e-12)
    said = {
        (0, 0): "Without a preference there is nothing",
        (1, 0): "could well be chance, as fewer than six preferences always could: a coin tossed for the one frame",
        (5, 0): "could well be chance, as fewer than six .* each of the 5 frames .* in 6.3 % of cases",
        (5, 1): "could well be chance: a coin .* each of the 6 frames .* in 22 % of cases",
        (0, 6): "Chance alone hardly explains this: .* in 3.1 % of cases",
        (7, 1): "could well be chance: .* in 7.0 % of cases",
        (1, 8): "Chance alone hardly explains this: .* in 3.9 % of cases",
        (20, 1): "Chance alone hardly explains this: .* in less than 0.1 % of cases",
        (4, 4): "could well be chance: .* in 100 % of cases",
    }
    for counts, words in said.items():
        sentence = page.evaluate("counts => chanceSentence(...counts)", list(counts))
        assert re.search(words, sentence), (counts, sentence)


def test_the_viewers_line_and_magnifier(page):
    viewer = page.locator(".viewer").first
    stage, slider = viewer.locator(".stage"), viewer.get_by_role("slider")
    picture = stage.locator("img").first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, middle)
    page.mouse.up()
    assert float(slider.input_value()) == pytest.approx(25, abs=1)
    assert picture.get_attribute("style") is None or "scale" not in picture.get_attribute("style")
    viewer.get_by_role("button", name="2\u00d7").click()
    before = picture.bounding_box()
    assert before["width"] == pytest.approx(2 * box["width"], rel=0.01)
    page.mouse.move(box["x"] + box["width"] * 3 / 4, middle)  # away from the line: the picture is dragged
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 3 / 4 + 40, middle + 20)
    page.mouse.up()
    assert picture.bounding_box()["x"] == pytest.approx(before["x"] + 40, abs=1)
    assert picture.bounding_box()["y"] == pytest.approx(before["y"] + 20, abs=1)
    page.keyboard.press("Shift+ArrowRight")
    assert picture.bounding_box()["x"] == pytest.approx(before["x"] - 20, abs=1)
    at = float(slider.input_value())
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) == at + 1
    assert page.locator(".blind-pane").first.get_attribute("style") is None


def test_on_a_phone_in_print_and_without_script(page, chromium, address):
    page.set_viewport_size({"width": 390, "height": 844})
    section = page.locator(".blind").first
    section.get_by_role("button", name="Judge 8 frames").click()
    page.locator(SHOWN).wait_for()
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        small = section.locator("button:visible").evaluate_all(
            "all => all.filter(button => button.getBoundingClientRect().height < 24).length"
        )
        assert small == 0
        if section.locator(".blind-reveal").is_visible():
            section.locator(".blind-reveal").click()
    page.emulate_media(media="print")
    assert not section.is_visible()
    context = chromium.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(address)
    assert not plain.locator(".blind").first.is_visible()
    assert plain.locator(".viewer").first.is_visible()
    context.close()


def test_no_number_is_broken_in_two(page, tmp_path):
    evidence = {"estimate": 0.983, "standard_error": 0.011, "contrast": 35.24, "frame_pairs": 6}
    facts = {"exposure_evidence": evidence, "response_unexplained": {"gamma22": 0.998, "linear": 2.049}}
    versions = {"opencv-python-headless": "5.0.0.93", "torch": "2.13.0+cpu"}
    path = write_report(tmp_path, record(shot(reblurrer=facts), versions=versions), [pictures()])
    opened = page.context.new_page()
    for width in (1280, 900, 390):
        opened.set_viewport_size({"width": width, "height": 900})
        opened.goto(path.as_uri())
        broken = """() => [...document.querySelectorAll('.facts dd')].filter(value => {
            const range = document.createRange();
            range.selectNodeContents(value);
            return !value.textContent.includes(' ') && range.getClientRects().length > 1;
        }).map(value => value.textContent)"""
        assert opened.evaluate(broken) == []
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()

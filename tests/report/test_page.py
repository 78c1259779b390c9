import base64
import hashlib
import json
import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reported import frame, pictures, record, shot

from metadeblur.errors import MetadeblurError
from metadeblur.guard.judge import Reason
from metadeblur.imaging.pictures import (
    encode_jpeg,
    encode_png,
    heat_map,
    nice_ticks,
    shrink,
    side_by_side,
    to_uint8,
)
from metadeblur.reblur.place import Place
from metadeblur.report.html import as_number, figure_text, title_of
from metadeblur.report.page import (
    PageSettings,
    render_report,
    write_report,
)
from metadeblur.report.plot import line_plot
from metadeblur.report.record import RunRecord, ShotRecord
from metadeblur.report.shot import ShotPictures
from metadeblur.report.verdict import shot_result

VOID = {"meta", "link", "img", "input", "br", "path", "circle", "rect"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&.mp4"


class Page(HTMLParser):
    """A parsed page: its elements, its text, and whether every tag was closed in turn."""

    def __init__(self, source):
        super().__init__()
        self.open, self.elements, self.texts, self.raw = [], [], [], source
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, text):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag, **wanted):
        found = [attributes for name, attributes in self.elements if name == tag]
        return [a for a in found if all(a.get(key.rstrip("_")) == value for key, value in wanted.items())]

    def of_class(self, name):
        return [a for _, a in self.elements if name in (a.get("class") or "").split()]


def sharp_already(index=0):
    reasons = (Reason("sharp", 27.0, 29.0, True, "sharp already"),)
    given = {"outcome": "untouched", "untouched": True, "reasons": reasons, "note": "sharp already", "sharper": None}
    return shot(index, adapted=False, share=0.0, **given)


CASES = {
    "adapted": ([shot()], [pictures()]),
    "kept in part": ([shot(share=0.5)], [pictures()]),
    "dropped": ([shot(share=0.0)], [pictures()]),
    "too short": (
        [shot(adapted=False, share=0.0, note="3 frames are too few", unlearnt="short")],
        [pictures(adapted=False, frames=1)],
    ),
    "sharp already": ([sharp_already()], [pictures(adapted=False)]),
    "several": (
        [shot(0), shot(1, share=0.0, start=5, stop=10), sharp_already(2), shot(3, adapted=False, share=0.0)],
        [pictures(0), pictures(1, first=5), pictures(2, adapted=False), pictures(3, adapted=False, frames=2)],
    ),
    "no pictures": ([shot()], []),
    "no shots": ([], []),
}


@pytest.mark.parametrize("case", CASES)
def test_a_page_is_whole_self_contained_and_its_pictures_can_be_decoded(case, tmp_path):
    shots, seen = CASES[case]
    path = write_report(tmp_path / "made" / "here", record(*shots), seen)
    assert path == tmp_path / "made" / "here" / "index.html"
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]
    page = Page(path.read_text(encoding="utf-8"))
    assert not re.search(r"https?:|//cdn|@import|url\(", page.raw)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("src", "href", "data-before", "data-base", "data-after"):
            value = attributes.get(name)
            if value is not None and not value.startswith("#") and value != "data:,":
                kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", value).groups()
                assert cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR) is not None, kind
    assert all(image.get("alt") for image in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("input", type="range"))
    assert all(a.get("href") == "#content" or a["href"][1:] in ids for a in page.all("a"))


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        ("adapted", "Sharper: 4 of 5 frames. The network learnt from your clip."),
        ("kept in part", "Sharper: 4 of 5 frames. Your clip taught the network a little."),
        ("dropped", "Sharper: 4 of 5 frames. Restored with the built-in network."),
        ("too short", "Sharper: 4 of 5 frames. Too little to learn from here: restored with the built-in network."),
        ("sharp already", "Already sharp: nothing was changed."),
        ("several", "Sharper: 12 of 15 frames. The network learnt from your clip."),
        ("no shots", "Nothing was restored."),
    ],
)
def test_the_verdict_is_the_title(case, verdict):
    shots, seen = CASES[case]
    page = Page(render_report(record(*shots), seen))
    assert re.search(r"<h1>(.*?)</h1>", page.raw).group(1) == verdict
    assert f"<title>{verdict}" in page.raw


def test_an_adapted_shot_has_every_part():
    page = Page(render_report(record(shot()), [pictures()]))
    for words in (
        *(
            "The guard\u2019s decision",
            "What the network learnt from",
            "10 pairs of pictures",
            "Self-shift map",
            "Sharpness over time",
            "Loss by step",
        ),
        *("How the blur was modelled", "Times by stage", "Settings", "Versions and machine"),
        *("Held out gain", "at least 0.05", "at most 0.02", "Passed", "25.0 dB here", "40.0 dB in frame 4"),
        *("1 min 1 s", "1 min 6 s", "2.5e-05", "PyTorch", "1.5 GB", "5 frames at 64\u00d748"),
    ):
        assert words in page.text, words
    assert "Base model" in page.text
    assert len(page.all("input", type="range")) == 1
    assert [a["value"] for a in page.all("input", type="radio")] == ["before after", "before base", "base after"]
    assert len([a for a in page.all("button") if "data-frame" in a]) == 3
    assert len(page.of_class("pair")) == 10
    assert len(page.of_class("plot")) == 2


def test_a_reason_that_is_let_pass_keeps_its_limit():
    softer = Reason("sharpness", 0.5, 0.1, True, "let pass", excused=True)
    page = Page(render_report(record(shot(reasons=(softer,))), [pictures()]))
    assert "Let pass" in page.text
    assert "at most 0.1" in page.text
    assert "Passed" not in page.text


def test_failed_reasons_say_so_in_words():
    page = Page(render_report(record(shot(share=0.0)), [pictures()]))
    assert page.text.count("Failed") == 1
    assert page.text.count("Passed") == 1
    assert "Adapted" not in page.text.replace("Fully adapted", "").replace("The adaptation", "")


def test_a_shot_that_was_not_adapted_shows_no_empty_parts():
    shots, seen = CASES["too short"]
    page = Page(render_report(record(*shots), seen))
    for words in ("learnt from your own", "pairs of pictures", "Loss by step", "guard\u2019s decision", "How the blur"):
        assert words not in page.text
    assert page.all("input", type="radio") == []
    assert "3 frames are too few." in page.text


def test_each_of_several_shots_has_its_own_section():
    shots, seen = CASES["several"]
    page = Page(render_report(record(*shots), seen))
    assert [a["id"] for a in page.of_class("shot")] == ["shot-1", "shot-2", "shot-3", "shot-4"]
    assert {a["href"] for a in page.all("a")} >= {"#shot-1", "#shot-4"}
    assert "frames 6 to 10, 0:00.2 to 0:00.3" in page.text
    groups = [a["name"] for a in page.all("input", type="radio")]
    assert len(set(groups)) * 3 == len(groups)


def test_nothing_from_the_record_becomes_markup():
    reason = Reason(EVIL, 1.0, 2.0, False, EVIL)
    wild = shot(reasons=(reason,), note=EVIL, reblurrer={EVIL: EVIL}, seconds={EVIL: 1.0})
    whole = record(
        *(wild, replace(wild, index=1)),
        **{"input": EVIL, "output": EVIL, "version": EVIL, "settings": {EVIL: EVIL, "a": {EVIL: [EVIL]}}},
        **{"video": {"codec": EVIL, "fps": EVIL, "width": EVIL, "height": EVIL, "rotation": EVIL}, "not_kept": [EVIL]},
        **{"seconds": {EVIL: 1.0}, "versions": {EVIL: EVIL}, "machine": {EVIL: EVIL}, "precision": EVIL},
    )
    for evil in (whole, replace(whole, shots=(wild,))):
        page = Page(render_report(evil, [pictures(0), pictures(1)]))
        assert len(page.all("script")) == 1
        assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
        assert not page.all("img", src="x")
        assert "<script>alert(1)" in page.text


def test_characters_that_no_page_can_hold_are_shown_by_their_number():
    page = Page(render_report(record(shot(), input="/a/caf\udce9\x07.mp4", not_kept=["one\ntwo"]), [pictures()]))
    assert "<b>caf\\xe9\\x07.mp4</b>" in page.raw
    assert "Not kept: One\ntwo." in page.raw


def test_only_the_pages_own_script_may_run_and_nothing_may_be_fetched():
    page = Page(render_report(record(shot()), [pictures()]))
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    script = re.search(r"<script>(.*)</script>", page.raw, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize(
    "thin",
    [
        {},
        {"shots": [{}]},
        {"shots": [{"adapted": True, "outcome": "adapted"}], "video": {"frames": None, "fps": "0/0"}},
        {"shots": [{"losses": [{"step": 0, "loss": None}] * 3, "scores": [None, 30.0, None, 31.0]}]},
        {"shots": [{"reasons": [{"name": "x", "figure": None, "limit": None, "passed": True, "text": ""}]}]},
    ],
)
@pytest.mark.parametrize("with_pictures", [False, True])
def test_absent_fields_do_not_matter(thin, with_pictures):
    page = Page(render_report(RunRecord.from_json(thin), [pictures()] if with_pictures else []))
    assert ">nan" not in page.raw
    assert "None" not in page.text


def test_empty_pictures_of_a_shot_does_not_matter():
    empty = ShotPictures(0, sharpness_map=np.full((2, 2), np.nan))
    page = Page(render_report(record(shot(scores=(math.nan, math.nan), losses=(), pairs=())), [empty]))
    assert page.all("img") == []


def test_pictures_may_be_tensors_and_floats():
    tensors = [(0, torch.rand(3, 24, 32), np.random.default_rng(0).random((24, 32, 3)))]
    page = Page(render_report(record(shot()), [ShotPictures(0, frames=tensors)]))
    assert len(page.of_class("stage")) == 1


def _sizes(page, name):
    found = []
    for button in page.all("button"):
        if name in button:
            data = base64.b64decode(button[name].partition(",")[2])
            found.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2])
    return found


def test_a_turned_video_is_shown_upright_with_its_places():
    first = frame(0)
    quarter = replace(pictures(), base=None, frames=[(0, first, first), (1, first, first)])
    whole = record(shot(), video={"width": 64, "height": 48, "rotation": -90})
    page = Page(render_report(whole, [quarter]))
    assert set(_sizes(page, "data-before")) == {(64, 48)}
    # A clockwise quarter turn takes the corner (8, 4) of a 32 px place to the upper right: x = 48 - 4 - 32, y = 8.
    a, b, c, d, e, f = map(float, re.search(r"matrix\(([^)]*)\)", page.raw).group(1).split())
    corners = [(a * x + c * y + e, b * x + d * y + f) for x, y in ((8, 4), (40, 36))]
    assert sorted(x for x, _ in corners) == [12, 44]
    assert sorted(y for _, y in corners) == [8, 40]
    assert 'viewBox="0 0 48 64"' in page.raw


def test_pixels_that_are_not_square_are_shown_in_proportion():
    whole = record(shot(), video={"width": 64, "height": 48, "sample_aspect_ratio": "4/3"})
    assert "aspect-ratio:85.3333/48" in Page(render_report(whole, [pictures()])).raw


def test_pairs_made_from_one_place_share_its_caption():
    places = [Place(n, 0, 0, 32, 20.0 + n, 0, 40.0) for n in range(5)]
    whole = record(shot(pairs=places), settings={"adaptation": {"blurs": 2}})
    page = Page(render_report(whole, [pictures()]))
    assert page.text.count("20.0 dB here") == 2
    assert page.text.count("24.0 dB here") == 2


def test_many_shots_keep_the_page_of_a_sensible_size():
    seen = [ShotPictures(n, frames=[(n, frame(n, 480, 640), frame(n + 1, 480, 640))]) for n in range(6)]
    small = PageSettings(megapixels=1.0)
    page = Page(render_report(record(*(ShotRecord(n) for n in range(6))), seen, small))
    area = 0
    for image in page.all("img"):
        area += int(image.get("width", 0)) * int(image.get("height", 0))
    assert 0 < area <= 1.2e6


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MetadeblurError, match=r"report cannot be written to .*file.*--report"):
        write_report(tmp_path / "file", record(), [])

    def full(*_, **__):
        raise OSError(28, "the disk is full on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MetadeblurError, match="the disk is full"):
        write_report(tmp_path / "new", record(), [])
    assert list((tmp_path / "new").iterdir()) == []


def test_an_earlier_report_is_replaced(tmp_path):
    write_report(tmp_path, record(shot()), [])
    write_report(tmp_path, record(sharp_already()), [])
    assert os.listdir(tmp_path) == ["index.html"]  # noqa: PTH208
    assert "Already sharp" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_outcomes():
    unchecked = shot(reasons=(Reason("guard", 0, 0, True, "the guard was off"),))
    assert shot_result(unchecked) == "unchecked"
    assert shot_result(shot()) == "whole"
    assert shot_result(shot(adapted=False, share=0.0, losses=({"step": 0, "loss": 1.0},))) == "dropped"
    assert shot_result(ShotRecord(note="The clip is sharp already")) == "base"
    untouched = ShotRecord(outcome="untouched", note="The clip is sharp already")
    assert shot_result(untouched) == "untouched"


# The blinded comparison


def blind(page):
    """The sections of a page's source where base and adapted are judged without names."""
    return re.findall(r'<section class="part wide blind".*?</section>', page.raw, re.S)


@pytest.mark.parametrize("case", CASES)
def test_only_shots_with_frames_of_the_base_model_can_be_judged(case):
    shots, seen = CASES[case]
    page = Page(render_report(record(*shots), seen))
    offered = [a for a in page.all("input", type="radio") if a["value"] == "base after"]
    assert len(blind(page)) == len(offered)
    assert bool(offered) == (case in ("adapted", "kept in part", "several"))


def test_the_judged_pictures_are_those_of_the_strip_and_the_markup_tells_nothing_of_them():
    page = Page(render_report(record(shot()), [pictures()]))
    viewer = page.raw[page.raw.index('class="viewer"') : page.raw.index('class="part wide blind"')]
    inlined = re.findall(r'"(data:image[^"]+)"', viewer)
    assert len(inlined) == len(set(inlined)) + 3 * 2  # thumbnails: frames this small are not shrunk
    assert len(set(inlined)) == 3 * 3
    (section,) = blind(page)
    assert "data:" not in section
    assert "<img" not in section
    judging = section[section.index('class="blind-judging"') : section.index('class="blind-said"')]
    assert not re.search("base|adapted|before|after|restored|got", judging, re.I)
    for button in ("A is better", "B is better", "No difference", "Show what they were", "Judge 3 frames"):
        assert f">{button}</button>" in section


@pytest.mark.parametrize(("fused", "rival"), [(False, "the adapted model"), (True, "what you got")])
def test_the_rival_of_the_base_model_is_called_what_it_is(fused, rival):
    page = Page(render_report(record(shot(fused=fused)), [pictures()]))
    assert json.loads(page.of_class("blind")[0]["data-names"]) == {"base": "the base model", "after": rival}
    assert ("frames fused" in Page(blind(page)[0]).text) == fused


# Pictures


def test_a_picture_survives_png_and_nearly_jpeg():
    picture = cv2.GaussianBlur(frame(3), (9, 9), 3)
    decoded = cv2.imdecode(np.frombuffer(encode_png(picture), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(decoded, picture)
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(picture), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - picture).mean() < 3


def test_to_uint8_takes_tensors_arrays_grey_and_bad_values():
    values = torch.tensor([0.0, 1.0, 0.5, 2.0, -1.0, math.nan]).expand(3, 1, 6)
    assert to_uint8(values)[0, :, 0].tolist() == [0, 255, 128, 255, 0, 0]
    assert to_uint8(np.zeros((4, 5))).shape == (4, 5, 3)
    assert to_uint8((torch.ones(3, 2, 2) * 7).to(torch.uint8)).max() == 7
    with pytest.raises(ValueError, match="three channels"):
        to_uint8(torch.zeros(1, 4, 4))


def test_side_by_side_labels_and_refuses_heights_that_differ():
    labelled = side_by_side([frame(0), frame(1)], ["blurred", "restored"], gap=2)
    assert labelled.shape[1] == 130
    assert labelled.shape[0] > 48
    with pytest.raises(ValueError, match="one height"):
        side_by_side([frame(0), frame(0, 40)])


def test_shrink_keeps_the_proportions():
    assert shrink(frame(0, 100, 300), 150).shape == (50, 150, 3)
    assert shrink(frame(0), 999).shape == (48, 64, 3)


def test_the_heat_map_gets_lighter_towards_sharp():
    luma = heat_map(np.linspace(40, 20, 50)[None], 20, 40).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luma[0]) > 0).all()
    assert heat_map(np.array([[math.nan]]), 0, 1).tolist() == [[[128, 128, 128]]]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low, span):
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert 1 <= len(ticks) <= 6
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True), max_size=30), st.booleans())
def test_a_plot_takes_any_values(values, flip):
    drawn = line_plot(values, summary="a <b>", x_title="x", y_title="y", low_is_up=flip)
    Page(drawn)
    assert "NaN" not in drawn
    assert "inf" not in drawn


def test_a_long_series_stays_small():
    drawn = line_plot([math.sin(n / 100) for n in range(20_000)], summary="s", x_title="x", y_title="y")
    assert len(drawn) < 60_000
    assert 'class="range"' in drawn


# Words


@given(st.floats())
def test_figures_are_short(value):
    assert len(figure_text(value)) <= 12


def test_names_become_words():
    assert title_of("adaptation.held_out") == "Adaptation: held out"
    assert title_of("memory_gb") == "Memory (GB)"
    assert as_number("30000/1001") == pytest.approx(29.97, abs=0.001)
    assert math.isnan(as_number("1/0"))
    assert math.isnan(as_number(None))


def test_the_picture_names_reach_the_script_as_json():
    page = Page(render_report(record(shot()), [pictures()]))
    assert json.loads(page.of_class("viewer")[0]["data-names"]) == {
        "before": "Before",
        "after": "Restored",
        "base": "Base model",
    }

"""Ways compared over seeds: means and spreads of what the evaluations measured, groups apart."""

from dataclasses import replace

import pytest
from evaluated import ADAPTATION, RESTORATION, Small, clip_record, means, method_summary, summary_of, write_clip

from metadeblur.data.layouts import open_benchmark
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.comparison import across_seeds, compare
from metadeblur.evaluation.protocol import EvaluateSettings
from metadeblur.evaluation.records import Effect, GroupMeans
from metadeblur.evaluation.report import render
from metadeblur.evaluation.tables import csv_text, effect_lines, latex, markdown, method_table, seeds_table, table


def method(gain, whole, seconds=10.0):
    return method_summary(
        psnr={"adapted": 25 + gain, "adapted_unguarded": 25 + whole},
        effect=Effect(gain, 0.0, gain, (gain - 0.1, gain + 0.1)),
        unguarded=Effect(whole, 0.5, None, None),
        share=0.75,
        seconds=seconds,
    )


def figures(gain):
    return {
        "psnr": {"blurred": 24.0, "base": 25.0, "oracle": 26.0},
        "methods": {"flow": method(gain, gain + 0.1), "self": method(-0.2, -0.3)},
    }


def summary(gain, **more):
    return summary_of(**figures(gain), **more)


def run(adapted, share, **more):
    psnr = {"blurred": 24.0, "base": 25.0, "adapted": adapted}
    return [clip_record(psnr=psnr, share=share)], summary_of(psnr=psnr, **more)


def test_several_runs_make_one_table():
    lines = seeds_table([run(25.5, 1.0), run(25.3, 0.25)])
    assert lines == [
        ["clip", "blurred", "base", "adapted", "share", "gain"],
        ["goat", "24.00", "25.00", "25.40 \u00b1 0.14", "1, 0.25", "+0.40 \u00b1 0.14"],
        ["mean", "24.00", "25.00", "25.40 \u00b1 0.14", "", "+0.40 \u00b1 0.14"],
    ]


def test_one_run_has_no_spread_and_the_clips_apart_leave_a_mean_of_the_others():
    others = means(GroupMeans, clips=("goat",), psnr={"blurred": 23.0, "base": 23.5, "adapted": 23.25})
    lines = seeds_table([run(25.5, 0.5, apart=means(GroupMeans, clips=("hero7",)), others=others)])
    assert lines[1] == ["goat", "24.00", "25.00", "25.50", "0.5", "+0.50"]
    assert lines[-1] == ["mean of the others", "23.00", "23.50", "23.25", "", "-0.25"]


def test_a_row_that_one_run_lacks_says_of_how_many_it_is():
    with_oracle = run(25.5, 1.0)
    with_oracle[0][0].psnr["oracle"] = 26.0
    head, goat, *_ = seeds_table([run(25.3, 1.0), with_oracle])
    assert dict(zip(head, goat, strict=True))["oracle (1 of 2)"] == "26.00"
    assert "oracle" not in " ".join(seeds_table([run(25.3, 1.0)] * 2)[0])


def test_means_and_spread_over_seeds():
    lines = across_seeds("val", [summary(0.3), summary(0.5)])
    assert lines[1][:7] == ["val", "flow", "24.00", "25.00", "25.40", "26.00", "+0.40 \u00b1 0.14"]
    assert lines[1][7:] == ["0.40", "0 %", "25.50", "+0.50 \u00b1 0.14", "50 %", "10"]
    assert lines[2][6] == "-0.20 \u00b1 0.00"
    assert across_seeds("val", [summary(0.3)])[1][6] == "+0.30"


def test_clips_apart_are_groups_of_their_own():
    apart, others = (
        means(GroupMeans, clips=(clip,), **figures(gain)) for clip, gain in (("hero7", -0.1), ("goat", 0.7))
    )
    lines = across_seeds("val", [summary(0.3, apart=apart, others=others)])
    assert [(line[0], line[6]) for line in lines[1:] if line[1] == "flow"] == [
        ("val but hero7", "+0.70"),
        ("val: hero7", "-0.10"),
    ]


def test_comparing_evaluates_every_seed_with_equal_budgets(tmp_path):
    for name, speed in (("a", 3), ("b", 7)):
        write_clip(tmp_path / "clips" / name, speed)
    benchmark = open_benchmark(tmp_path / "clips")
    settings = EvaluateSettings(
        methods=("none", "flow"), adaptation=ADAPTATION, restoration=RESTORATION, apart=("b", "absent")
    )
    said = []
    lines = compare({"clips": benchmark}, Small(), tmp_path / "out", settings, seeds=2, say=said.append)
    assert said == ["clips, seed 0", "clips, seed 1"]
    assert [line[:2] for line in lines[1:]] == [
        ["clips but b", "none"],
        ["clips but b", "flow"],
        ["clips: b", "none"],
        ["clips: b", "flow"],
    ]
    assert lines[1][6] == "+0.00 \u00b1 0.00"
    page = (tmp_path / "out" / "clips" / "seed1" / "index.html").read_text()
    assert "Ways to adapt" in page
    assert page.count('src="data:image/jpeg') >= 2 * 5
    assert "Evaluation report" in page
    assert compare({"clips": benchmark}, Small(), tmp_path / "out", settings, seeds=2) == lines
    with pytest.raises(MetadeblurError, match="methods flow: name two or more"):
        compare({"clips": benchmark}, Small(), tmp_path / "one", replace(settings, methods=("flow",)))


RECORDS = [
    clip_record(
        clip=name,
        psnr={"blurred": 24.0, "base": base, "adapted": base + 0.25},
        ssim={"blurred": 0.7, "base": 0.75, "adapted": 0.76},
        share=0.5,
        conditions={"methods": ["flow"]},
    )
    for name, base in (("goat_1", 25.0), ("<b>", 23.0))
]
SUMMARY = summary_of(
    clips=("goat_1", "<b>"),
    frames=12,
    notes=("the wrong folder",),
    psnr={"blurred": 24.0, "base": 23.9, "adapted": 24.25},
    ssim={"blurred": 0.7, "base": 0.75, "adapted": 0.76},
    effect=Effect(0.25, 0.5, 0.4, (0.1, 0.4)),
    conditions={"model": "lite"},
    seconds={"base": 2.0},
)


def test_tables_in_every_form():
    lines = table(RECORDS, SUMMARY)
    assert lines[0] == ["clip", "blurred", "base", "adapted", "share", "gain"]
    assert lines[1] == ["goat_1", "24.00", "25.00", "25.25", "0.50", "+0.25"]
    assert "| goat_1 | 24.00 | 25.00 | 25.25 | 0.50 | +0.25 |" in markdown(lines)
    assert r"goat\_1 & 24.00 & 25.00 & 25.25 & 0.50 & +0.25 \\" in latex(lines)
    assert csv_text(lines).splitlines()[1] == "goat_1,24.00,25.00,25.25,0.50,+0.25"
    assert table(RECORDS, SUMMARY, "ssim")[1][2] == "0.7500"
    assert effect_lines(SUMMARY) == [
        "oracle ratio: 0.40",
        "gain: +0.25 dB (95 % over clips: +0.10 to +0.40)",
        "harm rate: 50 % (adapted more than 0.05 dB below base)",
    ]


def test_a_method_table_only_where_there_is_something_to_compare():
    assert method_table(SUMMARY) == []
    lines = method_table(replace(SUMMARY, methods=summary(0.3).methods))
    assert lines[1] == [
        "flow",
        "25.30",
        "+0.30",
        "+0.20 to +0.40",
        "0.30",
        "0 %",
        "25.40",
        "+0.40",
        "50 %",
        "0.75",
        "10",
    ]


def test_the_page_is_safe_and_honest(tmp_path):
    page = render(RECORDS, SUMMARY, tmp_path)
    assert "&lt;b&gt;" in page
    assert "<b></th>" not in page
    assert "lite: adaptation gains 0.25 dB over the base model" in page
    assert "Its base is below the blurred input by 0.10 dB" in page
    assert "The wrong folder." in page
    worse = render(RECORDS, replace(SUMMARY, effect=Effect(-0.3, 0.5, None, None)), tmp_path)
    assert "adaptation loses 0.30 dB" in worse
    assert page.count("<script>") == 1


@pytest.mark.parametrize("recipe", ["methods", "guard"])
@pytest.mark.slow
def test_the_recipes_run(tmp_path, recipe, monkeypatch, capsys):
    import importlib.util
    import json
    from pathlib import Path

    for name, speed in (("a", 3), ("b", 7)):
        write_clip(tmp_path / "clips" / name, speed, frames=5)
    path = Path(__file__).resolve().parents[2] / "recipes" / f"{recipe}.py"
    spec = importlib.util.spec_from_file_location(recipe, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "load_deblurrer", lambda _: Small())
    words = [recipe, str(tmp_path / "clips"), "-o", str(tmp_path / "out"), "--seeds", "1", "--steps", "1"]
    monkeypatch.setattr("sys.argv", words + (["--methods", "flow,self"] if recipe == "methods" else []))
    module.main()
    shown = capsys.readouterr().out
    assert ("| clips | self |" if recipe == "methods" else "| other clip |") in shown
    record = json.loads((tmp_path / "out" / f"{recipe}.json").read_text())
    assert record["settings"]
    assert record["machine"]["processor"]
    assert (tmp_path / "out" / f"{recipe}.md").read_text().splitlines()[0] in shown

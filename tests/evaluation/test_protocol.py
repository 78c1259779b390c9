"""Evaluation: every row measured by the same rule, records that resume, refusals that name what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from evaluated import ADAPTATION, RESTORATION, Small, clip_record, write_clip
from trees import TREES
from trees import make as make_tiny

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.cli.entry import main
from metadeblur.data.layouts import ClipFolder, plain_clips
from metadeblur.data.paired import PictureFiles, read_trial
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation import rows, trial
from metadeblur.evaluation.measures import measure_for
from metadeblur.evaluation.protocol import EvaluateSettings, evaluate, read_records, read_summary
from metadeblur.evaluation.records import FrameFigures, RowRecord
from metadeblur.evaluation.rows import choose_focus, measure_row, piece_in
from metadeblur.evaluation.summary import interval, summarize
from metadeblur.imaging.quality import flicker, psnr, ssim
from metadeblur.models.weights import load_deblurrer

SETTINGS = EvaluateSettings(adaptation=ADAPTATION, restoration=RESTORATION)
TWO_ROWS = EvaluateSettings(rows=("blurred", "base"), restoration=RESTORATION)
ALL_ROWS = {"blurred", "base", "base_fused", "quick", "adapted", "adapted_unguarded", "oracle"}


@pytest.fixture
def clips(tmp_path):
    for name, speed in (("slow", 2), ("fast", 9)):
        write_clip(tmp_path / "clips" / name, speed)
    return tmp_path / "clips"


def figures_of(out):
    """What an evaluation found, without what depends on the clock."""
    summary = read_summary(out)
    records = {}
    for record in read_records(out, summary):
        records[record.clip] = (record.psnr, record.ssim, record.flicker, record.share, record.per_frame)
    return replace(summary, seconds={}, peak_memory_mb=None, machine={}), records


# --- records -------------------------------------------------------------------------------------------------------


def test_records_and_summary_hold_every_row(clips, tmp_path):
    summary = evaluate(clips, Small(), tmp_path / "out", SETTINGS, model="small")
    record = json.loads((tmp_path / "out" / "fast.json").read_text())
    for figure in ("psnr", "ssim", "flicker", "self_shift"):
        assert set(record[figure]) == ALL_ROWS
    assert record["clip"] == "fast"
    assert 0 <= record["share"] <= 1
    assert record["flicker"]["blurred"] == 0
    assert record["peak_memory_mb"] > 0
    assert {"restore base", "adapt flow", "adapt oracle"} <= set(record["seconds"])
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["psnr"] == summary.psnr
    records = read_records(tmp_path / "out", summary)
    assert summary.psnr["base"] == pytest.approx(np.mean([record.psnr["base"] for record in records]), abs=1e-5)
    kept = {path.name for path in (tmp_path / "out" / "pictures" / "fast").iterdir()}
    assert {"blurred.png", "base.png", "flow_adapted.png", "oracle.png", "sharp.png"} <= kept


def test_the_method_meta_starts_from_the_built_in_pair(clips, tmp_path):
    settings = replace(SETTINGS, methods=("meta",), rows=("blurred", "base", "adapted"), clips=("fast",))
    summary = evaluate(clips, load_deblurrer("lite"), tmp_path / "out", settings, model="lite")
    assert summary.psnr["adapted_unguarded"] != summary.psnr["base"]
    assert len(summary.conditions["meta"]) == 2
    with pytest.raises(MetadeblurError, match=r"for small \(--meta DIR\); only lite's is built in"):
        evaluate(clips, Small(), tmp_path / "other", settings, model="small")


def test_figures_are_those_of_the_frames_rounded_to_8_bits(clips, tmp_path):
    evaluate(clips, Small(), tmp_path / "out", TWO_ROWS)
    record = json.loads((tmp_path / "out" / "fast.json").read_text())
    clip = read_trial(plain_clips(clips)[0])
    restored = [(Small()(frame[None])[0].clamp(0, 1) * 255).round() / 255 for frame in clip.whole]
    by_hand = {
        "blurred": list(clip.whole),
        "base": [frame.detach() for frame in restored],
    }
    for row, frames in by_hand.items():
        pairs = list(zip(frames, clip.pair.sharp, strict=True))
        assert record["per_frame"]["psnr"][row] == pytest.approx([psnr(*pair).item() for pair in pairs], abs=1e-4)
        assert record["ssim"][row] == pytest.approx(np.mean([ssim(*pair).item() for pair in pairs]), abs=1e-6)
    assert record["flicker"]["base"] == pytest.approx(flicker(torch.stack(by_hand["base"]), clip.whole), abs=1e-4)


def test_padding_is_never_measured(tmp_path):
    """A frame whose sides are no multiple of what the network wants is measured in its own size."""
    write_clip(tmp_path / "odd", 5, height=61, width=93)
    clip = read_trial(plain_clips(tmp_path)[0])
    seen = []

    def rule(restored, truth):
        seen.append((tuple(restored.shape), tuple(truth.shape)))
        return measure_for("plain")(restored, truth)

    measure_row(clip, Small(), rule, RESTORATION)
    assert set(seen) == {((3, 61, 93), (3, 61, 93))}


def test_frames_of_several_sizes_are_measured_each_in_its_own(tmp_path):
    """RealBlur's pictures of one scene differ by some pixels; adaptation sees the piece that all have."""
    write_clip(tmp_path / "scene", 4, frames=5)
    for index, cut in ((1, 3), (3, 5)):
        for side in ("blur", "sharp"):
            path = tmp_path / "scene" / side / f"{index:03d}.png"
            cv2.imwrite(str(path), cv2.imread(str(path))[:-cut, : -2 * cut])
    (folder,) = plain_clips(tmp_path)
    with pytest.raises(MetadeblurError, match=r"scene: frames of different sizes \(96x64, but 001.png is 90x61\)"):
        list(read_trial(folder).whole)
    clip = read_trial(ClipFolder(folder.name, folder.blurred, folder.sharp, sizes_differ=True))
    assert (clip.pair.blurred.width, clip.pair.blurred.height) == (86, 59)
    assert (clip.whole.width, clip.whole.height) == (96, 64)
    row = measure_row(clip, None, measure_for("plain"), RESTORATION)
    own = [
        [cv2.imread(str(path)).astype(float) for path in (one, other)]
        for one, other in zip(folder.blurred, folder.sharp, strict=True)
    ]
    expected = [-10 * np.log10(max(((one - other) ** 2).mean() / 255**2, 1e-10)) for one, other in own]
    assert row.per_frame.psnr == pytest.approx(expected, abs=1e-4)
    assert row.flicker is None
    figures = trial.evaluate_clip(clip, Small(), SETTINGS)
    assert set(figures.psnr) == ALL_ROWS


def test_frames_are_decoded_once_and_only_when_asked_for(clips):
    folder = plain_clips(clips)[0]
    files = PictureFiles(folder.blurred)
    assert files.decoded == 0
    for _ in range(3):
        assert files[2].shape == (3, 64, 96)
    assert files.decoded == 1
    clip = read_trial(folder)
    trial.evaluate_clip(clip, Small(), SETTINGS)
    assert clip.truths.decoded == len(folder.sharp)


def test_a_piece_and_part_of_the_frames_can_be_measured(clips, tmp_path):
    settings = EvaluateSettings(rows=("blurred",), crop=48, frames=3, clips=("fast",))
    summary = evaluate(clips, Small(), tmp_path / "out", settings)
    assert summary.clips == ("fast",)
    assert summary.frames == 3
    clip = read_trial(plain_clips(clips)[0])
    piece = (slice(None), slice(8, 56), slice(24, 72))
    by_hand = [psnr(clip.whole[i][piece], clip.truth(i)[piece]).item() for i in (1, 2, 3)]
    assert summary.psnr["blurred"] == pytest.approx(np.mean(by_hand), abs=1e-4)
    with pytest.raises(MetadeblurError, match="96x64 is smaller than the crop of 65"):
        evaluate(clips, Small(), tmp_path / "more", EvaluateSettings(rows=("blurred",), crop=65))


def test_pictures_show_where_the_input_is_worst(clips):
    clip = read_trial(plain_clips(clips)[0])
    focus = choose_focus(clip, side=32)
    errors = [psnr(one, other).item() for one, other in zip(clip.whole, clip.pair.sharp, strict=True)]
    assert focus.frame == int(np.argmin(errors))
    error = (clip.whole[focus.frame] - clip.truth(focus.frame)).square().mean(0)[None, None]
    means = torch.nn.functional.avg_pool2d(error, 32, stride=1)[0, 0]
    assert float(piece_in(error[0], focus).mean()) == pytest.approx(float(means.max()), rel=1e-4)


# --- all layouts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.__name__)
def test_every_layout_passes_through(tmp_path, tree, monkeypatch):
    def make(folder, names, value=0):
        make_tiny(folder, names, value)
        for number, name in enumerate(names):
            noise = np.random.default_rng(number).integers(0, 256, (48, 56, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / name), cv2.GaussianBlur(noise, (0, 0), 2 if "lur" in str(folder) else 1))

    monkeypatch.setitem(tree.__globals__, "make", make)
    tree(tmp_path / "data")
    summary = evaluate(tmp_path / "data", Small(), tmp_path / "out", SETTINGS)
    assert summary.layout == tree.__name__
    assert measure_for(tree.__name__).describe() == summary.conditions["measure"]
    single = {"base_fused", "quick"} if tree.__name__ == "hide" else set()  # pictures that do not follow one another
    assert set(summary.psnr) == ALL_ROWS - single  # too few frames to adapt to: adapted is base
    assert summary.psnr["adapted"] == summary.psnr["base"]
    for record in read_records(tmp_path / "out", summary):
        if tree.__name__ == "hide":
            assert "do not follow one another" in record.adaptation["note"]
            assert not record.flicker
        if tree.__name__ == "realblur":
            assert set(record.aligned) == ALL_ROWS


# --- what the figures say ------------------------------------------------------------------------------------------


def test_clips_can_be_reported_apart(clips, tmp_path):
    settings = EvaluateSettings(rows=("blurred", "base"), apart=("fast",))
    summary = evaluate(clips, Small(), tmp_path / "out", settings)
    fast, slow = read_records(tmp_path / "out", summary)
    assert summary.apart.psnr == fast.psnr
    assert summary.others.psnr == slow.psnr
    with pytest.raises(MetadeblurError, match="no clip 'quick'"):
        evaluate(clips, Small(), tmp_path / "out", EvaluateSettings(apart=("quick",)))
    with pytest.raises(MetadeblurError, match="no clip 'quick' to measure"):
        evaluate(clips, Small(), tmp_path / "out", EvaluateSettings(clips=("quick",)))


def test_summary_counts_harm():
    def record(base, adapted):
        return clip_record(psnr={"base": base, "adapted": adapted, "oracle": base + 1})

    summary = summarize([record(25, 25.5), record(25, 24.9), record(25, 24.96)])
    assert summary.effect.harm_rate == pytest.approx(1 / 3)
    assert summary.effect.gain == pytest.approx(0.36 / 3)
    assert summary.effect.oracle_ratio == pytest.approx(0.12)
    low, high = summary.effect.interval
    assert -0.11 < low < summary.effect.gain < high < 0.51


def test_means_over_frames_weigh_long_clips_more():
    short = clip_record(psnr={"base": 20.0}, per_frame={"psnr": {"base": (20.0,)}, "ssim": {}})
    long = clip_record(psnr={"base": 30.0}, per_frame={"psnr": {"base": (30.0,) * 3}, "ssim": {}})
    summary = summarize([short, long])
    assert (summary.psnr["base"], summary.over_frames["psnr"]["base"]) == (25.0, 27.5)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    spans = [interval(rng.normal(1.0, 0.5, 30).tolist()) for _ in range(200)]
    covered = np.mean([low <= 1.0 <= high for low, high in spans])
    assert 0.88 < covered < 0.99
    assert interval([25.0]) is None
    assert interval([1.0, 2.0, 4.0]) == interval([1.0, 2.0, 4.0])


def test_oracle_learns_from_the_truth(clips):
    clip = read_trial(plain_clips(clips)[0])
    settings = AdaptSettings(pairs=8, steps=40, patch=48, lr=1e-2, precision="fp32")
    oracle = trial.fit_oracle(Small(), clip.pair, settings, 48)
    scores = [measure_row(clip, net, measure_for("plain"), RESTORATION).psnr for net in (Small(), oracle)]
    assert scores[1] > scores[0]


def test_adaptation_is_given_blurred_frames_only(clips, monkeypatch):
    """What adapts must not depend on the truth: with other sharp frames it does the same."""
    clip = read_trial(plain_clips(clips)[0])
    records = []
    for change in (False, True):
        if change:
            monkeypatch.setattr(clip.truths, "_decode", lambda _: torch.zeros(3, 64, 96, dtype=torch.uint8))
            clip.truths._kept.clear()
        records.append(trial.evaluate_clip(clip, Small(), SETTINGS))
    assert records[0].psnr["base"] != records[1].psnr["base"]
    assert records[0].share == records[1].share
    losses = [[step["loss"] for step in record.adaptation["losses"]] for record in records]
    assert losses[0] == losses[1]


# --- killed, resumed, side by side ---------------------------------------------------------------------------------


def test_a_killed_evaluation_goes_on_at_the_row_and_gives_the_same_tables(clips, tmp_path, monkeypatch):
    evaluate(clips, Small(), tmp_path / "whole", SETTINGS)
    one, measured = trial.measure_row, []

    def killed_at(number):
        def measure(*arguments, **keywords):
            measured.append(arguments[0].name)
            if len(measured) == number:
                raise KeyboardInterrupt
            return one(*arguments, **keywords)

        monkeypatch.setattr(trial, "measure_row", measure)

    resumed = EvaluateSettings(adaptation=ADAPTATION, restoration=RESTORATION, resume=True)
    for number in (2, 3, 4):
        measured.clear()
        killed_at(number)
        with pytest.raises(KeyboardInterrupt):
            evaluate(clips, Small(), tmp_path / "parts", resumed)
        if not (tmp_path / "parts" / "fast.json").exists():
            assert (tmp_path / "parts" / ".fast.rows.json").exists()
    measured.clear()
    killed_at(100)
    evaluate(clips, Small(), tmp_path / "parts", resumed)
    assert measured.count("fast") == 0
    assert figures_of(tmp_path / "parts") == figures_of(tmp_path / "whole")
    assert not list((tmp_path / "parts").glob(".*.json"))


def test_what_a_killed_run_left_beside_a_whole_record_goes(clips, tmp_path):
    evaluate(clips, Small(), tmp_path / "out", replace(TWO_ROWS, clips=("fast",)))
    whole = figures_of(tmp_path / "out")
    for name in (".fast.rows.json", ".fast.json.metadeblur-lock", "..fast.rows.json.metadeblur-lock"):
        (tmp_path / "out" / name).write_text("1\n")
    evaluate(clips, Small(), tmp_path / "out", replace(TWO_ROWS, clips=("fast",), resume=True))
    assert figures_of(tmp_path / "out") == whole
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_records_of_other_settings_are_not_gone_on_with(clips, tmp_path):
    evaluate(clips, Small(), tmp_path / "out", TWO_ROWS)
    other = EvaluateSettings(rows=("blurred",), restoration=RESTORATION, resume=True)
    with pytest.raises(MetadeblurError, match="other settings"):
        evaluate(clips, Small(), tmp_path / "out", other)
    stronger = Small()
    stronger.conv.weight.data *= 2
    again = EvaluateSettings(rows=TWO_ROWS.rows, restoration=RESTORATION, resume=True)
    with pytest.raises(MetadeblurError, match="other settings"):
        evaluate(clips, stronger, tmp_path / "out", again)
    evaluate(clips, Small(), tmp_path / "out", again)


def test_notes_of_other_settings_do_not_count(tmp_path):
    path = tmp_path / "notes.json"
    row = RowRecord(psnr=25.0, ssim=0.5, self_shift=20.0, per_frame=FrameFigures((25.0,), (0.5,)))
    rows.Ledger(path, {"seed": 0}).note("base", row)
    assert rows.Ledger(path, {"seed": 0}, keep=True).rows == {"base": row}
    assert rows.Ledger(path, {"seed": 1}, keep=True).rows == {}
    assert rows.Ledger(path, {"seed": 0}).rows == {}


def test_several_processes_give_the_same_figures(clips, tmp_path):
    net = load_deblurrer("lite")
    evaluate(clips, net, tmp_path / "one", TWO_ROWS)
    said = []
    several = EvaluateSettings(rows=TWO_ROWS.rows, restoration=RESTORATION, workers=2)
    evaluate(clips, net, tmp_path / "two", several, progress=lambda *news: said.append(news))
    counts = [news[:2] for news in said]
    assert counts == sorted(counts)
    assert counts[-1] == (2, 2)
    for name in ("fast", "slow"):
        records = [json.loads((tmp_path / out / f"{name}.json").read_text()) for out in ("one", "two")]
        assert records[0]["psnr"]["base"] == pytest.approx(records[1]["psnr"]["base"], abs=1e-3)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="processes are looked up in /proc")
@pytest.mark.slow
def test_a_command_that_is_told_to_end_waits_for_no_clip(clips, tmp_path):
    words = ["evaluate", str(clips), "--rows", "blurred,base,oracle", "--steps", "100000", "--pairs", "2"]
    words += ["--precision", "fp32", "--tile", "0", "--device", "cpu", "--workers", "2", "-o", str(tmp_path / "out")]
    program = [sys.executable, "-m", "metadeblur.cli.entry", *words]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        until = time.monotonic() + 120
        while len(list((tmp_path / "out").glob(".*.rows.json"))) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        workers = (Path("/proc") / str(command.pid) / "task" / str(command.pid) / "children").read_text().split()
        assert len(workers) >= 2
        for _ in range(2):  # whoever is impatient says so twice
            command.terminate()
            time.sleep(0.1)
        try:
            command.wait(timeout=60)
        finally:
            command.kill()
    until = time.monotonic() + 30  # one of them looks after what the others share, and ends by itself
    while (left := [worker for worker in workers if _alive(worker)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def _alive(process):
    """Whether a process runs; one that ended and was not yet fetched by its parent does not."""
    try:
        return "\nState:\tZ" not in (Path("/proc") / str(process) / "status").read_text()
    except FileNotFoundError:
        return False


def test_what_goes_wrong_in_a_worker_is_said(clips, tmp_path):
    (clips / "slow" / "sharp" / "003.png").write_bytes(b"nothing")
    several = EvaluateSettings(rows=("blurred",), clips=("slow",), workers=2)
    with pytest.raises(MetadeblurError, match=r"003.png: not readable as a picture"):
        evaluate(clips, load_deblurrer("lite"), tmp_path / "out", several)


@pytest.mark.skipif(os.name != "posix", reason="kills a process by a signal")
@pytest.mark.slow
def test_a_process_killed_at_any_moment_goes_on_to_the_same_tables(clips, tmp_path, capsys):
    words = ["evaluate", str(clips), "--rows", "blurred,base,oracle", "--steps", "2", "--pairs", "2"]
    words += ["--precision", "fp32", "--tile", "0", "--device", "cpu", "--resume", "-o"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    parts = tmp_path / "parts"
    program = [sys.executable, "-m", "metadeblur.cli.entry", *words, str(parts)]
    killed = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(parts.glob(".*.rows.json")) and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (parts / "summary.json").exists()
    capsys.readouterr()
    assert main([*words, str(parts)]) == 0
    assert figures_of(parts) == figures_of(tmp_path / "whole")
    assert (parts / "psnr.md").read_text() == (tmp_path / "whole" / "psnr.md").read_text()
    assert "| fast |" in capsys.readouterr().out


# --- refusals ------------------------------------------------------------------------------------------------------


def test_unknown_settings_are_refused():
    with pytest.raises(MetadeblurError, match="no row 'best'"):
        EvaluateSettings(rows=("blurred", "best"))
    with pytest.raises(MetadeblurError, match="method 'magic'"):
        EvaluateSettings(methods=("magic",))
    with pytest.raises(MetadeblurError, match="each once"):
        EvaluateSettings(methods=("flow", "flow"))
    with pytest.raises(MetadeblurError, match="workers is 0"):
        EvaluateSettings(workers=0)


def test_records_that_would_overwrite_each_other_are_refused(clips, tmp_path):
    write_clip(clips / "slow_fast", 3, frames=2)
    write_clip(clips / "slow" / "fast", 3, frames=2)
    with pytest.raises(MetadeblurError, match=r"two records would be called slow_fast.json"):
        evaluate(clips, Small(), tmp_path / "out", TWO_ROWS)
    write_clip(tmp_path / "other" / "summary", 3, frames=2)
    with pytest.raises(MetadeblurError, match=r"would be called summary.json"):
        evaluate(tmp_path / "other", Small(), tmp_path / "out", TWO_ROWS)


def test_frames_of_different_sizes_are_refused(clips, tmp_path):
    for side in ("blur", "sharp"):
        cv2.imwrite(str(clips / "fast" / side / "003.png"), np.zeros((64, 80, 3), np.uint8))
    with pytest.raises(MetadeblurError, match="fast: frames of different sizes"):
        evaluate(clips, Small(), tmp_path / "out", SETTINGS)

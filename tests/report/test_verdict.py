"""What people are told of a result; ``python tests/report/test_verdict.py`` writes docs/verdicts.md anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metadeblur.errors import MetadeblurError
from metadeblur.guard.judge import Reason
from metadeblur.pipeline.result_table import Result, summary, verdict_line
from metadeblur.report.record import RunRecord, ShotRecord
from metadeblur.report.verdict import PlainVerdict, network_of, overall_verdict, shot_result

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "verdicts.md"
HEAD = """# What it tells you

The first line after a run, on the page and at the top of the report is the result; the second says why. A frame counts
as sharper when it shows clearly more detail than before along the direction in which it was blurred, not more noise and
no outlines beside edges; no sharp picture is needed to tell. `--verbose` and the report show every check.

| what happened | the result | why |
| --- | --- | --- |
"""


def reason(name: str, passed: bool) -> Reason:
    return Reason(name, 0.0, 0.0, passed, "")


GOOD = (reason("held-out pairs", True), reason("ringing", True))


def shot(outcome: Any = "adapted", share: float = 1.0, sharper: int | None = 41, **rest: Any) -> ShotRecord:
    """A shot of 45 frames whose frames were fused and corrected."""
    given = {"stop": 45, "adapted": True, "fused": True, "back_projected": True, "reasons": GOOD}
    return ShotRecord(**{"outcome": outcome, "share": share, "sharper": sharper, **given, **rest})


def unlearnt(why: Any, **rest: Any) -> ShotRecord:
    return shot("base", 0.0, **{"adapted": False, "unlearnt": why, "reasons": (), **rest})


def untouched(name: str, **rest: Any) -> ShotRecord:
    return shot("untouched", 0.0, None, adapted=False, fused=False, reasons=(reason(name, True),), **rest)


CASES: dict[str, list[ShotRecord]] = {
    "what was learnt is used whole": [shot()],
    "what was learnt is used in part": [shot("partly", 0.5, reasons=(*GOOD, reason("sharpness", False)))],
    "what was learnt is not used": [shot("base", 0.0, 38, reasons=(reason("colour drift", False),))],
    "no frame is measurably sharper": [shot("base", 0.0, 0, reasons=(reason("held-out pairs", False),), fused=False)],
    "quick": [unlearnt("quick")],
    "a clip that is sharp already": [untouched("sharp already")],
    "a clip in which nothing moves": [untouched("motion")],
    "too short": [unlearnt("short", stop=4, sharper=4, fused=False)],
    "a single picture": [unlearnt("picture", stop=1, sharper=0, fused=False)],
    "a time limit that is too short": [unlearnt("time")],
    "learning switched off": [unlearnt("off", fused=False)],
    "the guard switched off": [shot(reasons=(reason("guard", True),))],
    "restored by a cluster": [shot(worker={"host": "node7", "process": 12})],
    "several shots": [shot(), shot("partly", 0.25), unlearnt("short", stop=4, sharper=4), untouched("sharp already")],
}


BROKEN = MetadeblurError("trip.mp4: not a video that FFmpeg can read, or damaged (Invalid data)")
LOST = MetadeblurError(
    "walk.mp4, shot 2 of 3: 3 workers died over it, perhaps for want of memory; try fewer "
    "--workers or smaller tiles (--tile 256)"
)
FILES: dict[str, Result] = {
    "a file that cannot be read": BROKEN,
    "a file over which the cluster's processes died": LOST,
    "a file whose output is there already (`--skip-existing`)": None,
}
ARCHIVE: list[Result] = [
    RunRecord(shots=tuple(CASES["what was learnt is used whole"])),
    RunRecord(shots=tuple(CASES["what was learnt is used in part"])),
    RunRecord(shots=tuple(CASES["too short"])),
    RunRecord(shots=tuple(CASES["a clip that is sharp already"]), untouched=True),
    BROKEN,
]


def lines() -> str:
    """The table of all cases."""
    verdicts = [(case, overall_verdict(shots)) for case, shots in CASES.items()]
    verdicts += [(case, PlainVerdict(verdict_line(result))) for case, result in FILES.items()]
    each = "one line each, in a table: " + " / ".join(verdict_line(result) for result in ARCHIVE)
    verdicts.append(("an archive of five", PlainVerdict(summary(ARCHIVE), each)))
    return "".join(f"| {case} | {verdict.headline} | {verdict.why} |\n" for case, verdict in verdicts)


def test_the_document_says_what_people_are_told():
    assert DOCUMENT.read_text(encoding="utf-8") == HEAD + lines()


@pytest.mark.parametrize("case", CASES)
def test_a_verdict_is_plain_english(case):
    verdict = overall_verdict(CASES[case])
    assert len(verdict.headline) <= 90
    assert len(verdict.why) <= 160
    both = f"{verdict.headline} {verdict.why}"
    assert "{" not in both
    for riddle in ("adapt", "pseudo", "dB", "self-shift", "base model", "guard", "back-proj", "veto", "oracle"):
        assert riddle not in both or (riddle == "guard" and "guard" in case), riddle


def test_files_and_archives():
    assert summary(ARCHIVE) == "5 inputs: 3 restored, 1 unchanged, 1 failed"
    assert verdict_line(BROKEN).startswith("Failed: trip.mp4: not a video")
    assert verdict_line(None) == "Left out: the output is there already."
    told = [verdict_line(result) for result in ARCHIVE]
    assert told[3] == "Already sharp: nothing was changed."
    assert all(len(line) <= 120 and "\n" not in line for line in told)


def test_headlines():
    told = {case: overall_verdict(shots).headline for case, shots in CASES.items()}
    assert told["what was learnt is used in part"] == "Sharper: 41 of 45 frames. Your clip taught the network a little."
    assert told["a clip that is sharp already"] == "Already sharp: nothing was changed."
    assert told["several shots"].startswith("Sharper: 86 of 94 frames.")  # what was left alone does not count
    assert overall_verdict([]) == PlainVerdict("Nothing was restored.")


def test_another_network_is_not_called_built_in():
    other = RunRecord(settings={"model": "maxim.safetensors"})
    assert "built-in" not in str(overall_verdict([unlearnt("quick")], network_of(other)))
    assert "built-in" in str(overall_verdict([unlearnt("quick")], network_of(RunRecord(settings={"model": "lite"}))))


def test_results():
    assert shot_result(shot(reasons=(reason("guard", True),))) == "unchecked"
    assert shot_result(shot("base", 0.0, adapted=False, losses=({"step": 0, "loss": 1.0},))) == "dropped"
    assert shot_result(ShotRecord(note="nothing")) == "base"


if __name__ == "__main__":
    DOCUMENT.write_text(HEAD + lines(), encoding="utf-8")

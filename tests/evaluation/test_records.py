"""Records: what is on disk keeps its keys and values, and what does not fit is one clear line."""

import json
from pathlib import Path

import pytest
from cases import case
from evaluated import Small, write_clip

from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.protocol import EvaluateSettings, evaluate, read_summary
from metadeblur.evaluation.records import ClipNotes, ClipRecord, GuardRecord, Summary, read_record
from metadeblur.evaluation.sealed import write_sealed
from metadeblur.evaluation.tables import effect_lines, method_table, table
from metadeblur.system.json_files import from_plain, plain, to_json

STORED = Path(__file__).parent / "records"  # written before there were dataclasses
KINDS = {
    "clip.json": ClipRecord,
    "clip_input_alone.json": ClipRecord,
    "guard_trial.json": GuardRecord,
    "notes.json": ClipNotes,
    "summary.json": Summary,
    "summary_input_alone.json": Summary,
}


@pytest.mark.parametrize("name", KINDS)
def test_stored_records_come_back_to_the_letter(name, tmp_path):
    text = (STORED / name).read_text()
    if name.startswith("summary"):
        assert to_json(from_plain(Summary, json.loads(text))) == text
        return
    record = read_record(STORED / name, KINDS[name])
    write_sealed(record, tmp_path / name)
    assert (tmp_path / name).read_text() == text


def test_the_stored_summary_is_that_of_its_dataclass():
    summary = read_summary(STORED)
    assert summary.clips == ("fast", "slow")
    assert summary.effect.gain == 19.4394
    assert summary.effect.interval == (0.08921, 38.78959)
    assert summary.methods["none"].unguarded.oracle_ratio == 0
    assert summary.apart.clips == ("fast",)
    assert summary.others.effect.interval is None
    assert len(method_table(summary)) == 1 + 3 * 2
    assert effect_lines(summary)[0] == "oracle ratio: 101.57"
    record = read_record(STORED / "clip.json", ClipRecord)
    assert table([record], summary)[1][0] == "fast"
    alone = from_plain(Summary, json.loads((STORED / "summary_input_alone.json").read_text()))
    assert (alone.effect, alone.methods, alone.others) == (None, None, None)
    assert alone.intervals == {"blurred": None}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"share": "much"}, "share is much, not float"),
        ({"frames": 2.5}, "frames is 2.5, not int"),
        ({"frames": True}, "frames is True, not int"),
        ({"psnr": {"base": None}}, "psnr.base is None, not float"),
        ({"psnr": None}, "psnr is None, not dict"),
        ({"focus": {"frame": 1}}, "focus.top is missing"),
        ({"mood": "good"}, "mood is unknown"),
        ({"per_frame": {"psnr": {"base": 25.0}}}, "per_frame.psnr.base is 25.0, not tuple"),
    ],
)
def test_a_record_of_another_version_is_one_clear_line(tmp_path, change, told):
    values = plain(read_record(STORED / "clip.json", ClipRecord)) | change
    path = tmp_path / "clip.json"
    write_sealed(values, path)
    with pytest.raises(MetadeblurError) as error:
        read_record(path, ClipRecord)
    assert str(error.value).startswith(f"{path}: was written by another version of this program ({told}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["clip", "share", "conditions", "input"])
def test_a_key_that_is_absent_is_named(tmp_path, key):
    values = plain(read_record(STORED / "clip.json", ClipRecord))
    del values[key]
    write_sealed(values, tmp_path / "clip.json")
    with pytest.raises(MetadeblurError, match=f"{key} is missing"):
        read_record(tmp_path / "clip.json", ClipRecord)


@pytest.mark.parametrize("values", [{}, {"intervals": 3}, {"methods": {"flow": None}}, {"intervals": {}, "gain": "x"}])
def test_a_summary_that_does_not_fit_is_one_clear_line(tmp_path, values):
    (tmp_path / "summary.json").write_text(json.dumps(values))
    with pytest.raises(MetadeblurError, match=r"summary\.json"):
        read_summary(tmp_path)


@case(
    "Interrupted runs",
    "a record that evaluate --resume is to keep was written by another version of this program",
    "that clip is measured again",
    "`...: the record is of another version; CLIP is measured again`",
)
def test_a_record_of_another_version_is_measured_again(tmp_path):
    write_clip(tmp_path / "clips" / "a", 3)
    settings = EvaluateSettings(rows=("blurred",), resume=True)
    first = evaluate(tmp_path / "clips", Small(), tmp_path / "out", settings)
    path = tmp_path / "out" / "a.json"
    values = plain(read_record(path, ClipRecord))
    del values["frames"]
    write_sealed(values, path)
    told = []
    assert evaluate(tmp_path / "clips", Small(), tmp_path / "out", settings, say=told.append).psnr == first.psnr
    assert told == [f"{path}: the record is of another version; a is measured again"]

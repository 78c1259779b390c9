"""Ranges of settings: every number of every settings class and of every command's flags, in words and before work."""

from __future__ import annotations

import importlib
import math
import pkgutil
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from cases import case
from journey import run

import metadeblur
from metadeblur.cli.entry import COMMANDS
from metadeblur.limits import OutOfRange, is_numeric, kinds

ENDINGS = ("Settings", "Training", "Update", "Updates", "Flags")
STRANGE = (math.nan, math.inf, -math.inf, -1, 10**30, "many", None, True)


def settings_classes() -> list[type[Any]]:
    """All dataclasses that hold settings, the commands among them."""
    found: dict[str, type[Any]] = {}
    for module in pkgutil.walk_packages(metadeblur.__path__, "metadeblur."):
        if module.name.startswith(("metadeblur.app.", "metadeblur.cluster.")) and "connection" not in module.name:
            continue  # they need packages that are extras
        for name, one in vars(importlib.import_module(module.name)).items():
            if isinstance(one, type) and is_dataclass(one) and one.__module__.startswith("metadeblur"):
                found |= {f"{one.__module__}.{name}": one} if name.endswith(ENDINGS) else {}
    for entry in COMMANDS.values():
        one = getattr(importlib.import_module(f"metadeblur.cli.{entry.module}"), entry.arguments)
        found[f"{one.__module__}.{one.__name__}"] = one
    return list(dict.fromkeys(found.values()))


def numbers_of(settings: type[Any]) -> list[str]:
    """The names of the fields that hold numbers."""
    return [name for name, kind in kinds(settings).items() if is_numeric(kind)]


def refusal(settings: type[Any], name: str, value: Any) -> str:
    """What is said of a value of one field; empty where it is kept as it is."""
    try:
        kept = getattr(made(settings, **{name: value}), name)
    except OutOfRange as error:
        return str(error)
    return "" if kept == value else f"it became {kept}"


CLASSES = settings_classes()
NUMBERS = [(one, name) for one in CLASSES for name in numbers_of(one)]


def made(settings: type[Any], **given: Any) -> Any:
    """Settings with the fields that have no default filled in."""
    needed = [f.name for f in fields(settings) if f.default is MISSING and f.default_factory is MISSING]
    samples = {"inputs": [Path("a")], "root": [Path("a")], "experiment": "table1"}
    if settings.__name__ == "Evaluate":
        samples["root"] = Path("a")
    return settings(**{name: samples.get(name, Path("a")) for name in needed} | given)


def bounds_of(kind: Any) -> list[Any]:
    """The ranges that a type names, wherever they stand in it."""
    own = list(getattr(kind, "__metadata__", ()))
    parts = [kind.__origin__] if own else [] if get_origin(kind) is None else get_args(kind)
    return own + [mark for part in parts for mark in bounds_of(part)]


def test_every_settings_class_is_looked_at():
    names = {one.__name__ for one in CLASSES}
    assert {"AdaptSettings", "SynthSettings", "LoopSettings", "OuterUpdate", "ClusterSettings", "Restore"} <= names
    assert len(NUMBERS) > 100


@pytest.mark.parametrize(("settings", "name"), NUMBERS, ids=lambda one: getattr(one, "__name__", one))
def test_every_number_of_every_settings_class_has_a_range(settings, name):
    assert any(type(mark).__name__ == "Within" for mark in bounds_of(kinds(settings)[name])), name
    default = getattr(made(settings), name)
    for value in STRANGE:
        if value is None and default is None:
            continue  # nothing is what it usually is
        said = refusal(settings, name, value)
        assert said or value in (-1, None), f"{name} took {value}"
        assert not said or (said.startswith(f"{name} is ") and "; give " in said)


@pytest.mark.parametrize(
    "words",
    [
        ["restore", "a.mp4"],
        ["adapt", "a.mp4", "-o", "w.safetensors"],
        ["demo", "out"],
        ["synth", "a.png", "-o", "out"],
        ["train", "deblur", "--clips", "a"],
        ["train", "reblur", "--clips", "a"],
        ["train", "meta", "--clips", "a"],
        ["evaluate", "builtin", "-o", "out"],
        ["reproduce", "table1", "--root", "a", "-o", "out"],
        ["app"],
    ],
    ids=" ".join,
)
@case(
    "Numbers and words",
    "a number that a flag cannot be: NaN, infinite, below or above its range, or a word (every flag of every command)",
    "refused before any work; nothing is written",
    "one line: the flag, the value, what is allowed",
)
def test_flags_of_numbers_are_refused_before_work(words, tmp_path, monkeypatch, capsys):
    from metadeblur.cli.entry import _flags

    monkeypatch.chdir(tmp_path)
    name = next(" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS)
    entry = COMMANDS[name]
    arguments = getattr(importlib.import_module(f"metadeblur.cli.{entry.module}"), entry.arguments)
    flags = [(flag, kind) for flag, kind in _flags(arguments) if is_numeric(kind)]
    assert flags
    for flag, kind in flags:
        inner = getattr(kind, "__origin__", kind)
        pair = get_origin(inner) is tuple and Ellipsis not in get_args(inner)
        for value in ("nan", "inf", "1e30", "many", "-99999999"):
            if flag == "--pairs" and name == "reproduce":
                continue
            assert run(*words, flag, *[value] * (2 if pair else 1)) == 2, (flag, value)
            said = capsys.readouterr().err
            assert said.startswith(f"metadeblur: error: {flag} is "), (flag, value, said)
            assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = 'many'", "steps is 'many'; give a whole number from 1 to"),
        ("steps = 0", "steps is 0; give a whole number"),
        ("steps = true", "steps is true"),
        ("learning_rate = nan", "learning_rate is nan"),
        ("clips = 'folder'", "clips is 'folder'; give a list, each text"),
        ("clips = [1]", "clips is 1; give a list"),
        ("precision = 'fp8'", "precision is 'fp8'; give auto, fp32 or bf16"),
        ("tensorboard = 1", "tensorboard is 1; give true or false"),
        ("loop = 5", "loop is a table of settings"),
        ("stpes = 3", "no setting 'stpes'; did you mean steps?"),
        ("[loop]\nstpes = 3", "did you mean steps?"),
        ("steps = 1\n[loop]\nsteps = 2", "steps is there twice"),
        ("steps = ", "not TOML"),
        ("steps = 1\nsteps = 2", "not TOML"),
        ("\xff", "not TOML"),
        ("network = 'unet'", "network is 'unet'; give lite, mimo-unet"),
    ],
)
@case(
    "Numbers and words",
    "a settings file (TOML) with a wrong type, a number out of range, an unknown name, or that is no TOML",
    "refused before any work",
    "one line: the file, the setting, its value, what is allowed; of an unknown name the one that may be meant",
)
def test_settings_files_that_make_no_sense(text, said, tmp_path, capsys):
    file = tmp_path / "train.toml"
    file.write_text(text, encoding="utf-8")
    assert run("train", "deblur", "--config", file, "-o", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert said in told
    assert f"--config {file}" in told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train.toml"]


def test_settings_files_that_are_empty_or_begin_with_a_mark_are_read(tmp_path, capsys):
    for content in (b"", b"\xef\xbb\xbfsteps = 3\n"):
        (tmp_path / "a.toml").write_bytes(content)
        assert run("train", "deblur", "--config", tmp_path / "a.toml", "-o", tmp_path / "out") == 2
        assert "--clips DIR" in capsys.readouterr().err  # nothing else is missing
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\0")
    for broken in (tmp_path / "a.toml", tmp_path, tmp_path / "missing.toml"):
        assert run("train", "deblur", "--config", broken) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_pairs_of_numbers_rise_and_lists_are_taken_for_tuples():
    from metadeblur.data.settings import SynthSettings

    with pytest.raises(OutOfRange, match=r"exposure is 1 0\.5; give 2 values, the lower one first, each a number from"):
        SynthSettings(exposure=(1.0, 0.5))
    with pytest.raises(OutOfRange, match="speed_px is 1; give 2 values"):
        SynthSettings(speed_px=(1.0,))  # type: ignore[arg-type]
    assert SynthSettings(compression=(90, 90)).compression == (90, 90)

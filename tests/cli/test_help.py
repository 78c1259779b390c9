"""The help: every flag of every command has a text and a place, and every flag that is named anywhere exists."""

from __future__ import annotations

import ast
import os
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from journey import run

from metadeblur.cli.completion import Flag, words_of
from metadeblur.cli.entry import COMMANDS

ROOT = Path(__file__).parents[2]
LONG = ("restore", "adapt", "evaluate", "train deblur", "train reblur", "train meta")
NAMED = re.compile(r"(?<![\w\-/])--[a-z][\w.-]*\w")
FOREIGN = {  # of Ray, torchrun, pip, uv, Docker, nvidia-smi, gyroflow and git, and of this program without a command
    "--address", "--always", "--abbrev", "--dirty", "--force-reinstall", "--generate", "--head", "--help",
    "--include-dashboard", "--match", "--nproc-per-node", "--num-cpus", "--num-gpus", "--only-binary", "--standalone",
    "--version", "--format", "--gpus", "--torch-backend", "--python", "--query-gpu", "--reinstall", "--no-deps", "--rm",
    "--user", "--watch",
}  # fmt: skip


@pytest.fixture(scope="module")
def flags() -> dict[str, tuple[Flag, ...]]:
    """The flags of every command, as its help tells them."""
    return {name: words_of(name, entry.summary).flags for name, entry in COMMANDS.items()}


def test_every_flag_has_a_text(flags):
    for command, found in flags.items():
        assert found, command
        for flag in found:
            said = re.sub(r"\((default|required)[^()]*\)", "", flag.text).strip(" .")
            assert len(said) > 8, (command, flag)
            assert not flag.takes or "None" not in flag.values, (command, flag)


def test_flags_stand_in_groups(flags):
    for command in LONG:
        groups = {flag.group for flag in flags[command]}
        assert {"everyday options", "expert options"} <= groups, command
        alone = [flag.names for flag in flags[command] if flag.group == "options"]
        assert alone == [("-h", "--help")], command
    for command in ("restore", "adapt"):
        assert {"adaptation options", "output options"} <= {flag.group for flag in flags[command]}
    for command, found in flags.items():
        sizes = [sum(flag.group == group for flag in found) for group in {flag.group for flag in found}]
        assert max(sizes) <= 22, command


def test_choices_are_listed(flags):
    values = {(command, flag.names[-1]): flag.values for command, found in flags.items() for flag in found}
    assert values["restore", "--codec"] == ("auto", "h264", "h265", "av1", "vp9", "ffv1")
    assert values["restore", "--effort"] == ("quick", "balanced", "best")
    assert "archive" in values["restore", "--preset"]
    assert "cuda" in values["adapt", "--device"]
    assert values["evaluate", "--layout"][0] == "auto"
    assert words_of("reproduce", "").values == ("table1", "table2", "figure5", "figure6")


def test_no_text_of_the_help_is_broken_where_its_source_is():
    """The help keeps the line breaks of a field's docstring, so those stand on one line."""
    broken = []
    for path in sorted((ROOT / "src" / "metadeblur" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            body = node.body if isinstance(node, ast.ClassDef) else []
            for field, text in pairwise(body):
                said = text.value.value if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) else ""
                if isinstance(field, ast.AnnAssign) and "\n" in str(said):
                    broken.append((path.name, said))
    assert broken == []


def texts() -> list[tuple[str, str]]:
    """Every text in the source, which a person may read as a message, a help or a docstring; and the documents."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node.value))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        found.append((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")))
    return found


def test_every_flag_that_is_named_exists(flags):
    """No error, help or document names a flag that no command has (--loop.tensorboard was one)."""
    known = {name for found in flags.values() for flag in found for name in flag.names} | FOREIGN
    strange = [
        (place, name)
        for place, text in texts()
        for name in NAMED.findall(text)
        if name not in known and not name.startswith("--tyro")
    ]
    assert not strange, strange


def test_what_is_advised_for_a_command_is_a_flag_of_it(flags):
    """A line that shows a command of this program names flags of that command."""
    for place, text in texts():
        for line in re.findall(r"metadeblur ((?:train |weights )?[a-z]+) ([^\n`;()]*)", text):
            command, rest = line
            if command in flags:
                own = {name for flag in flags[command] for name in flag.names} | {"--help"}
                named = NAMED.findall(re.split(r"metadeblur|\|", rest)[0])
                assert set(named) <= own | FOREIGN, (place, line)


@pytest.mark.parametrize(
    "words",
    [
        *([*name.split(), "--help"] for name in COMMANDS),
        ["--help"],
        ["weights", "--help"],
        ["--version"],
        ["presets"],
        ["presets", "archive"],
        ["models", "lite"],
        ["models", "lite", "--json"],
        ["weights", "list"],
        ["weights", "verify"],
        ["completion", "zsh"],
    ],
    ids=" ".join,
)
def test_a_pipe_whose_reader_has_seen_enough_ends_a_command_quietly(words, monkeypatch, capsys):
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert run(*words) == 141
    assert capsys.readouterr().err == ""


def test_presets_are_listed_and_printed(tmp_path, capsys):
    from metadeblur.cli.entry import parse
    from metadeblur.cli.flags import PresetName
    from metadeblur.cli.presets import preset_names, purpose

    assert sorted(PresetName.__args__) == preset_names()  # type: ignore[attr-defined]
    assert run("presets") == 0
    listed = capsys.readouterr().out
    plain = parse(["restore", "a.mp4"]).run_settings()
    for name in preset_names():
        assert re.search(rf"^{name} +{re.escape(purpose(name))}$", listed, re.MULTILINE)
        assert run("presets", name) == 0
        (tmp_path / "mine.toml").write_text(capsys.readouterr().out)
        made = [parse(["restore", "a.mp4", *words]).run_settings() for words in
                (["--preset", name], ["--config", str(tmp_path / "mine.toml")])]  # fmt: skip
        assert made[0] == made[1]
        assert made[0] != plain or name == "paper"
    settings = parse(["restore", "a.mp4", "--preset", "archive", "--effort", "quick"]).run_settings()
    assert (settings.encoding.quality, settings.adaptation.steps) == ("lossless", 0)
    (tmp_path / "mine.toml").write_text("quality = 30\n")
    words = ["restore", "a.mp4", "--preset=archive", "--config", str(tmp_path / "mine.toml")]
    settings = parse(words).run_settings()
    assert (settings.encoding.quality, settings.adaptation.pairs) == (30, 60)
    adapt = parse(["adapt", "a.mp4", "-o", "w.safetensors", "--preset", "archive"])
    assert adapt.adapt_settings().pairs == 60


def test_every_command_that_takes_a_file_takes_its_settings(tmp_path):
    from metadeblur.cli.entry import parse

    file = tmp_path / "mine.toml"
    file.write_text('steps = 5\nmodel = "maxim"\nguard = false\n[machine]\ndevice = "cpu"\n')
    adapt = parse(["adapt", "a.mp4", "-o", "w.safetensors", "--config", str(file), "--model", "lite"])
    assert (adapt.adapt_settings().steps, adapt.everyday.model, adapt.machine.device) == (5, "lite", "cpu")
    file.write_text("workers = 2\nskip-existing = true\n")
    restore = parse(["restore", "a.mp4", "--config", str(file)])
    assert (restore.workers.workers, restore.everyday.skip_existing) == (2, True)
    file.write_text("[workers]\nworkers = 3\n")
    assert parse(["restore", "a.mp4", "--config", str(file)]).workers.workers == 3
    file.write_text('steps = 5\nrows = "base"\ncrop = 64\n')
    evaluate = parse(["evaluate", "builtin", "-o", "out", "--config", str(file)])
    assert (evaluate.adaptation.steps, evaluate.everyday.rows, evaluate.measuring.crop) == (5, "base", 64)

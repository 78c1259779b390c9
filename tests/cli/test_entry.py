"""The command line itself: what it takes, what it refuses, how it speaks."""

from __future__ import annotations

import errno
import io
import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from journey import run

import metadeblur as md
from metadeblur import __version__
from metadeblur.cli.entry import COMMANDS, main, parse
from metadeblur.errors import MetadeblurError, UsageError
from metadeblur.system.explain import error_line

CONTRACT = {
    "restore": "-o --model --reblur --adapt --no-adapt --guard --no-guard --pairs --steps --lr --budget --seed "
    "--device --tile --precision --codec --quality --side-by-side --preview --report --json --resume --start --end "
    "--config --preset --skip-existing --overwrite --shard --workers --cluster -q -v --log-file --effort --csv",
    "pipe": "--size --rate --pixel-format --model --device --tile --precision --seed",
    "demo": "",
    "adapt": "-o --model --steps --seed --config --preset -q --log-file",
    "synth": "-o --clips --seed --log-file",
    "train deblur": "--config --resume -q --log-file",
    "train reblur": "--config --resume -q --log-file",
    "train meta": "--config --resume -q --log-file",
    "evaluate": "-o --layout --model --rows --method --resume --config -q --log-file",
    "reproduce": "--root -o --small --log-file",
    "presets": "",
    "models": "--measure --json",
    "weights import": "",
    "weights list": "",
    "weights verify": "",
    "app": "--host --port",
    "doctor": "",
    "completion": "",
}


def test_help_does_not_import_torch():
    script = (
        "import sys; from metadeblur.cli.entry import main\n"
        "assert main(['--help']) == 0\n"
        "for name in ('restore', 'adapt', 'evaluate', 'demo', 'models', 'doctor'):\n"
        "    assert main([name, '--help']) == 0, name\n"
        "assert main(['--version']) == 0 and main(['nonsense']) == 2\n"
        "heavy = {'torch', 'cv2', 'av', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_of_the_contract_is_there_and_no_other():
    assert set(COMMANDS) == set(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_help_of_a_command_names_its_flags(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    for flag in CONTRACT[name].split():
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", text), flag


def test_help_of_a_group_lists_its_commands(capsys):
    assert main(["weights", "--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"weights {name}" in listed for name in ("import", "list", "verify"))
    assert "restore" not in listed


def test_help_is_asked_for_either_way(capsys):
    assert main(["restore", "--help"]) == 0
    told = capsys.readouterr().out
    assert main(["help", "restore"]) == 0
    assert capsys.readouterr().out == told
    assert main(["help"]) == 0
    assert "restore" in capsys.readouterr().out
    assert main(["help", "nonsense"]) == 2
    capsys.readouterr()


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"metadeblur {__version__}"


def test_no_command_lists_the_commands_and_is_wrong_usage(capsys):
    assert run() == 2
    assert "restore" in capsys.readouterr().out
    assert run("--help") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adapt"], "needs a video or a folder of frames: metadeblur adapt IN"),
        (["evaluate"], "needs a folder of paired clips, or builtin: metadeblur evaluate ROOT"),
        (["presets", "archiv"], "no preset 'archiv'; did you mean archive?"),
        (["restore", "a.mp4", "--preset", "slow"], "no preset 'slow'"),
        (["adapt", "a.mp4", "-o", "w.safetensors", "--preset", "share"], "it has no setting of this command"),
        (["completion", "tcsh"], "tcsh"),
        (
            ["restore", "a.mp4", "--skip-existing", "--overwrite"],
            "--skip-existing and --overwrite contradict",
        ),
        (["restore", "a.mp4", "-q", "-v"], "--quiet and --verbose contradict each other"),
        (["retsore", "a.mp4"], "did you mean: restore"),
        (["train"], "did you mean: train deblur"),
        (["train", "magic"], "no command 'train magic'"),
        (["weights"], "weights import, weights list, weights verify"),
        (["restore"], "at least one video"),
        (["restore", "a.mp4", "--budget", "0"], "--budget is 0; give a number above 0"),
        (["adapt", "a.mp4", "-o", "w.safetensors", "--budget", "-3"], "--budget is -3"),
        (["restore", "a.mp4", "--preview", "-1"], "--preview is -1"),
        (["restore", "a.mp4", "--preview", "nan"], "--preview is nan"),
        (["restore", "a.mp4", "--stpes", "3"], "--steps"),
        (["restore", "a.mp4", "--steps", "many"], "--steps is many; give a whole number from 0 to 1000000"),
        (["restore", "a.mp4", "--codec", "cinepak"], "codec"),
        (["evaluate", "clips", "-o", "out", "--rows", "blurred,best"], "rows are blurred"),
        (["synth", "-o", "out"], "at least one photograph"),
        (["train", "deblur"], "--clips"),
        (["train", "deblur", "--config", "missing.toml"], "missing.toml"),
    ],
)
def test_wrong_usage_exits_with_2(words, said, capsys):
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_an_error_is_one_line_and_exit_code_1(capsys):
    assert run("restore", "missing.mp4") == 1
    error = capsys.readouterr().err
    assert error.startswith("metadeblur: error: ")
    assert error.count("\n") == 1


def test_a_wanted_traceback_is_shown(monkeypatch):
    monkeypatch.setenv("METADEBLUR_DEBUG", "1")
    with pytest.raises(MetadeblurError):
        run("restore", "missing.mp4")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MetadeblurError("two\nlines"), "error: two lines"),
        (OSError(errno.ENOSPC, "No space left on device", "x.mp4"), "x.mp4: the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "larger than this system allows"),
        (PermissionError(errno.EACCES, "Permission denied", "x.mp4"), "x.mp4: no permission"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "y"), "error: y: No such file or directory"),
        (MemoryError(), "out of memory; smaller tiles"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (ZeroDivisionError("division by zero"), "division by zero (ZeroDivisionError; METADEBLUR_DEBUG=1 shows where)"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_errors_are_explained_in_one_line(error, said):
    assert said in error_line(error)
    assert "\n" not in error_line(error)


def test_notes_follow_the_reason():
    error = MetadeblurError("it broke")
    error.add_note("2 finished shots are kept")
    assert error_line(error) == "error: it broke; 2 finished shots are kept"


def test_flags_have_the_defaults_and_choices_of_the_rooms():
    from metadeblur.adaptation.stages import AdaptSettings
    from metadeblur.cli.adapt import Adapt
    from metadeblur.cli.evaluate import Evaluate
    from metadeblur.cli.flags import AdaptationFlags
    from metadeblur.cli.restore import OutputFlags, Restore
    from metadeblur.pipeline.run import RunSettings
    from metadeblur.types import Codec

    restore, adapt = Restore(inputs=[Path("x")]), Adapt(Path("x"))
    assert restore.run_settings() == RunSettings(first_look=True)
    wanted = AdaptSettings(device="auto")
    assert Evaluate(Path("x")).adapt_settings() == wanted
    assert restore.run_settings().adaptation == adapt.adapt_settings() == wanted
    assert set(typing.get_args(typing.get_type_hints(OutputFlags)["codec"])) == set(typing.get_args(Codec))
    for choice in typing.get_args(typing.get_type_hints(AdaptationFlags)["reblur"]):
        AdaptSettings(reblur=choice)


def test_flags_reach_the_settings():
    words = (
        "restore a.mp4 b.mp4 -o out --no-adapt --no-guard --no-fuse --pairs 3 --steps 4 --lr 1e-3 --budget 9 --seed 5"
    )
    words += " --device cpu --tile 128 --precision fp32 --codec h265 --quality lossless --preview 2.5 --resume"
    words += " --json - --report r --start 1:02 --end 70.5"
    command = parse(words.split())
    settings = command.run_settings()
    assert command.inputs == [Path("a.mp4"), Path("b.mp4")]
    assert (command.output, command.files.json, command.files.report) == (Path("out"), Path("-"), Path("r"))
    assert (settings.adapt, settings.preview_seconds, settings.resume) == (False, 2.5, True)
    assert (settings.part.start, settings.part.end) == (62.0, 70.5)
    adaptation = settings.adaptation
    assert (adaptation.pairs, adaptation.steps, adaptation.lr, adaptation.seed) == (3, 4, 1e-3, 5)
    assert not adaptation.fuse
    assert (adaptation.budget_seconds, adaptation.guard, adaptation.device) == (9, False, "cpu")
    assert (settings.restoration.tile, settings.restoration.precision) == (128, "fp32")
    assert (settings.encoding.codec, settings.encoding.quality) == ("h265", "lossless")
    assert parse(["restore", "a.mp4", "--quality", "20"]).run_settings().encoding.quality == 20


def test_a_settings_file_gives_defaults_and_flags_win(tmp_path):
    path = tmp_path / "training.toml"
    path.write_text('clips = ["a", "b"]\nbatch = 3\noutput = "here"\npatch = 64\nsteps = 8\n[loop]\nwarmup = 5\n')
    command = parse(["train", "deblur", "--config", str(path), "--batch", "4"])
    settings = command.settings
    assert (settings.clips, settings.batch, settings.patch) == (("a", "b"), 4, 64)
    assert (settings.loop.steps, settings.loop.warmup, command.output) == (8, 5, Path("here"))
    assert parse(["train", "deblur", f"--config={path}"]).settings.batch == 3
    for text, said in (("clip = 3", "no setting 'clip'"), ("clips = [", "training.toml")):
        path.write_text(text)
        with pytest.raises(UsageError, match=said):
            parse(["train", "deblur", "--config", str(path)])


@pytest.mark.slow
def test_doctor_models_and_weights_print_facts(capsys):
    assert run("doctor") == 0
    facts = capsys.readouterr().out
    for word in ("torch", "libx264", "native bf16", "memory", "device"):
        assert word in facts
    assert run("models", "lite", "mimo-unet") == 0
    listed = capsys.readouterr().out
    assert "lite            video, 5 frames" in listed
    assert "multiply-adds of one frame" in listed
    assert "metadeblur weights import mimo-unet FILE" in listed
    assert run("models", "lite", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["weights"] == "built in"
    assert run("models", "lit") == 1
    assert "models are lite, " in capsys.readouterr().err
    assert run("weights", "list") == 0
    listed = capsys.readouterr().out
    assert "lite.safetensors" in listed
    assert "metadeblur weights import mprnet FILE" in listed


def test_demo_prints_the_figures(tmp_path, monkeypatch, capsys):
    import metadeblur.pipeline.demo

    rows = {"blurred": 25.0, "base": 26.0, "adapted": 26.5}
    result = {"psnr": rows, "ssim": dict.fromkeys(rows, 0.8), "files": ["report/index.html"]}
    monkeypatch.setattr(
        metadeblur.pipeline.demo, "run_demo", lambda directory, _, **__: result | {"directory": directory}
    )
    assert run("demo", tmp_path) == 0
    out = capsys.readouterr().out
    assert "adapted" in out
    assert "26.50" in out
    assert "report/index.html" in out


def test_demo_films_a_clip_to_be_restored_by_hand(tmp_path, capsys):
    size = ("--frames", "6", "--width", "96", "--height", "64")
    assert run("demo", tmp_path / "clip", "--film", *size) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "clip" / "shaky.mp4")
    assert sorted(path.name for path in (tmp_path / "clip").iterdir()) == ["shaky.mp4", "sharp"]
    blurred, sharp = (md.read_clip(tmp_path / "clip" / name) for name in ("shaky.mp4", "sharp"))
    assert [(len(clip), clip.height, clip.width) for clip in (blurred, sharp)] == [(6, 64, 96)] * 2
    assert run("demo", tmp_path / "clip", "--film", "--width", "641") == 2
    assert "--width is 641; give a whole number from 32 to 640" in capsys.readouterr().err


def test_weights_verify_finds_a_damaged_file(tmp_path, monkeypatch, capsys):
    import metadeblur.models.weights as weights

    assert run("weights", "verify") == 0
    original = weights.built_in_path("lite")
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"lite{suffix}").write_bytes(original.with_suffix(suffix).read_bytes())
    damaged = tmp_path / "lite.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\0\0\0\1")
    monkeypatch.setattr(weights, "built_in_path", lambda name: tmp_path / f"{name}.safetensors")
    assert run("weights", "verify") == 1
    assert "its checksum is" in capsys.readouterr().err


class _FullDisk(io.RawIOBase):
    """Takes nothing until there is room."""

    room = False

    def writable(self) -> bool:
        return True

    def write(self, data: typing.Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


@pytest.mark.parametrize(("fails", "said"), [(False, "error: the disk is full"), (True, "error: too dark")])
def test_what_is_left_to_print_on_a_full_disk_ends_in_one_line(fails, said, monkeypatch, capsys):
    def dispatch(_):
        print("begun")
        if fails:
            raise MetadeblurError("too dark")
        return 0

    disk = _FullDisk()
    monkeypatch.setattr("metadeblur.cli.entry._dispatch", dispatch)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(disk)))
    assert main(["models"]) == 1
    disk.room = True
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]

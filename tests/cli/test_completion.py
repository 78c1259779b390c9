"""Completion in shells: bash runs its script here; those of zsh and fish are run where these shells are."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from journey import run

from metadeblur.cli.completion import every_command
from metadeblur.cli.entry import COMMANDS

ASK = """
source {script}
COMP_WORDS=({words}); COMP_CWORD={last}; COMP_LINE=; COMP_POINT=0
_metadeblur 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    from metadeblur.cli.completion import bash

    path = tmp_path_factory.mktemp("completion") / "metadeblur.bash"
    path.write_text(bash(every_command()))
    return path


def completed(script: Path, *words: str) -> list[str]:
    """What bash would offer for the last word."""
    text = ASK.format(script=script, words=shlex.join(["metadeblur", *words]), last=len(words))
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


@needs_bash
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("re",), ["restore", "reproduce"]),
        (("train", ""), ["deblur", "reblur", "meta"]),
        (("weights", "v"), ["verify"]),
        (("restore", "--skip"), ["--skip-existing"]),
        (("restore", "a.mp4", "--no-a"), ["--no-adapt"]),
        (("restore", "--effort", ""), ["quick", "balanced", "best"]),
        (("restore", "--effort", "=", "b"), ["balanced", "best"]),
        (("restore", "--preset", "ar"), ["archive"]),
        (("restore", "--model", "mimo"), ["mimo-unet", "mimo-unet-plus"]),
        (("train", "meta", "--algo"), ["--algorithm"]),
        (("train", "meta", "--algorithm", "r"), ["reptile"]),
        (("evaluate", "builtin", "--layout", "re"), ["reds", "realblur"]),
        (("reproduce", "fig"), ["figure5", "figure6"]),
        (("presets", "low"), ["low-memory"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("restore", ""), []),  # then bash completes names of files
        (("restore", "-o", ""), []),
        (("restore", "--steps", ""), []),
    ],
)
def test_bash_offers(script, words, offered):
    assert completed(script, *words) == offered


@needs_bash
def test_bash_offers_every_command_and_flag(script):
    assert {name.split()[0] for name in COMMANDS} <= set(completed(script, ""))
    for name, words in every_command().items():
        offered = set(completed(script, *name.split(), "-"))
        assert {one for flag in words.flags for one in flag.names} == offered, name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script_that_it_can_read(shell, tmp_path, capsys):
    assert run("completion", shell) == 0
    text = capsys.readouterr().out
    for word in ("restore", "skip-existing", "h265", "meta"):
        assert word in text
    (tmp_path / "script").write_text(text)
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", tmp_path / "script"], check=False).returncode == 0

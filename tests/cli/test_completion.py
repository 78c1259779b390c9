"""Completion in shells: each runs its script where it is installed."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
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


ELSEWHERE = [
    ("re", ["restore", "reproduce"]),
    ("train ", ["deblur", "reblur", "meta"]),
    ("weights v", ["verify"]),
    ("restore --skip", ["--skip-existing"]),
    ("restore --effort ", ["quick", "balanced", "best"]),
    ("restore --model m", ["mimo-unet", "mimo-unet-plus", "maxim"]),
    ("train meta --algorithm r", ["reptile"]),
    ("presets low", ["low-memory"]),
    ("completion ", ["bash", "zsh", "fish"]),
    ("restore -o f", ["film.mp4"]),
    ("restore --model f", ["film.mp4"]),
    ("restore f", ["film.mp4"]),
]
"""What is typed, and some of what Tab must offer then, in a folder with a film."""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shells")
    for shell, name in (("zsh", "_metadeblur"), ("fish", "metadeblur.fish")):
        with (folder / name).open("w") as file, contextlib.redirect_stdout(file):
            assert run("completion", shell) == 0
    (folder / "film.mp4").touch()
    return folder


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
@pytest.mark.parametrize(("typed", "offered"), ELSEWHERE)
def test_fish_offers(scripts, typed, offered):
    asked = f"source metadeblur.fish; complete -C {shlex.quote(f'metadeblur {typed}')}"
    done = subprocess.run(["fish", "-c", asked], cwd=scripts, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert set(offered) <= {line.split("\t")[0] for line in done.stdout.splitlines()}


class Terminal:
    """zsh at a terminal, as a person has it."""

    def __init__(self, folder: Path) -> None:
        import pty

        pid, self._end = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.execvpe("zsh", ["zsh", "-f"], {**os.environ, "TERM": "dumb", "PS1": "> "})
        self.type("fpath=($PWD $fpath); autoload -U compinit; compinit -u -D; stty columns 200; echo re''ady\n")
        assert "ready" in self.read(["ready"])

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def read(self, awaited: list[str]) -> str:
        """What is shown until all of some words are there, or nothing has come for ten seconds."""
        shown, until = "", time.monotonic() + 10
        while not all(word in shown for word in awaited) and time.monotonic() < until:
            if select.select([self._end], [], [], 0.1)[0]:
                shown += os.read(self._end, 65536).decode(errors="replace")
        return shown


@pytest.fixture(scope="module")
def terminal(scripts) -> Iterator[Terminal]:
    terminal = Terminal(scripts)
    yield terminal
    terminal.type("\x03exit\n")


@pytest.mark.skipif(shutil.which("zsh") is None or sys.platform == "win32", reason="there is no zsh here")
@pytest.mark.parametrize(("typed", "offered"), ELSEWHERE)
def test_zsh_offers(terminal, typed, offered):
    terminal.type(f"\x15metadeblur {typed}\t\t")
    shown = terminal.read([*offered])
    terminal.type("\x15")
    for word in offered:
        assert word in shown, shown
    assert "(eval)" not in shown

"""Runs that are killed, and damaged files: what is left must go on to the same result, or be refused in one line.

Run:  python benchmarks/robustness.py [kills] [stops] [mutants] [--random 100] [--mutants 500] [--seed 0] [--short]

  kills    each command is killed (SIGKILL) after every operation on a file, and at random times; the same command with
           --resume must then end with the same files, byte for byte, and leave nothing else behind
  stops    each command is asked to end (SIGTERM) after every operation on a file; it must say so and leave nothing but
           finished shots, and with --resume end with the same files
  mutants  changed files of every kind are given to the command (benchmarks/mutants.py)

Commands run in forked copies of this process, on clips of 64x48. An operation is what changes names or makes files:
open for writing, rename, remove, link, make or remove a folder, and each time something is flushed to the disk. Writes
docs/results/robustness.md (-o: another file), and ends with exit code 1 where anything went wrong. --short: a few of
each, as the suite runs them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from metadeblur.cli.entry import main as command
from metadeblur.models.lite import Lite
from metadeblur.models.weights import save_deblurrer
from metadeblur.system.json_files import provenance

PAGE = Path(__file__).parents[1] / "docs" / "results" / "robustness.md"
SIDES = 48, 64  # height, width
PATIENCE = 600.0  # seconds that a command may take, on a machine that does much else
MODES = ("kills", "stops", "mutants")
_TIMES = {"seconds", "checksum", "commit"}  # entries of records that differ from run to run
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}

Files = dict[str, Any]
"""What is in a folder by name, as far as it must be the same each time."""


@dataclass(frozen=True)
class Scenario:
    """One command, in a folder with its input."""

    name: str
    words: str
    resume: str  # the word that has it go on
    make: Callable[[Path], None]  # writes the input into an empty folder
    loose: Sequence[str] = ()  # outputs that hold times and the like; they must be there, and be readable
    kept: str = ""  # what may stay behind of a command that is asked to end


# --- small inputs --------------------------------------------------------------------------------------------------


def scene(count: int, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    """Frames (H, W, 3) of a random picture that moves, blurred along its motion."""
    chance = np.random.default_rng(seed)
    wide = chance.integers(40, 220, (SIDES[0] // 4 + 8, SIDES[1] // 4 + 8 + count, 3)).astype(np.float32)
    wide = cv2.resize(wide, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    for number in range(count):
        steps = [wide[4 : 4 + SIDES[0], 2 * number + part : 2 * number + part + SIDES[1]] for part in range(3)]
        yield np.mean(steps, axis=0).clip(0, 255).astype(np.uint8)


def video(folder: Path) -> None:
    """A clip of two shots with sound, and a very small network."""
    model(folder)
    with av.open(str(folder / "in.mp4"), "w") as container:
        pictures = container.add_stream("libx264", rate=25, options={"crf": "10"})
        pictures.width, pictures.height, pictures.pix_fmt = SIDES[1], SIDES[0], "yuv420p"
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        for seed in (0, 1):
            for frame in scene(6, seed):
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(pictures.encode(None))
        tone = (np.sin(np.arange(7680) / 9) * 8000).astype(np.int16)[None]
        heard = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        heard.rate = 16_000
        container.mux(sound.encode(heard))
        container.mux(sound.encode(None))


def frames(folder: Path) -> None:
    """A folder of pictures, and one of an earlier restoration that is to be replaced."""
    model(folder)
    for name in ("in", "out"):
        (folder / name).mkdir()
        for number, frame in enumerate(scene(4, 2)):
            cv2.imwrite(str(folder / name / f"{number}.png"), frame)


def paired(folder: Path) -> None:
    """Two paired clips."""
    model(folder)
    for seed, clip in enumerate(("one", "two")):
        for side in ("blur", "sharp"):
            (folder / "in" / clip / side).mkdir(parents=True)
        for number, frame in enumerate(scene(6, seed)):
            cv2.imwrite(str(folder / "in" / clip / "sharp" / f"{number:03d}.png"), frame)
            cv2.imwrite(str(folder / "in" / clip / "blur" / f"{number:03d}.png"), cv2.blur(frame, (5, 1)))


def photograph(folder: Path) -> None:
    """A picture to make clips of."""
    (folder / "in").mkdir()
    wide = cv2.resize(next(scene(1, 3)), (320, 240), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "in" / "a.png"), wide)


def model(folder: Path) -> None:
    """A network of next to no work."""
    torch.manual_seed(0)
    net = Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,))
    torch.nn.init.normal_(net.head.weight, std=0.002)
    save_deblurrer(net, folder / "small.safetensors", {"architecture": "lite"})


_SMALL = "--model small.safetensors --tile 0 --precision fp32 --device cpu"
_LEARNS = "--steps 2 --pairs 2"
_OUTPUTS = "-o out.mp4 --side-by-side side.mkv --report report --json record.json --preview 0.1"
_TRAINS = "--batch 1 --patch 32 --steps 3 --warmup 1 --log-steps 1 --validate-steps 2 --checkpoint-minutes 0"

SCENARIOS = (
    Scenario(
        "restore a video, all outputs",
        f"restore in.mp4 {_OUTPUTS} --no-guard {_LEARNS} {_SMALL}",
        "--resume",
        video,
        loose=("report/index.html", "record.json"),
        kept=".out.mp4.metadeblur-parts",
    ),
    Scenario(
        "restore a folder of pictures over another",
        f"restore in -o out --overwrite --no-adapt --no-guard {_SMALL}",
        "--resume",
        frames,
        kept=".out.metadeblur-parts",
    ),
    Scenario(
        "adapt",
        f"adapt in.mp4 -o out.safetensors --json record.json --no-guard {_LEARNS} {_SMALL.replace('--tile 0', '')}",
        "",
        video,
        loose=("record.json",),
    ),
    Scenario(
        "evaluate",
        f"evaluate in -o out --rows base,adapted --clips one {_LEARNS} {_SMALL}",
        "--resume",
        paired,
        loose=("out/index.html",),
        kept="out",
    ),
    Scenario(
        "synth",
        "synth in -o out --clips 2 --frames 2 --width 64 --height 48",
        "",
        photograph,
        kept="out",
    ),
    Scenario(
        "train deblur",
        f"train deblur -o out --clips in --validation in --start small.safetensors {_TRAINS} --precision fp32",
        "--resume",
        paired,
        loose=("out/curves.html", "out/log.csv", "out/validation.csv", "out/checkpoint.pt", "out/checkpoint-before.pt"),
        kept="out",
    ),
)


# --- one run -------------------------------------------------------------------------------------------------------


class Operations:
    """Counts what a process does to files, and sends it a signal at one of these operations."""

    def __init__(self, log: Path, at: int = 0, number: int = 0) -> None:
        self.log, self.at, self.number, self.count = log, at, number, 0

    def watch(self) -> None:
        """Begin; there is no end but that of the process."""
        flush, opened = os.fsync, av.open

        def flushed(descriptor: int) -> None:
            self.step()
            flush(descriptor)

        def media(file: Any, mode: str | None = None, *words: Any, **options: Any) -> Any:
            if mode == "w":  # FFmpeg makes the file
                self.step()
            return opened(file, mode, *words, **options)

        os.fsync, av.open = flushed, media  # type: ignore[assignment]
        sys.addaudithook(self._hear)

    def _hear(self, event: str, values: tuple[Any, ...]) -> None:
        made = event == "open" and isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (made and values[0] != str(self.log) and not isinstance(values[0], int)) or event in _CHANGES:
            self.step()

    def step(self) -> None:
        """One operation is about to be done, so the last one has been."""
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), self.number)


def begin(words: str, folder: Path, at: int = 0, number: int = 0) -> int:
    """Start a command in a copy of this process; at an operation it gets a signal. Returns the process."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.chdir(folder / "work")
        said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        tempfile.tempdir = str(folder / "temporary")
        operations = Operations(folder / "said", at, number)
        operations.watch()
        code = command(words.split())
        if not at:
            (folder / "operations").write_text(str(operations.count))
            (folder / "modules").write_text("\n".join(sys.modules))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(process: int, seconds: float = PATIENCE) -> int | None:
    """Wait for a process: its exit code, minus the signal that ended it, or None where it does not end."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def fresh(scenario: Scenario, folder: Path) -> None:
    """The folders that a command finds before its first run."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    shutil.rmtree(folder / "temporary", ignore_errors=True)
    (folder / "temporary").mkdir(parents=True)
    if not (folder / "input").exists():
        (folder / "input").mkdir()
        scenario.make(folder / "input")
    shutil.copytree(folder / "input", folder / "work", copy_function=shutil.copy2)


def found(scenario: Scenario, folder: Path) -> Files:
    """What is there after a run: files by name; of those that hold times only that they are whole."""
    there: Files = {f"temporary/{path.name}": "" for path in (folder / "temporary").glob("*metadeblur*")}
    for path in sorted((folder / "work").rglob("*")):
        name = path.relative_to(folder / "work").as_posix()
        if path.is_dir():
            there[f"{name}/"] = ""
        elif name in scenario.loose:
            there[name] = path.stat().st_size > 0 and (path.suffix != ".json" or bool(json.loads(path.read_bytes())))
        elif path.suffix == ".json":
            there[name] = timeless(json.loads(path.read_bytes()))
        else:
            there[name] = path.read_bytes()
    return there


def timeless(value: Any) -> Any:
    """A record without what differs from run to run."""
    if isinstance(value, dict):
        return {
            k: timeless(v) for k, v in value.items() if k not in ("seconds", "checksum", "commit") and "memory" not in k
        }
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


# --- many runs -----------------------------------------------------------------------------------------------------


class Trial:
    """All runs of one command.

    Attributes:
        operations: how many a whole run does to files.
        seconds: that it takes.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder
        folder.mkdir(parents=True)
        fresh(scenario, folder)
        before = found(scenario, folder)
        code = ended(begin(scenario.words, folder))
        if code != 0:
            raise RuntimeError(f"{scenario.name} ends with {code}: {self._said()}")
        self.expected = found(scenario, folder)
        self.before = before
        self.operations = int((folder / "operations").read_text())
        for name in (folder / "modules").read_text().splitlines():  # once, not in every copy of this process
            with suppress(Exception):
                importlib.import_module(name)
        began = time.monotonic()
        fresh(scenario, folder)
        ended(begin(scenario.words, folder))
        self.seconds = time.monotonic() - began

    def killed_at(self, operation: int) -> str:
        """Kill after an operation and go on; returns what is wrong then, or nothing."""
        fresh(self.scenario, self.folder)
        ended(begin(self.scenario.words, self.folder, operation, signal.SIGKILL))
        return self._goes_on()

    def killed_after(self, seconds: float) -> str:
        """Kill after some time and go on."""
        fresh(self.scenario, self.folder)
        process = begin(self.scenario.words, self.folder)
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        ended(process)
        return self._goes_on()

    def stopped_at(self, operation: int) -> str:
        """Ask to end after an operation, look what is left, and go on."""
        fresh(self.scenario, self.folder)
        code = ended(begin(self.scenario.words, self.folder, operation, signal.SIGTERM))
        if code == 0:  # it was about to end
            return self._differs(self.expected)
        last = self._said().splitlines()[-1:]
        if code != 1 or not last or not last[0].startswith("metadeblur: stopped"):
            return f"exit code {code}, said {last}"
        there, kept = found(self.scenario, self.folder), self.scenario.kept
        left = [
            name
            for name in there
            if there[name] != self.before.get(name)
            and there[name] != self.expected.get(name)
            and not (kept and name.startswith(kept) and "unfinished" not in name and "lock" not in name)
        ]
        return f"left behind: {', '.join(left)}" if left else self._goes_on()

    def _goes_on(self) -> str:
        code = ended(begin(f"{self.scenario.words} {self.scenario.resume}", self.folder))
        return f"exit code {code}: {self._said()}" if code != 0 else self._differs(self.expected)

    def _differs(self, expected: Files) -> str:
        there = found(self.scenario, self.folder)
        names = [name for name in {**expected, **there} if expected.get(name) != there.get(name)]
        return f"not the same: {', '.join(names)}" if names else ""

    def _said(self) -> str:
        return (self.folder / "said").read_text(errors="replace").strip()


def try_all(runs: Sequence[tuple[str, Callable[[], str]]], name: str) -> list[str]:
    """What went wrong among many runs."""
    wrong = []
    for number, (title, run) in enumerate(runs):
        fault = run()
        if fault:
            wrong.append(f"{name}, {title}: {fault}")
            print(wrong[-1], file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print(f"\r{name}: {number + 1} of {len(runs)} ", end="", file=sys.stderr, flush=True)
    return wrong


def some(count: int, most: int | None) -> list[int]:
    """The numbers from 1 to a count, or as many of them, evenly.

    >>> some(100, 3)
    [1, 50, 100]
    """
    if most is None or count <= most:
        return list(range(1, count + 1))
    return sorted({round(1 + (count - 1) * number / max(1, most - 1)) for number in range(most)})


# --- the page ------------------------------------------------------------------------------------------------------


def write_page(path: Path, sections: dict[str, str]) -> None:
    """Write the sections that were made anew into the page; the others stay."""
    title = "# Robustness: killed runs and damaged files\n"
    about = "Written by `benchmarks/robustness.py`, whose head says what is done.\n"
    kept = {}
    if path.exists():
        for part in path.read_text(encoding="utf-8").split("\n## ")[1:]:
            name, _, text = part.partition("\n")
            kept[name] = text.strip()
    kept |= sections
    order = [name for name in ("Killed", "Asked to end", "Damaged files") if name in kept]
    text = "".join(f"\n## {name}\n\n{kept[name]}\n" for name in order)
    path.write_text(f"{title}\n{about}{text}", encoding="utf-8")


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)


def where() -> str:
    """On what it was measured."""
    processor = torch.backends.cpu.get_cpu_capability()
    return f"{provenance()}, PyTorch {torch.__version__}, {platform.system()}, {processor}"


def run_kills(trials: Sequence[Trial], most: int | None, at_random: int, seed: int) -> tuple[str, list[str]]:
    """The section of the page, and what went wrong."""
    chance, lines, wrong = random.Random(seed), [], []
    drawn = Counter(number % len(trials) for number in range(at_random))
    for number, trial in enumerate(trials):
        runs = [(f"operation {at}", partial(trial.killed_at, at)) for at in some(trial.operations, most)]
        moments = [chance.uniform(0, trial.seconds) for _ in range(drawn[number])]
        timed = [(f"after {moment:.2f} s", partial(trial.killed_after, moment)) for moment in moments]
        faults = try_all(runs, trial.scenario.name), try_all(timed, trial.scenario.name)
        same = [f"{len(done) - len(bad)} of {len(done)}" for done, bad in zip((runs, timed), faults, strict=True)]
        lines.append([trial.scenario.name, trial.operations, *same])
        wrong += [*faults[0], *faults[1]]
    head = ["command", "operations on files", "killed after each: same result", "killed at random times: same result"]
    return f"{table(head, lines)}\n\n{where()}.", wrong


def run_stops(trials: Sequence[Trial], most: int | None) -> tuple[str, list[str]]:
    """The same for commands that are asked to end."""
    lines, wrong = [], []
    for trial in trials:
        runs = [(f"operation {at}", partial(trial.stopped_at, at)) for at in some(trial.operations, most)]
        faults = try_all(runs, trial.scenario.name)
        lines.append([trial.scenario.name, trial.operations, f"{len(runs) - len(faults)} of {len(runs)}"])
        wrong += faults
    head = ["command", "operations on files", "asked to end after each: nothing left, same result"]
    return f"{table(head, lines)}\n\n{where()}.", wrong


def run_mutants(count: int, seed: int, folder: Path) -> tuple[str, list[str]]:
    """The same for damaged files."""
    import mutants

    counts = mutants.run(count, seed, folder)
    wrong = [f"{counts['wrong']} damaged files; see {folder}"] if counts["wrong"] else []
    return f"{table(['outcome', 'files'], list(counts.items()))}\n\n{count} files, seed {seed}; {where()}.", wrong


def main() -> int:
    """Run what was asked for; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"{', '.join(MODES)}; default: all")
    parser.add_argument("--random", type=int, default=100, help="kills at random times")
    parser.add_argument("--mutants", type=int, default=500, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands whose name holds this")
    parser.add_argument("--short", action="store_true", help="a few of each; no page is written")
    parser.add_argument("-o", "--output", type=Path, default=PAGE)
    options = parser.parse_args()
    strange = set(options.modes) - set(MODES)
    if strange:
        parser.error(f"modes are {', '.join(MODES)}, not {strange.pop()}")
    modes = options.modes or MODES
    torch.set_num_threads(1)  # threads are not there in a forked process
    cv2.setNumThreads(0)
    sections, wrong = {}, []
    with tempfile.TemporaryDirectory(prefix="robustness-") as name:
        chosen = [scenario for scenario in SCENARIOS if options.only in scenario.name]
        asked = chosen if set(modes) & {"kills", "stops"} else []
        trials = [Trial(scenario, Path(name) / str(number)) for number, scenario in enumerate(asked)]
        if "kills" in modes:
            few = (3, len(trials)) if options.short else (None, options.random)
            sections["Killed"], faults = run_kills(trials, *few, options.seed)
            wrong += faults
        if "stops" in modes:
            sections["Asked to end"], faults = run_stops(trials, 2 if options.short else None)
            wrong += faults
        if "mutants" in modes:
            count = 12 if options.short else options.mutants
            sections["Damaged files"], faults = run_mutants(count, options.seed, Path(name) / "mutants")
            wrong += faults
    if options.short or options.only:
        print("\n\n".join(sections.values()))
    else:
        write_page(options.output, sections)
    for fault in wrong:
        print(f"wrong: {fault}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

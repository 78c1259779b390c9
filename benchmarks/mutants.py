"""Damaged files: small good files of every kind are changed at random, and the command has to do well by each.

Run:  python benchmarks/mutants.py -o FOLDER [--count 500] [--seed 0]

Files: videos (mp4, mkv, avi, ts, gif, webm, mov), folders of pictures (PNG, TIFF, JPEG), weights (safetensors, PyTorch
checkpoint in both formats), a settings file, paired clips, a record that evaluate --resume keeps, a training's
checkpoint. Changes: bytes flipped, cut off, put in, blocks swapped or zeroed, fields of the head set to values at their
limits; in text, numbers replaced and lines lost or doubled.

Each changed file is given to the command in a process of its own, with little memory and time, and ends as

  result   exit code 0, the output is there and can be read
  refused  exit code 1 or 2, one line that says why, and nothing written
  wrong    anything else: a crash, a traceback, Python's own words, several lines, no end, half an output, leftovers

The files that went wrong are kept in FOLDER/wrong, and FOLDER/mutants.json counts the outcomes of each kind.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from metadeblur.cli.entry import main as command
from metadeblur.models.lite import Lite
from metadeblur.models.mimo_unet import MIMOUNet
from metadeblur.models.weights import FOLDER_VARIABLE, save_deblurrer

OUTCOMES = ("result", "refused", "wrong")
SIDES = 48, 64  # height, width of the small files
FRAMES = 5
MEMORY = 3 << 30  # bytes that a process may take beyond what this one has
PROCESSOR_SECONDS = 60
PATIENCE = 600  # seconds on the clock, for a machine that does much else
_MANY = 100  # files from which on the good ones are tried first
_LATE = (  # rooms that commands enter late; here once, so that not every process has to
    *(f"metadeblur.cli.{name}" for name in ("restore", "evaluate", "train", "weights")),
    *(
        f"metadeblur.{name}"
        for name in ("pipeline.run", "pipeline.outputs", "models.importing", "evaluation.report", "evaluation.builtin")
    ),
    *("metadeblur.training.loop", "torch._dynamo", "scenedetect"),
)
_FILE_BYTES = 200 << 20  # that a process may write to one file
_FAST = ["--no-adapt", "--no-fuse", "--tile", "0", "--precision", "fp32"]
_RAW = re.compile(r"Traceback|METADEBLUR_DEBUG|\w+(Error|Exception)\b")  # Python's own words
_NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_STRANGE = (b"-1", b"0", b"1e999", b"nan", b'"x"', b"[]", b"null", b"99999999999999999999", b"1.5", b"true")


@dataclass(frozen=True)
class Kind:
    """One sort of file, and the command that it is given to."""

    name: str
    make: Callable[[Path], Path]  # writes good files into an empty folder; returns the one to change
    words: Sequence[str]  # of the command, run in that folder
    output: str = ""  # what the command writes there, if anything
    text: bool = False


@dataclass(frozen=True)
class Ended:
    """What became of a command."""

    code: int | None  # exit code; None: it did not end by itself
    said: str  # on standard error
    signal: int = 0  # that ended it


def run(count: int, seed: int, folder: Path) -> dict[str, int]:
    """Change files, as many in all, and give each to its command.

    Args:
        count: changed files; the kinds take turns.
        seed: of the changes.
        folder: to work in; ``mutants.json`` and the files that went wrong stay there.

    Returns:
        How many ended in each of :data:`OUTCOMES`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER_VARIABLE] = "imported"  # below the folder that a command works in
    torch.set_num_threads(1)  # threads are not there in a forked process
    cv2.setNumThreads(0)
    for room in _LATE:
        importlib.import_module(room)
    made = {kind.name: _made(kind, folder / "good" / kind.name) for kind in KINDS}
    for kind in KINDS if count >= _MANY else ():
        outcome, why = _outcome(kind, made[kind.name], None, folder / "work")
        if outcome != "result":
            raise RuntimeError(f"the good file of {kind.name} ends as {outcome}: {why}")
    tables: dict[str, Counter[str]] = {kind.name: Counter() for kind in KINDS}
    faults = []
    for number in range(count):
        kind, chance = KINDS[number % len(KINDS)], random.Random(f"{seed} {number}")
        good = made[kind.name].read_bytes()
        change, data = changed(good, chance, text=kind.text)
        outcome, why = _outcome(kind, made[kind.name], data, folder / "work")
        tables[kind.name][outcome] += 1
        if outcome == "wrong":
            kept = folder / "wrong" / f"{seed}-{number:04d}-{made[kind.name].name}"
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(data)
            faults.append({"number": number, "kind": kind.name, "change": change, "why": why, "file": kept.name})
            print(f"{number} {kind.name} {change}: {why}", file=sys.stderr, flush=True)
    total: Counter[str] = Counter()
    for table in tables.values():
        total.update(table)
    counts = {outcome: total[outcome] for outcome in OUTCOMES}
    by_kind = {name: {outcome: table[outcome] for outcome in OUTCOMES} for name, table in tables.items()}
    about = {"count": count, "seed": seed, "outcomes": counts, "kinds": by_kind, "wrong": faults}
    (folder / "mutants.json").write_text(json.dumps(about, indent=2) + "\n")
    shutil.rmtree(folder / "work", ignore_errors=True)
    return counts


def changed(data: bytes, chance: random.Random, *, text: bool = False) -> tuple[str, bytes]:
    """A changed copy of a file, and what was done to it."""
    ways = (_numbers, _lines, _flipped, _cut, _put_in) if text else (_flipped, _cut, _put_in, _swapped, _zeroed, _field)
    way = chance.choice(ways)
    result = way(bytearray(data), chance)
    return way.__name__.strip("_").replace("_", " "), bytes(result)


def _flipped(data: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 1, 3, 20))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def _cut(data: bytearray, chance: random.Random) -> bytearray:
    start = chance.randrange(len(data))
    return data[:start] + (data[start + chance.randrange(1, 400) :] if chance.random() < 0.5 else b"")


def _put_in(data: bytearray, chance: random.Random) -> bytearray:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.randbytes(chance.choice((1, 4, 100))) + data[place:]


def _swapped(data: bytearray, chance: random.Random) -> bytearray:
    size = min(chance.choice((4, 64, 1024)), len(data) // 2)
    one, other = sorted(chance.randrange(len(data) - size + 1) for _ in range(2))
    piece = data[one : one + size]
    data[one : one + size] = data[other : other + size]
    data[other : other + size] = piece
    return data


def _zeroed(data: bytearray, chance: random.Random) -> bytearray:
    size = chance.choice((4, 64, 1024))
    place = chance.randrange(len(data))
    data[place : place + size] = bytes(len(data[place : place + size]))
    return data


def _field(data: bytearray, chance: random.Random) -> bytearray:
    """A number in the head or at the end set to a value at its limits."""
    size = chance.choice((1, 2, 4, 8))
    value = chance.choice((0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1))
    place = chance.randrange(min(len(data), 600))
    if chance.random() < 0.3:
        place = len(data) - 1 - place
    data[place : place + size] = value.to_bytes(size, chance.choice(("big", "little")))
    return data


def _numbers(data: bytearray, chance: random.Random) -> bytearray:
    places = list(_NUMBER.finditer(bytes(data)))
    if not places:
        return _flipped(data, chance)
    found = chance.choice(places)
    return data[: found.start()] + chance.choice(_STRANGE) + data[found.end() :]


def _lines(data: bytearray, chance: random.Random) -> bytearray:
    lines = bytes(data).splitlines(keepends=True)
    place = chance.randrange(len(lines))
    lines[place : place + 1] = [] if chance.random() < 0.5 else [lines[place]] * 2
    return bytearray(b"".join(lines))


def _outcome(kind: Kind, good: Path, data: bytes | None, work: Path) -> tuple[str, str]:
    """How the command ends for one changed file (None: the good one), and why that is wrong."""
    shutil.rmtree(work, ignore_errors=True)
    root = good.parents[_NESTED.get(kind.name, 0)]
    shutil.copytree(root, work)
    if data is not None:
        (work / good.relative_to(root)).write_bytes(data)
    before = _files(work)
    ended = in_child(lambda: command(list(kind.words)), work)
    added = sorted(_files(work) - before)
    output = kind.output
    strange = [name for name in added if not output or name.split("/")[0] != output]
    errors = [line for line in ended.said.splitlines() if line.strip()]
    if ended.code is None:
        return "wrong", f"ended by signal {ended.signal}, or not at all: {ended.said[-500:]}"
    if ended.code not in (0, 1, 2):
        return "wrong", f"exit code {ended.code}: {ended.said[-500:]}"
    if _RAW.search(ended.said):
        return "wrong", f"Python's own words: {ended.said[-1500:]}"
    if strange:
        return "wrong", f"left behind: {', '.join(strange[:5])} ({ended.said[-300:]})"
    if ended.code:
        told = [line for line in errors if line.startswith("metadeblur: ")]
        if len(told) != 1 or len(errors) > 1 + sum(map(_is_progress, errors)):
            return "wrong", f"{len(errors)} lines: {ended.said[-800:]}"
        if kind.words[0] == "restore" and added:
            return "wrong", f"an output in spite of an error: {', '.join(added[:5])}"
        return "refused", told[0]
    return ("result", "") if not output or _readable(work / output) else ("wrong", f"{output} cannot be read")


def _is_progress(line: str) -> bool:
    """Whether a line tells what is being done, or what was found; errors say so themselves."""
    return not line.startswith("metadeblur: ") and ("expected time" in line or line.startswith(("note:", "measuring")))


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def _readable(output: Path) -> bool:
    """Whether an output is there, and all of it can be read."""
    files = [path for path in output.rglob("*") if not path.is_dir()] if output.is_dir() else [output]
    if not files or not all(path.is_file() and path.stat().st_size for path in files):
        return False
    if output.suffix not in (".mkv", ".mp4"):
        return True
    with suppress(av.FFmpegError), av.open(str(output)) as opened:
        return sum(1 for _ in opened.decode(video=0)) > 0
    return False


def in_child(call: Callable[[], int], folder: Path) -> Ended:
    """What becomes of a call in a process of its own that has little memory and time.

    Args:
        call: returns an exit code.
        folder: in which it works.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _as_child(call, folder, writing)
    os.close(writing)
    said, until = b"", time.monotonic() + PATIENCE
    try:
        while select.select([reading], [], [], max(until - time.monotonic(), 0))[0]:
            piece = os.read(reading, 1 << 16)
            if not piece:
                break
            said = (said + piece)[-100_000:]
        else:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(reading)
    _, status = os.waitpid(child, 0)
    text = said.decode(errors="backslashreplace")
    if os.WIFSIGNALED(status):
        return Ended(None, text, os.WTERMSIG(status))
    return Ended(os.WEXITSTATUS(status), text)


def _as_child(call: Callable[[], int], folder: Path, writing: int) -> None:
    """The child's part; it never returns."""
    code = 70
    try:
        os.dup2(writing, 2)
        os.close(writing)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True, errors="backslashreplace")
        os.chdir(folder)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + PROCESSOR_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with redirect_stdout(io.StringIO()):
            code = call()
        sys.stderr.flush()
    except BaseException as error:
        print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def _made(kind: Kind, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return kind.make(folder)


def _pictures(count: int = FRAMES) -> list[np.ndarray]:
    """A picture that moves, blurred along its way: (H, W, 3), BGR."""
    chance = np.random.default_rng(0)
    height, width = SIDES
    scene = cv2.resize(
        chance.integers(30, 220, (20, 24, 3), dtype=np.uint8), (width + 60, height + 60), interpolation=cv2.INTER_CUBIC
    )
    frames = []
    for number in range(count):
        exposed = [scene[s + 2 * number :, s + 3 * number :][:height, :width].astype(np.float32) for s in range(3)]
        frames.append(np.mean(exposed, 0).astype(np.uint8))
    return frames


def _video(suffix: str, codec: str, pixels: str = "yuv420p") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"in.{suffix}"
        with av.open(str(path), "w") as target:
            stream = target.add_stream(codec, rate=25)
            stream.height, stream.width = SIDES
            stream.pix_fmt = pixels
            sound = target.add_stream("aac", rate=44100) if suffix in ("mp4", "mkv", "ts") else None
            for picture in _pictures():
                target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format=pixels)))
            target.mux(stream.encode())
            if sound is not None:
                hum = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
                hum.sample_rate = 44100
                target.mux(sound.encode(hum))
                target.mux(sound.encode())
        return path

    return make


def _folder_of(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "in").mkdir()
        for number, picture in enumerate(_pictures()):
            cv2.imwrite(str(folder / "in" / f"{number}.{suffix}"), picture)
        return folder / "in" / f"2.{suffix}"

    return make


def _frames_beside(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """The file to change, with a folder of two good frames beside it."""

    def make(folder: Path) -> Path:
        (folder / "in").mkdir()
        for number, picture in enumerate(_pictures(2)):
            cv2.imwrite(str(folder / "in" / f"{number}.png"), picture)
        return write(folder)

    return make


def _small_lite() -> Lite:
    torch.manual_seed(0)
    return Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,), fold=2)


def _safetensors(folder: Path) -> Path:
    save_deblurrer(_small_lite(), folder / "net.safetensors", {"architecture": "lite"})
    return folder / "net.safetensors"


def _checkpoint(folder: Path) -> Path:
    torch.save({"params": _small_lite().state_dict()}, folder / "net.pth")
    return folder / "net.pth"


def _older_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    state = MIMOUNet(blocks=1, channels=4).state_dict()
    torch.save({"model": state}, folder / "net.pkl", _use_new_zipfile_serialization=False)
    return folder / "net.pkl"


def _settings(folder: Path) -> Path:
    _clips(folder)
    lines = ['clips = ["clips"]', 'network = "mimo-unet-plus"', 'size = "small"', 'precision = "fp32"', "easy = 1.0"]
    lines += ["learning_rate = 1e-4", "ema = 0.9", "", "[loop]", "log_steps = 1", "warmup = 1", "seed = 3"]
    lines += ["checkpoint_minutes = 5.0", 'schedule = "cosine"', "floor = 0.1", "tensorboard = false"]
    (folder / "train.toml").write_text("\n".join(lines) + "\n")
    return folder / "train.toml"


def _clips(folder: Path) -> Path:
    """A paired clip, as synth writes it."""
    for side in ("blur", "sharp"):
        (folder / "clips" / "one" / side).mkdir(parents=True)
        for number, picture in enumerate(_pictures()):
            cv2.imwrite(str(folder / "clips" / "one" / side / f"{number:04d}.png"), picture)
    return folder / "clips" / "one" / "blur" / "0002.png"


_EVALUATE = ["evaluate", "clips", "-o", "out", "--rows", "blurred,base", "--model", "net.safetensors", "--tile", "0"]
_EVALUATE += ["--precision", "fp32", "--resume"]


def _record(folder: Path) -> Path:
    _clips(folder)
    _safetensors(folder)
    ended = in_child(lambda: command(_EVALUATE), folder)
    if ended.code:
        raise RuntimeError(ended.said)
    return folder / "out" / "one.json"


def _resumed(folder: Path) -> Path:
    """A training's checkpoint, after the first of two steps."""
    _settings(folder)
    ended = in_child(lambda: command([*_TRAIN, "--steps", "1"]), folder)
    if ended.code:
        raise RuntimeError(ended.said)
    return folder / "run" / "checkpoint.pt"


_NESTED = {"checkpoint": 1, "png folder": 1, "tiff folder": 1, "jpeg folder": 1, "paired clips": 3, "record": 1}
"""How many folders below the one that it works in the file to change lies, where it does."""

_SMALL = [*_FAST, "--model", "net.safetensors"]  # a network of next to no work
_RESTORE = ["restore", "in", "-o", "out", *_SMALL]
_TRAIN = ["train", "deblur", "--config", "train.toml", "--batch", "1", "--patch", "32", "-o", "run"]


def _with_net(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """The file to change, with the network's weights beside it."""

    def both(folder: Path) -> Path:
        _safetensors(folder)
        return make(folder)

    return both


def _video_kind(suffix: str, codec: str, pixels: str = "yuv420p") -> Kind:
    words = ["restore", f"in.{suffix}", "-o", "out.mkv", *_SMALL]
    return Kind(suffix, _with_net(_video(suffix, codec, pixels)), words, "out.mkv")


KINDS = (
    Kind("mp4", _video("mp4", "libx264"), ["restore", "in.mp4", "-o", "out.mkv", *_FAST], "out.mkv"),
    _video_kind("mkv", "ffv1"),
    Kind("png folder", _with_net(_folder_of("png")), _RESTORE, "out"),
    Kind("safetensors", _frames_beside(_safetensors), _RESTORE, "out"),
    Kind(
        "pytorch zip", _frames_beside(_checkpoint), ["restore", "in", "-o", "out", *_FAST, "--model", "net.pth"], "out"
    ),
    Kind("record", _record, _EVALUATE, "out", text=True),
    _video_kind("avi", "mpeg4"),
    _video_kind("ts", "mpeg2video"),
    _video_kind("gif", "gif", "rgb8"),
    _video_kind("webm", "libvpx-vp9"),
    _video_kind("mov", "prores_ks", "yuva444p10le"),
    Kind("tiff folder", _with_net(_folder_of("tif")), _RESTORE, "out"),
    Kind("jpeg folder", _with_net(_folder_of("jpg")), _RESTORE, "out"),
    Kind("pytorch, older", _older_checkpoint, ["weights", "import", "mimo-unet", "net.pkl"], "imported"),
    Kind("paired clips", _with_net(_clips), _EVALUATE, "out"),
    Kind("settings", _settings, [*_TRAIN, "--steps", "1"], "run", text=True),
    Kind("checkpoint", _resumed, [*_TRAIN, "--steps", "2", "--resume"], "run"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to work in")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    counts = run(flags.count, flags.seed, flags.output)
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.items()))
    sys.exit(counts["wrong"] > 0)


if __name__ == "__main__":
    main()

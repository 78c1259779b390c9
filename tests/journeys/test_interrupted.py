"""Runs that end before their time, files that change or are damaged meanwhile, and two runs at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cases import case
from journey import names, run, shaky, shaky_video, small_model
from listening import Lines
from media import make_frames
from torch import nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.data.settings import SynthSettings
from metadeblur.data.synthesis import synthesize
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.protocol import EvaluateSettings, evaluate
from metadeblur.models.weights import load_deblurrer, parameters_digest
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.resume import Parts, parts_folder
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.identity import identify
from metadeblur.system.interrupts import undisturbed
from metadeblur.system.locks import writing
from metadeblur.system.scratch import scratch_folder
from metadeblur.training import deblur
from metadeblur.training.deblur import train_deblur
from metadeblur.training.settings import DeblurTraining, LoopSettings

BASE = RunSettings(
    adapt=False, adaptation=AdaptSettings(guard=False), restoration=RestoreSettings(device="cpu", precision="fp32")
)


class Darker(nn.Module):
    """A network whose work can be seen, and during which something may happen."""

    def __init__(self, at=0, happens=lambda: None):
        super().__init__()
        calls = []

        def count():  # a function is shared by copies of the network
            calls.append(True)
            if len(calls) == at:
                happens()

        self.count = count

    def forward(self, x):
        self.count()
        return x * 0.5


def interrupt():
    raise KeyboardInterrupt


def bytes_of(path):
    """A file, or the files of a folder by name."""
    return {p.name: p.read_bytes() for p in path.iterdir()} if path.is_dir() else path.read_bytes()


def flip(path):
    """Change some bytes in the middle."""
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + min(200, len(data) // 4)):
        data[place] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {"flipped": flip, "cut short": cut, "empty": lambda path: path.write_bytes(b""), "gone": Path.unlink}


# --- parts that do not verify --------------------------------------------------------------------------------------


@pytest.fixture
def half(tmp_path):
    """A run of three shots, all outputs, stopped in the third; and what it gives without a disturbance."""
    video = shaky_video(tmp_path / "a.mp4", (6, 6, 9))
    job = Job(video, tmp_path / "b.mp4", tmp_path / "s.mp4", tmp_path / "r")
    restore_file(job, Darker(), BASE)
    expected = [job.output.read_bytes(), job.side_by_side.read_bytes()]
    job.output.unlink()
    job.side_by_side.unlink()
    with pytest.raises(KeyboardInterrupt):
        restore_file(job, Darker(17, interrupt), BASE)
    return job, parts_folder(job.output), expected


def goes_on(half):
    """Resume; returns what was said."""
    job, _, expected = half
    told = Lines()
    record = restore_file(job, Darker(), replace(BASE, resume=True), listener=told)
    assert [job.output.read_bytes(), job.side_by_side.read_bytes()] == expected
    assert len(record.shots) == 3
    assert names(job.source.parent) == ["a.mp4", "b.mp4", "r", "s.mp4"]
    return told.lines


@case(
    "Interrupted runs",
    "a finished shot, its side by side or its pictures for the report: changed in the middle, cut short, empty, gone",
    "--resume makes that shot again; the result is the same file, byte for byte",
    "how many finished shots were damaged is said",
)
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["shot-00000", "side-00001", "pictures-00000.npz"])
def test_a_damaged_part_is_made_again(half, name, damage):
    DAMAGE[damage](half[1] / name)
    lines = goes_on(half)
    assert lines[0] == "1 finished shot of b.mp4 is damaged: made again"
    assert "1 shot" in lines[1]


@case(
    "Interrupted runs",
    "the record of a finished shot is empty, lacks something or says another number",
    "--resume makes that shot again",
    "how many finished shots were damaged is said",
)
@pytest.mark.parametrize(
    "damage", [dict.clear, lambda shot: shot["record"].pop("share"), lambda shot: shot["record"].update(stop=5)]
)
def test_a_damaged_record_of_a_shot_is_made_again(half, damage):
    path = half[1] / "state.json"
    state = json.loads(path.read_text())
    damage(state["shots"]["1"])
    path.write_text(json.dumps(state))
    assert goes_on(half)[0] == "1 finished shot of b.mp4 is damaged: made again"


@case(
    "Interrupted runs",
    "the notes of a stopped run are empty, cut short, or no JSON",
    "--resume starts anew",
    "that they are damaged is said",
)
@pytest.mark.parametrize("damage", ["empty", "cut short", "other tile"])
def test_damaged_notes_start_anew(half, damage):
    path = half[1] / "state.json"
    if damage == "other tile":
        state = json.loads(path.read_text())
        state["notes"]["tile"]["tile"] = 64
        path.write_text(json.dumps(state))
    else:
        DAMAGE[damage](path)
    assert "the notes of the earlier run are damaged" in goes_on(half)[0]


@case(
    "Interrupted runs",
    "a folder of pictures: a finished one is damaged after a kill",
    "--resume makes its shot again",
    "that it was damaged is said",
)
def test_a_damaged_picture_of_a_finished_shot_is_made_again(tmp_path):
    source = make_frames(tmp_path / "f", np.concatenate([shaky((6,)), 255 - shaky((6,))]))
    job = Job(source, tmp_path / "out")
    restore_file(job, Darker(), BASE)
    expected = bytes_of(job.output)
    with pytest.raises(KeyboardInterrupt):
        restore_file(job, Darker(10, interrupt), BASE)
    assert bytes_of(job.output) == expected  # of the first run, untouched by the second
    cut(sorted((parts_folder(job.output) / "shot-00000").iterdir())[2])
    told = Lines()
    restore_file(job, Darker(), replace(BASE, resume=True), listener=told)
    assert told.lines[0] == "1 finished shot of out is damaged: made again"
    assert bytes_of(job.output) == expected
    assert names(tmp_path) == ["f", "out"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are looked up in /proc")
def test_a_shot_counts_only_once_the_disk_holds_it(tmp_path, monkeypatch):
    flushed, flush = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (flushed.append(Path(f"/proc/self/fd/{fd}").readlink().name), flush(fd))[1]
    )
    parts, _ = Parts.open(tmp_path / "out", {}, resume=False)
    file, folder = parts.path("shot", 0), parts.path("side", 0)
    file.write_bytes(b"frames")
    folder.mkdir()
    (folder / "000000.png").write_bytes(b"picture")
    flushed.clear()
    parts.finish(0, {}, [file, folder])
    state = next(number for number, name in enumerate(flushed) if "state" in name)
    assert {file.name, folder.name, "000000.png", parts.folder.name} <= set(flushed[:state])
    assert flushed[state + 1 :] == [parts.folder.name]  # the name of the new state


# --- input that changes --------------------------------------------------------------------------------------------


@case(
    "Interrupted runs",
    "the input is changed between a kill and --resume, in its middle, its size and time as before",
    "nothing of the first run is used",
    "`cannot resume ...: input was ..., is ...; starting anew`",
)
def test_a_changed_input_is_not_gone_on_with(tmp_path):
    source = tmp_path / "f"
    source.mkdir()
    for number, frame in enumerate(np.concatenate([shaky((6,)), 255 - shaky((6,))])):
        cv2.imwrite(str(source / f"{number:02d}.bmp"), frame)
    job = Job(source, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        restore_file(job, Darker(10, interrupt), BASE)
    changed = source / "07.bmp"
    times = changed.stat().st_atime_ns, changed.stat().st_mtime_ns
    flip(changed)
    os.utime(changed, ns=times)
    told = Lines()
    restore_file(job, Darker(), replace(BASE, resume=True), listener=told)
    assert told.lines[0].startswith("cannot resume out: input was ")


@pytest.mark.parametrize("size", [3 << 20, 80 << 20])
def test_a_large_file_is_recognised_by_samples_throughout(tmp_path, size):
    path = tmp_path / "a.mkv"
    with path.open("wb") as file:
        file.truncate(size)
    marks = {identify(path)}
    for place in (0, 2 << 20, size // 2, size - 200_000):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"another film" * 40_000 if place < size - 200_000 else b"end" * 60_000)
            file.truncate(size)
        os.utime(path, ns=times)
        marks.add(identify(path))
    assert len(marks) == 5
    os.utime(path, ns=(0, 0))
    assert identify(path) not in marks


@case(
    "Interrupted runs",
    "the input is replaced, cut short or removed while it is being read",
    "exit code 1, nothing written, nothing kept of what is half of one and half of another",
    "`... was changed while it was being read, so nothing was written`",
)
@pytest.mark.parametrize("happens", ["replaced", "cut short", "gone"])
def test_an_input_that_changes_while_it_is_read_gives_no_output(tmp_path, happens):
    video, other = shaky_video(tmp_path / "a.mkv", (6, 9)), shaky_video(tmp_path / "other.mkv", (9, 6))
    change = {"replaced": lambda: other.replace(video), **{k: lambda k=k: DAMAGE[k](video) for k in DAMAGE}}
    job = Job(video, tmp_path / "b.mkv", tmp_path / "s.mkv", tmp_path / "r")
    settings = replace(BASE, preview_seconds=0.1)
    with pytest.raises(MetadeblurError, match=r"a\.mkv was changed while it was being read, so nothing was written"):
        restore_file(job, Darker(14, change[happens]), settings)
    other.unlink(missing_ok=True)
    assert set(names(tmp_path)) - {"a.mkv"} <= {"b_preview.mkv"}


def test_a_changed_input_shows_no_preview(tmp_path):
    video, other = shaky_video(tmp_path / "a.mkv", (12,)), shaky_video(tmp_path / "other.mkv", (9,))
    with pytest.raises(MetadeblurError, match="was changed while"):
        restore_file(
            Job(video, tmp_path / "b.mkv"),
            Darker(3, lambda: other.replace(video)),
            replace(BASE, preview_seconds=0.2),
        )
    assert names(tmp_path) == ["a.mkv"]


@pytest.mark.parametrize("change", ["model", "fusion"])
def test_another_model_is_not_gone_on_with(half, monkeypatch, change):
    job = half[0]
    net = Darker()
    if change == "model":
        net.register_parameter("more", nn.Parameter(torch.zeros(1)))
    else:
        monkeypatch.setattr("metadeblur.pipeline.run.fusion_of", lambda _: "otherwise")
    told = Lines()
    restore_file(job, net, replace(BASE, resume=True), listener=told)
    assert told.lines[0].startswith(f"cannot resume b.mp4: {change} was ")


# --- two runs at once ----------------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from contextlib import ExitStack
from metadeblur.system.locks import writing
from metadeblur.system.files import filling
with ExitStack() as stack:
    for word in sys.argv[1:]:
        kind, _, path = word.partition(":")
        stack.enter_context(filling(Path(path), "it") if kind == "folder" else writing(Path(path)))
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(*words):
    """Another process writes these, ``file:PATH`` or ``folder:PATH``."""
    program = [sys.executable, "-c", HOLDER, *words]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A folder of inputs, in which another process writes whatever has "busy" in its name."""
    folder = tmp_path_factory.mktemp("busy")
    small_model(folder / "small.safetensors")
    shaky_video(folder / "a.mp4", (6,))
    paired(folder / "clips")
    files = (f"file:{folder / f'busy{suffix}'}" for suffix in (".mp4", "", ".json", ".safetensors"))
    with held(*files, f"folder:{folder / 'busyfolder'}") as process:
        yield folder, process.pid


def paired(folder):
    for clip in ("one", "two"):
        for number, frame in enumerate(shaky((5,))):
            for side in ("blur", "sharp"):
                (folder / clip / side).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / clip / side / f"{number:03d}.png"), frame)


@case(
    "Interrupted runs",
    "a command writes what another one is writing: a video, pictures, side by side, report, record, weights, figures, "
    "clips, a training, the demonstration",
    "exit code 1 at once, and the other one goes on",
    "`another metadeblur is writing OUT (process N); wait for it or give another -o`",
)
@pytest.mark.parametrize(
    ("words", "target", "flag"),
    [
        ("restore a.mp4 -o busy.mp4", "busy.mp4", "-o"),
        ("restore clips/one/blur -o busy", "busy", "-o"),
        ("restore a.mp4 -o b.mp4 --side-by-side busy.mp4", "busy.mp4", "--side-by-side"),
        ("restore a.mp4 -o b.mp4 --report busyfolder", "busyfolder", "--report"),
        ("restore a.mp4 -o b.mp4 --json busy.json", "busy.json", "--json"),
        ("adapt a.mp4 -o busy.safetensors", "busy.safetensors", "-o"),
        ("adapt a.mp4 -o b.safetensors --json busy.json", "busy.json", "--json"),
        ("evaluate clips -o busyfolder", "busyfolder", "-o"),
        ("synth clips/one/sharp -o busyfolder --clips 1", "busyfolder", "-o"),
        ("train deblur --clips clips -o busyfolder --steps 1 --patch 32 --batch 1", "busyfolder", "-o"),
        ("reproduce table1 --root clips --small -o busyfolder", "busyfolder", "-o"),
        ("demo busyfolder", "busyfolder", "DIR"),
    ],
)
def test_the_second_of_two_commands_is_told_of_the_first(busy, monkeypatch, capsys, words, target, flag):
    folder, process = busy
    monkeypatch.chdir(folder)
    before = names(folder)
    model = ["--model", "small.safetensors"] if words.split()[0] in ("restore", "adapt", "evaluate") else []
    assert run(*words.split(), *model) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == (
        f"metadeblur: error: another metadeblur is writing {target} (process {process}); wait for it or give "
        f"another {flag}"
    )
    assert names(folder) == before


@case(
    "Interrupted runs",
    "a lock of a process that was killed, of another machine or of a time before a restart",
    "it counts for nothing",
    "the next run goes on as if it was not there, and takes it away",
)
def test_a_lock_goes_with_its_process(tmp_path):
    with held(f"file:{tmp_path / 'out.mp4'}") as process:
        with pytest.raises(
            MetadeblurError, match=rf"another metadeblur is writing .*out\.mp4 \(process {process.pid}\)"
        ):
            writing(tmp_path / "out.mp4").__enter__()
        process.kill()
        process.wait()
        lock = tmp_path / ".out.mp4.metadeblur-lock"
        for left in (lock.read_text(), f"{os.getpid()}\nelsewhere\n", "1\nsomewhere\n", "", "\0\0"):
            lock.write_text(left)
            with writing(tmp_path / "out.mp4"):
                assert lock.read_text().startswith(f"{os.getpid()}\n")
            assert names(tmp_path) == []


def test_a_thread_may_ask_again_for_what_it_holds_and_another_may_not(tmp_path):
    target, said = tmp_path / "out.mp4", []

    def other():
        try:
            with writing(target):
                said.append("both")
        except MetadeblurError as error:
            said.append(str(error))

    with writing(target):
        with writing(target):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"process {os.getpid()}" in said[0]
    other()
    assert said[1] == "both"


# --- temporary folders ---------------------------------------------------------------------------------------------


@case(
    "Interrupted runs",
    "a run is killed while it has a temporary folder",
    "the next run removes it, and leaves alone what a run that goes on, or somebody else, has there",
    "nothing to tell",
)
def test_temporary_folders_of_killed_runs_are_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "metadeblur-demo").mkdir()  # of a user
    program = (
        "import sys; from metadeblur.system.scratch import scratch_folder\n"
        "with scratch_folder() as f: (f / 'x').touch(); print(f, flush=True); sys.stdin.read()"
    )
    words = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    processes = [subprocess.Popen([sys.executable, "-c", program], env=environment, **words) for _ in range(2)]
    killed, alive = (Path(process.stdout.readline().strip()) for process in processes)
    processes[0].kill()
    processes[0].wait()
    with scratch_folder() as own:
        assert own.is_dir()
        assert not killed.exists()
        assert (alive / "x").exists()
    processes[1].communicate("")
    assert names(tmp_path) == ["metadeblur-demo"]


def end_in_the_middle(done):
    with undisturbed():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        done.append(True)


def test_a_request_to_end_waits_for_what_must_not_stay_half_done():
    done = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            end_in_the_middle(done)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done


# --- evaluations, trainings, made clips ----------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path):
    """An evaluation that is finished: its clips, and a function that goes on with it and returns what it says."""
    paired(tmp_path / "clips")
    settings = EvaluateSettings(rows=("blurred", "base"), restoration=BASE.restoration)
    out = tmp_path / "out"
    first = evaluate(tmp_path / "clips", Darker(), out, settings)

    def again(net=None):
        said = []
        summary = evaluate(tmp_path / "clips", net or Darker(), out, replace(settings, resume=True), say=said.append)
        assert summary.psnr.keys() == first.psnr.keys()
        measured = {"seconds": summary.seconds, "peak_memory_mb": summary.peak_memory_mb}  # of this run
        return said, summary == replace(first, **measured)

    return tmp_path / "clips", out, again


@case(
    "Interrupted runs",
    "a record that evaluate --resume is to keep is empty, cut short, no record, or says another number",
    "that clip is measured again",
    "`...: the record is damaged; CLIP is measured again`",
)
@pytest.mark.parametrize("damage", ["empty", "cut short", "no record", "another number"])
def test_a_damaged_record_of_a_clip_is_measured_again(measured, damage):
    _, out, again = measured
    record = out / "one.json"
    before = json.loads(record.read_text())
    if damage == "no record":
        record.write_text("{}")
    elif damage == "another number":
        record.write_text(json.dumps(before | {"share": 1.0}))
    else:
        DAMAGE[damage](record)
    said, same = again()
    assert said == [f"{record}: the record is damaged; one is measured again"]
    assert same
    assert json.loads(record.read_text())["psnr"] == before["psnr"]
    assert again() == ([], True)


@case(
    "Interrupted runs",
    "frames of a clip are changed after it was measured, or while it is",
    "evaluate --resume measures it again; while it is being measured: exit code 1 and no record of it",
    "both are said",
)
def test_a_clip_that_changes_is_not_mixed(measured):
    clips, out, again = measured
    frame = clips / "one" / "blur" / "002.png"
    frame.write_bytes(cv2.imencode(".png", 255 - cv2.imread(str(frame)))[1].tobytes())
    with pytest.raises(MetadeblurError, match="one was changed while it was being measured"):
        again(Darker(3, lambda: os.utime(frame, ns=(0, 0))))
    assert not (out / "one.json").exists()
    said, same = again()
    assert said == []
    assert not same
    os.utime(frame, ns=(1, 1))
    assert "the frames of one were changed since; it is measured again" in again()[0][0]


@pytest.fixture
def training(tmp_path):
    """A short training that writes a checkpoint each step, its folder, and the weights that it ends with."""
    paired(tmp_path / "clips")
    loop = LoopSettings(steps=4, warmup=1, log_steps=1, validate_steps=4, checkpoint_minutes=1e-9)
    settings = DeblurTraining(
        clips=(str(tmp_path / "clips"),),
        start=str(small_model(tmp_path / "small.safetensors")),
        batch=1,
        patch=32,
        precision="fp32",
        loop=loop,
    )
    return settings, tmp_path / "run", train_deblur(settings, tmp_path / "whole", quiet=True)


@case(
    "Interrupted runs",
    "the last checkpoint of a training is cut short, empty or changed in its middle; its log ends in half a line",
    "--resume goes on from the one before, to the same weights; with that damaged too, exit code 1",
    "which file is damaged is said",
)
@pytest.mark.parametrize("damage", ["cut short", "empty", "flipped"])
def test_a_damaged_checkpoint_goes_on_from_the_one_before(training, monkeypatch, capsys, damage):
    settings, out, expected = training
    step = deblur.DeblurTrainee.step
    with monkeypatch.context() as patch:
        patch.setattr(deblur.DeblurTrainee, "step", lambda self, n, rate: step(self, n, rate) if n < 3 else interrupt())
        with pytest.raises(KeyboardInterrupt):
            train_deblur(settings, out, quiet=True)
    DAMAGE[damage](out / "checkpoint.pt")
    with (out / "log.csv").open("a") as file:
        file.write("4,0.1")
    steps = []
    monkeypatch.setattr(deblur.DeblurTrainee, "step", lambda self, n, rate: steps.append(n) or step(self, n, rate))
    weights = train_deblur(settings, out, resume=True)
    assert "checkpoint.pt" in capsys.readouterr().err
    assert steps == [2, 3]
    assert parameters_digest(load_deblurrer(weights)) == parameters_digest(load_deblurrer(expected))
    assert weights.read_bytes() == expected.read_bytes()
    assert [line.split(",")[0] for line in (out / "log.csv").read_text().split()] == ["step", "1", "2", "3", "4"]
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        DAMAGE[damage](out / name)
    with pytest.raises(MetadeblurError, match=r"checkpoint\.pt.*nothing whole to go on from"):
        train_deblur(settings, out, resume=True, quiet=True)


@case(
    "Interrupted runs",
    "a clip that synth has made is damaged or lacks frames; its list of sources is cut short",
    "the clip is made again; without the list no clip is mixed with others: exit code 1",
    "both are said",
)
def test_a_damaged_clip_of_synth_is_made_again(tmp_path):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), shaky((1,), (200, 260))[0])
    settings, said = SynthSettings(clips=2, frames=2, width=64, height=48, layers=0), []
    out = tmp_path / "out"
    folders = synthesize([tmp_path / "in"], out, settings)
    expected = [bytes_of(folder / side) for folder in folders for side in ("blur", "sharp")]
    for damage in (cut, flip, Path.unlink):
        damage(folders[1] / "sharp" / "000001.png")
        synthesize([tmp_path / "in"], out, settings, say=said.append)
        assert said.pop() == f"{folders[1]} is damaged and is made again"
        assert [bytes_of(folder / side) for folder in folders for side in ("blur", "sharp")] == expected
    cut(out / "synth.json")
    with pytest.raises(MetadeblurError, match=r"synth\.json: is damaged, so the settings of the clips"):
        synthesize([tmp_path / "in"], out, settings)


# --- many kills ----------------------------------------------------------------------------------------------------

ROBUSTNESS = Path(__file__).parents[2] / "benchmarks" / "robustness.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process for each kill")
@case(
    "Interrupted runs",
    "restore, adapt, evaluate, synth, train: killed or asked to end at some operations on files",
    "the same command, with --resume, ends with the same files and leaves nothing else",
    "`metadeblur: stopped`, and how many finished shots are kept",
)
def test_commands_that_are_killed_go_on_to_the_same_files(tmp_path):
    words = [sys.executable, ROBUSTNESS, "kills", "stops", "--short"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong" not in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process for each file")
def test_a_dozen_damaged_files_are_refused_or_restored(tmp_path):
    words = [sys.executable, ROBUSTNESS, "mutants", "--short"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr

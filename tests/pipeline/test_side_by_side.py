"""Inputs restored side by side by processes of this machine: the same bytes, whatever dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from journey import QUICK, names, run, shaky_video, small_model, start
from torch import nn

from metadeblur.errors import MetadeblurError
from metadeblur.pipeline import process_pool
from metadeblur.pipeline.process_pool import ProcessPool
from metadeblur.pipeline.resume import parts_folder
from metadeblur.pipeline.task_pool import Task

SECONDS = 120  # that anything here may take on a busy machine
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


# --- tasks, as a worker process imports them -----------------------------------------------------------------------


def counting(context):
    """Two values, with what the process has been given between them."""
    context.tell("half")
    yield os.getpid()
    (context.folder / "note").write_text(str(sum(p.numel() for p in context.net.parameters())))
    yield torch.get_num_threads()


def dying(times, context):
    """End the process that does it, so many times."""
    tries = len(list(context.folder.glob("try*")))
    if tries < times:
        (context.folder / f"try{tries}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield tries


def failing(context):
    raise MetadeblurError(f"{context.folder.name}: too blurred")
    yield


def waiting(context):
    (context.folder / "begun").touch()
    time.sleep(SECONDS)
    yield


def parting(context):
    """Done, and a moment later the process is gone."""
    threading.Timer(0.1, os._exit, [1]).start()
    yield context.folder


def course(task, ends):
    """One task; what goes wrong with it is kept."""
    try:
        yield [task]
    except Exception as error:
        ends.append(error)
    else:
        ends.append(None)


def test_values_and_events_arrive_and_files_are_in_place(tmp_path):
    values, events, ends = [], [], []
    with ProcessPool(nn.Conv2d(1, 1, 1), 2) as pool:
        tasks = [Task(counting, [], tmp_path, "it", values.append, events.append) for _ in range(3)]
        pool.run(course(task, ends) for task in tasks)
    assert ends == [None] * 3
    assert len(values) == 6
    assert os.getpid() not in values
    assert "half" in events
    assert (tmp_path / "note").read_text() == "2"
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("times", [1, 9])
def test_a_task_whose_worker_dies_is_done_again_but_not_for_ever(tmp_path, times):
    lines, values, ends = [], [], []
    with ProcessPool(nn.Identity(), 1, lines.append) as pool:
        pool.run([course(Task(partial(dying, times), [], tmp_path, "a.mp4, shot 1", values.append), ends)])
    assert lines == ["a.mp4, shot 1: its worker died; it is done again"] * min(times, 3)
    if times == 1:
        assert (values, ends) == ([1], [None])
    else:
        assert str(ends[0]).startswith("a.mp4, shot 1: 4 workers died over it")


def test_a_worker_that_died_between_two_tasks_is_replaced(tmp_path):
    values, lines = [], []

    def two_tasks():
        yield [Task(parting, [], tmp_path, "one", values.append)]
        time.sleep(1.0)  # it dies now, and nobody has heard of it when the next task is given out
        yield [Task(counting, [], tmp_path, "two", values.append)]

    with ProcessPool(nn.Identity(), 1, lines.append) as pool:
        pool.run([two_tasks()])
    assert len(values) == 3
    assert lines == ["two: its worker died; it is done again"]


def test_an_error_says_the_same_here_and_the_next_task_is_done(tmp_path):
    ends = []
    with ProcessPool(nn.Identity(), 1) as pool:
        pool.run(course(Task(work, [], tmp_path, "it"), ends) for work in (failing, counting))
    assert [str(end) for end in ends] == [f"{tmp_path.name}: too blurred", "None"]
    assert isinstance(ends[0], MetadeblurError)


def test_when_something_goes_wrong_here_no_process_is_left(tmp_path):
    def interrupted():
        yield [Task(counting, [], tmp_path, "it")]
        raise KeyboardInterrupt

    def waits():
        yield [Task(waiting, [], tmp_path, "it")]

    def work():
        with ProcessPool(nn.Identity(), 2) as pool:
            pool.run([waits(), interrupted()])

    with pytest.raises(KeyboardInterrupt):
        work()
    assert multiprocessing.active_children() == []


def ends(session):
    """Whether nobody of a session is left, at the latest after a while."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


# --- restore --workers ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bytes_and_records_are_those_of_one_process(tmp_path, model, capsys):
    long = shaky_video(tmp_path / "long.mp4", (6, 9), audio_tracks=1)
    short, bad = shaky_video(tmp_path / "short.mkv", (4,)), tmp_path / "bad.mp4"
    bad.write_text("no video")
    words = ("restore", short, long, bad, "--model", model, *QUICK, "--preview", "0.3")
    made = {}
    for name, extra in (("plain", ()), ("out", ("--workers", "2"))):
        assert run(*words, "-o", tmp_path / name, "--json", tmp_path / f"{name}.json", *extra) == 1
        folder = tmp_path / name
        made[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert made["plain"] == made["out"]
    assert "long_deblurred_preview.mp4" in made["out"]
    records = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "out")]
    for plain, out in zip(*records, strict=True):
        for one, other in zip(plain["shots"], out["shots"], strict=True):
            assert other["worker"]["process"] != os.getpid()
            changing = ("seconds", "worker", "stage_memory_mb", "losses")
            assert {k: v for k, v in one.items() if k not in changing} == {
                k: v for k, v in other.items() if k not in changing
            }
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "metadeblur: error: 1 of 3 inputs failed: bad.mp4"
    assert [line.split()[0] for line in lines[-6:-2]] == ["input", "short.mkv", "long.mp4", "bad.mp4"]
    assert lines[-2] == "3 inputs: 2 restored, 1 failed"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_ends_the_workers_and_keeps_finished_shots(tmp_path, model):
    video = shaky_video(tmp_path / "a.mp4", (6, 36))
    words = ("restore", video, "--model", model, *QUICK, "--no-guard")
    output = tmp_path / "out.mp4"
    process = start([*words, "-o", output, "--workers", "2"], start_new_session=True)
    state, until = parts_folder(output) / "state.json", time.monotonic() + SECONDS
    while time.monotonic() < until and process.poll() is None:
        if state.is_file() and json.loads(state.read_text())["shots"]:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert error.splitlines()[-1].startswith("metadeblur: stopped; 1 finished shot is kept")
    assert "Traceback" not in error
    assert ends(process.pid)
    assert names(tmp_path) == [parts_folder(output).name, "a.mp4"]
    assert Path(output).exists() is False
    assert run(*words, "-o", output, "--resume", "--workers", "2") == 0
    assert output.is_file()


def test_each_process_gets_a_gpu_of_its_own_in_turn(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for gpus in (1, 4):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        for number in range(6):
            process_pool.take_gpu(number)
    assert chosen == [0, 1, 2, 3, 0, 1]  # of one GPU there is nothing to choose


def test_a_process_that_replaces_another_takes_its_number(monkeypatch):
    started = []

    class Context:
        def Pipe(self):
            return SimpleNamespace(), SimpleNamespace(close=lambda: None)

        def Process(self, target, args, name):
            assert (target, name) == (process_pool._serve, "worker")
            started.append(args[3])
            return SimpleNamespace(start=lambda: None)

    monkeypatch.setattr(process_pool, "get_context", lambda _: Context())
    pool = ProcessPool(nn.Identity(), 3)
    workers = [pool._start() for _ in range(3)]
    pool._workers.remove(workers[1])
    pool._start()
    assert started == [0, 1, 2, 1]

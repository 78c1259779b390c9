"""Restore and evaluate on a real Ray cluster of two processes: the same bytes, whatever dies, wherever files are."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import far_away
import pytest
from evaluated import write_clip
from hypothesis import given
from hypothesis import strategies as st
from journey import QUICK, names, run, shaky_video, small_model, start

from metadeblur.cluster.connection import ClusterSettings, places, room
from metadeblur.errors import MetadeblurError
from metadeblur.pipeline.resume import parts_folder
from metadeblur.system.extras import how_to_install

ray = pytest.importorskip("ray", reason="a cluster needs the extra [cluster]")
SECONDS = 120  # that anything here may take on a busy machine
pytestmark = pytest.mark.usefixtures("one_thread")
TWO_WORKERS = ("--cluster", "auto", "--workers", "2", "--worker-threads", "1")
ONE_WORKER = ("--cluster", "auto", "--workers", "1", "--worker-threads", "1")


@pytest.fixture(scope="module")
def cluster():
    """A cluster on this machine that has room for two workers; this process has joined it."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "CRITICAL"}
    ray.init(address="local", num_cpus=2, num_gpus=0, object_store_memory=100_000_000, _temp_dir=folder, **quiet)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def hired(monkeypatch):
    """Has workers of another kind hired: ``hired(far_away.FarWorker)``."""
    import ray.cloudpickle as pickling

    from metadeblur.cluster import worker_pool

    pickling.register_pickle_by_value(far_away)
    yield lambda kind: monkeypatch.setattr(worker_pool, "Worker", kind)
    pickling.unregister_pickle_by_value(far_away)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


def busy_workers() -> dict[int, str]:
    """Processes that are doing a task: by number, what Ray calls them."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_text().split("\0")[0]
        except OSError:
            continue
        if title.startswith("ray::work_on"):
            found[int(folder.name)] = title
    return found


class Killer(threading.Thread):
    """Kills the worker that is busy as soon as all shots of an output but one are finished."""

    def __init__(self, output: Path, finished: int) -> None:
        super().__init__(daemon=True)
        self.state, self.finished = parts_folder(output) / "state.json", finished
        self.shots: dict[str, dict] = {}  # that were finished by then
        self.killed = 0

    def run(self) -> None:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and not self.killed:
            time.sleep(0.02)
            try:
                found = json.loads(self.state.read_text())["shots"]
            except (OSError, ValueError):
                continue
            self.shots = {index: shot["record"] for index, shot in found.items()}
            if len(self.shots) == self.finished and len(busy := busy_workers()) == 1:
                self.killed = next(iter(busy))
                os.kill(self.killed, signal.SIGKILL)


def without_times(value):
    """A record without what differs from run to run: times, memory, which process it was."""
    if isinstance(value, dict):
        changing = ("seconds", "output", "worker", "total", "side_by_side", "machine", "checksum")
        kept = {key: entry for key, entry in value.items() if key not in changing and "memory" not in key}
        return {key: without_times(entry) for key, entry in kept.items()}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


def same_files(one: Path, two: Path) -> bool:
    """Whether two folders hold the same bytes under the same names."""
    found = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (one, two)]
    files = [path for path in found[0] if (one / path).is_file()]
    return bool(files) and found[0] == found[1] and all((one / p).read_bytes() == (two / p).read_bytes() for p in files)


# --- room and refusals ---------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=6),
    st.sampled_from([1.0, 0.5, 0.25]),
    st.sampled_from(["auto", "cpu"]),
)
def test_all_workers_fit_and_no_larger_ones_would(machines, share, device):
    found = places(machines, ClusterSettings(gpus=share), device)
    assert room(machines, found.threads, found.gpus) >= found.workers >= 1
    assert room(machines, found.threads + 1, found.gpus) < found.workers
    assert found.device == ("cuda" if device == "auto" and any(gpus for _, gpus in machines) else "cpu")


@pytest.mark.parametrize(
    ("settings", "device", "said"),
    [
        (ClusterSettings(workers=9), "auto", "room for 8 workers with 1 thread, not for 9"),
        (ClusterSettings(workers=3, threads=4), "auto", "room for 2 workers with 4 threads, not for 3"),
        (ClusterSettings(), "cuda", "the cluster has no GPU"),
    ],
)
def test_a_cluster_that_is_too_small_is_refused(settings, device, said):
    with pytest.raises(MetadeblurError, match=said):
        places([(8, 0)], settings, device)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--worker-threads", "2"), 2, "--worker-threads needs --cluster"),
        (("--cluster", "local", "--workers", "0"), 2, "--workers is 0"),
        (("--cluster", "local", "--worker-gpus", "0"), 2, "--worker-gpus is 0"),
        (("--cluster", "ray://there:10001"), 1, "run metadeblur on a machine of the cluster"),
        (("--cluster", "127.0.0.1:1"), 1, "no Ray cluster answers at 127.0.0.1:1"),
        (("--cluster", "nonsense"), 1, "no Ray cluster answers at nonsense"),
    ],
)
def test_flags_that_make_no_sense_are_refused(tmp_path, capsys, words, code, said):
    (tmp_path / "a.mp4").touch()
    assert run("restore", tmp_path / "a.mp4", *words) == code
    error = capsys.readouterr().err
    assert error.startswith("metadeblur: error: ")
    assert said in error.splitlines()[-1]


def test_without_the_extra_it_is_said_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "a.mp4").touch()
    for words in (("restore", tmp_path / "a.mp4"), ("evaluate", tmp_path, "-o", tmp_path)):
        assert run(*words, "--cluster", "local") == 1
        line = f"metadeblur: error: --cluster needs Ray, which is not installed: {how_to_install('cluster')}\n"
        assert capsys.readouterr().err == line


# --- restore -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_is_killed_an_input_is_none_and_the_bytes_are_those_of_one_process(tmp_path, model, capsys):
    long = shaky_video(tmp_path / "long.mp4", (6, 6, 36), audio_tracks=1)
    short, bad = shaky_video(tmp_path / "short.mkv", (4,)), tmp_path / "bad.mp4"
    bad.write_text("no video")
    words = ("restore", short, long, bad, "--model", model, *QUICK)
    assert run(*words, "-o", tmp_path / "plain", "--json", tmp_path / "plain.json") == 1
    capsys.readouterr()
    killer = Killer(tmp_path / "out" / "long_deblurred.mp4", finished=2)
    killer.start()
    assert run(*words, "-o", tmp_path / "out", "--json", "-", *TWO_WORKERS) == 1
    said = capsys.readouterr()
    assert killer.killed
    assert "long.mp4, shot 3 of 3: its worker died; it is done again" in said.err
    assert same_files(tmp_path / "plain", tmp_path / "out")
    records = json.loads(said.out)
    assert without_times(records) == without_times(json.loads((tmp_path / "plain.json").read_text()))
    shots = records[1]["shots"]
    assert killer.shots == {str(index): shots[index] for index in (0, 1)}  # none of them was done again
    assert shots[2]["worker"]["process"] != killer.killed
    assert {shot["worker"]["threads"] for shot in shots} == {1}
    lines = said.err.splitlines()
    assert "bad.mp4: not a video" in lines[0]  # said before anything is worked on
    assert lines[1] == "working on 2 workers with 1 thread each"
    assert lines[-1] == "metadeblur: error: 1 of 3 inputs failed: bad.mp4"
    table = [re.split(r"\s{2,}", line.strip()) for line in lines[-6:-2]]
    assert table[0] == ["input", "result", "time", "output"]
    assert [row[0] for row in table[1:]] == ["short.mkv", "long.mp4", "bad.mp4"]
    assert table[1][1].endswith("Too little to learn from here: restored with the network as it is.")
    assert "The network learnt from your clip." in table[2][1]
    assert table[3][1].startswith("Failed: ")
    assert lines[-2] == "3 inputs: 2 restored, 1 failed"
    assert "\x1b" not in said.err
    assert "raylet" not in said.err + said.out


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_files_that_the_workers_do_not_see_are_shipped_and_everything_comes_back(
    hired, tmp_path, model, capsys, monkeypatch
):
    hired(far_away.FarWorker)
    monkeypatch.setattr("metadeblur.cluster.files.CHUNK_BYTES", 5000)
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path, 1)
    (tmp_path / "blur").rename(tmp_path / "sharp already")
    shaky_video(tmp_path / "a.mkv", (6, 9), audio_tracks=1)
    words = ("restore", "sharp already", "a.mkv", "--model", model, *QUICK, "--preview", "0.3")
    for extra, name in (((), "plain"), (ONE_WORKER, "out")):
        folders = ("-o", name, "--side-by-side", f"{name}-side", "--report", f"{name}-report")
        assert run(*words, *folders, *extra) == 0
    said = capsys.readouterr().err
    assert names(tmp_path / "out") == [
        "a_deblurred.mkv",
        "a_deblurred_preview.mkv",
        "sharp already_deblurred",
    ]
    assert said.count("preview of 0.3 s") == 2
    assert said.count("no preview: sharp already") == 2
    assert said.count("Already sharp: nothing was changed.") == 4  # when the shot is done, and in the table
    for part in ("", "-side"):
        assert same_files(tmp_path / f"plain{part}", tmp_path / f"out{part}")
    pages = [(tmp_path / f"{name}-report" / "a_deblurred" / "index.html").read_text() for name in ("plain", "out")]
    assert pages[0].count("data:image") == pages[1].count("data:image") > 4
    assert not list(Path(tempfile.gettempdir()).glob("metadeblur-" + "[0-9a-f]" * 32))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_ctrl_c_ends_the_cluster_that_was_started_and_keeps_finished_shots(tmp_path, model):
    video = shaky_video(tmp_path / "a.mp4", (6, 36))
    words = ("restore", video, "--model", model, *QUICK, "--no-guard")
    assert run(*words, "-o", tmp_path / "plain.mp4") == 0
    output = tmp_path / "out.mp4"
    local = ("--cluster", "local", "--workers", "1", "--worker-threads", "1")
    process = start([*words, "-o", output, *local], start_new_session=True)
    state, until = parts_folder(output) / "state.json", time.monotonic() + SECONDS
    while time.monotonic() < until and process.poll() is None:
        if state.is_file() and json.loads(state.read_text())["shots"]:
            break
        time.sleep(0.02)
    session = children(process.pid)
    assert len(session) > 3
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    began = time.monotonic()
    _, error = process.communicate(timeout=SECONDS)
    assert time.monotonic() - began < 20
    assert process.returncode == 1
    assert error.splitlines()[-1].startswith("metadeblur: stopped; 1 finished shot is kept")
    assert "Traceback" not in error
    until = time.monotonic() + 10
    while (left := [pid for pid in session if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
    assert names(tmp_path) == [parts_folder(output).name, "a.mp4", "plain.mp4"]
    assert run(*words, "-o", output, "--resume") == 0
    assert output.read_bytes() == (tmp_path / "plain.mp4").read_bytes()


def children(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    found: list[int] = []
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *children(child)]
    return found


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# --- evaluate ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path):
    for name, speed in (("fast", 3), ("slow", 1)):
        write_clip(tmp_path / "clips" / name, speed)
    return tmp_path / "clips"


def tables(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.*") if path.suffix in (".md", ".csv", ".tex")}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_tables_are_those_of_one_process_and_finished_clips_are_kept(clips, tmp_path, model, capsys):
    words = ("evaluate", clips, "--model", model, "--tile", "0", "--device", "cpu", *QUICK)
    assert run(*words, "-o", tmp_path / "plain") == 0
    printed = capsys.readouterr().out
    assert run(*words, "-o", tmp_path / "out", *TWO_WORKERS) == 0
    assert capsys.readouterr().out == printed
    assert tables(tmp_path / "plain") == tables(tmp_path / "out")
    assert same_files(tmp_path / "plain" / "pictures", tmp_path / "out" / "pictures")
    assert names(tmp_path / "plain") == names(tmp_path / "out")
    (tmp_path / "out" / "summary.json").unlink()
    before = (tmp_path / "out" / "fast.json").stat().st_mtime_ns
    assert run(*words, "-o", tmp_path / "out", *TWO_WORKERS, "--resume") == 0
    assert (tmp_path / "out" / "fast.json").stat().st_mtime_ns == before
    assert tables(tmp_path / "plain") == tables(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_clip_that_fails_is_named_and_the_others_are_measured_where_no_folder_is_shared(
    hired, clips, tmp_path, model, capsys
):
    hired(far_away.FarWorker)
    words = ("evaluate", clips, "--model", model, "--rows", "blurred,base", "--tile", "0", "--device", "cpu")
    assert run(*words, "-o", tmp_path / "plain") == 0
    write_clip(clips / "broken", 2)
    (clips / "broken" / "sharp" / "003.png").write_bytes(b"nothing")
    capsys.readouterr()
    assert run(*words, "-o", tmp_path / "out", *ONE_WORKER) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("metadeblur: error: 1 of 3 clips failed (--resume measures them alone): broken: ")
    assert "003.png" in last
    for name in ("fast", "slow"):
        records = [json.loads((tmp_path / folder / f"{name}.json").read_text()) for folder in ("plain", "out")]
        assert without_times(records[0]) == without_times(records[1])
        assert same_files(tmp_path / "plain" / "pictures" / name, tmp_path / "out" / "pictures" / name)
    assert names(tmp_path / "out") == ["fast.json", "pictures", "slow.json"]


# --- workers that cannot work --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (far_away.NoWorker, "a worker cannot start: ModuleNotFoundError: No module named 'metadeblur'; every machine"),
        (far_away.OtherWorker, "elsewhere has metadeblur 0.0.1, this machine "),
    ],
)
def test_workers_that_cannot_work_end_the_run_at_once(kind, said, hired, tmp_path, model, capsys):
    hired(kind)
    assert run("restore", shaky_video(tmp_path / "a.mp4", (5,)), "--model", model, *ONE_WORKER) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"metadeblur: error: {said}")
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_input_that_every_worker_dies_of_is_given_up(hired, tmp_path, model, capsys):
    hired(far_away.DyingWorker)
    video = shaky_video(tmp_path / "a.mp4", (5,))
    assert run("restore", video, "--model", model, *ONE_WORKER) == 1
    said = capsys.readouterr().err.splitlines()
    assert said.count("a.mp4: its worker died; it is done again") == 3
    assert said[-1].startswith(
        "metadeblur: error: a.mp4: 4 workers died over it, perhaps for want of memory; try fewer"
    )
    assert names(tmp_path) == ["a.mp4"]

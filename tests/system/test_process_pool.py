"""Processes side by side: results in order, one clear line where something goes wrong, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pool_work
import psutil
import pytest
import torch

from metadeblur.errors import MetadeblurError
from metadeblur.system.process_pool import side_by_side


def test_results_come_in_the_order_of_the_items_and_are_told_as_they_finish():
    told = []
    results = side_by_side(pool_work.slower_first, [0, 1, 2], None, 2, finished=lambda *news: told.append(news))
    assert results == [0, 1, 2]
    assert sorted(told) == [(0, 0), (1, 1), (2, 2)]
    assert side_by_side(pool_work.add, [1, 2], torch.ones(2), 1)[1].tolist() == [3, 3]
    assert side_by_side(pool_work.add, [], 1, 2) == []


def test_the_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr("metadeblur.system.process_pool.usable_cpus", lambda: 5)
    processes = side_by_side(pool_work.threads, range(2), None, 2)
    assert {count for _, count in processes} == {2}
    assert os.getpid() not in {process for process, _ in processes}


def test_an_error_ends_the_work_or_takes_the_place_of_its_result():
    with pytest.raises(MetadeblurError, match=r"^item 2: is odd; give another$") as error:
        side_by_side(pool_work.fail_on_two, range(4), None, 2)
    assert "in fail_on_two" in str(error.value.__cause__)
    assert not _workers(psutil.Process())
    results = side_by_side(pool_work.fail_on_two, range(4), None, 2, keep_going=True)
    assert isinstance(results[2], MetadeblurError)
    assert (results[0], results[1], results[3]) == (0, 1, 3)


def test_errors_that_cannot_be_sent_still_say_what_they_said():
    strange, changed = side_by_side(pool_work.fail_oddly, range(2), None, 1, keep_going=True)
    assert "ValueError('a'" in str(strange)
    assert str(changed).startswith("clip.mp4 was changed while it was being read")
    assert str(changed).count("was changed") == 1


@pytest.mark.skipif(os.name != "posix", reason="kills a process by a signal")
def test_a_killed_process_is_one_clear_line():
    with pytest.raises(MetadeblurError, match=r"a worker process was killed, perhaps because memory ran out; go on"):
        side_by_side(pool_work.killed, range(4), None, 2, keep_going=True)


SCRIPT = """
import sys
import pool_work
from metadeblur.system.process_pool import side_by_side
if __name__ == "__main__":
    side_by_side(pool_work.with_a_draft, range(4), sys.argv[1], 2)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_command_that_ends(tmp_path, how):
    script, drafts = tmp_path / "script.py", tmp_path / "drafts"
    script.write_text(SCRIPT)
    drafts.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(pool_work.__file__).parent)}
    words = [sys.executable, str(script), str(drafts)]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as command:
        until = time.monotonic() + 60
        while len(list(drafts.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        workers = _workers(psutil.Process(command.pid))
        assert len(workers) == 2
        for process in [psutil.Process(command.pid), *workers] if how == signal.SIGINT else [command]:
            process.send_signal(how)  # a terminal sends Ctrl-C to all of them
        _, errors = command.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    if how == signal.SIGINT:
        assert not list(drafts.iterdir())
        assert errors.count("KeyboardInterrupt") == 1


def _workers(process):
    """Its children but for the one that looks after what they share."""
    return [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]

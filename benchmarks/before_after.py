"""An older checkout against this one, in one run, taking turns: what adapting, a frame and the demonstration take.

Run by ``python benchmarks/speed.py --before CHECKOUT -o docs/results``, where CHECKOUT is a folder with an older
version of this project, or a commit, which is then checked out for the time of the run. Each measurement is a process
of its own with the same Python and the ``src`` folder of one of the two. Lines are seconds of the processor, of one
thread, so that other work on the machine hardly counts; but for one thread against two, which is time on the clock and
wants a machine with nothing else to do. Code that lacks something, as an effort, gets a dash. Where the processor has
more than AVX2, PyTorch is held to AVX2 and fp32.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, float]  # of one measurement, by the name of the line
HERE = Path(__file__).resolve().parents[1]
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
DIGITS = 3


@dataclass(frozen=True)
class Amounts:
    """How much is measured."""

    frames: int = 24
    width: int = 640
    height: int = 360
    demo: tuple[int, int, int] = (45, 640, 480)  # frames, width, height, as ``metadeblur demo`` makes it
    budgets: tuple[int, ...] = (10, 20, 40, 80, 160)  # s
    adapting: tuple[tuple[str, int], ...] = ()  # settings of the adaptation that are not the usual ones


SMALL = Amounts(5, 96, 64, (5, 96, 64), (2,), (("pairs", 2), ("steps", 2)))


# --- what is measured, in a process of its own that imports one of the two -----------------------------------------


def measure_adapt(clip: Path, words: Sequence[str]) -> Figures:
    """Adapting to the clip, by stage, and a restored frame: the network's alone, and corrected and fused."""
    import metadeblur as md
    from metadeblur.models.adapted import with_fusion
    from metadeblur.restoration.restorer import RestoreSettings

    net, blurred = md.load_deblurrer("lite"), md.read_clip(clip).in_memory()
    began = time.process_time()
    outcome = md.adapt(net, blurred, device="cpu", precision="fp32", **overrides(words))
    figures = {"adapting, all of it": time.process_time() - began}
    figures |= {f"adapting: {stage}": seconds for stage, seconds in outcome.seconds.items()}
    fused = with_fusion(copy.deepcopy(net), outcome.fusion)
    for name, model in (("a frame: network", net), ("a frame: corrected and fused too", fused)):
        began = time.process_time()
        md.restore(model, blurred, RestoreSettings(tile=0, precision="fp32", device="cpu"))
        figures[name] = (time.process_time() - began) / len(blurred)
    return figures


def measure_quick(clip: Path, _: Sequence[str]) -> Figures:
    """Effort quick: what is chosen, and all frames restored so."""
    import metadeblur as md
    from metadeblur.restoration.restorer import RestoreSettings

    if "effort" not in inspect.signature(md.adapt).parameters:
        return {}
    net, blurred = md.load_deblurrer("lite"), md.read_clip(clip).in_memory()
    began = time.process_time()
    outcome = md.adapt(net, blurred, effort="quick", device="cpu", precision="fp32")
    chosen = time.process_time() - began
    md.restore(outcome.model, blurred, RestoreSettings(tile=0, precision="fp32", device="cpu"))
    return {"quick: exposure and votes": chosen, "quick, frames too": time.process_time() - began}


def measure_budget(clip: Path, words: Sequence[str]) -> Figures:
    """Everything that adapting adds within a budget, pairs and guard too."""
    import metadeblur as md

    net, blurred, seconds = md.load_deblurrer("lite"), md.read_clip(clip).in_memory(), words[0]
    began = time.process_time()
    md.adapt(net, blurred, budget_seconds=float(seconds), device="cpu", precision="fp32")
    return {f"budget of {seconds} s": time.process_time() - began}


def measure_demo(_: Path, words: Sequence[str]) -> Figures:
    """The demonstration, from filming to measuring against the truth."""
    from metadeblur.pipeline.demo import DemoSettings, run_demo

    frames, width, height = map(int, words)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run_demo(Path(folder) / "demo", DemoSettings(frames=frames, width=width, height=height))
    return {"demonstration": time.process_time() - began}


def measure_threads(clip: Path, words: Sequence[str]) -> Figures:
    """A whole run of the command with so many threads, on the clock, and how many processors it kept busy."""
    import cv2
    import torch

    from metadeblur.cli.entry import main

    threads, flags = int(words[0]), [f"--{name}={value}" for name, value in overrides(words[1:]).items()]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    began, spent = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        code = main(["restore", str(clip), "-o", f"{folder}/out", "--precision=fp32", "--device=cpu", *flags])
    if code:
        raise SystemExit(code)
    seconds = time.perf_counter() - began
    name = f"whole run, {threads} thread{'s' if threads > 1 else ''}, s on the clock"
    return {name: seconds, f"processors busy with {threads}": (time.process_time() - spent) / seconds}


def overrides(words: Sequence[str]) -> dict[str, Any]:
    """Settings of the adaptation as words: name=value."""
    return {name: int(value) for name, value in (word.split("=") for word in words)}


MEASUREMENTS: dict[str, Callable[[Path, Sequence[str]], Figures]] = {
    "adapt": measure_adapt,
    "quick": measure_quick,
    "budget": measure_budget,
    "threads": measure_threads,
    "demo": measure_demo,
}


def measured_here(name: str, clip: Path, words: Sequence[str]) -> None:
    """One measurement in this process; the last line of standard output is its figures."""
    if name != "threads":
        time.monotonic = time.process_time  # what the program measures of itself, its budgets too, is processor time
    import torch

    import metadeblur

    torch.manual_seed(0)
    if name != "threads":
        torch.set_num_threads(1)
    figures = MEASUREMENTS[name](clip, words)
    print(json.dumps({"from": metadeblur.__file__, "figures": figures}), flush=True)


# --- the two taking turns ------------------------------------------------------------------------------------------


def compare(before: str, rounds: int, lines: Sequence[str], *, small: bool = False) -> dict[str, Any]:
    """Measure both in turn, round by round.

    Args:
        before: a checkout's folder, or a commit of this project.
        rounds: how many.
        lines: names of :data:`MEASUREMENTS`.
        small: tiny amounts, to see that everything runs.

    Returns:
        Plain values: "figures" by line, each with a list of seconds for "before" and "after", and what was compared.
    """
    amounts = SMALL if small else Amounts()
    figures: dict[str, dict[str, list[float]]] = {}
    with checkout(before) as old, tempfile.TemporaryDirectory() as folder:
        clip = film(Path(folder), amounts)
        commits = {"before": commit_of(old), "after": commit_of(HERE)}
        for number in range(rounds):
            for name, words in tasks(lines, amounts):
                for side, root in (("before", old), ("after", HERE)):
                    for line, value in apart(root, name, clip, words).items():
                        figures.setdefault(line, {"before": [], "after": []})[side].append(value)
                    print(f"round {number + 1} of {rounds}: {name} {' '.join(words)}, {side}", file=sys.stderr)
    return {"figures": figures, "commits": commits, "small": small, "rounds": rounds, "limited": bool(limits())}


def tasks(lines: Sequence[str], amounts: Amounts) -> list[tuple[str, list[str]]]:
    """The measurements and what each is given."""
    adapting = [f"{name}={value}" for name, value in amounts.adapting]
    given: dict[str, list[list[str]]] = {
        "adapt": [adapting],
        "budget": [[str(seconds)] for seconds in amounts.budgets],
        "threads": [["1", *adapting], ["2", *adapting]],
        "demo": [[str(value) for value in amounts.demo]],
    }
    return [(name, words) for name in lines for words in given.get(name, [[]])]


@contextmanager
def checkout(before: str) -> Iterator[Path]:
    """The folder of an older version: the one that is named, or a commit checked out beside."""
    if (Path(before) / "src" / "metadeblur").is_dir():
        yield Path(before).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        subprocess.run(["git", "-C", HERE, "worktree", "add", "--quiet", "--detach", tree, before], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", HERE, "worktree", "remove", "--force", tree], check=True)


def commit_of(root: Path) -> str:
    """The commit of a checkout, with ``+`` where files differ."""
    words = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "no commit"


def film(folder: Path, amounts: Amounts) -> Path:
    """The clip: a simulated hand-held camera over the photograph of the demonstration, as frames without loss."""
    from metadeblur.pipeline.demo import DemoSettings, shaky_clip
    from metadeblur.video import write_clip

    path = folder / "shaky"
    settings = DemoSettings(frames=amounts.frames, width=amounts.width, height=amounts.height)
    write_clip(shaky_clip(settings).blurred, path)
    return path


def apart(root: Path, name: str, clip: Path, words: Sequence[str]) -> Figures:
    """A measurement in a process of its own that imports the ``src`` of a checkout."""
    threads = words[0] if name == "threads" else "1"
    environment = {**os.environ, **limits(), "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": threads}
    call = [sys.executable, __file__, name, str(clip), *words]
    done = subprocess.run(call, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    if not Path(answer["from"]).is_relative_to(root):
        raise SystemExit(f"{answer['from']} was measured, which is not in {root}")
    figures: Figures = answer["figures"]
    return figures


def limits() -> dict[str, str]:
    """What holds PyTorch to AVX2, where the processor has more."""
    import torch

    return AVX2 if "AVX512" in torch.backends.cpu.get_cpu_capability() else {}


# --- the page ------------------------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> list[list[str]]:
    """One line a figure: both, and their ratio round by round; budgets also against what was asked for."""
    rows = [["line", "before", "after", "after / before"]]
    for line, sides in found["figures"].items():
        both = list(zip(sides["before"], sides["after"], strict=False))
        ratio = [after / before for before, after in both if before > 0]
        rows.append([line, spread(sides["before"]), spread(sides["after"]), spread(ratio)])
    return rows + speedups(found["figures"])


def speedups(figures: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    """How many times as fast two threads are as one."""
    one, two = (figures.get(f"whole run, {words}, s on the clock") for words in ("1 thread", "2 threads"))
    if one is None or two is None:
        return []
    ratios = {
        side: [slow / fast for slow, fast in zip(one[side], two[side], strict=True)] for side in ("before", "after")
    }
    return [["two threads, times as fast as one", spread(ratios["before"]), spread(ratios["after"]), ""]]


def spread(values: Sequence[float]) -> str:
    """The median, with the least and the most; a dash where there is nothing."""
    if not values:
        return "-"
    middle, low, high = (f"{value:.{DIGITS}g}" for value in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def page(found: dict[str, Any]) -> str:
    """The Markdown page of all that was found."""
    from metadeblur.evaluation.tables import markdown

    amounts, host, said = SMALL if found["small"] else Amounts(), found["machine"], found["versions"]
    frames, width, height = amounts.demo
    lines = [
        "# Speed, before and after",
        "",
        f"Commit {found['commits']['before']} against {found['commits']['after']}, which took turns in each of "
        f"{found['rounds']} round(s): median (least to most). Seconds of the processor, of one thread, fp32"
        + (", PyTorch held to AVX2" if found["limited"] else "")
        + "; a budget is kept in the same seconds. The clip: "
        f"{amounts.frames} frames of {amounts.width}x{amounts.height} of a simulated hand-held camera. Adapting is "
        f"balanced; the demonstration has {frames} frames of {width}x{height}. On the clock: the whole run of "
        "`metadeblur restore`, bound to as many processors as it has threads.",
        "",
        *(["**Tiny amounts: these figures mean nothing.**", ""] if found["small"] else []),
        markdown(table(found)),
        "",
        f"{host['processor']}, {host['cpus']} processors; PyTorch {said['torch']}, Python {said['python']}; "
        f"metadeblur {said['metadeblur']}, commit {found['commits']['after']}."
        + (f" {found['note']}" if found["note"] else ""),
        "",
        "Made by `python benchmarks/speed.py --before COMMIT -o docs/results`; all figures are in "
        "`speed_before_after.json`.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    measured_here(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

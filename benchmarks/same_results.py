"""Whether a change of the code changes any result: small clips restored, their frames and decisions compared.

Run:  python benchmarks/same_results.py BEFORE.json             (with the code as it was)
      python benchmarks/same_results.py AFTER.json --against BEFORE.json

Three videos (a shaky one of two shots, with flow pairs; one with pairs of the reblurring network; one that is restored
without adapting) and a folder of pictures are made on the spot and restored by the command, with a fixed seed, tile and
number of threads. What is written to the JSON file: a checksum of all decoded frames of each output, and of each shot
the decision, the share, the losses of the steps and the scores. Ends with exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from metadeblur.cli.entry import main as command

SIZE = 96, 128  # height, width
SAME = ["--seed", "3", "--tile", "0", "--precision", "fp32", "--device", "cpu", "--codec", "ffv1"]
JOBS = {
    "flow.mkv": ["--steps", "6", "--pairs", "6"],
    "network.mkv": ["--steps", "4", "--pairs", "4", "--reblur", "network"],
    "plain.mkv": ["--no-adapt"],
    "folder": ["--steps", "4", "--pairs", "4", "--no-guard"],
}
LEFT_OUT = {
    "seconds",
    "memory",
    "commit",
    "versions",
    "machine",
    "peak",
    "outputs",
    "input",
}  # what differs from run to run


def frames(count: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Frames (H, W, 3) of a random picture that is moved quickly and slowly in turn, blurred along its motion."""
    chance = np.random.default_rng(seed)
    small = chance.integers(20, 235, (SIZE[0] // 4 + 24, SIZE[1] // 4 + 24, 3)).astype(np.float32)
    wide = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    for number in range(count):
        seen = []
        for part in np.linspace(0, 0.9, 9):
            moment = number + part
            x, y = 44 + 36 * np.sin(moment / 2.2), 44 + 24 * np.cos(moment / 3)
            matrix = np.array([[1, 0, -x], [0, 1, -y]])
            seen.append(cv2.warpAffine(wide, matrix, SIZE[::-1], flags=cv2.INTER_LINEAR))
        yield (np.mean(seen, axis=0) * (1 - seed % 200 / 250)).clip(0, 255).round().astype(np.uint8)


def make(folder: Path) -> None:
    """Write the inputs."""
    for seed, name in enumerate(JOBS):
        if name == "folder":
            (folder / name).mkdir()
            for number, frame in enumerate(frames(8, seed)):
                cv2.imwrite(str(folder / name / f"{number:03d}.png"), frame)
            continue
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
            shots = [*frames(12, seed), *frames(12, 100 + seed)] if name == "flow.mkv" else frames(10, seed)
            for frame in shots:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            container.mux(stream.encode(None))


def checksum(output: Path) -> str:
    """Of all frames of a video, or pictures of a folder, in order."""
    digest = hashlib.sha256()
    if output.is_dir():
        for path in sorted(output.iterdir()):
            digest.update(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes())
        return digest.hexdigest()
    with av.open(str(output)) as container:
        for frame in container.decode(video=0):
            digest.update(frame.to_ndarray().tobytes())
    return digest.hexdigest()


def lasting(value: Any) -> Any:
    """A record without what differs from run to run."""
    if isinstance(value, dict):
        return {name: lasting(item) for name, item in value.items() if not any(word in name for word in LEFT_OUT)}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def results() -> dict[str, Any]:
    """What the jobs give."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        for job, words in JOBS.items():
            output, record = folder / f"out-{job}", folder / f"{job}.json"
            if job == "folder":
                words = [*words, "--quality", "lossless"]
            same = [word for word in SAME if job != "folder" or word not in ("--codec", "ffv1")]
            if command(["restore", str(folder / job), "-o", str(output), "--json", str(record), *same, *words]):
                raise SystemExit(f"{job} failed")
            text = record.read_text(encoding="utf-8").replace(name, "")
            found[job] = {"frames": checksum(output), "record": lasting(json.loads(text))}
    return found


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where two results differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            yield from differences(one.get(name), other.get(name), f"{where}/{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, f"{where}/{number}")
    elif one != other:
        yield f"{where}: {one} became {other}"


def main() -> int:
    """Run the jobs; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument("--against", type=Path, help="what an earlier run wrote")
    options = parser.parse_args()
    found = results()
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.against is None:
        return 0
    before = json.loads(options.against.read_text(encoding="utf-8"))
    differ = list(differences(before, found))
    print("\n".join(differ) or "the same")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())

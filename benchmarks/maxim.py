"""MAXIM with fewer stages: dB on true pairs; processor seconds and memory of frames and of gradient steps.

Run:  python benchmarks/maxim.py quality PAIRS VAL [--stages 3 2 1]
      python benchmarks/maxim.py cost [--rows "frame 256 256 3" ...]

``quality`` restores ``*_in.png`` of PAIRS against ``*_gt.png``, and of each clip of VAL (``CLIP/{blur,sharp}``) the
centre 256x256 of frames 4 and 11; PSNR on 8-bit levels. ``cost`` runs every row in a process of its own: the most
memory that it held, PyTorch and the network's weights included, and the processor seconds of one thread (the better of
two), which a busy machine lengthens less than the clock's. ``whole`` keeps all activations instead of checkpointing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median

ROWS = (
    *(f"frame {side} {stages}" for stages in (3, 2, 1) for side in ("256x256", "640x384", "1280x768")),
    *(f"step {side} {batch} {stages} {way}"
      for side, batch, stages, way in (
          ("128x128", 1, 3, "checkpointed"),
          ("256x256", 1, 3, "checkpointed"),
          ("256x256", 2, 3, "checkpointed"),
          ("256x256", 1, 3, "whole"),
          ("256x256", 1, 2, "checkpointed"),
          ("256x256", 1, 1, "checkpointed"),
      )),
)  # fmt: skip


def quality(pairs: Path, val: Path, stages: int) -> None:
    import torch
    from torch import Tensor

    from metadeblur import load_deblurrer
    from metadeblur.data.pairs import read_picture
    from metadeblur.imaging.quality import psnr
    from metadeblur.restoration.restorer import Restorer, RestoreSettings

    def picture(path: Path, side: int | None = None) -> Tensor:
        frame = torch.from_numpy(read_picture(path)).permute(2, 0, 1).float() / 255
        if side is None:
            return frame
        top, left = ((length - side) // 2 for length in frame.shape[-2:])
        return frame[:, top : top + side, left : left + side]

    net = load_deblurrer("maxim" if stages == 3 else f"maxim-{stages}")
    restorer = Restorer(net, 256, 256, RestoreSettings(tile=0, precision="fp32"))
    spent = []

    def compare(blurred: Tensor, sharp: Tensor) -> tuple[float, float]:
        began = time.process_time()
        restored = restorer(blurred)
        spent.append(time.process_time() - began)
        before, after = (float(psnr(given, sharp, round_to_8bit=True)) for given in (blurred, restored))
        return before, after

    for path in sorted(pairs.glob("*_in.png")):
        before, after = compare(picture(path), picture(path.with_name(path.name.replace("_in", "_gt"))))
        print(f"{stages} stages  {path.name}  {before:.2f} -> {after:.2f}", flush=True)
    found = []
    for clip in sorted(folder for folder in val.iterdir() if folder.is_dir()):
        for index in (4, 11):
            blurred = sorted((clip / "blur").iterdir())[index]
            found.append(compare(picture(blurred, 256), picture(clip / "sharp" / blurred.name, 256)))
    before, after = (fmean(row[place] for row in found) for place in (0, 1))
    print(
        f"{stages} stages  val crops  {before:.2f} -> {after:.2f}  {median(spent):.2f} s of one processor", flush=True
    )


def cost(row: str) -> None:
    import torch

    from metadeblur import load_deblurrer
    from metadeblur.models.forward import own_loss
    from metadeblur.system.machine import peak_memory_mb

    kind, side, *rest = row.split()
    width, height = map(int, side.split("x"))
    stages = int(rest[-1] if kind == "frame" else rest[1])
    net = load_deblurrer("maxim" if stages == 3 else f"maxim-{stages}")
    batch = 1 if kind == "frame" else int(rest[0])
    pictures = torch.rand(batch, 3, height, width)
    run: Callable[[], object]
    if kind == "frame":
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def run() -> object:
            with torch.inference_mode():
                return net(pictures)
    else:
        net.checkpointing = rest[2] == "checkpointed"  # type: ignore[assignment]
        optimizer = torch.optim.Adam(net.requires_grad_(True).parameters(), lr=1e-9)

        def run() -> object:
            optimizer.zero_grad(set_to_none=True)
            own_loss(net, pictures, pictures.flip(0)).backward()
            return optimizer.step()

    seconds = []
    for _ in range(1 if width > 256 else 2):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    print(json.dumps({"row": row, "seconds": round(min(seconds), 2), "memory_mb": peak_memory_mb()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    measured = jobs.add_parser("quality")
    measured.add_argument("pairs", type=Path)
    measured.add_argument("val", type=Path)
    measured.add_argument("--stages", type=int, nargs="+", default=[3, 2, 1])
    costs = jobs.add_parser("cost")
    costs.add_argument("--rows", nargs="+", default=ROWS)
    costs.add_argument("--here", action="store_true", help="in this process")
    arguments = parser.parse_args()
    if arguments.job == "quality":
        for stages in arguments.stages:
            quality(arguments.pairs, arguments.val, stages)
        return
    for row in arguments.rows:
        if arguments.here:
            cost(row)
        else:
            command = [sys.executable, __file__, "cost", "--here", "--rows", row]
            subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()

"""Peak memory of a long video on its whole way: scan, decisions, an identity network, encoding, joining.

Run:  python benchmarks/memory_long_video.py [--frames 18000] [--width 1280] [--height 720] [--limit 2048]

The input is made on the spot: a picture that moves, a cut every 1,500 frames, and a sound track. The measured part is
:func:`metadeblur.pipeline.run.restore_file` as the command calls it, with the default encoder, without adapting and
without the guard, which would return such frames untouched. It runs in a process of its own, so that making the input
does not count. Its resident memory is printed as it goes; memory that grows with the number of frames would show as a
rising column. Ends with exit code 1 where the peak is above the limit or the output does not have all frames.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 30
SHOT = 1500
EVERY = 500  # frames between two lines of the table


def make_input(path: Path, frames: int, width: int, height: int) -> None:
    """A video that costs little to make: parts of one large smooth picture, encoded at the encoder's fastest."""
    rows, columns = np.mgrid[: height + 128, : width + 128]
    scene = (128 + 60 * np.sin(rows / 9) * np.cos(columns / 13) + 30 * np.sin((rows + columns) / 40)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "18"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        silence = np.zeros((2, 48000 // FPS), np.float32)
        for index in range(frames):
            shot, step = divmod(index, SHOT)
            top, left = int(64 + 60 * np.sin(step / 17)), int(64 + 60 * np.cos(step / 23))
            frame = av.VideoFrame(width, height, "yuv420p")
            part = scene[top : top + height, left : left + width]
            for plane, picture in zip(frame.planes, (part if shot % 2 == 0 else 255 - part, 90, 160), strict=True):
                whole = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
                whole[:, : plane.width] = picture
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
            tone = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
            tone.sample_rate, tone.pts, tone.time_base = 48000, index * silence.shape[1], Fraction(1, 48000)
            container.mux(sound.encode(tone))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))


def run(source: Path, output: Path) -> None:
    """The measured part."""
    import torch  # here, so that the parent's memory stays small
    from torch import nn

    from metadeblur.adaptation.stages import AdaptSettings
    from metadeblur.pipeline.events import Event, FrameRestored, FrameScanned
    from metadeblur.pipeline.outputs import Job
    from metadeblur.pipeline.run import RunSettings, restore_file
    from metadeblur.restoration.restorer import RestoreSettings

    torch.set_num_threads(1)
    began = time.monotonic()

    def tell(stage: str, frames: int) -> None:
        now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
        print(f"{stage:<12} {frames:>7} {now:>8.0f} {peak_mib():>9.0f} {time.monotonic() - began:>6.0f}", flush=True)

    def listen(event: Event) -> None:
        """Print the memory every so many frames."""
        match event:
            case FrameScanned(done=done) if done % EVERY == 0:
                tell("looking", done)
            case FrameRestored(at=at) if at.frames_done % EVERY == 0:
                tell("restoring", at.frames_done)

    print(f"{'stage':<12} {'frames':>7} {'now MiB':>8} {'peak MiB':>9} {'s':>6}", flush=True)
    tell("start", 0)
    settings = RunSettings(
        adapt=False,
        adaptation=AdaptSettings(guard=False),
        # Whole frames, so that the tile does not depend on how much memory the machine has free.
        restoration=RestoreSettings(tile=0, precision="fp32", device="cpu"),
    )
    record = restore_file(Job(source, output), nn.Identity(), settings, model="identity", listener=listen)
    tell("done", record.video["frames"])


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="Peak memory of a long video on its whole way.")
    parser.add_argument("--frames", type=int, default=18000)
    parser.add_argument("--width", type=int, default=1280, help="px")
    parser.add_argument("--height", type=int, default=720, help="px")
    parser.add_argument("--limit", type=float, default=2048, help="MiB that the peak must not pass")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        began = time.monotonic()
        make_input(source, arguments.frames, arguments.width, arguments.height)
        print(f"input: {source.stat().st_size / 1e6:.0f} MB in {time.monotonic() - began:.0f} s", flush=True)
        child = multiprocessing.get_context("spawn").Process(target=run, args=(source, output))
        child.start()
        child.join()
        if child.exitcode != 0:
            return 1
        # The largest child is the measured one; its own reading of the peak is printed above.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        with av.open(str(output)) as container:
            packets = sum(1 for packet in container.demux(video=0) if packet.size)
        fits = peak <= arguments.limit and packets == arguments.frames
        print(
            f"{packets} frames in the output; peak {peak:.0f} MiB of {arguments.limit:.0f}: {'ok' if fits else 'NOT'}"
        )
        return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())

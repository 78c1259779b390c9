"""What ``metadeblur restore`` keeps of a whole video: every other packet and every time stamp, compared one by one.

Run:  python benchmarks/keep_everything.py [--seconds 60] [--containers mp4,mkv] [--tiny] [-- FLAGS OF RESTORE]

Makes videos of 640x360 with a variable frame rate as phones write it, two sound tracks, subtitles, chapters and tags;
an MP4 also with a stream of timed data, a Matroska file with an attached font. The installed
command restores each (by default with --no-adapt --no-guard; with --tiny by a network of next to no work), then the
packets of input and output are compared: of every copied stream count, bytes, and times in seconds; of the video count
and times. Prints a table; ends with exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.packet import Packet

WIDTH, HEIGHT = 640, 360
TICKS = 90_000  # a second, of the video's clock
SOUND = {"mp4": ("aac", "ac3"), "mkv": ("libopus", "flac")}
TAGS = {"title": "A walk", "comment": "two sound tracks"}


def frame_times(seconds: float) -> Iterator[int]:
    """Time stamps like a phone's: nearly 30 frames a second, jitter, lost frames, and slow stretches in the dark."""
    draw = random.Random(0)
    moment = 0.0
    while moment < seconds:
        yield round(moment * TICKS)
        usual = 1 / 15 if int(moment) % 20 >= 15 else 1 / 30
        moment += usual * (2 if draw.random() < 0.02 else 1) + draw.uniform(-0.003, 0.003)


def make_input(path: Path, seconds: float) -> None:
    """The video; its picture moves faster at some times than at others, and is blurred along the way."""
    kind = path.suffix[1:]
    grain = np.random.default_rng(0).uniform(40, 210, (90, 160, 3)).astype(np.float32)
    scene = cv2.resize(grain, (1280, 720), interpolation=cv2.INTER_CUBIC).clip(16, 235).astype(np.uint8)
    scene[::9, ::5] = 230
    with av.open(str(path), "w") as container:
        container.metadata.update(TAGS)
        video: Any = container.add_stream("libx264", rate=30, options={"crf": "20", "preset": "veryfast", "bf": "3"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, TICKS)
        sounds: list[Any] = []
        for codec, language in zip(SOUND[kind], ("eng", "fra"), strict=True):
            sounds.append(container.add_stream(codec, rate=48000))
            sounds[-1].metadata["language"] = language
        texts = [container.add_mux_stream("mov_text" if kind == "mp4" else "subrip") for _ in range(2)]
        for text, language in zip(texts, ("eng", "deu"), strict=True):
            text.time_base = Fraction(1, 1000)
            text.metadata["language"] = language
        data = container.add_data_stream("bin_data") if kind == "mp4" else None
        if data is not None:
            data.time_base = Fraction(1, 1000)
        else:
            container.add_attachment("font.ttf", "application/x-truetype-font", bytes(range(256)) * 40)
        thirds = [round(seconds * 1000 * part / 3) for part in range(4)]
        container.set_chapters(
            [
                {"id": n + 1, "start": thirds[n], "end": thirds[n + 1], "time_base": Fraction(1, 1000)}
                | {"metadata": {"title": f"part {n + 1}"}}
                for n in range(3)
            ]
        )
        container.start_encoding()
        for pitch, sound in zip((440, 660), sounds, strict=True):
            write_tone(container, sound, pitch, seconds)
        for number, text in enumerate(texts):
            for line, moment in enumerate(range(700 + 300 * number, int(seconds * 1000) - 1500, 2500)):
                said = f"Line {line} of track {number}, said at {moment} ms".encode()
                said = struct.pack(">H", len(said)) + said if kind == "mp4" else said
                write_bytes(container, text, said, moment, 1200)
        if data is not None:
            for moment in range(0, int(seconds * 1000), 100):
                write_bytes(container, data, struct.pack(">Id", moment, moment / 7), moment, 100)
        for stamp in frame_times(seconds):
            frame = av.VideoFrame.from_ndarray(picture(scene, stamp / TICKS), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = stamp, Fraction(1, TICKS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))


def picture(scene: np.ndarray, moment: float) -> np.ndarray:
    """What the camera sees: a part of the scene, blurred along the motion."""
    left = 300 + 280 * np.sin(moment * 1.1)
    top = 170 + 150 * np.sin(moment * 0.7)
    speed = abs(np.cos(moment * 1.1)) * 10
    part = scene[int(top) : int(top) + HEIGHT, int(left) : int(left) + WIDTH]
    return np.ascontiguousarray(cv2.blur(part, (1 + int(speed), 1)))


def write_tone(container: Any, stream: Any, pitch: float, seconds: float) -> None:
    layout, size = "stereo", 960
    form = stream.codec_context.format.name if stream.codec_context.format else "fltp"
    for start in range(0, int(48000 * seconds), size):
        wave = 0.2 * np.sin(2 * np.pi * pitch * np.arange(start, start + size) / 48000)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]).astype(np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        if form != "fltp":
            (frame,) = av.AudioResampler(format=form, layout=layout, rate=48000).resample(frame)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_bytes(container: Any, stream: Any, content: bytes, moment: int, lasting: int) -> None:
    packet = Packet(content)
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = moment
    packet.duration = lasting
    container.mux(packet)


def packets(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The packets of each stream by its name: (shown at, decoded at, lasts, bytes), times in seconds."""
    with av.open(str(path)) as container:
        names = {}
        for stream in container.streams:
            if stream.discard != av.stream.Discard.all:  # those of MP4 are its chapters, which are compared as such
                codec = stream.codec_context.codec.canonical_name if stream.codec_context else stream.name
                names[stream.index] = " ".join([str(stream.index), stream.type, codec or "", language(stream)])
        found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in names.values()}
        for stream in container.streams:
            if stream.type == "attachment":
                found[names[stream.index]].append((None, None, None, stream.data))
        for packet in container.demux():
            if packet.size and packet.stream_index in names:
                times = (packet.pts, packet.dts, packet.duration)
                seconds = (None if time is None else time * packet.time_base for time in times)
                found[names[packet.stream_index]].append((*seconds, bytes(packet)))
    return found


def language(stream: Any) -> str:
    """The language of a stream; an MP4 cannot say nothing."""
    named = stream.metadata.get("language", "")
    return "" if named == "und" else named


def compare(before: Path, after: Path) -> tuple[list[tuple[str, ...]], bool]:
    """The rows of the table, and whether all is kept."""
    old, new = packets(before), packets(after)
    rows, kept = [], list(old) == list(new)
    for name, found in old.items():
        one, other = found, new.get(name, [])
        restored = " video " in name
        if restored:
            one, other = ([(shown, None, None, b"") for shown in sorted(p[0] for p in side)] for side in (one, other))
        same = [
            len(one) == len(other),
            [p[:3] for p in one] == [p[:3] for p in other],
            [p[3] for p in one] == [p[3] for p in other],
        ]
        kept = kept and all(same)
        said = ["same" if value else "DIFFERENT" for value in same]
        if restored:
            said[2] = "restored"
        size = sum(len(packet[3]) for packet in found)
        rows.append((name, str(len(one)), str(len(other)), f"{size:,}", *said))
    with av.open(str(before)) as first, av.open(str(after)) as second:
        facts = {
            "chapters": first.chapters() == second.chapters(),
            "tags": tags(first) == tags(second) == TAGS,
        }
    for name, same_fact in facts.items():
        rows.append((name, "", "", "", "same" if same_fact else "DIFFERENT", "", ""))
        kept = kept and same_fact
    return rows, kept


def tiny_model(path: Path) -> Path:
    """Weights of the smallest network of the built-in kind; untrained, it gives back what it gets."""
    from metadeblur.models.lite import Lite
    from metadeblur.models.weights import save_deblurrer

    save_deblurrer(Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,)), path, {"architecture": "lite"})
    return path


def tags(container: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in container.metadata.items() if name.lower() in TAGS}


def main() -> int:
    parser = argparse.ArgumentParser(description="What restoring keeps of a whole video, packet by packet.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--containers", default="mp4,mkv")
    parser.add_argument("--tiny", action="store_true", help="restore with a network of next to no work")
    parser.add_argument("flags", nargs="*", help="after --: flags of metadeblur restore")
    arguments = parser.parse_args()
    flags = arguments.flags or ["--no-adapt", "--no-guard"]
    everything = True
    with tempfile.TemporaryDirectory() as folder:
        if arguments.tiny:
            flags += ["--model", str(tiny_model(Path(folder) / "tiny.safetensors"))]
        for kind in arguments.containers.split(","):
            source, output = Path(folder) / f"in.{kind}", Path(folder) / f"out.{kind}"
            make_input(source, arguments.seconds)
            steps = np.diff(list(frame_times(arguments.seconds))) / TICKS * 1000
            began = time.monotonic()
            words = ["metadeblur", "restore", str(source), "-o", str(output), *flags]
            subprocess.run(words, check=True)
            print(
                f"\n{kind}: {arguments.seconds:g} s of {WIDTH}x{HEIGHT}, frames {steps.min():.0f} to {steps.max():.0f} "
                f"ms apart; {' '.join(flags)}; {time.monotonic() - began:.0f} s"
            )
            rows, kept = compare(source, output)
            head = ("stream", "packets in", "out", "bytes in", "count", "times", "content")
            for row in (head, *rows):
                print(f"{row[0]:<24}{row[1]:>10}{row[2]:>8}{row[3]:>12}  {row[4]:<10}{row[5]:<10}{row[6]}")
            print("everything kept" if kept else "NOT everything kept", flush=True)
            everything = everything and kept
    return 0 if everything else 1


if __name__ == "__main__":
    sys.exit(main())

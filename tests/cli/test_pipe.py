"""``metadeblur pipe``: the same frames as from a file, whatever the layout; what it refuses, in one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from journey import command, run, shaky, small_model
from media import make_video

from metadeblur.pipeline.pipe import restore_pipe
from metadeblur.video.y4m import Y4mHeader, raw_header, read_header

PAGE = Path(__file__).parents[2] / "docs" / "pipe.md"
LOSSLESS = ("--effort", "quick", "--codec", "ffv1", "--quality", "lossless", "--quiet")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


def planes(frame):
    """The samples of a frame, as raw frames hold them."""
    return b"".join(
        np.frombuffer(memoryview(plane), np.uint8)
        .reshape(plane.height, -1)[:, : plane.width * (1 if frame.format.components[0].bits <= 8 else 2)]
        .tobytes()
        for plane in frame.planes
    )


def raw(pictures, pix_fmt="yuv420p"):
    """The pictures as raw frames of a layout."""
    frames = (av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures)
    return [planes(frame.reformat(format=pix_fmt)) for frame in frames]


def y4m(frames, header=b"YUV4MPEG2 W96 H64 F25:1 Ip A1:1 C420jpeg"):
    return header + b"\n" + b"".join(b"FRAME\n" + frame for frame in frames)


def decoded(source):
    """Layouts and samples of the frames of a file or stream."""
    with av.open(source if isinstance(source, io.BytesIO) else str(source)) as container:
        frames = list(container.decode(video=0))
        return {frame.format.name for frame in frames}, [planes(frame) for frame in frames]


class Standard:
    """A standard stream of this process that holds bytes."""

    def __init__(self, data=b""):
        self.buffer = io.BytesIO(data)


@pytest.fixture
def pipe(monkeypatch, model, capsys):
    """Run the command in this process on some bytes; gives exit code, bytes and messages."""

    def run_pipe(data, *words):
        streams = SimpleNamespace(stdin=Standard(data), stdout=Standard())
        monkeypatch.setattr("metadeblur.cli.pipe.sys", streams)
        code = run("pipe", "--model", model, *words)
        return code, streams.stdout.buffer.getvalue(), capsys.readouterr().err

    return run_pipe


def test_thirty_frames_through_the_pipe_are_those_of_the_file(tmp_path, model):
    data = y4m(raw(shaky((18, 12))))
    (tmp_path / "in.y4m").write_bytes(data)
    words = [command(), "pipe", "--model", model]
    done = subprocess.run(words, input=data, capture_output=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"YUV4MPEG2 W96 H64 F25:1 Ip A1:1 C420jpeg")
    assert b"standard output" in done.stderr
    assert b"shot 2 of 2" in done.stderr
    subprocess.run(
        [command(), "restore", tmp_path / "in.y4m", "-o", tmp_path / "out.mkv", "--model", model, *LOSSLESS],
        env=ENVIRONMENT,
        check=True,
    )
    restored = decoded(tmp_path / "out.mkv")
    assert decoded(io.BytesIO(done.stdout)) == restored
    assert len(restored[1]) == 30
    assert restored[1] != decoded(tmp_path / "in.y4m")[1]


@pytest.mark.parametrize(
    ("layout", "pix_fmt", "out"),
    [
        ("422", "yuv422p", "422"),
        ("444p10", "yuv444p10le", "444p10"),
        ("mono", "gray", "mono"),
        ("mono16", "gray16le", "mono16"),
        ("411", "yuv411p", "422"),  # FFV1 holds no 4:1:1
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_other_layouts_and_odd_sizes(layout, pix_fmt, out, pipe, tmp_path, model):
    frames = raw(shaky((5,), (63, 97)), pix_fmt)
    data = y4m(frames, f"YUV4MPEG2 C{layout} W97 H63 F30000:1001 Ip A4:3 XLENGTH=5".encode())
    (tmp_path / "in.y4m").write_bytes(data)
    code, made, told = pipe(data, "--quiet")
    assert (code, told) == (0, "")
    assert b"W97 H63 F30000:1001 Ip A4:3 C" + out.encode() in made.splitlines()[0]
    assert run("restore", tmp_path / "in.y4m", "-o", tmp_path / "out.mkv", "--model", model, *LOSSLESS) == 0
    assert decoded(io.BytesIO(made)) == decoded(tmp_path / "out.mkv")


@pytest.mark.usefixtures("one_thread")
def test_raw_frames_are_those_of_y4m(pipe):
    frames = raw(shaky((5,)), "yuv422p10le")
    code, from_raw, _ = pipe(
        b"".join(frames), "--size", "96x64", "--rate", "24000/1001", "--pixel-format", "yuv422p10le"
    )
    assert code == 0
    code, from_y4m, _ = pipe(y4m(frames, b"YUV4MPEG2 W96 H64 F24000:1001 C422p10"))
    assert code == 0
    assert from_raw == from_y4m


GOOD = b"YUV4MPEG2 W96 H64 F25:1 Ip A1:1 C420jpeg\n"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "standard input is empty"),
        (b"\x00\x00\x00\x18ftypmp42", "no y4m stream, it does not begin with YUV4MPEG2"),
        (b"YUV4MPEG2x W2 H2\n", "no y4m stream"),
        (b"YUV4MPEG2 W96 H64", "has no end"),
        (b"YUV4MPEG2 " + b"X" * 2000, "has no end"),
        (b"YUV4MPEG2 H64 F25:1\n", "has W missing"),
        (b"YUV4MPEG2 W96 H-4 F25:1\n", "has H-4; allowed: a whole number from 1 to 16384"),
        (b"YUV4MPEG2 W0 H64 F25:1\n", "has W0;"),
        (b"YUV4MPEG2 W99999999999999999999 H64 F25:1\n", "has W99999999999999999999;"),
        (b"YUV4MPEG2 W96 H64 Ffast\n", "has Ffast; allowed: two whole numbers"),
        (b"YUV4MPEG2 W96 H64 F25:1 A1\n", "has A1;"),
        (b"YUV4MPEG2 W96 H64 F25:1 Im\n", "has Im; allowed: p, t or b"),
        (b"YUV4MPEG2 W96 H64 F25:1 C444alpha\n", "has C444alpha; allowed: 420, 420jpeg"),
        (b"YUV4MPEG2 W96 H64 F25:1 C\xff\n", "has C\\xff;"),
        (GOOD, "has no frames"),
        (GOOD + b"FRAME\n" + bytes(9216) + b"FRAME\n" + bytes(9000), "in the middle of frame 2, 216 of 9216 bytes are"),
        (GOOD + b"FRAME\n" + bytes(9216) + b"rubbish", "damaged after 1 frame: the next one does not begin with FRAME"),
    ],
)
def test_bad_streams_are_refused_in_one_line(data, told, pipe):
    code, made, said = pipe(data)
    assert (code, made) == (1, b"")
    assert told in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--size", "96x64"], "give --rate too"),
        (["--rate", "25"], "need --size too"),
        (["--pixel-format", "gray"], "need --size too"),
        (["--size", "96", "--rate", "25"], "--size is '96'; give WIDTHxHEIGHT in px"),
        (["--size", "96x0", "--rate", "25"], "--size is '96x0'"),
        (["--size", "20000x20", "--rate", "25"], "each side is a whole number from 1 to 16384"),
        (["--size", "96x64", "--rate", "0"], "--rate is '0'; give a number such as 25 or 30000/1001"),
        (["--size", "96x64", "--rate", "1/0"], "--rate is '1/0'"),
        (["--size", "96x64", "--rate", "nan"], "--rate is 'nan'"),
    ],
)
def test_flags_that_cannot_be_meant_are_wrong_usage(words, told, pipe):
    code, made, said = pipe(y4m(raw(shaky((1,)))), *words)
    assert (code, made) == (2, b"")
    assert told in said
    assert said.count("\n") == 1


def test_raw_frames_of_another_size_are_no_frames(pipe):
    code, made, said = pipe(bytes(9217), "--size", "96x64", "--rate", "25")
    assert (code, made) == (1, b"")
    assert "in the middle of frame 2" in said


def test_a_reader_that_has_seen_enough_ends_it_quietly(model):
    ours, theirs = os.pipe()
    os.close(ours)
    words = [command(), "pipe", "--model", str(model), "--quiet"]
    data = y4m(raw(shaky((2,))))
    done = subprocess.run(words, input=data, stdout=theirs, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_takes_no_more_is_said_in_one_line(model):
    words = [command(), "pipe", "--model", str(model), "--quiet"]
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            words, input=y4m(raw(shaky((2,)))), stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False
        )
    assert done.returncode == 1
    assert b"the disk is full" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_closed_standard_input_is_said():
    words = f"'{command()}' pipe <&-"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "standard input is closed" in done.stderr


def test_a_full_disk_names_the_folder_of_the_frames(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metadeblur.pipeline.pipe.copy_frames", full)
    source = io.BytesIO(GOOD)
    with pytest.raises(OSError, match="No space") as caught:
        restore_pipe(source, io.BytesIO(), None, SimpleNamespace(raw=None, run=None), Silent())
    assert "TMPDIR" in "".join(caught.value.__notes__)


class Silent:
    """A terminal that nobody reads."""

    def bar(self, _):
        return contextlib.nullcontext(lambda *_: None)


@pytest.mark.parametrize(
    "header",
    [
        raw_header(97, 63, Fraction(30000, 1001), "gray12le"),
        Y4mHeader(96, 64, Fraction(25), "420mpeg2", "t", Fraction(4, 3), 2),
    ],
)
def test_a_header_is_read_as_it_was_written(header):
    assert read_header(io.BytesIO(header.line())) == header


def test_the_page_on_other_programs_shows_the_same_chain():
    (block,) = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    other = PAGE.with_name("other-programs.md").read_text(encoding="utf-8")
    assert f"```console\n{block.split(chr(10) * 2)[0]}\n```" in other


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed: apt-get install ffmpeg")
@pytest.mark.slow
def test_the_chains_of_the_page(tmp_path):
    make_video(tmp_path / "shaky.mp4", shaky((6,)), audio_tracks=1)
    (block,) = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    environment = {**ENVIRONMENT, "PATH": f"{Path(command()).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=environment, check=True)
    with av.open(str(tmp_path / "sharp.mp4")) as made:
        assert [stream.type for stream in made.streams] == ["video", "audio"]
    with av.open(str(tmp_path / "again.mp4")) as made:
        assert len(list(made.decode(video=0))) == 6

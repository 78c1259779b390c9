"""Bad input and faults: one clear line, exit code 1, nothing half-written, nothing lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from journey import PLAIN, QUICK, decoded, names, run, shaky, shaky_video, small_model, start
from media import make_frames, make_video, video_packets
from safetensors.torch import load_file, save_file

from metadeblur.pipeline.resume import parts_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture
def fails(capsys):
    """Runs the command and checks that it fails as it should; returns the line that it says."""

    def check(*words, code=1):
        folder = Path(words[1]).parent
        before = names(folder) if folder.is_dir() else []
        assert run(*words) == code
        captured = capsys.readouterr()
        last = captured.err.strip().splitlines()[-1]
        assert last.startswith("metadeblur: error: ")
        assert "Traceback" not in captured.err
        assert captured.out == ""
        assert (names(folder) if folder.is_dir() else []) == before
        return last

    return check


def test_missing_file(tmp_path, fails):
    assert "no such file or folder" in fails("restore", tmp_path / "missing.mp4")


def test_folder_without_frames(tmp_path, fails):
    (tmp_path / "empty").mkdir()
    assert "no frames in this folder" in fails("restore", tmp_path / "empty")


def test_text_file_named_mp4(tmp_path, fails):
    (tmp_path / "a.mp4").write_text("this is no video\n" * 100)
    assert "not a video" in fails("restore", tmp_path / "a.mp4")


def test_empty_file(tmp_path, fails):
    (tmp_path / "a.mp4").touch()
    assert "a.mp4" in fails("restore", tmp_path / "a.mp4")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_mp4(tmp_path, fails, kept):
    whole = shaky_video(tmp_path / "whole.mp4", (30,)).read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: int(len(whole) * kept)])
    assert "a.mp4" in fails("restore", tmp_path / "a.mp4")


def test_truncated_mp4_with_its_index_in_front(tmp_path, fails):
    video = shaky_video(tmp_path / "a.mkv", (30,))
    import av

    with (
        av.open(str(video)) as source,
        av.open(str(tmp_path / "whole.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    assert "cut short" in fails("restore", tmp_path / "a.mp4")


def test_a_matroska_file_that_was_cut_short_is_restored_as_far_as_it_goes_and_that_is_said(tmp_path, model, capsys):
    whole = shaky_video(tmp_path / "whole.mkv", (30,)).read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    assert run("restore", tmp_path / "a.mkv", "--model", model, *PLAIN) == 0
    assert "a.mkv is cut short: 33 % of its bytes are missing; what is there is restored" in capsys.readouterr().err
    assert 5 < len(decoded(tmp_path / "a_deblurred.mkv")) < 30
    assert run("restore", tmp_path / "whole.mkv", "--model", model, *PLAIN) == 0
    assert "cut short" not in capsys.readouterr().err


def test_a_damaged_picture_in_the_middle(tmp_path, model, capfd):
    folder = make_frames(tmp_path / "f", 6)
    damaged = folder / "frame4.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert run("restore", folder, "--model", model, *PLAIN) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1  # OpenCV has nothing to add
    assert "frame4.png: not a picture" in lines[0]
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("size", [(16, 16), (2, 3), (8, 200)])
def test_frames_too_small_to_adapt_to_get_the_base_model(tmp_path, model, capsys, size):
    folder = make_frames(tmp_path / "f", shaky((6,), (64, 200))[:, : size[0], : size[1]])
    assert run("restore", folder, "--model", model, *QUICK, "--no-guard", "--json", "-") == 0
    record = json.loads(capsys.readouterr().out)
    assert "are too small to adapt to" in record["shots"][0]["note"]
    assert "base model" in record["shots"][0]["note"]
    assert cv2.imread(str(tmp_path / "f_deblurred" / "frame3.png")).shape == (*size, 3)


def test_grey_pictures_stay_grey_and_transparent_ones_transparent(tmp_path, model, capsys):
    for name, picture in (
        ("grey", lambda frame: frame[..., 0]),
        ("clear", lambda frame: np.dstack([frame, frame[..., 0]])),
    ):
        for bits in (8, 16):
            folder = tmp_path / f"{name}{bits}"
            folder.mkdir()
            for number, frame in enumerate(shaky((2,))):
                deep = frame.astype(np.uint16) * 257 if bits == 16 else frame
                assert cv2.imwrite(str(folder / f"{number}.png"), np.ascontiguousarray(picture(deep)))
            assert run("restore", folder, "--model", model, *PLAIN) == 0
            error = capsys.readouterr().err
            assert "not kept: the transparency" not in error
            result = cv2.imread(str(tmp_path / f"{name}{bits}_deblurred" / "1.png"), cv2.IMREAD_UNCHANGED)
            assert result.dtype == (np.uint8 if bits == 8 else np.uint16)
            assert result.shape == ((64, 96) if name == "grey" else (64, 96, 4))
    assert run("restore", tmp_path / "grey8", "-o", tmp_path / "g.mp4", "--model", model, *PLAIN) == 0
    assert decoded(tmp_path / "g.mp4").shape == (2, 64, 96, 3)


def test_a_demonstration_needs_a_folder(tmp_path, fails):
    (tmp_path / "a").write_text("x")
    assert "is a file; the demonstration needs a folder" in fails("demo", tmp_path / "a")


def test_frames_of_different_sizes(tmp_path, fails):
    folder = make_frames(tmp_path / "f", 6)
    other = make_frames(tmp_path / "other", 1, size=(64, 80))
    (other / "frame1.png").rename(folder / "frame3.png")
    line = fails("restore", folder)
    assert "frames differ in size" in line
    assert "96x64" in line
    assert "80x64" in line


def test_one_frame(tmp_path, model, capsys):
    video = shaky_video(tmp_path / "a.mp4", (1,))
    assert run("restore", video, "--model", model, "--no-guard", "--json", "-") == 0
    record = json.loads(capsys.readouterr().out)
    assert "base model" in record["shots"][0]["note"]
    assert len(decoded(tmp_path / "a_deblurred.mp4")) == 1


def test_no_sound(tmp_path, model):
    video = shaky_video(tmp_path / "a.mp4", (6,))
    assert run("restore", video, "--model", model, *PLAIN) == 0
    assert set(video_packets(tmp_path / "a_deblurred.mp4")) == {0}


def test_several_sound_tracks(tmp_path, model):
    video = shaky_video(tmp_path / "a.mkv", (6,), audio_tracks=3, subtitles=2)
    assert run("restore", video, "--model", model, *PLAIN) == 0
    before, after = video_packets(video), video_packets(tmp_path / "a_deblurred.mkv")
    assert len(after) == 6
    assert {index: after[index] for index in range(1, 6)} == {index: before[index] for index in range(1, 6)}


def test_output_equal_to_input(tmp_path, model, fails):
    video = shaky_video(tmp_path / "a.mp4", (6,))
    before = video.read_bytes()
    assert "the output is the input" in fails("restore", video, "-o", video, "--model", model)
    assert video.read_bytes() == before
    assert "the output is the input" in fails("restore", video, "--side-by-side", video, "--model", model)
    assert "the output is the input" in fails("restore", video, "--json", video, "--model", model)


def test_missing_output_folder(tmp_path, model, fails):
    video = shaky_video(tmp_path / "a.mp4", (6,))
    for flag in ("-o", "--side-by-side", "--json"):
        assert "is not there" in fails("restore", video, flag, tmp_path / "nowhere" / "b.mp4", "--model", model)


def test_unknown_container(tmp_path, model, fails):
    video = shaky_video(tmp_path / "a.mp4", (6,))
    assert "cannot write .xyz" in fails("restore", video, "-o", tmp_path / "b.xyz", "--model", model)


@contextmanager
def as_nobody():
    """Give up the rights of the administrator for a while, where the tests run as one."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission_to_write(model, capsys):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        weights = folder / "small.safetensors"
        weights.write_bytes(model.read_bytes())
        video = shaky_video(folder / "a.mp4", (6,))
        # Whatever is loaded late must be loaded while it can be read.
        assert run("restore", video, "-o", folder / "b.mp4", "--model", weights, *PLAIN) == 0
        (folder / "b.mp4").unlink()
        capsys.readouterr()
        before = names(folder)
        folder.chmod(0o555)
        with as_nobody():
            for flag in ("-o", "--side-by-side", "--report", "--json"):
                assert run("restore", video, flag, folder / "b.mp4", "--model", weights, *PLAIN) == 1
                assert "no permission" in capsys.readouterr().err.splitlines()[-1]
        folder.chmod(0o755)
        assert names(folder) == before


def test_no_permission_to_read(fails, model):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        video = shaky_video(folder / "a.mp4", (6,))
        video.chmod(0)
        weights = folder / "small.safetensors"
        weights.write_bytes(model.read_bytes())
        with as_nobody():
            assert "no permission to read" in fails("restore", video, "--model", weights)


@contextmanager
def largest_file(size: int):
    """No file may grow beyond so many bytes: stands for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("flags", [(), ("--codec", "ffv1")])
def test_disk_full_while_writing(tmp_path, model, capsys, flags):
    video = shaky_video(tmp_path / "a.mkv", (24,))
    before = names(tmp_path)
    with largest_file(2_000):
        assert run("restore", video, "--model", model, *PLAIN, *flags) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the disk is full" in line
    assert "a_deblurred.mkv" in line
    assert names(tmp_path) == before


def test_disk_full_while_joining_keeps_the_shots(tmp_path, model, capsys):
    video = shaky_video(tmp_path / "a.mp4", (8, 8), audio_tracks=1)
    whole = ("restore", video, "--model", model, *PLAIN)
    assert run(*whole) == 0
    output = tmp_path / "a_deblurred.mp4"
    expected = output.read_bytes()
    output.unlink()
    with largest_file(len(expected) - 2000):
        assert run(*whole) == 1
    assert "2 finished shots are kept" in capsys.readouterr().err
    assert not output.exists()
    assert run(*whole, "--resume") == 0
    assert output.read_bytes() == expected
    assert names(tmp_path) == ["a.mp4", "a_deblurred.mp4"]


def test_weights_with_values_that_are_no_numbers(tmp_path, model, fails):
    video = shaky_video(tmp_path / "a.mp4", (6,))
    weights = load_file(model)
    weights["stem.weight"][0, 0] = torch.nan
    save_file(weights, tmp_path / "broken.safetensors")
    assert "not finite" in fails("restore", video, "--model", tmp_path / "broken.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle", b"\x08\0\0\0\0\0\0\0{}      "])
def test_weights_that_are_none(tmp_path, fails, content):
    video = shaky_video(tmp_path / "a.mp4", (6,))
    (tmp_path / "w.safetensors").write_bytes(content)
    assert "w.safetensors" in fails("restore", video, "--model", tmp_path / "w.safetensors")


def test_a_setting_out_of_range(tmp_path, model, fails):
    video = shaky_video(tmp_path / "a.mp4", (6,))
    assert "--steps is -1" in fails("restore", video, "--model", model, "--steps", "-1", code=2)
    assert "--tile is 7" in fails("restore", video, "--model", model, "--tile", "7", code=2)
    assert "--quality is 99" in fails("restore", video, "--model", model, "--quality", "99", code=2)


def test_one_bad_input_of_several_does_not_stop_the_others(tmp_path, model, capsys):
    good, bad = shaky_video(tmp_path / "a.mp4", (6,)), tmp_path / "bad.mp4"
    bad.write_text("no video")
    assert run("restore", bad, good, "-o", tmp_path / "out", "--model", model, *PLAIN, "--json", "-") == 1
    captured = capsys.readouterr()
    assert "1 of 2 inputs failed: bad.mp4" in captured.err
    assert names(tmp_path / "out") == ["a_deblurred.mp4"]
    assert [record["input"] for record in json.loads(captured.out)] == [str(good)]


def test_a_file_that_changes_its_picture_size_in_the_middle(tmp_path, fails, model):
    one = make_video(tmp_path / "one.ts", shaky((8,)))
    two = make_video(tmp_path / "two.ts", shaky((8,), (80, 128)))
    (tmp_path / "a.ts").write_bytes(one.read_bytes() + two.read_bytes())
    assert "a.ts" in fails("restore", tmp_path / "a.ts", "--model", model, *PLAIN)


# --- stopped in the middle -----------------------------------------------------------------------------------------


def wait_for_shots(folder: Path, count: int, process) -> None:
    """Wait until so many shots are finished."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if len(json.loads((folder / "state.json").read_text())["shots"]) >= count:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.005)
    pytest.fail(f"no {count} shots finished: {process.communicate()}")


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """Shots of which the last takes much longer than the others, and what becomes of it without a disturbance."""
    folder = tmp_path_factory.mktemp("long")
    weights = small_model(folder / "small.safetensors")
    video = shaky_video(folder / "a.mp4", (8, 8, 90), audio_tracks=1)
    words = ("restore", video, "--model", weights, *QUICK, "--no-guard", "-o", folder / "b.mp4")
    assert run(*words) == 0
    output = folder / "b.mp4"
    expected = output.read_bytes()
    output.unlink()
    return words, output, expected


@pytest.mark.slow
def test_kill_in_the_middle_and_resume_gives_the_same_bytes(long_video, capsys):
    words, output, expected = long_video
    process = start(words)
    wait_for_shots(parts_folder(output), 2, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    capsys.readouterr()
    assert run(*words, "--resume") == 0
    assert "2 shots are finished already" in capsys.readouterr().err
    assert output.read_bytes() == expected
    output.unlink()
    assert names(output.parent) == ["a.mp4", "small.safetensors"]


@pytest.mark.slow
def test_ctrl_c_in_the_middle_is_one_line_and_keeps_finished_shots(long_video):
    words, output, expected = long_video
    process = start(words)
    wait_for_shots(parts_folder(output), 1, process)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    last = error.strip().splitlines()[-1]
    assert last.startswith("metadeblur: stopped; ")
    assert "--resume" in last
    assert "Traceback" not in error
    assert not output.exists()
    assert names(output.parent) == [parts_folder(output).name, "a.mp4", "small.safetensors"]
    assert run(*words, "--resume") == 0
    assert output.read_bytes() == expected
    output.unlink()


def test_a_polite_end_during_the_first_shot_leaves_nothing(tmp_path, model):
    video = shaky_video(tmp_path / "a.mp4", (90,))
    process = start(["restore", video, "--model", model, *QUICK, "--no-guard"])
    deadline = time.monotonic() + 60
    folder = parts_folder(tmp_path / "a_deblurred.mp4")
    while not folder.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.strip().splitlines()[-1] == "metadeblur: stopped"
    assert names(tmp_path) == ["a.mp4"]


def test_two_runs_give_identical_frames(tmp_path, model):
    video = shaky_video(tmp_path / "a.mp4", (10,), audio_tracks=1)
    outputs = [tmp_path / "one.mp4", tmp_path / "two.mp4"]
    for output in outputs:
        assert run("restore", video, "--model", model, *QUICK, "--no-guard", "-o", output) == 0
    one, two = (decoded(output) for output in outputs)
    assert np.array_equal(one, two)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()

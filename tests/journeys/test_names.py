"""Names of files that other programs stumble over: as inputs and outputs, on the screen, in the record and the page."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import case
from journey import PLAIN, names, run, shaky_video, small_model

import metadeblur as md
from metadeblur.data.pairs import read_picture, write_png
from metadeblur.system.names import joined, shown, utf8
from metadeblur.video import probe

ODD = ("12:30:05.mp4", "http:x.mp4", "file:x.mp4", "concat:a.mp4", "pipe:1.mp4", "-i.mp4", "a%03d.mp4", "[*?].mp4")
NO_TEXT = os.fsdecode(b"caf\xe9 \xff.mp4")
any_bytes = pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="this system takes text alone")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return shaky_video(tmp_path_factory.mktemp("video") / "a.mp4", (3,))


@pytest.mark.parametrize("name", [*ODD, "a\nb.mp4", "a .mp4", "x.mp4. "])
@case(
    "Names",
    "names that look like an address, an option or a pattern (12:30:05.mp4, http:x.mp4, -i.mp4, a%03d.mp4)",
    "they are files, read and written as such",
    "nothing to tell",
)
def test_a_name_is_always_a_file(name, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(video.read_bytes())
    assert (probe(name).width, len(md.read_clip(name))) == (96, 3)
    md.write_clip(md.read_clip(name), f"{name}.mkv", like=name)
    assert len(md.read_clip(f"{name}.mkv")) == 3
    assert names(tmp_path) == sorted([name, f"{name}.mkv"])


def test_a_relative_name_with_a_colon_is_restored(video, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("12:30:05.mp4").write_bytes(video.read_bytes())
    words = ("restore", "12:30:05.mp4", "--model", model, *PLAIN, "--side-by-side", "c:d.mkv", "--preview", "0.04")
    assert run(*words) == 0
    made = ["12:30:05.mp4", "12:30:05_deblurred.mp4", "12:30:05_deblurred_preview.mp4", "c:d.mkv"]
    assert names(tmp_path) == made


@any_bytes
@case(
    "Names",
    "a video, a folder, a frame or an output whose name is not UTF-8",
    "restored under that name",
    "bytes that are no text are shown by their number (caf\\xe9); the record keeps the name so that it can be had back",
)
def test_names_that_are_no_text(video, model, tmp_path, capsys):
    source, output = tmp_path / NO_TEXT, tmp_path / os.fsdecode(b"out\xfc.mp4")
    source.write_bytes(video.read_bytes())
    record, page = tmp_path / os.fsdecode(b"r\xe9.json"), tmp_path / os.fsdecode(b"page\xe9")
    words = ("restore", source, "-o", output, "--model", model, *PLAIN, "--json", record, "--report", page)
    assert run(*words) == 0
    assert json.loads(record.read_text())["input"] == str(source)
    assert r"out\xfc.mp4 (" in capsys.readouterr().err
    assert r"caf\xe9 \xff.mp4" in (page / "index.html").read_text(encoding="utf-8")
    assert run("restore", source, "--model", model, *PLAIN, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["input"] == str(source)
    assert run("restore", tmp_path / os.fsdecode(b"no\xe9.mp4")) == 1
    assert r"no\xe9.mp4: there is no such file or folder" in capsys.readouterr().err


@any_bytes
def test_frames_and_folders_whose_names_are_no_text(model, tmp_path):
    folder = tmp_path / os.fsdecode(b"frames\xe9")
    folder.mkdir()
    for number in range(3):
        write_png(folder / os.fsdecode(b"f\xe9%d.png" % number), np.full((64, 96, 3), 60 * number, np.uint8))
    assert read_picture(folder / os.fsdecode(b"f\xe91.png")).mean() == 60
    assert run("restore", folder, "--model", model, *PLAIN) == 0
    assert names(tmp_path / os.fsdecode(b"frames\xe9_deblurred")) == names(folder)


@any_bytes
def test_synth_takes_and_makes_names_that_are_no_text(tmp_path, capsys):
    photograph, out = tmp_path / os.fsdecode(b"p\xe9.png"), tmp_path / os.fsdecode(b"clips\xe9")
    write_png(photograph, np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    assert run("synth", photograph, "-o", out, "--clips", "1", "--frames", "1", "--width", "32", "--height", "32") == 0
    assert names(out) == ["clip_00000", "synth.json"]
    assert names(out / "clip_00000" / "blur") == ["000000.png"]
    assert capsys.readouterr().err.startswith("1 clip written to ")


@pytest.mark.parametrize("stem", ["n" * 240, "ü" * 120, "日" * 80, "n" * 251])
@case(
    "Names",
    "a name as long as the system allows (255 bytes), of one or several bytes a letter",
    "restored; the names of what is made on the way, and a default name that would be too long, are cut",
    "nothing to tell",
)
def test_long_names(stem, video, model, tmp_path):
    source, output = tmp_path / f"{stem}.mp4", tmp_path / "out" / f"{stem}.mp4"
    output.parent.mkdir()
    source.write_bytes(video.read_bytes())
    assert run("restore", source, "-o", output, "--model", model, *PLAIN, "--preview", "0.04") == 0
    assert len(names(output.parent)) == 2  # the preview beside it
    assert run("restore", source, "--model", model, *PLAIN) == 0
    (made,) = {*names(tmp_path)} - {"out", source.name}
    assert made.endswith("_deblurred.mp4")


@case("Names", "an output name of more bytes than the system allows", "refused before any work", "how long it may be")
def test_an_output_name_that_is_too_long(video, model, tmp_path, capsys):
    assert run("restore", video, "-o", tmp_path / f"{'n' * 260}.mp4", "--model", model) == 1
    assert "a name of 264 bytes is too long, 255 are allowed here" in capsys.readouterr().err
    assert names(tmp_path) == []


def test_cut_names_stay_apart_and_whole():
    one, other = (joined("é" * 200 + end, "_deblurred.mp4") for end in "ab")
    assert one != other
    for name in (one, other):
        assert len(os.fsencode(name)) <= 255
        assert utf8(name).decode() == name
    assert joined(os.fsdecode(b"\xe9" * 300), ".mp4").startswith("\udce9" * 200)


def test_what_moves_the_cursor_is_shown_by_its_number():
    assert shown("a\x1b[31m\r\u202eb") == r"a\x1b[31m\x0d\u202eb"
    assert shown("😀👨\u200d👩 é 日\u202f1") == "😀👨\u200d👩 é 日\u202f1"

"""The filter for VapourSynth, in a stand-in of it and, where it is installed, in VapourSynth itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import fake_vapoursynth
import numpy as np
import pytest
import torch
from journey import run, shaky, small_model

import metadeblur as md

FOLDER = Path(__file__).parents[2] / "integrations" / "vapoursynth"
BITS = {"RGB24": 8, "RGB48": 16, "RGBS": 16}


@pytest.fixture
def vapoursynth(monkeypatch):
    return fake_vapoursynth.install(monkeypatch)


@pytest.fixture
def restore(vapoursynth):
    """The filter."""
    assert vapoursynth
    spec = spec_from_file_location("metadeblur_vs", FOLDER / "metadeblur_vs.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.restore


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(small_model(tmp_path_factory.mktemp("model") / "small.safetensors"))


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """The folder for temporary files of the filter."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def picture(counts=(5, 4), size=(64, 96)):
    """Frames (T, 3, H, W), float in [0, 1]."""
    return shaky(counts, size).transpose(0, 3, 1, 2) / 255


def restored(values, bits, model, folder):
    """What the command makes of the same frames, (T, 3, H, W)."""
    md.write_clip(md.Clip(torch.from_numpy(values), bit_depth=bits), folder / "walk")
    assert run("restore", folder / "walk", "-o", folder / "sharp", "--effort", "quick", "--model", model, "-q") == 0
    return md.read_clip(folder / "sharp").frames.numpy()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["RGB24", "RGB48", "RGBS"])
def test_frames_are_those_of_the_command(name, restore, vapoursynth, model, tmp_path, temporary):
    values = picture() if name == "RGB24" else (picture((5,), (40, 64)) * 0.9 * 65535).round() / 65535
    count, height, width = len(values), *values.shape[-2:]
    clip = fake_vapoursynth.clip_of(values, name)
    sharp = restore(clip, model=model)
    assert list(temporary.iterdir()) == []  # nothing is done before a frame is asked for
    assert (sharp.num_frames, sharp.width, sharp.height) == (count, width, height)
    assert (sharp.format, sharp.fps) == (clip.format, clip.fps)
    wanted = restored(values, BITS[name], model, tmp_path)
    made = {n: sharp.get_frame(n) for n in (4, 1, 0, *range(2, count))}
    for n, frame in made.items():
        expected = wanted[n] if name == "RGBS" else (wanted[n] * (255 if name == "RGB24" else 65535)).round()
        assert np.array_equal(frame.planes, expected.astype(frame.planes.dtype)), n
        assert frame.props == {"_Matrix": 0, "number": n}
    assert not np.array_equal(made[3].planes, clip.frame(3).planes)
    assert len(vapoursynth.told) == min(count, 10)
    assert vapoursynth.told[-1] == f"metadeblur: {count} of {count} frames restored"
    for end in vapoursynth.ending:
        end()
    assert [path for path in temporary.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("count", [1, 2, 31, 32, 63, 962])
def test_all_frames_come_by_before_the_first_is_restored(count, restore, monkeypatch, temporary):
    assert temporary.is_dir()
    kept = []

    def whole(path, target, **_):
        kept.append(sorted(int(one.stem) for one in path.iterdir()))
        shutil.copytree(path, target)

    monkeypatch.setattr(md, "restore_video", whole)
    monkeypatch.setattr(md, "write_clip", lambda _, path: path.write_bytes(b""))
    monkeypatch.setattr(md, "read_clip", lambda _: [torch.zeros(3, 2, 4)] * count)
    sharp = restore(fake_vapoursynth.clip_of(np.zeros((count, 3, 2, 4)), "RGB24"), model=torch.nn.Identity())
    sharp.get_frame(count // 2)
    assert kept == [list(range(count))]
    sharp.get_frame(0)
    assert len(kept) == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"format": None}, "differ in format or size"),
        ({"width": 0, "height": 0}, "differ in format or size"),
        (
            {"format": fake_vapoursynth.Format("YUV420P8")},
            "is YUV420P8; allowed are RGB24, RGB48 and RGBS: clip.resize",
        ),
        ({"format": fake_vapoursynth.Format("YUV420P8")}, "matrix_in_s='709'"),
        ({"format": fake_vapoursynth.Format("RGB30")}, "is RGB30; allowed are RGB24"),
    ],
)
def test_clips_that_it_cannot_take_are_refused(changed, told, restore):
    with pytest.raises(fake_vapoursynth.Error) as caught:
        restore(fake_vapoursynth.clip_of(np.zeros((5, 3, 40, 48)), "RGB24", **changed))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"effort": "fast"}, "effort is 'fast'; allowed: quick, balanced, best"),
        ({"model": "light"}, "model 'light' is neither a file nor a known name"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
        ({"seed": -1}, "seed is -1"),
        ({"tile": -5}, "tile is -5"),
    ],
)
def test_settings_are_refused_where_the_script_names_them(settings, told, restore):
    with pytest.raises(fake_vapoursynth.Error) as caught:
        restore(fake_vapoursynth.clip_of(np.zeros((5, 3, 40, 48)), "RGB24"), **settings)
    assert str(caught.value).startswith("metadeblur: ")
    assert told in str(caught.value)


def test_what_fails_once_is_not_tried_again_for_every_frame(restore, monkeypatch, temporary):
    assert temporary.is_dir()
    tries = []

    def fail(*_, **__):
        tries.append(1)
        raise md.MetadeblurError("the disk is full")

    monkeypatch.setattr(md, "restore_video", fail)
    sharp = restore(fake_vapoursynth.clip_of(picture((3,)), "RGB24"))
    for n in (0, 1):
        with pytest.raises(fake_vapoursynth.Error, match="metadeblur: the disk is full"):
            sharp.get_frame(n)
    assert len(tries) == 1


def test_values_that_are_not_numbers_are_refused(restore, temporary):
    assert temporary.is_dir()
    values = picture((5,), (40, 64))
    values[3, 1, 5, 5] = np.nan
    with pytest.raises(fake_vapoursynth.Error, match="frame 3 of the clip has values that are not numbers"):
        restore(fake_vapoursynth.clip_of(values, "RGBS")).get_frame(0)


# --- VapourSynth itself --------------------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
import vapoursynth as vs
import metadeblur_vs
core = vs.core
core.num_threads = {threads}
values = np.load({values!r})
def fill(n, f):
    made = f.copy()
    for plane in range(3):
        np.asarray(made[plane])[:] = values[n, plane]
    made.props["number"] = n
    return made
blank = core.std.BlankClip(format=vs.RGB24, width=96, height=64, length=len(values), fpsnum=24000, fpsden=1001)
clip = core.std.ModifyFrame(blank, blank, fill)
sharp = metadeblur_vs.restore(clip, model={model!r})
sharp = metadeblur_vs.restore(sharp[:6], model={model!r}) + sharp[6:] if {twice} else sharp
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
real = pytest.mark.skipif(
    find_spec("vapoursynth") is None, reason="VapourSynth is not installed: pip install vapoursynth"
)


def script(tmp_path, model, threads=1, twice=False):
    """A script for VapourSynth, and the frames that it begins with."""
    values = (picture() * 255).round().astype(np.uint8)
    np.save(tmp_path / "values.npy", values)
    given = {"folder": str(FOLDER), "values": str(tmp_path / "values.npy"), "model": model}
    return SCRIPT.format(threads=threads, twice=twice, **given), values


@real
@pytest.mark.parametrize("threads", [1, 2])
def test_the_real_program_gives_the_frames_of_the_command(threads, tmp_path, model):
    text, values = script(tmp_path, model, threads)
    text += "frames = [np.stack([np.asarray(f[p]) for p in range(3)]) for f in sharp.frames()]\n"
    text += "assert [f.props['number'] for f in sharp.frames()] == list(range(9))\n"
    text += "assert str(sharp.fps) == '24000/1001', sharp.fps\n"
    text += f"np.save({str(tmp_path / 'sharp.npy')!r}, np.stack(frames))\n"
    subprocess.run([sys.executable, "-c", text], env=ENVIRONMENT, check=True, timeout=300)
    wanted = (restored(values / 255, 8, model, tmp_path) * 255).round()
    assert np.array_equal(np.load(tmp_path / "sharp.npy"), wanted)


@real
def test_two_of_them_in_one_script_do_not_wait_for_each_other_for_ever(tmp_path, model):
    text, _ = script(tmp_path, model, threads=1, twice=True)
    text += "assert sum(1 for _ in sharp.frames()) == 9\n"
    subprocess.run([sys.executable, "-c", text], env=ENVIRONMENT, check=True, timeout=300)


@real
def test_vspipe(tmp_path, model):
    vspipe = shutil.which("vspipe", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if vspipe is None:
        pytest.skip("vspipe is not installed: pip install vapoursynth")
    text, values = script(tmp_path, model)
    (tmp_path / "script.vpy").write_text(f"{text}sharp.set_output()\n", encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    environment = {**ENVIRONMENT, "TMPDIR": str(tmp_path / "temporary"), "XDG_CONFIG_HOME": str(tmp_path / "settings")}
    # Which Python it is for, in a file of settings.
    subprocess.run([sys.executable, "-m", "vapoursynth", "config"], env=environment, check=True)
    words = [vspipe, str(tmp_path / "script.vpy"), str(tmp_path / "sharp.raw")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    made = np.fromfile(tmp_path / "sharp.raw", np.uint8).reshape(values.shape)[:, [2, 0, 1]]  # G, B, R
    assert np.array_equal(made, (restored(values / 255, 8, model, tmp_path) * 255).round())
    assert [path for path in (tmp_path / "temporary").iterdir() if path.is_dir()] == []


def test_the_page_of_the_filter_tells_its_arguments():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", text, re.MULTILINE)
    source = (FOLDER / "metadeblur_vs.py").read_text(encoding="utf-8")
    (signature,) = re.findall(r"^def restore\(\n(.*?)^\)", source, re.DOTALL | re.MULTILINE)
    assert named == re.findall(r"^ {4}(\w+): .* = (.*),$", signature, re.MULTILINE)

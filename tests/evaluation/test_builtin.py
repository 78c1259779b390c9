"""The built-in clips: the same everywhere, of the kinds they claim, from photographs that nothing was trained on."""

import csv
import hashlib
import json
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from metadeblur.data.paired import read_trial
from metadeblur.evaluation.builtin import CLIPS, FRAMES, HEIGHT, WIDTH, describe_difference, fingerprint, make_builtin
from metadeblur.imaging.quality import psnr
from metadeblur.imaging.sharpness import self_shift_score

ASSETS = Path(str(resources.files("metadeblur") / "assets"))
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("builtin")
    return out, make_builtin(out)


def trial(made, name):
    return read_trial(next(clip for clip in made[1].clips if clip.name == name))


def blurred_psnr(clip):
    return [float(psnr(one, other)) for one, other in zip(clip.pair.blurred, clip.pair.sharp, strict=True)]


def test_eight_clips_that_are_the_published_ones_here_or_nearly(made):
    assert {clip.name for clip in made[1].clips} == {clip.name for clip in CLIPS}
    assert len(CLIPS) == 8
    assert made[1].frames == 8 * FRAMES
    assert "figures compare" in made[1].notes[0] or "the very ones" in made[1].notes[0]
    assert (trial(made, "pan").whole.width, trial(made, "pan").whole.height) == (WIDTH, HEIGHT)


def test_making_them_again_changes_nothing_and_a_broken_one_is_noticed(made):
    out, _ = made
    before = {clip.name: fingerprint(out / clip.name) for clip in CLIPS}
    assert make_builtin(out).notes == made[1].notes
    assert {clip.name: fingerprint(out / clip.name) for clip in CLIPS} == before
    path = out / "shake" / "blur" / "003.png"
    kept = path.read_bytes()
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert "shake differ" in make_builtin(out).notes[0]
    path.write_bytes(kept)


def test_what_is_said_of_other_machines():
    known = {"a": {"sha256": "1", "error": 5.0}, "b": {"sha256": "2", "error": 6.0}}
    assert "very ones" in describe_difference(known, known)
    assert "to about 0.01 dB" in describe_difference(known | {"b": {"sha256": "3", "error": 6.01}}, known)
    assert describe_difference(known | {"b": {"sha256": "3", "error": 6.1}}, known).startswith("b differ")


def test_the_clips_are_blurred_as_they_claim(made):
    means = {clip.name: np.mean(blurred_psnr(trial(made, clip.name))) for clip in CLIPS}
    assert max(means, key=means.get) == "slight"
    assert means["slight"] > 38
    assert all(24 < mean < 31 for name, mean in means.items() if name != "slight")
    mixed = sorted(blurred_psnr(trial(made, "mixed")))
    assert mixed[-2] - mixed[1] > 10  # sharp frames among blurred ones
    assert np.std(blurred_psnr(trial(made, "pan"))) < 1.5  # steady
    dark, saturated, moving = (trial(made, name) for name in ("dark", "saturated", "object"))
    assert dark.pair.sharp[0].mean() < 0.25
    assert (saturated.pair.sharp[0].amax(0) > 0.99).float().mean() > 0.02
    still = (moving.pair.blurred[0] - moving.pair.blurred[6]).abs().mean(0)
    assert (still < 0.03).float().mean() > 0.5  # only the thing moves
    sharp, blurred = (float(self_shift_score(side[2])) for side in (moving.pair.sharp, moving.pair.blurred))
    assert sharp < blurred


def test_blur_is_a_mean_of_light_over_the_rendered_motion(made):
    """Blur keeps the light of a wide neighbourhood; nothing else does."""
    clip = trial(made, "pan")
    for index in (3, 9):
        means = [(side[index] ** 2.2).mean((1, 2)) for side in (clip.pair.blurred, clip.pair.sharp)]
        assert torch.allclose(means[0], means[1], rtol=0.03)


def test_no_photograph_was_trained_on_and_each_is_accounted_for():
    listed = json.loads((ASSETS / "photographs" / "photographs.json").read_text())
    shipped = {"demo.jpg", *(f"photographs/{path.name}" for path in (ASSETS / "photographs").glob("*.jpg"))}
    assert {entry["file"] for entry in listed} == shipped
    trained = set()
    for table in RECIPES.glob("*photographs*.tsv"):
        with table.open() as file:
            trained |= {row["sha256"] for row in csv.DictReader(file, delimiter="\t")}
    assert len(trained) > 20
    for entry in listed:
        digest = hashlib.sha256((ASSETS / entry["file"]).read_bytes()).hexdigest()
        assert digest == entry["sha256"]
        assert not {digest, entry["original_sha256"]} & trained
        assert entry["licence"] in ("public domain", "CC0-1.0", "CC-BY-4.0")
        assert entry["author"]
    used = {clip.photograph for clip in CLIPS} | {clip.thing for clip in CLIPS if clip.thing}
    assert used == {Path(entry["file"]).stem for entry in listed}

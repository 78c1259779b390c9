"""The paper's method measured: rows treated alike, presets, records known by what the networks hold."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluated import ADAPTATION, RESTORATION, Small

from metadeblur.adaptation.stages import AdaptSettings, preset
from metadeblur.cli.entry import main, parse
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation import trial
from metadeblur.evaluation.protocol import EvaluateSettings, evaluate, read_summary
from metadeblur.models.adapted import fusion_of
from metadeblur.models.critic import Critic
from metadeblur.models.lite import Lite
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.weights import parameters_digest, save_deblurrer
from metadeblur.reblur.fitting import NetworkReblurrer
from metadeblur.reblur.weights import save_reblurrer

SETTINGS = EvaluateSettings(adaptation=ADAPTATION, restoration=RESTORATION)


@pytest.fixture
def reblurrer(tmp_path):
    torch.manual_seed(0)
    network = ReblurNetwork(channels=4, units=1, width=8, blocks=1, heads=2, window=4)
    save_reblurrer(NetworkReblurrer(network, Critic(channels=(4,))), tmp_path / "reblurrer.safetensors", {})
    return tmp_path / "reblurrer.safetensors"


def network_settings(reblurrer, **changes):
    adaptation = replace(ADAPTATION, reblurrer=str(reblurrer), held_out=0.0, guard=False)
    return replace(SETTINGS, adaptation=adaptation, methods=("finetune",), **changes)


def test_every_row_is_fused_alike_whatever_the_method(clips, tmp_path, reblurrer, monkeypatch):
    fused, measured = {}, trial.measure_row

    def noted(clip, model, *how):
        picture = next((one for one in how if isinstance(one, Path)), None)
        fused[picture.stem if picture else ""] = None if model is None else fusion_of(model)
        return measured(clip, model, *how)

    monkeypatch.setattr(trial, "measure_row", noted)
    evaluate(clips, Small(), tmp_path / "fused", network_settings(reblurrer))
    assert fused["base"] is None
    alike = [fused[row] for row in ("base_fused", "finetune_adapted_unguarded", "oracle")]
    assert alike[0] is not None
    assert alike[0] == alike[1] == alike[2]
    fused.clear()
    plain = network_settings(reblurrer)
    evaluate(clips, Small(), tmp_path / "plain", replace(plain, adaptation=replace(plain.adaptation, fuse=False)))
    assert set(fused.values()) == {None}
    fused.clear()
    evaluate(clips, Small(), tmp_path / "none", replace(SETTINGS, methods=("none",)))
    assert set(fused.values()) == {None}  # nothing adapts, so nothing is fused, the oracle neither


def test_records_are_known_by_what_the_networks_hold_not_by_their_names(clips, tmp_path, reblurrer):
    settings = network_settings(reblurrer, rows=("blurred", "adapted"), resume=True)
    evaluate(clips, Small(), tmp_path / "out", settings, model="one")
    record = tmp_path / "out" / "fast.json"
    before = record.read_bytes()
    moved = reblurrer.with_name("moved.safetensors")
    moved.write_bytes(reblurrer.read_bytes())
    evaluate(clips, Small(), tmp_path / "out", network_settings(moved, rows=settings.rows, resume=True), model="two")
    assert record.read_bytes() == before
    other = ReblurNetwork(channels=4, units=1, width=8, blocks=1, heads=2, window=4)
    save_reblurrer(NetworkReblurrer(other, Critic(channels=(4,))), reblurrer, {})
    with pytest.raises(MetadeblurError, match=r"other settings; give another folder with -o, or drop --resume"):
        evaluate(clips, Small(), tmp_path / "out", settings)
    said = []
    summary = evaluate(clips, Small(), tmp_path / "out", settings, renew=True, say=said.append)
    assert "its networks were changed since; fast is measured again" in said[0]
    assert record.read_bytes() != before
    assert json.loads(record.read_text())["conditions"]["reblurrer"][0] == parameters_digest(other)[:16]
    assert any("reblurring network of finetune is reduced" in note for note in summary.notes)
    fewer = replace(settings, frames=5)
    with pytest.raises(MetadeblurError, match=r"give another folder with -o$"):
        evaluate(clips, Small(), tmp_path / "out", fewer, renew=True)


def test_presets_are_settings_that_flags_change():
    def adaptation(*words):
        return parse(["evaluate", "clips", "-o", "out", *words]).adapt_settings()

    paper, release = preset("paper"), preset("release")
    shared = {"device": "auto"}
    assert adaptation() == replace(AdaptSettings(), **shared)
    assert adaptation("--preset", "paper") == replace(paper, **shared)
    assert adaptation("--preset", "release") == replace(release, **shared)
    changed = adaptation("--preset", "paper", "--lr-reblurrer", "4e-6", "--pairs", "8", "--steps", "30")
    assert (changed.pairs, changed.steps_on(8), changed.lr, changed.mirror, changed.average) == (
        8,
        30,
        2.5e-6,
        False,
        0,
    )
    assert changed.updates.lr_reblurrer == pytest.approx(4e-6)
    assert changed.updates.critic.lr_critic == pytest.approx(4e-6)
    assert adaptation("--lr-reblurrer", "0").updates.lr_reblurrer == 0


def test_the_command_takes_the_papers_inner_update(clips, tmp_path, reblurrer, capsys):
    words = [
        "evaluate",
        str(clips),
        "-o",
        str(tmp_path / "out"),
        "--preset",
        "paper",
        "--clips",
        "fast",
        "--pairs",
        "2",
    ]
    words += ["--patch", "32", "--frames", "5", "--rows", "base,adapted", "--reblurrer", str(reblurrer), "--no-guard"]
    save_deblurrer(Lite(channels=(8, 8), encoder=(1, 1), decoder=(1,), fold=2), tmp_path / "net.safetensors", {})
    assert main([*words, "--model", str(tmp_path / "net.safetensors"), "--device", "cpu"]) == 0
    assert "reblurring network of finetune is reduced" in capsys.readouterr().err
    conditions = read_summary(tmp_path / "out").conditions
    assert conditions["methods"] == ["finetune"]
    adapt = conditions["adapt"]
    assert (adapt["lr"], adapt["passes"], adapt["mirror"], adapt["average"], adapt["fuse"]) == (
        2.5e-6,
        1,
        False,
        0,
        False,
    )

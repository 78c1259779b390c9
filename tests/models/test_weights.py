"""Weights: what loads, and what is refused with a line that helps."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metadeblur.errors import MetadeblurError
from metadeblur.models.lite import Lite
from metadeblur.models.told_reblurring import blur_along
from metadeblur.models.weights import (
    FOLDER_VARIABLE,
    built_in_path,
    checksum,
    load_deblurrer,
    model_card,
    parameters_digest,
    save_deblurrer,
)
from metadeblur.reblur.weights import load_reblurrer

SMALL = {"channels": (8, 16), "encoder": (1, 1), "decoder": (1,), "fold": 2}


def test_saved_weights_come_back(tmp_path):
    net = Lite(**SMALL)
    torch.nn.init.normal_(net.head.weight)
    save_deblurrer(net, tmp_path / "w.safetensors", {"architecture": "lite"})
    again = load_deblurrer(tmp_path / "w.safetensors")
    assert parameters_digest(again) == parameters_digest(net)
    assert not again.training
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_half_precision_halves_the_file(tmp_path):
    net = Lite()
    save_deblurrer(net, tmp_path / "half.safetensors", {}, half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 6_000_000


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(MetadeblurError, match="known: lite"):
        load_deblurrer("litle")


def test_foreign_tensors_are_refused(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(MetadeblurError, match="no known network"):
        load_deblurrer(tmp_path / "w.safetensors")


def test_missing_tensor_is_named(tmp_path):
    weights = Lite(**SMALL).state_dict()
    del weights["head.bias"]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(MetadeblurError, match="do not fit"):
        load_deblurrer(tmp_path / "w.safetensors")


def test_nan_weights_are_refused(tmp_path):
    weights = Lite(**SMALL).state_dict()
    weights["head.bias"][0] = float("nan")
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(MetadeblurError, match=r"head\.bias.*not finite"):
        load_deblurrer(tmp_path / "w.safetensors")


class _Trap:
    """What a hostile checkpoint would hold: unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_never_run(tmp_path):
    trap = tmp_path / "trapped"
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps(_Trap(trap)))
    with pytest.raises(MetadeblurError, match="safetensors"):
        load_deblurrer(tmp_path / "w.safetensors")
    assert not trap.exists()


def test_truncated_file_is_refused(tmp_path):
    save_deblurrer(Lite(**SMALL), tmp_path / "w.safetensors", {})
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(MetadeblurError, match="safetensors"):
        load_deblurrer(tmp_path / "w.safetensors")


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MetadeblurError, match="file"):
        save_deblurrer(Lite(**SMALL), tmp_path / "file" / "w.safetensors", {})


def test_the_card_belongs_to_the_weights():
    card = model_card("lite")
    assert card["sha256"] == checksum(built_in_path("lite"))
    assert built_in_path("lite").stat().st_size <= 6_000_000


def test_the_built_in_reblurrer_blurs_and_its_card_belongs_to_it(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    reblurrer, path = load_reblurrer("reblurrer"), built_in_path("reblurrer")
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["sha256"] == checksum(path)
    assert sum(weight.numel() for weight in reblurrer.network.parameters()) == card["parameters"] <= 2_000_000
    assert reblurrer.critic is not None
    window = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    window = torch.nn.functional.avg_pool2d(window, 5, stride=1, padding=2, count_include_pad=False)
    sharp, made = window[2], reblurrer.blur(window)
    assert all(float(made.diff(dim=side).abs().mean() / sharp.diff(dim=side).abs().mean()) < 0.95 for side in (-1, -2))
    assert abs(float((made - sharp).mean())) < 0.01  # no lighter, no darker


def test_the_built_in_reblurrer_told_the_motion_is_the_usual_one_and_corrects_blur_along_it(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    path = built_in_path("reblurrer-motion")
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["sha256"] == checksum(path)
    network = load_reblurrer().network
    assert parameters_digest(network) == parameters_digest(load_reblurrer("reblurrer-motion").network)
    assert sum(weight.numel() for weight in network.parameters()) == card["parameters"] <= 2_000_000
    texture = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.avg_pool2d(texture, 5, stride=1, padding=2)[0]
    window = torch.stack([texture.roll(6 * time, -1) for time in (-2, -1, 0, 1, 2)])[None, :, :, :, 16:80]
    way = torch.zeros(1, 2, 64, 64)
    way[:, 0] = 6
    with torch.no_grad():
        made = network(window, way)
    plain = blur_along(window[:, 2], way)
    changed, blurred = (made - plain).abs().mean(), (plain - window[:, 2]).abs().mean()
    assert 0 < changed < 0.2 * blurred
    left = [float(made.diff(dim=side).abs().mean() / window[:, 2].diff(dim=side).abs().mean()) for side in (-1, -2)]
    assert left[0] < 0.7 * left[1]


def test_the_built_in_meta_trained_pair_has_its_cards(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    for name in ("lite-meta", "reblurrer-meta"):
        card = json.loads(built_in_path(name).with_suffix(".json").read_text(encoding="utf-8"))
        assert card["sha256"] == checksum(built_in_path(name))
    meta, lite = load_deblurrer("lite-meta"), load_deblurrer("lite")
    assert meta.frames == lite.frames
    assert parameters_digest(meta) != parameters_digest(lite)
    made, plain = load_reblurrer("reblurrer-meta"), load_reblurrer()
    assert made.critic is not None
    assert parameters_digest(made.network) != parameters_digest(plain.network)


def test_a_file_named_like_built_in_weights_is_the_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("reblurrer-meta").write_bytes(b"not weights")
    with pytest.raises(MetadeblurError, match="safetensors"):
        load_reblurrer("reblurrer-meta")

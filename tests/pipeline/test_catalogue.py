"""What is told of each model: work as others counted it, sizes of the weights that are here, how to get the rest."""

import pytest
from published import maxim_package, small_maxim

from metadeblur.errors import MetadeblurError
from metadeblur.models.importing import import_weights
from metadeblur.models.registry import ARCHITECTURES
from metadeblur.pipeline.catalogue import describe, names


def test_every_network_and_its_faster_settings_are_listed():
    assert set(ARCHITECTURES) <= set(names())
    assert names()[names().index("maxim") + 1 :][:2] == ["maxim-2", "maxim-1"]


@pytest.mark.parametrize(
    ("name", "parameters", "billions"),  # multiply-adds at 256x256, counted on the authors' own code
    [
        ("mimo-unet-plus", 16_107_651, 150.7),
        ("mprnet", 20_127_073, 759.4),
        ("restormer", 26_126_644, 154.9),
    ],
)
def test_work_and_size_are_those_of_the_published_networks(name, parameters, billions):
    model = describe(name)
    assert model.parameters == parameters
    assert round(model.multiply_adds["256x256"] / 1e9, 1) == billions
    assert 13 < model.multiply_adds["1280x720"] / model.multiply_adds["256x256"] < 15  # 14.06 times the pixels
    assert (model.kind, model.frames, model.weights, model.seconds) == ("image", 1, "not here", None)
    assert f"weights import {name} FILE" in model.how


def test_the_built_in_model_and_its_speed():
    model = describe("lite", measure=True)
    assert model.weights == "built in"
    assert model.licence == "Apache-2.0"
    assert 0 < model.seconds < 60


@pytest.mark.slow
def test_imported_weights_tell_their_own_size(tmp_path, monkeypatch):
    monkeypatch.setenv("METADEBLUR_WEIGHTS", str(tmp_path / "kept"))
    net = small_maxim(2)
    import_weights("maxim", maxim_package(tmp_path / "m.tgz", net))
    whole, cut = describe("maxim"), describe("maxim-1")
    assert whole.weights == cut.weights == "imported"
    assert whole.parameters == sum(weight.numel() for weight in net.parameters()) > cut.parameters
    assert whole.multiply_adds["256x256"] > cut.multiply_adds["256x256"]


def test_unknown_models_list_the_known_ones():
    with pytest.raises(MetadeblurError, match="no model 'maxim-7'; models are lite, "):
        describe("maxim-7")

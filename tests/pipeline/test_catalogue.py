"""What is told of each model: work as others counted it, sizes of the weights that are here, how to get the rest."""

import pytest
import torch
from published import maxim_package, small_maxim
from safetensors.torch import save_file

from metadeblur.errors import MetadeblurError
from metadeblur.models.formats.safetensors_files import read_shapes
from metadeblur.models.importing import import_weights
from metadeblur.models.registry import ARCHITECTURES
from metadeblur.models.weights import VARIANTS, installed_path
from metadeblur.pipeline import catalogue
from metadeblur.pipeline.catalogue import KNOWN, count, describe, names, sizes


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


LATER = ("lite-meta", "cdvd-tsp", "maxim", "maxim-2", "maxim-1")  # as lite is, or ten seconds and more


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in LATER else name for name in names()]
)
def test_what_is_known_of_a_network_is_what_counting_gives(name):
    file = installed_path(name)
    if file.is_file():
        shapes = read_shapes(file)
    else:
        with torch.device("meta"):
            weights = ARCHITECTURES[VARIANTS.get(name, name)].published().state_dict()
        shapes = {key: weight.shape for key, weight in weights.items()}
    assert KNOWN[name] == (sizes(shapes), count(name))


def test_published_weights_that_are_here_are_not_counted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("METADEBLUR_WEIGHTS", str(tmp_path))
    before = describe("mimo-unet")
    save_file(ARCHITECTURES["mimo-unet"].published().state_dict(), installed_path("mimo-unet"))
    monkeypatch.setattr(catalogue, "count", None)
    after = describe("mimo-unet")
    assert (before.weights, after.weights) == ("not here", "imported")
    assert after.multiply_adds == before.multiply_adds


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

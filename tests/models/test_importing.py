"""Published weights taken over: every network's, what does not fit told exactly, found by name, checked later."""

import json

import pytest
import torch
from published import maxim_package, small_maxim, small_networks
from safetensors import safe_open
from safetensors.torch import save_file

from metadeblur.errors import MetadeblurError
from metadeblur.models.critic import VGGCritic
from metadeblur.models.importing import differences, fault, import_weights
from metadeblur.models.mimo_unet import MIMOUNet
from metadeblur.models.published import PUBLISHED
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.registry import ARCHITECTURES
from metadeblur.models.weights import checksum, imported_path, load_deblurrer, model_card
from metadeblur.reblur.weights import load_reblurrer


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("METADEBLUR_WEIGHTS", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture(scope="module")
def networks():
    return small_networks()


WRAPPED = {
    "mimo-unet": lambda state: {"model": state},
    "mimo-unet-plus": lambda state: {"model": state},
    "mprnet": lambda state: {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}},
    "restormer": lambda state: {"params": state},
    "cdvd-tsp": lambda state: state,
    "nafnet-32": lambda state: {"params": state},
    "nafnet-64": lambda state: {"params": state},
}


@pytest.mark.parametrize("name", sorted(WRAPPED))
def test_every_published_wrapping_of_every_network(name, networks, tmp_path, folder):
    net = networks[name]
    torch.save(WRAPPED[name](net.state_dict()), tmp_path / "net.pth")
    path, card = import_weights(name, tmp_path / "net.pth")
    assert path == folder / f"{name}.safetensors"
    assert card == json.loads(path.with_suffix(".json").read_text()) == model_card(name)
    assert card["source"]["sha256"] == checksum(tmp_path / "net.pth")
    assert card["sha256"] == checksum(path)
    assert card["licence"] == PUBLISHED[name].licence
    loaded = load_deblurrer(name).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in net.state_dict().items())
    assert fault(name) == ""
    direct = load_deblurrer(tmp_path / "net.pth").state_dict()
    assert all(torch.equal(direct[key], value) for key, value in net.state_dict().items())
    assert sorted(entry.name for entry in folder.iterdir()) == [f"{name}.json", f"{name}.safetensors"]


def test_maxim_and_its_faster_settings(tmp_path):
    net = small_maxim(3)
    package = maxim_package(tmp_path / "m.tgz", net)
    path, card = import_weights("maxim", package)
    assert set(card["notices"]) == {"the package: MIT", "the weights: Apache-2.0"}
    with safe_open(path, framework="pt") as file:
        assert "Apache License" in file.metadata()["notice: the weights: Apache-2.0"]
        assert file.metadata()["source_sha256"] == checksum(package)
    assert [len(load_deblurrer(model).stages) for model in ("maxim", "maxim-2", "maxim-1")] == [3, 2, 1]
    picture = torch.rand(1, 3, 8, 16)
    with torch.inference_mode():
        assert torch.equal(load_deblurrer("maxim")(picture), net(picture))


def test_the_reblurring_network_and_its_critic(tmp_path):
    net = ReblurNetwork(channels=4, units=1, width=8, blocks=1, heads=2, hidden=8, frames=3)
    torch.save(net.state_dict(), tmp_path / "reblur.pt")
    torch.save(VGGCritic(widths=(2, 2, 2, 2, 2), hidden=4).state_dict(), tmp_path / "critic.pt")
    import_weights("reblurrer", tmp_path / "reblur.pt")
    assert load_reblurrer().critic is None
    import_weights("critic", tmp_path / "critic.pt")
    reblurrer = load_reblurrer()
    assert reblurrer.network.order == "published"
    assert isinstance(reblurrer.critic, VGGCritic)
    assert fault("reblurrer") == fault("critic") == ""


def test_what_is_missing_or_too_much_is_told(tmp_path):
    state = MIMOUNet().state_dict()
    state["extra.weight"] = torch.zeros(3)
    del state["ConvsOut.0.main.0.bias"]
    torch.save({"model": state}, tmp_path / "net.pkl")
    with pytest.raises(MetadeblurError) as refusal:
        import_weights("mimo-unet", tmp_path / "net.pkl")
    assert str(refusal.value).endswith(
        "net.pkl: not the weights of mimo-unet: missing ConvsOut.0.main.0.bias; too much: extra.weight"
    )
    assert not imported_path("mimo-unet").exists()


def test_differences_are_counted_when_there_are_many():
    expected = {f"a{index}": (1,) for index in range(9)}
    assert differences({}, expected) == "missing a0, a1, a2, a3, a4, a5 and 3 more (9 in all)"
    assert differences(expected, expected) == ""


def test_weights_of_another_network_are_named(networks, tmp_path):
    torch.save(networks["nafnet-64"].state_dict(), tmp_path / "net.pth")
    with pytest.raises(MetadeblurError, match=r"weights of nafnet-64, not of nafnet-32.*import nafnet-64"):
        import_weights("nafnet-32", tmp_path / "net.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(MetadeblurError, match=r"not the weights of restormer: missing .*too much: a"):
        import_weights("restormer", tmp_path / "net.pth")


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(MetadeblurError, match="weights 'deblurgan' are not known; known: mimo-unet, "):
        import_weights("deblurgan", tmp_path / "net.pth")
    with pytest.raises(MetadeblurError, match="'lite' are not known"):
        import_weights("lite", tmp_path / "net.pth")


def test_values_that_are_not_finite_are_refused(networks, tmp_path):
    state = {key: value.clone() for key, value in networks["mimo-unet"].state_dict().items()}
    state["ConvsOut.0.main.0.bias"][0] = float("inf")
    torch.save({"model": state}, tmp_path / "net.pkl")
    with pytest.raises(MetadeblurError, match=r"ConvsOut\.0\.main\.0\.bias holds values that are not finite"):
        import_weights("mimo-unet", tmp_path / "net.pkl")


def test_safetensors_of_others_are_taken_too(networks, tmp_path):
    save_file(networks["restormer"].state_dict(), tmp_path / "net.safetensors")
    assert import_weights("restormer", tmp_path / "net.safetensors").card["sizes"] == "not the published ones"


def test_later_damage_is_found(networks, tmp_path):
    torch.save(networks["mimo-unet"].state_dict(), tmp_path / "net.pkl")
    path, _ = import_weights("mimo-unet", tmp_path / "net.pkl")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "its checksum is" in fault("mimo-unet")
    path.with_suffix(".json").unlink()
    assert fault("mimo-unet") == "its card mimo-unet.json is missing"
    path.unlink()
    assert fault("mimo-unet") == "missing"


def test_a_folder_that_cannot_be_written_is_named(networks, tmp_path, folder):
    folder.write_text("a file where the folder should be")
    torch.save(networks["mimo-unet"].state_dict(), tmp_path / "net.pkl")
    with pytest.raises(MetadeblurError, match="kept"):
        import_weights("mimo-unet", tmp_path / "net.pkl")


@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() & ARCHITECTURES.keys()))
def test_a_model_that_is_not_here_says_how_to_get_it(name):
    with pytest.raises(MetadeblurError) as refusal:
        load_deblurrer(name)
    assert f"metadeblur weights import {name} FILE" in str(refusal.value)
    assert PUBLISHED[name].where in str(refusal.value)


def test_every_published_deblurrer_has_its_network():
    assert set(PUBLISHED) - set(ARCHITECTURES) == {"reblurrer", "critic"}

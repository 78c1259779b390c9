"""Networks as folders: they come back bit for bit, say what they are, and reach the hub only where asked to."""

from __future__ import annotations

import copy
import json
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from small_networks import SMALL, Residual, small
from torch import nn

import metadeblur as md
from metadeblur.models import pretrained, weights
from metadeblur.models.adapted import AdaptedModel, FusionSettings, fusion_of, unwrapped
from metadeblur.models.lite import Lite
from metadeblur.models.maxim import Maxim
from metadeblur.models.pretrained import CARD, CONFIG
from metadeblur.models.rates import set_step_rates, step_rates
from metadeblur.models.weights import WEIGHTS, parameters_digest
from metadeblur.restoration.clips import restore


def tiny_lite() -> Lite:
    torch.manual_seed(0)
    net = Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,))
    nn.init.normal_(net.head.weight, std=0.1)
    return net.eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks hold the same tensors, to the bit and in the same formats."""
    first, second = one.state_dict(), other.state_dict()
    return [*first] == [*second] and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name]) for name, value in first.items()
    )


def facts(folder) -> tuple[dict, str]:
    """What the card's head says, and its text."""
    _, head, text = (folder / CARD).read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


# --- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_every_network_comes_back(name, tmp_path):
    net = small(name)
    assert md.save_pretrained(net, tmp_path / "saved") == tmp_path / "saved"
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [CARD, CONFIG, WEIGHTS]
    again = md.from_pretrained(tmp_path / "saved")
    assert type(again) is type(net)
    assert same(again, net)
    assert not again.training
    assert same(md.load_deblurrer(tmp_path / "saved"), net)


def test_the_built_in_network_comes_back_with_its_card(tmp_path):
    net = md.load_deblurrer("lite")
    md.save_pretrained(net, tmp_path / "lite")
    assert same(md.from_pretrained(str(tmp_path / "lite")), net)
    head, text = facts(tmp_path / "lite")
    assert head["license"] == "apache-2.0"
    assert head["library_name"] == "metadeblur"
    assert head["model-index"][0]["name"] == "lite"
    assert 'md.load_deblurrer("lite")' in text
    assert same(md.from_pretrained("lite"), net)


def test_learnt_rates_come_back(tmp_path):
    net = tiny_lite()
    set_step_rates(net, {"head": 0.5})
    md.save_pretrained(net, tmp_path)
    assert step_rates(md.from_pretrained(tmp_path)) == {"head": 0.5}
    assert step_rates(md.from_pretrained(tmp_path, tiny_lite())) == {"head": 0.5}


def test_fewer_stages_come_back_as_so_many(tmp_path):
    net = Maxim.from_weights(small("maxim").state_dict(), stages=1).eval()
    md.save_pretrained(net, tmp_path)
    assert same(md.from_pretrained(tmp_path), net)


@pytest.mark.parametrize(
    "fusion", [FusionSettings(), FusionSettings(radius=2, share=0.3, exposure=0.712345678901, response="gamma22")]
)
def test_an_adapted_model_comes_back_with_all_of_its_fusion(tmp_path, fusion):
    model = AdaptedModel(tiny_lite(), fusion)
    md.save_pretrained(model, tmp_path)
    for again in (md.from_pretrained(tmp_path), md.load_deblurrer(str(tmp_path))):
        assert isinstance(again, AdaptedModel)
        assert fusion_of(again) == fusion
        assert same(again, model)
    clip = md.Clip(torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(1)))
    frames = [restore(one, clip, device="cpu", precision="fp32") for one in (model, md.from_pretrained(tmp_path))]
    assert all(torch.equal(one, other) for one, other in zip(*frames, strict=True))
    assert "adapted" in facts(tmp_path)[1]


def test_a_folder_without_a_config_is_taken_by_its_weights(tmp_path):
    model = AdaptedModel(tiny_lite(), FusionSettings(exposure=0.5))
    md.save_pretrained(model, tmp_path)
    (tmp_path / CONFIG).unlink()
    again = md.from_pretrained(tmp_path)
    assert same(again, model)
    assert fusion_of(again) == FusionSettings(exposure=0.5)


def test_a_network_of_ones_own_comes_back_into_one_that_is_given(tmp_path):
    net = Residual().eval()
    nn.init.normal_(net.conv.weight)
    md.save_pretrained(net, tmp_path)
    given = Residual()
    assert md.from_pretrained(tmp_path, net=given) is given
    assert same(given, net)
    with pytest.raises(
        md.MetadeblurError, match=r"holds weights of small_networks\.Residual: make that network and give"
    ):
        md.from_pretrained(tmp_path)
    head, text = facts(tmp_path)
    assert "license" not in head
    assert "net=YourNetwork()" in text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precision_comes_back_as_it_was(tmp_path, dtype):
    for number, net in enumerate((Residual().to(dtype), tiny_lite().to(dtype))):
        nn.init.normal_(next(net.parameters()))
        md.save_pretrained(net, tmp_path / str(number))
        assert same(md.from_pretrained(tmp_path / str(number), net=Residual() if number == 0 else None), net)
    assert next(md.load_deblurrer(tmp_path / "1").parameters()).dtype == torch.float32


def test_weights_may_be_rounded_to_half_of_the_size(tmp_path):
    net = tiny_lite()
    md.save_pretrained(net, tmp_path / "half", half=True)
    md.save_pretrained(net, tmp_path / "whole")
    again = md.from_pretrained(tmp_path / "half")
    assert next(again.parameters()).dtype == torch.float32
    assert torch.equal(again.head.weight, net.head.weight.half().float())
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.7 * sizes[1]


def test_layers_that_share_weights_still_do(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 3, 3, padding=1)
            self.other = self.one

        def forward(self, x):
            return self.other(self.one(x))

    net, given = Tied(), Tied()
    md.save_pretrained(net.double(), tmp_path)
    md.from_pretrained(tmp_path, net=given)
    assert given.one.weight is given.other.weight
    assert same(given, net)


# --- what a Deblurrer declares -------------------------------------------------------------------------------------


class Three(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.change = nn.Conv2d(9, 3, 5, 1, 2)

    def forward(self, window):
        return window[:, 1] + self.change(window.flatten(1, 2))


def test_what_was_declared_of_a_network_comes_back(tmp_path):
    net = md.Deblurrer(Three(), frames=3, multiple=4)
    net.save_pretrained(tmp_path)
    for again in (md.from_pretrained(tmp_path, net=Three()), md.Deblurrer.from_pretrained(tmp_path, Three())):
        assert (again.frames, again.multiple, again.all_outputs) == (3, 4, False)
        assert same(again, net)
    given = md.Deblurrer(Three(), frames=3, multiple=8)
    assert md.from_pretrained(tmp_path, net=given).multiple == 8  # what is given is as it was told
    assert isinstance(md.Deblurrer.from_pretrained("lite"), md.Deblurrer)


def test_functions_that_a_file_cannot_hold_are_asked_for(tmp_path):
    net = md.Deblurrer(Three(), frames=3, loss=nn.functional.mse_loss)
    net.save_pretrained(tmp_path)
    with pytest.raises(md.MetadeblurError, match=r"no file can hold \(loss=\.\.\.\): give it with them"):
        md.from_pretrained(tmp_path, net=Three())
    given = md.Deblurrer(Three(), frames=3, loss=nn.functional.mse_loss)
    assert md.from_pretrained(tmp_path, net=given) is given


def test_losses_of_the_networks_own_are_no_functions_of_somebody_elses(tmp_path):
    class Own(Three):
        def loss(self, restored, sharp):
            return (restored - sharp).abs().mean()

    for number, net in enumerate((md.Deblurrer(small("nafnet-32")), md.Deblurrer(Own(), frames=3))):
        copied = copy.deepcopy(net)  # as adapting does
        copied.save_pretrained(tmp_path / str(number))
        again = md.from_pretrained(tmp_path / str(number), net=None if number == 0 else Own())
        assert isinstance(again, md.Deblurrer)
        assert same(again, net)


def test_an_adapted_network_of_ones_own(tmp_path):
    model = AdaptedModel(md.Deblurrer(Three(), frames=3, multiple=4), FusionSettings(radius=3))
    md.save_pretrained(model, tmp_path)
    again = md.from_pretrained(tmp_path, net=Three())
    assert fusion_of(again) == FusionSettings(radius=3)
    assert (unwrapped(again).frames, unwrapped(again).multiple) == (3, 4)
    assert parameters_digest(again) == parameters_digest(model)


# --- folders and cards ---------------------------------------------------------------------------------------------


def test_the_command_takes_such_a_folder(tmp_path):
    md.save_pretrained(tiny_lite(), tmp_path / "saved")
    assert weights.find(str(tmp_path / "saved")) == tmp_path / "saved" / WEIGHTS


def test_a_card_that_a_person_wrote_and_other_files_stay(tmp_path):
    (tmp_path / CARD).write_text("mine")
    (tmp_path / "other").write_text("kept")
    md.save_pretrained(tiny_lite(), tmp_path)
    md.save_pretrained(tiny_lite(), tmp_path)
    assert ((tmp_path / CARD).read_text(), (tmp_path / "other").read_text()) == ("mine", "kept")


def test_a_card_says_what_it_is_told(tmp_path):
    facts_given = {"datasets": ["gopro: large"], "base_model": "someone/lite", "tags": ["mine"]}
    md.save_pretrained(small("mprnet"), tmp_path, licence="mit", card=facts_given)
    head, text = facts(tmp_path)
    assert head["license"] == "mit"
    assert {name: head[name] for name in facts_given} == facts_given
    assert "Zamir et al." in text
    assert "@inproceedings{liu2022meta," in text
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["architecture"], config["multiple"], config["library_name"]) == ("mprnet", 8, "metadeblur")


def test_what_is_no_folder_with_a_network_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for source, told in (
        (tmp_path / "nothing", "is not there; give a folder"),
        (str(tmp_path / "empty"), f"holds no {WEIGHTS}"),
        (tmp_path / "file", "is a file: md.load_deblurrer loads it"),
    ):
        with pytest.raises(md.MetadeblurError, match=told):
            md.from_pretrained(source)
    with pytest.raises(md.MetadeblurError, match="'lite' is a name, not a network"):
        md.save_pretrained("lite", tmp_path / "out")
    with pytest.raises(md.MetadeblurError, match="is a file"):
        md.save_pretrained(tiny_lite(), tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fusion": {"radius": -1}}, "radius is -1"),
        ({"fusion": {"radios": 1}}, "did you mean radius"),
        ({"fusion": 3}, "fusion is 3"),
        ({"declared": {"frames": 2, "multiple": 4, "all_outputs": False}}, "frames is 2"),
        ({"declared": {"frames": "3", "multiple": 4, "all_outputs": False}}, "frames is 3, not int"),
        ({"declared": [1]}, "not Declared"),
    ],
)
def test_a_config_of_a_stranger_is_looked_at(tmp_path, change, told):
    md.save_pretrained(tiny_lite(), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(md.MetadeblurError, match=told) as error:
        md.from_pretrained(tmp_path)
    assert str(tmp_path / CONFIG) in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused_and_the_given_one_stays(tmp_path):
    md.save_pretrained(tiny_lite(), tmp_path)
    given = Residual()
    before = parameters_digest(given)
    with pytest.raises(md.MetadeblurError, match=r"is of another network than Residual: it has no conv\.bias"):
        md.from_pretrained(tmp_path, net=given)
    with pytest.raises(md.MetadeblurError, match=r"of a Lite of another size: .* \(8, .*\) and \(16, "):
        md.from_pretrained(tmp_path, net=Lite(channels=(16, 16), encoder=(1, 1), decoder=(1,)))
    assert parameters_digest(given) == before


# --- the hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in of huggingface_hub that keeps what it is told."""
    told = SimpleNamespace(fetched=[], made=[], sent=[], fails=None)

    def snapshot_download(**options):
        if told.fails:
            raise told.fails
        told.fetched.append(options)
        return str(tmp_path / "cache")

    class HfApi:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, **options):
            told.made.append(options | {"token": self.token})

        def upload_folder(self, **options):
            told.sent.append(options)

    module = SimpleNamespace(snapshot_download=snapshot_download, HfApi=HfApi)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return told


def test_a_repository_is_fetched(hub, tmp_path):
    net = tiny_lite()
    md.save_pretrained(net, tmp_path / "cache")
    assert same(md.from_pretrained("someone/lite-of-mine", revision="v1", local_files_only=True), net)
    files = [WEIGHTS, CONFIG, CARD]
    asked = {"repo_id": "someone/lite-of-mine", "allow_patterns": files, "revision": "v1", "local_files_only": True}
    assert hub.fetched == [asked]
    hub.fails = OSError("404: no such repository\nmore")
    with pytest.raises(md.MetadeblurError, match=r"could not be fetched from the hub: 404: no such repository$"):
        md.from_pretrained("someone/nothing")


def test_a_folder_is_uploaded(hub, tmp_path):
    md.save_pretrained(tiny_lite(), tmp_path / "saved", repo_id="someone/new", private=True, token="secret")
    assert hub.made == [{"repo_id": "someone/new", "private": True, "exist_ok": True, "token": "secret"}]
    assert hub.sent[0]["folder_path"] == str(tmp_path / "saved")
    assert hub.sent[0]["allow_patterns"] == [WEIGHTS, CONFIG, CARD]
    assert "secret" not in (tmp_path / "saved" / CONFIG).read_text()


def test_the_hubs_own_package_finds_the_files_and_reads_the_card(tmp_path):
    """Out of its cache, laid out as it does itself: nothing is fetched."""
    hub = pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed: pip install '.[hub]'")
    net, commit = tiny_lite(), "0123456789" * 4
    repository = tmp_path / "models--someone--lite-of-mine"
    md.save_pretrained(net, repository / "snapshots" / commit, licence="mit")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    assert same(md.from_pretrained("someone/lite-of-mine", cache_dir=tmp_path, local_files_only=True), net)
    with pytest.raises(md.MetadeblurError, match="someone/other: could not be fetched from the hub: "):
        md.from_pretrained("someone/other", cache_dir=tmp_path, local_files_only=True)
    card = hub.ModelCard.load(repository / "snapshots" / commit / CARD)
    assert card.data.to_dict().items() >= {"license": "mit", "library_name": "metadeblur"}.items()


def test_without_the_hubs_package_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(md.MetadeblurError, match=r"someone/net is no folder here.*pip install '\S*\[hub\]'"):
        md.from_pretrained("someone/net")
    with pytest.raises(md.MetadeblurError, match=r"to upload to someone/net.*pip install '\S*\[hub\]'"):
        md.save_pretrained(tiny_lite(), tmp_path / "saved", repo_id="someone/net")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(md.MetadeblurError, match="give the name of a repository on the hub, as OWNER/NAME"):
        md.save_pretrained(tiny_lite(), tmp_path / "saved", repo_id="net")
    md.save_pretrained(tiny_lite(), tmp_path / "saved")  # folders need nothing
    assert pretrained.from_pretrained(tmp_path / "saved") is not None

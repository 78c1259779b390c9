"""Rates of a network's layers: in its attribute, in weight files, and in what adapts it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import metadeblur as md
from metadeblur.adaptation.settings import AdaptSettings
from metadeblur.adaptation.steps import Pair, inner_update
from metadeblur.models.adapted import FusionSettings, with_fusion
from metadeblur.models.deblurrer import Deblurrer
from metadeblur.models.lite import Lite
from metadeblur.models.rates import layers_of, rates_note, set_step_rates, step_rates
from metadeblur.models.weights import load_deblurrer, parameters_digest, read_weights, save_deblurrer

SETTINGS = AdaptSettings(steps=3, patch=32, precision="fp32")


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = Lite(channels=(8, 8), encoder=(1, 1), decoder=(1,), fold=2)
    nn.init.normal_(made.head.weight, std=0.01)
    return made.eval()


def adapted(net, settings=SETTINGS):
    torch.manual_seed(1)
    pairs = [Pair(torch.rand(3, 32, 32), torch.rand(3, 32, 32)) for _ in range(2)]
    return inner_update(net, pairs, settings, torch.Generator().manual_seed(0))[0]


def moved(net, other):
    """The layers whose weights differ."""
    both = zip(net.named_parameters(), other.parameters(), strict=True)
    return {name.rpartition(".")[0] for (name, one), two in both if not torch.equal(one, two)}


def test_rates_of_one_give_the_same_weights_as_none(net):
    plain = parameters_digest(adapted(net))
    set_step_rates(net, dict.fromkeys(layers_of(net), 1.0))
    result = adapted(net)
    set_step_rates(result, {})
    assert parameters_digest(result) == plain


def test_a_layer_moves_at_its_own_rate_and_at_none_not_at_all(net):
    usual = adapted(net)
    set_step_rates(net, {"": 0.0, "head": 2.0})
    one = adapted(net, AdaptSettings(steps=1, patch=32, precision="fp32", lr=1e-3))
    assert moved(net, one) == {"head"}
    assert (one.head.weight - net.head.weight).abs().max().item() == pytest.approx(2e-3, rel=1e-3)
    assert moved(net, usual) == set(layers_of(net))


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: with_fusion(net, FusionSettings()), Deblurrer])
def test_rates_travel_in_the_weight_file(net, wrap, tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_deblurrer(wrap(net), plain)
    set_step_rates(net, {"head": 2.0, "encoder": 0.125})
    save_deblurrer(wrap(net), tmp_path / "rates.safetensors")
    assert set(read_weights(tmp_path / "rates.safetensors")[1]) - set(read_weights(plain)[1]) == {"step_rates"}
    loaded = load_deblurrer(tmp_path / "rates.safetensors")
    assert step_rates(loaded) == {"head": 2.0, "encoder": 0.125}
    assert step_rates(load_deblurrer(plain)) == {}
    wanted, found = (adapted(one) for one in (net, loaded))
    assert parameters_digest(wanted) == parameters_digest(found)
    assert parameters_digest(wanted) != parameters_digest(adapted(load_deblurrer(plain)))


def test_a_wrapper_that_names_the_rates_saves_them_by_the_networks_own_names(net):
    wrapped = Deblurrer(net)
    set_step_rates(wrapped, {"net.head": 2.0})
    assert rates_note(wrapped, net) == {"step_rates": '{"head": 2.0}'}


def test_what_was_adapted_keeps_the_rates(net):
    set_step_rates(net, {"head": 2.0})
    assert step_rates(adapted(net)) == {"head": 2.0}


def test_weights_that_differ_in_their_rates_alone_are_told_apart(net):
    before = parameters_digest(net)
    set_step_rates(net, {"head": 2.0})
    assert parameters_digest(net) != before


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("nonsense", "its step rates cannot be read"),
        ("[1, 2]", "its step rates cannot be read"),
        ('{"tail": 1.0}', "step rates name a layer 'tail' that Lite does not have"),
        ('{"head": -1}', "the step rate of layer 'head' is -1; give a number from 0 to 1000"),
        ('{"head": NaN}', "the step rate of layer 'head' is nan; give"),
        ('{"head": true}', "the step rate of layer 'head' is True; give"),
        ('{"head": "fast"}', "the step rate of layer 'head' is 'fast'; give"),
    ],
)
def test_notes_that_are_none_of_the_networks_are_refused_by_file(net, note, said, tmp_path):
    path = tmp_path / "odd.safetensors"
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path, metadata={"step_rates": note})
    with pytest.raises(md.MetadeblurError) as caught:
        load_deblurrer(path)
    assert str(caught.value).startswith(f"{path}: {said}")

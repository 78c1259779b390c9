"""What adapts: only the named part moves, adapters vanish into the weights, less memory is taken."""

import pytest
import torch
from published import small_maxim
from small_networks import SMALL, frames_for, moving_clip, small
from torch import nn

import metadeblur as md
from metadeblur.adaptation.parameters import PARAMETERS, RANK, free, merge_adapters
from metadeblur.adaptation.stages import AdaptSettings, Pair, inner_update, preset
from metadeblur.cli.entry import parse
from metadeblur.errors import MetadeblurError
from metadeblur.models.deblurrer import Deblurrer
from metadeblur.models.forward import own_loss
from metadeblur.models.lite import Lite
from metadeblur.models.registry import ARCHITECTURES, recognise
from metadeblur.system.memory import peak_bytes

LITE = {"channels": (8, 16), "encoder": (1, 1), "decoder": (1,), "fold": 2}


def adapted(net: nn.Module, parameters: str, steps: int = 3, seed: int = 0) -> nn.Module:
    frames = frames_for(net)[0]
    target = (frames if frames.ndim == 3 else frames[2]) * 0.5
    settings = AdaptSettings(
        parameters=parameters, steps=steps, batch=1, lr=1e-3, precision="fp32", device="cpu", mirror=False
    )
    given, history, failure = inner_update(net, [Pair(frames, target)], settings, torch.Generator().manual_seed(seed))
    assert failure is None
    assert len(history) == steps
    assert history[-1]["loss"] < history[0]["loss"]
    return given


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    goal = after.state_dict()
    assert list(goal) == list(before.state_dict())  # adapters are gone, names as published
    return {name for name, weight in before.state_dict().items() if not torch.equal(weight, goal[name])}


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("model", ["mimo-unet", "restormer", "nafnet-32"])
def test_steps_on_a_part_learn_and_move_nothing_else(model, parameters):
    net = small(model)
    names = moved(net, adapted(net, parameters))
    shapes = {name: weight.shape for name, weight in net.state_dict().items()}
    if parameters == "all":
        assert len(names) == len(shapes)
    elif parameters == "norms-and-biases":
        assert names
        assert all(max(shapes[name]) == shapes[name].numel() for name in names)
    elif parameters == "low-rank":
        assert names
        assert all(len(shapes[name]) > 1 for name in names)
    else:
        assert names == {
            name for name in shapes if name.startswith(tuple(f"{part}." for part in net.parts[parameters]))
        }


def test_low_rank_changes_have_a_low_rank():
    net = small("mimo-unet")
    after = adapted(net, "low-rank").state_dict()
    for name, weight in net.state_dict().items():
        if weight.ndim > 1:
            assert torch.linalg.matrix_rank((after[name] - weight).flatten(1), rtol=1e-3) <= RANK


def test_adapters_change_nothing_before_they_learn():
    net = small("restormer")
    frames = frames_for(net)
    count = sum(weight.numel() for weight in net.parameters())
    with torch.no_grad():
        plain = net(frames)
        weights = free(net, "low-rank", torch.Generator())
        assert torch.equal(net(frames), plain)
        assert sum(weight.numel() for weight in weights) < count
        merge_adapters(net)
        assert torch.equal(net(frames), plain)
    assert recognise(net.state_dict()) == "restormer"


def test_the_same_seed_gives_the_same_adapters():
    net = small("mimo-unet")
    one, other, third = (adapted(net, "low-rank", seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], third[name]) for name in one)


@pytest.mark.parametrize(
    "model", ["mimo-unet", "mprnet", "restormer", "nafnet-32", pytest.param("cdvd-tsp", marks=pytest.mark.long)]
)
@pytest.mark.slow
def test_the_last_part_takes_less_memory_than_all(model):
    def held(parameters: str) -> int:
        net = small(model)
        free(net, parameters, torch.Generator())
        frames = frames_for(net, height=32, width=32)
        sharp = frames if frames.ndim == 4 else frames[:, 2]
        return peak_bytes(lambda: own_loss(net, frames, sharp * 0.5).backward(), torch.device("cpu"))

    assert held("last") < 0.8 * held("all")


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_every_network_has_every_part(model):
    build = {"lite": lambda: Lite(**LITE), "maxim": small_maxim, **SMALL}[model]
    count = sum(weight.numel() for weight in build().parameters())
    for parameters in PARAMETERS:
        chosen = free(build(), parameters, torch.Generator())
        assert chosen
        assert all(weight.requires_grad for weight in chosen)
        assert parameters == "all" or sum(weight.numel() for weight in chosen) < count


def test_a_wrapped_network_is_looked_into():
    net = Deblurrer(Lite(**LITE))
    free(net, "last", torch.Generator())
    names = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert "net.head.weight" in names
    assert all(name.startswith(("net.head.", "net.decoder.0.")) for name in names)


def test_a_network_without_the_part_says_what_to_do():
    with pytest.raises(MetadeblurError, match="parts = "):
        free(nn.Conv2d(3, 3, 3), "decoder", torch.Generator())
    with pytest.raises(MetadeblurError, match="--parameters all"):
        free(nn.Conv2d(3, 3, 3, bias=False), "norms-and-biases", torch.Generator())


def test_settings_and_flags():
    assert parse(["restore", "in.mp4", "--parameters", "last"]).adaptation.parameters == "last"
    assert AdaptSettings(parameters="decoder").parameters == "decoder"
    with pytest.raises(MetadeblurError, match="give all, norms-and-biases"):
        AdaptSettings(parameters="encoder")
    with pytest.raises(MetadeblurError, match="release"):
        preset("release").changed(parameters="last")


def test_adapt_takes_the_part():
    net = Lite(**LITE)
    settings = AdaptSettings(parameters="last", pairs=1, blurs=1, steps=1, batch=1, patch=48, held_out=0, guard=False)
    outcome = md.adapt(net, moving_clip(), settings=settings, device="cpu")
    assert len(outcome.history) == 1
    assert moved(net, outcome.model) <= {name for name in net.state_dict() if name.startswith(("decoder.0.", "head."))}

"""A model that says that its frames are fused: whatever is done to it, it goes on saying so, under the same names."""

from __future__ import annotations

import copy
import io
import shutil

import pytest
import torch
from torch import nn

from metadeblur.adaptation.parameters import free
from metadeblur.models.adapted import AdaptedModel, FusionSettings, fusion_of, unwrapped, with_fusion
from metadeblur.models.deblurrer import Deblurrer
from metadeblur.models.lite import Lite
from metadeblur.models.nafnet import NAFNet
from metadeblur.models.registry import traits
from metadeblur.models.weights import load_deblurrer, parameters_digest, save_deblurrer
from metadeblur.restoration.restorer import Restorer, RestoreSettings

FUSION = FusionSettings(radius=2, exposure=0.5)
WINDOW = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small() -> Lite:
    torch.manual_seed(0)
    net = Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,))
    nn.init.normal_(net.head.weight, std=0.1)
    return net.eval()


class Wrapper(nn.Module):
    """Keeps a network as a part, as DataParallel does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.module(frames)


def test_it_computes_what_the_network_computes_and_answers_for_it() -> None:
    net = small()
    model = AdaptedModel(net, FUSION)
    assert torch.equal(model(WINDOW), net(WINDOW))
    assert model.multiple == net.multiple
    assert not model.training
    assert traits(model) == traits(net)
    assert traits(AdaptedModel(NAFNet(width=8), FUSION)) == traits(NAFNet(width=8))
    with pytest.raises(AttributeError, match="no_such"):
        _ = model.no_such


def test_names_are_those_of_the_network() -> None:
    net = small()
    model = AdaptedModel(net, FUSION)
    for kind in ("named_parameters", "named_buffers"):
        assert [name for name, _ in getattr(model, kind)()] == [name for name, _ in getattr(net, kind)()]
    assert [*model.state_dict()] == [*net.state_dict()]
    assert parameters_digest(model) == parameters_digest(net)
    wrapped = Wrapper(model)
    names = [f"module.{name}" for name in net.state_dict()]
    assert [*wrapped.state_dict()] == names == [name for name, _ in wrapped.named_parameters()]
    assert len([*model.parameters()]) == len([*net.parameters()])


def test_weights_go_from_either_to_the_other() -> None:
    net, other = small(), Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,)).eval()
    model = AdaptedModel(other, FUSION)
    assert model.load_state_dict(net.state_dict()) == nn.Module().load_state_dict({})
    assert torch.equal(model(WINDOW), net(WINDOW))
    again = Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,)).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(WINDOW), net(WINDOW))
    part = Wrapper(AdaptedModel(Deblurrer(Lite(channels=(8, 16), encoder=(1, 1), decoder=(1,))), FUSION)).eval()
    part.load_state_dict(Wrapper(Deblurrer(net)).state_dict())
    assert torch.equal(part(WINDOW), net(WINDOW))
    with pytest.raises(RuntimeError, match="Unexpected"):
        model.load_state_dict({**net.state_dict(), "more": torch.zeros(1)})


def test_copies_and_pickles_keep_it() -> None:
    model = AdaptedModel(small(), FUSION)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert fusion_of(again) == FUSION
        assert torch.equal(again(WINDOW), model(WINDOW))
        assert again.net is not model.net


def test_wrappers_keep_it() -> None:
    model = AdaptedModel(small(), FUSION)
    for wrapper in (Wrapper(model), nn.DataParallel(model), nn.Sequential(nn.Identity(), model)):
        assert fusion_of(wrapper) == FUSION
        assert Restorer(wrapper, 32, 32, RestoreSettings(device="cpu")).fusion == FUSION
    assert fusion_of(Wrapper(small())) is None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_compiling_keeps_it() -> None:
    model = AdaptedModel(small(), FUSION)
    compiled = torch.compile(model)
    assert fusion_of(compiled) == FUSION
    assert fusion_of(copy.deepcopy(compiled)) == FUSION
    assert traits(compiled).frames == 1
    with torch.inference_mode():
        assert torch.allclose(compiled(WINDOW), model(WINDOW), atol=1e-5)


def test_with_fusion_takes_a_model_apart_first() -> None:
    net = small()
    model = with_fusion(with_fusion(net, FusionSettings()), FUSION)
    assert fusion_of(model) == FUSION
    assert unwrapped(model) is net is with_fusion(model, None)


def test_a_part_of_it_can_be_freed() -> None:
    one, other = small(), small()
    counts = [len(free(net, "last", torch.Generator())) for net in (one, AdaptedModel(other, FUSION))]
    assert counts[0] == counts[1] > 0


def test_saved_and_loaded_it_gives_the_same_bytes(tmp_path) -> None:
    save_deblurrer(AdaptedModel(load_deblurrer("lite"), FUSION), tmp_path / "one.safetensors", {"clip": "x"})
    loaded = load_deblurrer(tmp_path / "one.safetensors")
    assert fusion_of(loaded) == FusionSettings(exposure=0.5)  # the file keeps exposure and response alone
    save_deblurrer(loaded, tmp_path / "other.safetensors", {"clip": "x"})
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    save_deblurrer(AdaptedModel(Deblurrer(unwrapped(loaded)), FUSION), tmp_path / "third.safetensors", {"clip": "x"})
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "third.safetensors").read_bytes()
    plain = load_deblurrer("lite")
    plain.load_state_dict(loaded.state_dict())
    save_deblurrer(plain, tmp_path / "plain.safetensors")
    assert fusion_of(load_deblurrer(tmp_path / "plain.safetensors")) is None

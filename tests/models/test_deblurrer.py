"""Any network: what the wrapper declares, the how-to page run word for word, spandrel's contract on a stand-in."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from journey import decoded, shaky_video
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import metadeblur as md
from metadeblur.models.adapted import unwrapped
from metadeblur.models.deblurrer import Deblurrer, from_spandrel
from metadeblur.models.forward import own_loss
from metadeblur.models.mimo_unet import MIMOUNet
from metadeblur.models.registry import traits

PAGE = Path(__file__).parents[2] / "docs" / "add-a-network.md"


class Strict(nn.Module):
    """Refuses sides that are no multiples of 8; gives a small picture first, in a dictionary."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        assert x.shape[-2] % 8 == x.shape[-1] % 8 == 0
        return {"small": F.avg_pool2d(x, 2) * self.scale, "restored": x * self.scale}


def strict(**wants):
    return Deblurrer(Strict(), multiple=8, picture=lambda every: every["restored"], **wants)


def test_any_side_is_padded_and_cropped():
    picture = torch.rand(2, 3, 13, 21)
    assert torch.equal(strict()(picture), picture)


def test_its_own_loss_sees_all_outputs_cropped():
    seen = []

    def loss(every, sharp):
        seen.append([tuple(picture.shape) for picture in every])
        return F.l1_loss(every[1], sharp)

    sharp = torch.rand(1, 3, 12, 20)
    value = own_loss(strict(loss=loss, all_outputs=True), sharp * 0.5, sharp)
    assert torch.allclose(value, (sharp * 0.5).mean())
    assert seen == [[(1, 3, 6, 10), (1, 3, 12, 20)]]


def test_it_adapts_and_restores():
    clip = md.Clip(torch.rand(6, 3, 40, 52))
    outcome = md.adapt(strict(), clip, steps=1, pairs=1, guard=False)
    assert outcome.share == 1
    assert unwrapped(outcome.model).net.scale != 1
    assert len(md.restore(outcome.model, clip)) == 6


def test_what_is_not_declared_is_what_the_network_says():
    assert traits(Deblurrer(MIMOUNet(blocks=1, channels=16))) == traits(MIMOUNet(blocks=1, channels=16))
    assert traits(Deblurrer(nn.Identity())) == traits(nn.Identity())
    assert traits(Deblurrer(nn.Identity(), frames=3, multiple=2)).frames == 3


@pytest.mark.parametrize("wrong", [{"frames": 2}, {"frames": 0}, {"multiple": 0}])
def test_declarations_that_cannot_be_are_refused(wrong):
    with pytest.raises(md.MetadeblurError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        Deblurrer(nn.Identity(), **wrong)


def test_wrong_shapes_are_told():
    with pytest.raises(md.MetadeblurError, match=r"was given \(1, 3, 8, 8\): give it \(B, 3, 3, H, W\)"):
        Deblurrer(nn.Identity(), frames=3)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(md.MetadeblurError, match=r"made \(1, 3, 4, 4\) of \(1, 3, 16, 16\)"):
        Deblurrer(nn.AvgPool2d(4))(torch.zeros(1, 3, 16, 16))


def test_saved_are_the_weights_of_the_network_inside(tmp_path):
    net = MIMOUNet(blocks=1, channels=16)
    md.save_deblurrer(Deblurrer(net), tmp_path / "w.safetensors")
    loaded = md.load_deblurrer(tmp_path / "w.safetensors").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in net.state_dict().items())


def test_the_page_runs_word_for_word_and_adds_a_network_in_under_40_lines(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert sum(len(block.strip().splitlines()) for block in blocks[:2]) < 40
    monkeypatch.chdir(tmp_path)
    video = decoded(shaky_video(tmp_path / "shaky.mp4", (6,)))
    names = {"__name__": "page"}
    network = blocks[0].partition("net = TwoScales()")
    exec(network[0], names)
    torch.save(names["TwoScales"]().state_dict(), "two_scales.pth")
    for block in blocks:
        exec(block, names)
    assert decoded(tmp_path / "sharp.mp4").shape == decoded(tmp_path / "three_frames.mp4").shape == video.shape
    assert (tmp_path / "adapted.safetensors").is_file()


@pytest.fixture
def spandrel(monkeypatch):
    """A stand-in with the names of spandrel's public interface that are used."""
    module = ModuleType("spandrel")
    module.__spec__ = SimpleNamespace()

    class Unsupported(Exception):
        pass

    class Descriptor:
        def __init__(self, model, scale, channels, size):
            self.model, self.scale, self.size_requirements = model, scale, size
            self.input_channels, self.output_channels = channels
            self.architecture = SimpleNamespace(name="Standin")

    class Masked:
        model = nn.Conv2d(3, 3, 1)
        architecture = SimpleNamespace(name="Inpainter")

    class Loader:
        found = Descriptor(nn.Conv2d(3, 3, 1), 1, (3, 3), SimpleNamespace(minimum=0, multiple_of=8, square=False))

        def __init__(self, device=None):
            assert device == "cpu"

        def load_from_state_dict(self, weights):
            if "weight" not in weights:
                raise Unsupported
            self.found.model.load_state_dict(weights)
            return self.found

    module.UnsupportedModelError, module.ImageModelDescriptor = Unsupported, Descriptor
    module.MaskedImageModelDescriptor, module.ModelLoader = Masked, Loader
    monkeypatch.setitem(sys.modules, "spandrel", module)
    return module


@pytest.mark.usefixtures("spandrel")
def test_spandrel_networks_load_from_a_file_and_come_back(tmp_path):
    conv = nn.Conv2d(3, 3, 1)
    save_file(conv.state_dict(), tmp_path / "net.safetensors")
    net = md.load_deblurrer(tmp_path / "net.safetensors")
    assert isinstance(net, Deblurrer)
    assert traits(net).multiple == 8
    assert not net.net.training
    picture = torch.rand(1, 3, 9, 11)
    assert torch.allclose(net(picture), conv(picture), atol=1e-6)
    md.save_deblurrer(net, tmp_path / "again.safetensors")
    assert isinstance(md.load_deblurrer(tmp_path / "again.safetensors"), Deblurrer)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scale": 4}, "Standin: it scales by 4"),
        ({"input_channels": 1}, "maps 1 channels to 3"),
        ({"size_requirements": SimpleNamespace(minimum=0, multiple_of=1, square=True)}, "square pictures"),
        ({"size_requirements": SimpleNamespace(minimum=128, multiple_of=1, square=False)}, "at least 128 px"),
    ],
)
def test_networks_of_spandrel_that_are_no_deblurrers_are_refused(spandrel, changed, said):
    for name, value in changed.items():
        setattr(spandrel.ModelLoader.found, name, value)
    with pytest.raises(md.MetadeblurError, match=said):
        from_spandrel(nn.Conv2d(3, 3, 1).state_dict())


def test_what_spandrel_does_not_know_is_told(spandrel):
    with pytest.raises(md.MetadeblurError, match="spandrel knows no network of these 1 tensors"):
        from_spandrel({"a": torch.zeros(1)})
    spandrel.ModelLoader.found = spandrel.MaskedImageModelDescriptor()
    with pytest.raises(md.MetadeblurError, match=r"Inpainter: .* does not map a picture to a picture"):
        from_spandrel(nn.Conv2d(3, 3, 1).state_dict())


def test_without_spandrel_it_is_not_asked(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(md.MetadeblurError, match="no known network"):
        md.load_deblurrer(tmp_path / "w.safetensors")
    with pytest.raises(md.MetadeblurError, match="spandrel is not installed"):
        from_spandrel({})

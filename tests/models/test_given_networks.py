"""Networks as researchers have them: half precision, spandrel's descriptors, and what is no deblurrer said at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_networks import moving_clip
from torch import nn
from torch.nn import functional as F

import metadeblur as md
from metadeblur.models.adapted import unwrapped
from metadeblur.models.deblurrer import as_deblurrer
from metadeblur.models.forward import own_loss
from metadeblur.models.weights import parameters_digest

QUICK = {"pairs": 1, "steps": 2, "patch": 32, "precision": "fp32", "guard": False}


class Net(nn.Module):
    """A convolution, and then what a test wants."""

    def __init__(self, after=lambda made, _: made):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.after = after

    def forward(self, blurred):
        return self.after(self.conv(blurred), blurred)


@pytest.fixture(scope="module")
def clip():
    return moving_clip()


# --- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_other_precision(clip, dtype, tmp_path):
    net = Net().to(dtype)
    before = parameters_digest(net)
    outcome = md.adapt(net, clip, **QUICK, lr=1e-2)
    assert outcome.share == 1
    assert {weight.dtype for weight in outcome.model.parameters()} == {torch.float32}
    restored = md.restore(net, clip)
    assert torch.allclose(restored[0], md.restore(Net().to(dtype).float(), clip)[0])
    assert (parameters_digest(net), next(net.parameters()).dtype) == (before, dtype)
    md.save_deblurrer(outcome.model, tmp_path / "half.safetensors", half=True)
    outcome.model.to(dtype)
    assert md.restore(outcome.model, clip).height == clip.height


def test_some_layers_of_half_precision(clip):
    class Mixed(Net):
        def __init__(self):
            super().__init__()
            self.second = nn.Conv2d(3, 3, 1).half()

        def forward(self, blurred):
            return self.second(self.conv(blurred))

    assert len(md.restore(Mixed(), clip)) == len(clip)


def test_a_deblurrer_around_a_half_network(clip):
    net = md.Deblurrer(Net().half(), multiple=4)
    assert md.adapt(net, clip, **QUICK).share == 1
    assert len(md.restore(net, clip)) == len(clip)


# --- spandrel ------------------------------------------------------------------------------------------------------


def descriptor(net, **changed):
    """A stand-in of spandrel's ImageModelDescriptor."""
    usual = {
        "model": net,
        "scale": 1,
        "input_channels": 3,
        "output_channels": 3,
        "architecture": SimpleNamespace(name="Standin"),
        "size_requirements": SimpleNamespace(minimum=0, multiple_of=8, square=False),
    }
    return SimpleNamespace(**usual | changed)


@pytest.mark.parametrize("half", [False, True])
def test_what_spandrel_loads_is_taken_as_it_is(clip, half, tmp_path):
    def sides(made, blurred):
        assert blurred.shape[-2] % 8 == blurred.shape[-1] % 8 == 0
        return made

    net = Net(sides).half() if half else Net(sides)
    part = md.Clip(clip.frames[..., :61, :59])
    outcome = md.adapt(descriptor(net), part, **QUICK)
    assert isinstance(unwrapped(outcome.model), md.Deblurrer)
    assert unwrapped(outcome.model).multiple == 8
    assert torch.equal(md.restore(descriptor(net), part).frames, md.restore(md.Deblurrer(net, multiple=8), part).frames)
    md.save_deblurrer(descriptor(net), tmp_path / "net.safetensors")
    assert md.Deblurrer(descriptor(net), multiple=4).multiple == 4


def test_a_descriptor_that_tells_little_is_taken_too(clip):
    assert len(md.restore(SimpleNamespace(model=Net()), clip)) == len(clip)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (descriptor(Net(), scale=4), "Standin: it scales by 4"),
        (descriptor(Net(), input_channels=1), "maps 1 channels to 3"),
        ("lite", r"'lite' is a name, not a network: md.load_deblurrer\('lite'\)"),
        (Net, r"Net is a class, not a network: make one, Net\(\)"),
        (Net().state_dict(), "a state dict is no network"),
        (lambda blurred: blurred, "a function is no network: give a torch.nn.Module"),
        (None, "a NoneType is no network"),
    ],
)
def test_what_is_no_network_is_said(clip, net, said):
    for call in (lambda: as_deblurrer(net), lambda: md.adapt(net, clip, **QUICK), lambda: md.restore(net, clip)):
        with pytest.raises(md.MetadeblurError, match=said):
            call()


# --- the first pass ------------------------------------------------------------------------------------------------

WRONG = {
    "twice the size": (lambda made, _: F.interpolate(made, scale_factor=2), r"\(\d, 3, \d+, \d+\) of .*enlarges"),
    "half the size": (lambda made, _: F.avg_pool2d(made, 2), r"gives \(B, 3, H, W\) of the size it takes"),
    "one channel": (lambda made, _: made[:, :1], r"the network made \(\d, 1, "),
    "no batch": (lambda made, _: made[0], r"the network made \(3, "),
    "a dictionary": (
        lambda made, _: {"out": made},
        r"a dictionary \(out\): name the restored picture",
    ),
    "nothing": (lambda *_: None, "returns a NoneType"),
    "an array": (lambda made, _: made.detach().numpy(), "returns a ndarray"),
    "bytes": (lambda made, _: (made * 255).to(torch.uint8), "this is uint8; return floats"),
    "a list of other things": (lambda made, _: [made, "loss"], "returns a list"),
    "an error": (lambda made, _: made.no_such, "failed on its first pass, on .*no attribute 'no_such'"),
    "a failed assertion": (
        lambda made, _: made.view(7),
        r"Net failed on its first pass.*frames=N",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_deblurrer_is_said_at_the_first_pass(clip, wrong):
    after, said = WRONG[wrong]
    passes = []

    def counted(made, blurred):
        passes.append(tuple(blurred.shape))
        return after(made, blurred)

    for call in (lambda net: md.adapt(net, clip, steps=2, pairs=1), lambda net: md.restore(net, clip)):
        passes.clear()
        with pytest.raises(md.MetadeblurError, match=said) as error:
            call(Net(counted))
        assert len(passes) == 1
        assert "\n" not in str(error.value)


def test_a_short_clip_does_not_hide_it(clip):
    with pytest.raises(md.MetadeblurError, match="enlarges"):
        md.adapt(Net(WRONG["twice the size"][0]), clip.part(0, 2))


def test_a_video_network_that_does_not_say_so(clip):
    class Video(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(9, 3, 3, padding=1)

        def forward(self, window):
            return self.conv(window.flatten(1, 2))

    with pytest.raises(md.MetadeblurError, match=r"If it wants several frames.*md.Deblurrer\(net, frames=N"):
        md.adapt(Video(), clip, **QUICK)
    assert md.adapt(md.Deblurrer(Video(), frames=3), clip, **QUICK).history


def test_a_network_that_restores_the_whole_window(clip):
    class Whole(Net):
        frames = 3

        def forward(self, window):
            return self.conv(window.flatten(0, 1)).unflatten(0, window.shape[:2])

    with pytest.raises(md.MetadeblurError, match=r"picture=lambda every: every\[:, N // 2\]"):
        md.restore(Whole(), clip)
    net = md.Deblurrer(Whole(), picture=lambda every: every[:, 1])
    assert len(md.restore(net, clip)) == len(clip)


def test_losses_do_not_spread_one_channel_over_three():
    net = Net(lambda made, _: made[:, :1])
    with pytest.raises(md.MetadeblurError, match=r"the network made \(1, 1, 16, 16\)"):
        own_loss(net, torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))


def test_a_network_that_fails_later_says_so_itself(clip):
    passes = []

    def fails(made, _):
        passes.append(1)
        if len(passes) > 2:
            raise RuntimeError("of its own")
        return made

    with pytest.raises(RuntimeError, match="of its own"):
        md.restore(Net(fails), clip, tile=0, precision="fp32")

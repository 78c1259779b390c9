"""The paper's form with a reblurring network that is told the clip's motion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metadeblur.adaptation.places import choose_support
from metadeblur.adaptation.settings import preset
from metadeblur.adaptation.stages import adapt
from metadeblur.clip import Clip
from metadeblur.models.critic import Critic
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.told_reblurring import ToldReblurNetwork
from metadeblur.reblur.fitting import NetworkReblurrer, collect
from metadeblur.reblur.place import Shrunk
from metadeblur.training.outer import starting

SMALL = {"channels": 4, "units": 1, "width": 16, "blocks": 1, "heads": 2}


@pytest.fixture(scope="module")
def clip():
    """Seven frames of a texture that moves to the right, blurred by more from frame to frame."""
    texture = torch.rand(3, 80, 200, generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.avg_pool2d(texture[None], 5, 1, 2)[0]
    frames = []
    for number in range(7):
        shifts = range(-number // 2, number // 2 + 1)
        frames.append(torch.stack([texture.roll(5 * number + shift, -1) for shift in shifts]).mean(0)[:, :, 60:156])
    return Clip(torch.stack(frames))


@pytest.fixture(scope="module")
def places(clip):
    generator = torch.Generator().manual_seed(1)
    return choose_support(clip, pairs=3, patch=48, held_out=0.0, generator=generator).train


def network(corrects: float = 0.0) -> NetworkReblurrer:
    torch.manual_seed(0)
    net = ToldReblurNetwork(**SMALL).eval()
    torch.nn.init.normal_(net.decode.weight, std=corrects)
    return NetworkReblurrer(net, Critic((4,), "gradients").eval())


def drawn(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_untrained_its_windows_are_those_of_flow_pairs_and_what_it_learns_is_added_to_their_centre(clip, places):
    told = network().told(clip, places, drawn())
    assert told.motion is not None
    assert told.knows_motion
    learnt = replace(told, network=network(0.1).network)
    for place in places:
        one = told.reblur_window(clip, place, 5, drawn())
        assert torch.equal(one, told.motion.reblur_window(clip, place, 5, drawn()))
        other = learnt.reblur_window(clip, place, 5, drawn())
        apart = (one - other).abs().amax((1, 2, 3))
        assert apart[2] > 1e-3
        assert apart[[0, 1, 3, 4]].max() == 0
        assert torch.equal(learnt.reblur(clip, place, drawn()), learnt.reblur_window(clip, place, 1, drawn())[0])
        assert 0 <= float(other.min()) <= float(other.max()) <= 1


def test_shrunk_patches_are_blurred_too(clip, places):
    told = network(0.1).told(clip, places, drawn())
    place = places[0]
    shrunk = Shrunk(clip[place.frame], place, place)
    window = told.reblur_window(clip, place, 5, drawn(), shrunk)
    assert window.shape == (5, 3, place.size, place.size)
    assert told.blur_at(place) == told.motion.blur_at(place)


def test_a_network_of_the_published_form_is_told_nothing(clip, places):
    plain = NetworkReblurrer(ReblurNetwork(**SMALL).eval())
    assert plain.told(clip, places, drawn()) is plain
    assert not plain.knows_motion
    assert plain.blur_at(places[0]) == 0
    assert all(item.path is None for item in collect(clip, places, 5, "blurriest", drawn()))


def test_it_is_fitted_along_the_paths_of_the_blurred_patches(clip, places):
    told = network().told(clip, places, drawn())
    items = collect(clip, places, 5, "blurriest", drawn(), told.motion)
    for item, place in zip(items, places, strict=True):
        assert item.path.shape == (2, place.size, place.size)
        across, down = (float(part.median()) for part in item.path)
        assert abs(across) > 3 * abs(down)


@pytest.mark.parametrize("losses", ["both", "none"])
def test_adapting_with_it_is_recorded_with_the_motion(clip, losses):
    updates = replace(preset("paper").updates, losses=losses)
    settings = preset("paper").changed(reblur="network", pairs=3, patch=48, precision="fp32", guard=False)
    net = torch.nn.Conv2d(3, 3, 3, padding=1)
    outcome = adapt(net, clip, settings=replace(settings, updates=updates), reblurrer=network(0.01))
    about = outcome.reblurrer.describe()
    assert about["motion"]["name"] == "flow"
    assert about["motion"]["motion_px"] > 1
    assert outcome.share == 1
    assert len(outcome.reblur_history) == (0 if losses == "none" else 3)


def test_meta_weights_of_it_are_told_each_task_s_motion(clip, places):
    start, _ = starting({"reblurrer": network().network, "deblurrer": torch.nn.Identity()}, None)
    assert start.told(clip, places, drawn()).motion is not None

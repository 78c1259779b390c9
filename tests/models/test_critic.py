"""The critics: golden steps of the Wasserstein loss with clipping, any size, published names, and settings."""

import json
import runpy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from metadeblur.errors import MetadeblurError
from metadeblur.models.critic import (
    Critic,
    VGGCritic,
    clip_weights,
    critic_from_weights,
    critic_optimizer,
    gradient_penalty,
    hold,
)
from metadeblur.models.losses import critic_loss, generator_loss
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.reblur.fitting import NetworkReblurrer, bound_of, critic_step
from metadeblur.reblur.settings import CriticSettings
from metadeblur.reblur.weights import load_reblurrer, save_reblurrer

TINY_VGG = {"widths": (2, 2, 4, 4, 4), "hidden": 8}


class StubCritic(nn.Module):
    """The critic of the golden values: conv, ReLU, mean over space, Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(4, 1)

    def forward(self, patches):
        return self.fc(F.relu(self.conv(patches)).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def golden(shared):
    recipe = SimpleNamespace(**runpy.run_path(str(shared / "golden" / "recipe.py")))
    values = json.loads((shared / "golden" / "losses.json").read_text())["wgan_stub"]
    inner = json.loads((shared / "golden" / "inner_update.json").read_text())
    return SimpleNamespace(recipe=recipe, values=values, inner=inner)


@pytest.mark.parametrize("lr", ["1e-06", "0.001"])
def test_three_steps_of_the_wasserstein_critic_equal_the_published_ones(golden, lr):
    critic = StubCritic()
    critic.load_state_dict({k: golden.recipe.fill_value(k, v.shape, 1.0) for k, v in critic.state_dict().items()})
    fake = golden.recipe.uniform(61, (2, 3, 32, 32)).requires_grad_()
    real = golden.recipe.uniform(62, (2, 3, 32, 32))
    optimizer = critic_optimizer(critic, float(lr))
    for known in golden.values["steps"][f"lr={lr}"]:
        optimizer.zero_grad()
        loss = critic_loss(critic(real), critic(fake.detach()))
        loss.backward()
        optimizer.step()
        clip_weights(critic, 0.01)
        assert loss.item() == pytest.approx(known["critic_loss_before_step"], rel=1e-4, abs=1e-9)
        fake.grad = None
        term = generator_loss(critic(fake))
        term.backward()
        assert term.item() == pytest.approx(known["generator_loss_after_step_and_clip"], rel=1e-6)
        assert fake.grad.double().abs().sum().item() == pytest.approx(known["fake_grad_abs_sum"], rel=1e-5)
        parameters = dict(critic.named_parameters())
        for name in ("conv.bias", "fc.weight", "fc.bias"):
            found = parameters[name].detach().flatten().tolist()
            assert found == pytest.approx(known["critic_params"][name], abs=1e-8)
        sums = known["critic_params"]["conv.weight"]
        assert parameters["conv.weight"].double().abs().sum().item() == pytest.approx(sums["abs_sum"], rel=1e-6)


def test_first_step_of_the_golden_inner_update(golden, shared):
    """The small critic with two convolutions is the stand-in critic of the golden inner updates."""
    recipe, known = golden.recipe, golden.inner["cases"]["paper_x1"]["steps"]
    keys = json.loads((shared / "golden" / "keys_reblur_64.json").read_text())
    reblurrer = ReblurNetwork.from_weights(recipe.from_keys_json(keys["keys"], keys["gain"], keys["bias_std"]))
    fills = {entry["parameter"]: (entry["key"], entry["shape"]) for entry in golden.inner["critic"]["fill"]["keys"]}
    critic = Critic.from_weights({name: recipe.fill_value(*fill, 1.0) for name, fill in fills.items()})
    with torch.no_grad():
        fake = reblurrer(recipe.smooth_uniform(1101, (1, 5, 3, 64, 64)))
    real = recipe.smooth_uniform(1111, (1, 3, 64, 64))
    optimizer = critic_optimizer(critic, 1e-6)
    scores = critic(real), critic(fake)
    critic_loss(*scores).backward()
    optimizer.step()
    clip_weights(critic, 0.01)
    assert [score.item() for score in scores] == pytest.approx([known[0]["d_real"], known[0]["d_fake"]], abs=5e-6)
    assert sum((value.abs() == 0.01).sum().item() for value in critic.parameters()) == known[0]["at_bound"]
    assert generator_loss(critic(fake)).item() == pytest.approx(known[1]["l_adv"], abs=5e-6)


@settings(max_examples=15, deadline=None)
@given(depth=st.integers(1, 3), extra=st.tuples(st.integers(0, 20), st.integers(0, 20)), batch=st.integers(1, 3))
def test_small_critic_takes_any_size_from_its_smallest_on(depth, extra, batch):
    critic = Critic(channels=(4,) * depth)
    patches = torch.rand(batch, 3, critic.smallest + extra[0], critic.smallest + extra[1])
    scores = critic(patches)
    assert scores.shape == (batch,)
    assert torch.allclose(scores[:1], critic(patches[:1]), atol=1e-6)
    with pytest.raises(MetadeblurError, match=f"use {critic.smallest} px or more"):
        critic(patches[..., : critic.smallest - 1])


def test_clip_holds_biases_too_and_zero_leaves_all_alone():
    critic = Critic(channels=(4,))
    before = [parameter.clone() for parameter in critic.parameters()]
    clip_weights(critic, 0.0)
    assert all(torch.equal(old, new) for old, new in zip(before, critic.parameters(), strict=True))
    clip_weights(critic, 0.01)
    assert all(new.abs().max() <= 0.01 for new in critic.parameters())
    assert any(
        name.endswith("bias") and (old.abs() > 0.01).any()
        for (name, _), old in zip(critic.named_parameters(), before, strict=True)
    )


@pytest.mark.parametrize(("kind", "clip"), [("wgan", 0.05), ("hinge", 0.0), ("lsgan", 0.0)])
def test_critic_learns_to_tell_blurred_from_sharp(kind, clip):
    torch.manual_seed(0)
    critic = Critic(channels=(8, 16))
    optimizer = critic_optimizer(critic, 1e-3)
    for _ in range(40):
        sharp = torch.rand(4, 3, 32, 32)
        blurred = F.avg_pool2d(sharp, 5, stride=1, padding=2)
        optimizer.zero_grad()
        critic_loss(critic(blurred), critic(sharp), kind).backward()
        optimizer.step()
        clip_weights(critic, clip)
    assert (critic(blurred) > critic(sharp)).all()
    assert generator_loss(critic(blurred), kind) < generator_loss(critic(sharp), kind)


def test_names_and_size_of_the_vgg_critic_are_those_of_vgg19_with_one_output():
    with torch.device("meta"):
        critic = VGGCritic()
    shapes = {name: tuple(value.shape) for name, value in critic.state_dict().items()}
    convolutions = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    modules = [f"features.{index}" for index in convolutions] + [f"classifier.{index}" for index in (0, 3, 6)]
    assert list(shapes) == [f"{module}.{part}" for module in modules for part in ("weight", "bias")]
    assert shapes["classifier.0.weight"] == (4096, 25088)
    assert shapes["classifier.6.weight"] == (1, 4096)
    # VGG19 has 143,667,240 parameters, of which 999 outputs of the last layer fall away.
    assert sum(value.numel() for value in critic.parameters()) == 143_667_240 - 999 * 4097


def test_vgg_critic_is_read_from_weights_and_drops_out_in_training_mode_only():
    torch.manual_seed(0)
    critic = VGGCritic(**TINY_VGG)
    again = critic_from_weights(critic.state_dict()).eval()
    patches = torch.rand(2, 3, 48, 64)
    assert isinstance(again, VGGCritic)
    assert torch.equal(again(patches), critic.eval()(patches))
    assert torch.equal(again(patches), again(patches))
    assert not torch.equal(again.train()(patches), again(patches))
    with pytest.raises(MetadeblurError, match="32 px or more"):
        critic(patches[..., :31])


def test_small_critic_is_read_from_weights():
    critic = Critic(channels=(4, 6, 8))
    again = critic_from_weights(critic.state_dict())
    patches = torch.rand(2, 3, 50, 60)
    assert torch.equal(again(patches), critic(patches))


def test_critic_optimizer_is_a_setting():
    critic = Critic(channels=(4,))
    assert isinstance(critic_optimizer(critic), torch.optim.RMSprop)
    adam = critic_optimizer(critic, 1e-4, "adam")
    assert isinstance(adam, torch.optim.Adam)
    assert adam.param_groups[0]["lr"] == 1e-4
    with pytest.raises(MetadeblurError, match="'sgd' of the critic is not known: use rmsprop, adam"):
        critic_optimizer(critic, 1e-4, "sgd")


@pytest.mark.parametrize("sees", ["rgb", "centred", "highpass", "gradients"])
def test_what_a_critic_sees_decides_what_brightness_and_size_do_to_it(sees):
    torch.manual_seed(0)
    critic = Critic(channels=(4, 8), sees=sees)
    patches = torch.rand(3, 3, critic.smallest + 9, critic.smallest + 4)
    moved = (critic(patches + 0.1) - critic(patches)).abs().max()
    assert (moved > 1e-4) if sees == "rgb" else (moved < 1e-6)
    assert critic(patches[..., : critic.smallest, : critic.smallest]).shape == (3,)
    with pytest.raises(MetadeblurError, match=f"use {critic.smallest} px or more"):
        critic(patches[..., : critic.smallest - 1])
    again = critic_from_weights(critic.state_dict(), sees)
    assert torch.equal(again(patches), critic(patches))
    with pytest.raises(MetadeblurError, match="cannot see 'edges': use rgb, centred, highpass, gradients"):
        Critic(sees="edges")


def test_a_critic_of_a_file_sees_and_is_bounded_as_when_it_was_trained(tmp_path):
    network = ReblurNetwork(channels=4, units=1, width=8, blocks=1, heads=1)
    critic = Critic(channels=(4, 4), sees="gradients")
    critic.bound = "spectral"
    save_reblurrer(NetworkReblurrer(network, critic), tmp_path / "a.safetensors", {})
    again = load_reblurrer(tmp_path / "a.safetensors").critic
    assert (again.sees, again.bound) == ("gradients", "spectral")
    # Fitted to a clip it stays what it is; the clip of the paper would make it blunt.
    assert bound_of(again, CriticSettings()) == "spectral"
    assert bound_of(again, CriticSettings(critic_bound="clip")) == "clip"
    before = [weight.detach().clone() for weight in again.parameters()]
    optimizer = critic_optimizer(again, 1e-6)
    patches = torch.rand(2, 3, 32, 32)
    critic_step(again.requires_grad_(True), optimizer, patches, patches.flip(0), CriticSettings())
    moved = max(float((new - old).detach().abs().max()) for new, old in zip(again.parameters(), before, strict=True))
    assert moved < 1e-3
    plain = Critic(channels=(4, 4))
    save_reblurrer(NetworkReblurrer(network, plain), tmp_path / "b.safetensors", {})
    assert bound_of(load_reblurrer(tmp_path / "b.safetensors").critic, CriticSettings()) == "clip"


def test_each_bound_holds_what_it_says():
    torch.manual_seed(0)
    critic = Critic(channels=(6, 6), sees="gradients")
    for weight in critic.parameters():
        weight.data.mul_(3)
    hold(critic, "spectral", 0.01)
    norms = [torch.linalg.matrix_norm(weight.flatten(1), 2) for weight in critic.parameters() if weight.ndim > 1]
    assert max(norms) < 1.02
    hold(critic, "penalty", 0.01)
    assert any(weight.abs().max() > 0.01 for weight in critic.parameters())
    real, made = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    settings = CriticSettings(critic_bound="penalty", critic_penalty=10.0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    first = gradient_penalty(critic, real, made).item()
    assert first == gradient_penalty(critic, real, made).item()
    for _ in range(25):
        critic_step(critic, optimizer, real, made, settings)
    assert gradient_penalty(critic, real, made).item() < 0.3 * first

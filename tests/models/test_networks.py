"""Every network of the registry restores, learns and adapts, at any size, batches alike; small random ones."""

import json

import pytest
import torch
from journey import QUICK, decoded, run, shaky
from media import make_video
from safetensors.torch import load_file, save_file
from small_networks import SMALL, frames_for, moving_clip, small
from torch import nn
from torch.nn import functional as F

import metadeblur as md
from metadeblur.adaptation.pairs import make_pairs
from metadeblur.adaptation.stages import AdaptSettings, Pair, inner_update
from metadeblur.guard.judge import blend
from metadeblur.models.cdvd_tsp import cost_volume, fetch, temporal_sharpness
from metadeblur.models.forward import own_loss, trainable
from metadeblur.models.nafnet import Block, WindowMean
from metadeblur.models.registry import ARCHITECTURES, final, outputs, recognise, traits
from metadeblur.reblur.place import Place, place_window
from metadeblur.reblur.reblurrer import Reblurrer
from metadeblur.restoration.restorer import RestoreSettings


@pytest.fixture(params=SMALL)
def net(request) -> nn.Module:
    return small(request.param)


@pytest.mark.parametrize("model", SMALL)
def test_sizes_are_read_from_the_weights(model, tmp_path):
    net = small(model)
    save_file({name: weight.clone() for name, weight in net.state_dict().items()}, tmp_path / "any.safetensors")
    again = md.load_deblurrer(tmp_path / "any.safetensors")
    assert recognise(again.state_dict()) == model
    frames = frames_for(net)
    with torch.no_grad():
        assert torch.equal(final(again(frames)), final(net(frames)))


def test_a_batch_gives_what_its_items_give(net):
    frames = frames_for(net, batch=2)
    frames[1] = frames[1].flip(-1)
    with torch.no_grad():
        both = final(net(frames))
        for index in range(2):
            assert torch.allclose(both[index], final(net(frames[index : index + 1]))[0], atol=2e-5)


def test_evaluation_gives_the_full_size_centre_frame(net):
    frames = frames_for(net, height=64, width=32)
    with torch.no_grad():
        output = net(frames)
        assert final(output).shape == (1, 3, 64, 32)
        if traits(net).frames > 1:
            assert torch.equal(output, outputs(net, frames)[-1])


def test_restore_takes_odd_sizes(net):
    clip = md.Clip(torch.rand(2, 3, 37, 53))
    restored = md.restore(net, clip, RestoreSettings(device="cpu", precision="fp32", tile=0))
    assert restored.frames.shape == (2, 3, 37, 53)
    assert restored.frames.isfinite().all()


def test_own_loss_reaches_every_parameter(net):
    frames = frames_for(net, height=44, width=60)  # padded and cropped again
    sharp = frames if traits(net).frames == 1 else frames[:, 2]
    loss = own_loss(net.requires_grad_(True), frames, sharp * 0.9 + 0.05)
    loss.backward()
    assert loss.isfinite()
    silent = [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not silent


def test_wrapped_it_has_the_same_loss(net):
    frames = frames_for(net, height=44, width=60)
    sharp = (frames if traits(net).frames == 1 else frames[:, 2]) * 0.9
    with torch.no_grad():
        assert own_loss(md.Deblurrer(net).eval(), frames, sharp) == own_loss(net, frames, sharp)


@pytest.mark.slow
def test_steps_learn(net):
    """A constant offset is learnt in a few steps: the loss falls, the base stays as it was."""
    frames = frames_for(net)[0]
    target = (frames if frames.ndim == 3 else frames[2]) * 0.5
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    settings = AdaptSettings(steps=6, batch=1, lr=1e-3, precision="fp32", device="cpu")
    _, history, failure = inner_update(net, [Pair(frames, target)], settings, torch.Generator().manual_seed(0))
    assert failure is None
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())


@pytest.mark.parametrize("model", SMALL)
def test_adapt_then_restore(model):
    net, clip = small(model), moving_clip()
    settings = AdaptSettings(pairs=2, blurs=1, steps=1, batch=1, patch=48, held_out=0, guard=False, device="cpu")
    outcome = md.adapt(net, clip, settings=settings)
    assert outcome.share == 1.0, outcome.reasons
    assert len(outcome.history) == 1
    changed = [name for name, weight in net.state_dict().items() if not weight.equal(outcome.model.state_dict()[name])]
    assert len(changed) > len(trainable(net)) / 2
    for pair in outcome.pairs:  # a video deblurrer sees the window with its centre replaced by the pseudo-blurred patch
        if traits(net).frames > 1:
            assert pair.blurred.shape == (5, 3, 48, 48)
            assert not torch.equal(pair.centre, pair.sharp)
    restored = md.restore(outcome.model, clip, RestoreSettings(device="cpu", tile=0, precision="fp32"))
    assert len(restored) == len(clip)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, marks=(pytest.mark.slow, pytest.mark.long)) if model == "cdvd-tsp" else model
        for model in SMALL
    ],
)
def test_the_commands_take_it_and_their_records_tell_of_it(model, tmp_path):
    weights, record = tmp_path / "net.safetensors", tmp_path / "record.json"
    save_file({name: weight.clone() for name, weight in small(model).state_dict().items()}, weights)
    video = make_video(tmp_path / "a.mp4", shaky((5,), (40, 64)))
    chosen = ("--model", weights, *QUICK, "--no-guard", "--lr", "1e-6", "--json", record)
    assert run("restore", video, *chosen, "-o", tmp_path / "sharp.mp4") == 0
    restored = json.loads(record.read_text())
    assert restored["settings"]["model"] == str(weights)
    assert [(len(shot["losses"]), shot["share"]) for shot in restored["shots"]] == [(2, 1)]
    assert decoded(tmp_path / "sharp.mp4").shape == decoded(video).shape
    assert run("adapt", video, *chosen, "-o", tmp_path / "mine.safetensors") == 0
    adapted = json.loads(record.read_text())
    assert (adapted["model"], adapted["weights"]) == (str(weights), restored["settings"]["weights"])
    assert len(adapted["losses"]) == 2
    assert recognise(load_file(tmp_path / "mine.safetensors")) == model


class Darkening(Reblurrer):
    """A reblurrer that knows no motion."""

    def reblur(self, clip, place, generator):
        del generator
        return place_window(clip, place, 1)[0] / 2

    def describe(self):
        return {}


@pytest.mark.parametrize("frame", [0, 3])
def test_a_video_deblurrer_is_given_the_window_with_its_centre_replaced(frame):
    clip, place = moving_clip(), Place(frame, 8, 4, 48, 20.0, frame, 30.0)
    (pair,) = make_pairs(clip, [place], Darkening(), 1, 5, torch.Generator())
    for offset in range(-2, 3):
        patch = clip[max(frame + offset, 0)][:, 8:56, 4:52]
        assert torch.equal(pair.blurred[2 + offset], patch / 2 if offset == 0 else patch)
    assert torch.equal(pair.sharp, clip[frame][:, 8:56, 4:52])


def test_mprnet_has_one_prelu_and_saves_it_under_every_name(tmp_path):
    net = small("mprnet")
    names = [
        name for name in net.state_dict() if name.endswith("body.1.weight") and net.state_dict()[name].numel() == 1
    ]
    assert len(names) > 20
    assert sum(name.endswith("body.1.weight") for name, _ in net.named_parameters()) == 1
    md.save_deblurrer(net, tmp_path / "mprnet.safetensors", {})
    assert set(names) <= set(md.load_deblurrer(tmp_path / "mprnet.safetensors").state_dict())


def test_a_weight_with_many_names_is_blended_once():
    base, adapted = small("mprnet"), small("mprnet")
    (name,) = (name for name, weight in base.named_parameters() if weight.numel() == 1)
    with torch.no_grad():
        adapted.get_parameter(name).fill_(1.0)
    share = 0.25
    expected = (1 - share) * base.get_parameter(name) + share * 1.0
    assert blend(base, adapted, share).get_parameter(name).item() == pytest.approx(expected.item())


def test_mimo_unet_plus_drops_channels_in_training_only():
    net = small("mimo-unet-plus")
    picture = frames_for(net)
    with torch.no_grad():
        assert torch.equal(final(net(picture)), final(net(picture)))
        net.train()
        assert not torch.equal(final(net(picture)), final(net(picture)))


def test_new_nafnet_blocks_are_the_identity():
    x = torch.rand(2, 8, 12, 20)
    assert torch.equal(Block(8, window=384)(x), x)


def test_window_mean_equals_pooling_inside_and_the_whole_mean_where_it_covers_all():
    x = torch.rand(2, 3, 20, 31)
    pooled = F.avg_pool2d(x, 9, stride=1)
    assert torch.allclose(WindowMean(9)(x)[..., 4:-4, 4:-4], pooled, atol=1e-6)
    assert torch.allclose(WindowMean(9)(x)[..., 0, 0], pooled[..., 0, 0], atol=1e-6)
    assert torch.allclose(WindowMean(31)(x), x.mean((2, 3), keepdim=True), atol=1e-6)
    rows = WindowMean(20)(x)  # covers the height, not the width
    assert torch.allclose(rows[..., 0, 10:-10], x.mean(2).unfold(-1, 20, 1).mean(-1)[..., 1:], atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 8), (7, 5)])
def test_cost_volume_is_the_correlation(size):
    first, second = torch.rand(2, 6, *size), torch.rand(2, 6, *size)
    costs = cost_volume(first, second)
    for dy, dx, y, x in ((0, 0, 0, 0), (-1, 2, size[0] - 1, 0), (4, -4, 0, size[1] - 1)):
        inside = 0 <= y + dy < size[0] and 0 <= x + dx < size[1]
        expected = (first[..., y, x] * second[..., y + dy, x + dx]).mean(1) if inside else torch.zeros(2)
        assert torch.allclose(costs[:, (dy + 4) * 9 + dx + 4, y, x], expected, atol=1e-6)


def test_fetch_follows_the_flow_and_masks_what_lies_outside():
    picture = torch.rand(1, 3, 10, 12)
    flow = torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1).expand(1, 2, 10, 12)
    warped, mask = fetch(picture, flow)
    assert torch.allclose(warped[..., 1:, :-2], picture[..., :-1, 2:], atol=1e-5)
    assert mask[..., 1:, :-2].all()
    assert not warped[..., 0, :].any()
    assert not mask[..., -2:].any()


def test_temporal_sharpness_is_one_where_frames_agree_and_carries_no_gradient():
    picture = torch.rand(1, 3, 16, 16, requires_grad=True)
    assert torch.equal(temporal_sharpness(picture, picture, picture), torch.ones(1, 1, 16, 16))
    moved = temporal_sharpness(picture + 0.5, picture, picture)
    assert moved.max() < 1
    assert not moved.requires_grad


def test_every_registered_network_has_a_multiple_its_registry_entry_agrees_with():
    for entry in ARCHITECTURES.values():
        with torch.device("meta"):
            net = entry.published()
        assert traits(net).multiple == entry.traits.multiple
        assert traits(net).frames == entry.traits.frames

"""Training: it learns, it resumes to the same weights, and it refuses what cannot work."""

import copy
import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from metadeblur.data.layouts import plain_clips
from metadeblur.data.pairs import PairSampler
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.quality import psnr
from metadeblur.models import forward
from metadeblur.models.cdvd_tsp import CDVDTSP
from metadeblur.models.lite import Lite
from metadeblur.models.mimo_unet import MIMOUNet
from metadeblur.models.registry import ARCHITECTURES, final
from metadeblur.models.weights import load_deblurrer, parameters_digest, read_weights, save_deblurrer
from metadeblur.training import deblur
from metadeblur.training.deblur import new_network, train_deblur
from metadeblur.training.loop import follow
from metadeblur.training.settings import DeblurTraining, LoopSettings


@pytest.fixture
def clips(tmp_path):
    """One paired clip: stripes, and the same blurred."""
    for name in ("one", "two"):
        for index in range(2):
            frame = np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            frame = cv2.resize(frame, (64, 48), interpolation=cv2.INTER_NEAREST)
            for side, picture in (("sharp", frame), ("blur", cv2.blur(frame, (7, 1)))):
                (tmp_path / "clips" / name / side).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / "clips" / name / side / f"{index:06d}.png"), picture)
    return tmp_path / "clips"


@pytest.fixture
def small(clips, monkeypatch):
    small = Lite(channels=(16, 16), encoder=(1, 1), decoder=(1,), frames=3)
    monkeypatch.setattr(deblur, "new_network", lambda _: copy.deepcopy(small))
    loop = LoopSettings(steps=12, warmup=2, log_steps=2, validate_steps=6, checkpoint_minutes=0.0)
    return DeblurTraining(
        clips=(str(clips),),
        validation=(str(clips),),
        batch=2,
        patch=32,
        learning_rate=2e-3,
        precision="fp32",
        loop=loop,
    )


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_training_improves_on_the_blurred_input(small, tmp_path):
    settings = replace(small, ema=0.9, loop=replace(small.loop, steps=60, validate_steps=60))
    weights = train_deblur(settings, tmp_path / "run", quiet=True)
    last = rows(tmp_path / "run" / "validation.csv")[-1]
    assert float(last["base"]) > float(last["blurred"]) + 0.3
    assert read_weights(weights)[1]["steps"] == "60"
    assert load_deblurrer(weights)(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_a_stopped_run_goes_on_to_the_same_weights(small, tmp_path, monkeypatch):
    whole = train_deblur(small, tmp_path / "whole", quiet=True)
    step, calls = deblur.DeblurTrainee.step, []

    def stop_at_seven(self, number, rate):
        calls.append(number)
        if number == 7 and len(calls) == 8:
            raise KeyboardInterrupt
        return step(self, number, rate)

    monkeypatch.setattr(deblur.DeblurTrainee, "step", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        train_deblur(small, tmp_path / "parts", quiet=True)
    parts = train_deblur(small, tmp_path / "parts", resume=True, quiet=True)
    assert calls == [*range(8), *range(7, 12)]
    assert parameters_digest(load_deblurrer(parts)) == parameters_digest(load_deblurrer(whole))
    curves = [[row["loss"] for row in rows(tmp_path / name / "log.csv")] for name in ("whole", "parts")]
    assert curves[0][:3] == curves[1][:3]
    assert curves[0][-1] == curves[1][-1]


def test_an_old_run_is_not_overwritten(small, tmp_path):
    train_deblur(small, tmp_path / "run", quiet=True)
    with pytest.raises(MetadeblurError, match="--resume"):
        train_deblur(small, tmp_path / "run", quiet=True)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_reason(small, tmp_path, monkeypatch):
    monkeypatch.setitem(deblur.LOSSES, "balanced", lambda output, sharp: (output - sharp).sum() * float("nan"))
    with pytest.raises(MetadeblurError, match=r"step 0: loss.*not finite"):
        train_deblur(replace(small, loss="balanced"), tmp_path / "run", quiet=True)


@pytest.mark.parametrize("name", [name for name, entry in ARCHITECTURES.items() if entry.small])
@pytest.mark.slow
def test_each_small_network_learns_by_its_own_loss_and_comes_back_from_its_file(name, clips, tmp_path):
    torch.manual_seed(0)
    loop = LoopSettings(steps=8, warmup=0, log_steps=1, validate_steps=8)
    settings = DeblurTraining(network=name, size="small", clips=(str(clips),), batch=2, patch=32, loop=loop)
    settings = replace(settings, precision="fp32", identity=0.0, ema=0.0)
    loaded = load_deblurrer(train_deblur(settings, tmp_path / "run", quiet=True))
    made = new_network(settings)
    assert type(loaded) is type(made)
    assert parameter_shapes(loaded) == parameter_shapes(made)
    losses = [float(row["loss"]) for row in rows(tmp_path / "run" / "log.csv")]
    assert min(losses[4:]) < losses[0]
    size = (1, 5, 3, 32, 32) if name == "cdvd-tsp" else (1, 3, 32, 32)
    assert final(loaded(torch.rand(size))).shape == (1, 3, 32, 32)


def parameter_shapes(net):
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def test_an_untrained_cdvd_tsp_nearly_gives_the_middle_frame_back():
    torch.manual_seed(0)
    window = torch.nn.functional.interpolate(torch.rand(5, 3, 8, 8), size=64, mode="bilinear")
    with torch.no_grad():
        first, second, third, restored = CDVDTSP(channels=16, blocks=1, narrow=4).outputs(window[None])
    assert float(psnr(restored, window[2][None])) > 20
    assert all(float(psnr(one, window[1 + at][None])) > 23 for at, one in enumerate((first, second, third)))


def test_the_running_mean_counts_a_shared_weight_once():
    shared = torch.nn.PReLU()
    net, mean = torch.nn.Sequential(shared, shared), torch.nn.Sequential(*[torch.nn.PReLU()] * 2)
    torch.nn.init.constant_(net[0].weight, 1.0)
    torch.nn.init.constant_(mean[0].weight, 0.0)
    follow(mean, net, 0.75, number=1000)
    assert mean[0].weight.item() == pytest.approx(0.25)


def test_wrong_settings_are_named(small, tmp_path):
    with pytest.raises(MetadeblurError, match="loss is 'l3'; give own, balanced"):
        train_deblur(replace(small, loss="l3"), tmp_path / "run", quiet=True)
    with pytest.raises(MetadeblurError, match="no training clips"):
        train_deblur(replace(small, clips=()), tmp_path / "run", quiet=True)
    with pytest.raises(MetadeblurError, match="network is 'unet'; give lite, "):
        new_network(replace(small, network="unet"))
    with pytest.raises(MetadeblurError, match="lite has no small form; those that have: mimo-unet-plus"):
        new_network(replace(small, network="lite", size="small"))
    start = tmp_path / "start.safetensors"
    save_deblurrer(MIMOUNet(blocks=1, channels=16), start, {})
    with pytest.raises(MetadeblurError, match="weights of another network than lite"):
        train_deblur(replace(small, start=str(start)), tmp_path / "run", quiet=True)
    with pytest.raises(MetadeblurError, match="lower --patch"):
        train_deblur(replace(small, patch=128), tmp_path / "run", quiet=True)


def test_batches_depend_on_seed_and_step_alone(clips):
    samplers = [PairSampler(plain_clips(clips), patch=16, batch=3, seed=1, cache_bytes=room) for room in (0, 10**9)]
    for _ in range(2):
        samplers[1](0)
    one, other = samplers[0](4), samplers[1](4)
    assert torch.equal(one.blurred, other.blurred)
    assert torch.equal(one.sharp, other.sharp)
    assert not torch.equal(one.blurred, samplers[0](5).blurred)


def test_windows_without_motion_hold_the_same_frames(clips):
    told, plain = (
        PairSampler(plain_clips(clips), patch=24, batch=2, seed=3, frames=3, motion=motion)(5)
        for motion in (True, False)
    )
    assert plain.flows is None
    assert told.flows is not None
    assert torch.equal(told.blurred, plain.blurred)
    assert torch.equal(told.sharp, plain.sharp)


def test_both_sides_are_cut_alike(clips):
    batch = PairSampler(plain_clips(clips), patch=24, batch=4, seed=0, identity=1.0)(0)
    assert torch.equal(batch.blurred, batch.sharp)


def test_unpaired_frames_are_listed(clips):
    (clips / "one" / "blur" / "000001.png").unlink()
    with pytest.raises(MetadeblurError, match="000001"):
        plain_clips(clips)


def test_cdvd_tsp_learns_from_the_sharp_frames_of_the_whole_window(clips):
    torch.manual_seed(0)
    settings = DeblurTraining(network="cdvd-tsp", size="small", clips=(str(clips),), batch=1, patch=32, alone=0.0)
    settings = replace(settings, precision="fp32")
    trainee = deblur.DeblurTrainee(new_network(settings), settings, torch.device("cpu"))
    given = []
    own = ARCHITECTURES["cdvd-tsp"].traits.loss
    trainee.net.loss = lambda pictures, sharp: given.append((pictures, sharp)) or own(pictures, sharp)
    trainee.step(0, 1.0)
    ((_, sharp),) = given
    batch = trainee.data(0)
    assert torch.equal(sharp, batch.targets)
    assert torch.equal(sharp[:, 2], batch.sharp)
    assert not torch.equal(sharp[:, 0], sharp[:, 4])


def test_the_first_pass_of_cdvd_tsp_gets_gradients_of_its_own():
    shape = (1, 3, 16, 16)
    for sharp, learnt in ((torch.rand(1, 5, 3, 16, 16), 4), (torch.rand(shape), 2)):
        pictures = [torch.rand(shape, requires_grad=True) for _ in range(4)]
        ARCHITECTURES["cdvd-tsp"].traits.loss(pictures, sharp).backward()
        assert sum(picture.grad is not None for picture in pictures) == learnt


@pytest.mark.parametrize("native", [True, False])
def test_precision_is_bf16_only_where_the_machine_does_it_natively(small, native, monkeypatch):
    monkeypatch.setattr(forward, "has_native_bf16", lambda _: native)
    settings = replace(small, precision=DeblurTraining().precision)
    assert deblur.DeblurTrainee(deblur.new_network(settings), settings, torch.device("cpu")).bf16 is native


def test_the_learning_rate_is_in_the_log_also_of_a_run_that_began_without_it(small, tmp_path):
    loop = replace(small.loop, schedule="step", step_every=4, warmup=0)
    train_deblur(replace(small, loop=replace(loop, steps=6)), tmp_path / "run", quiet=True)
    assert [float(row["learning_rate"]) for row in rows(tmp_path / "run" / "log.csv")] == [2e-3, 2e-3, 1e-3]
    older = rows(tmp_path / "run" / "log.csv")
    with (tmp_path / "run" / "log.csv").open("w", newline="") as file:
        names = [name for name in older[0] if name != "learning_rate"]
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(older)
    train_deblur(replace(small, loop=loop), tmp_path / "run", resume=True, quiet=True)
    log = rows(tmp_path / "run" / "log.csv")
    assert [row["learning_rate"] for row in log] == ["", "", "", "0.001", "0.0005", "0.0005"]
    assert [row["loss"] for row in log[:3]] == [row["loss"] for row in older]
    assert "learning rate" in (tmp_path / "run" / "curves.html").read_text().lower()


def test_checkpoints_are_kept_at_intervals_and_can_be_gone_on_with(small, tmp_path):
    whole = train_deblur(replace(small, loop=replace(small.loop, keep_steps=5)), tmp_path / "run", quiet=True)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["00000005.pt", "00000010.pt"]
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "checkpoint.pt").write_bytes((tmp_path / "run" / "checkpoints" / "00000005.pt").read_bytes())
    again = train_deblur(small, tmp_path / "again", resume=True, quiet=True)
    assert parameters_digest(load_deblurrer(again)) == parameters_digest(load_deblurrer(whole))


def test_colours_keep_their_order_where_that_is_wanted(clips):
    kinds = {"patch": 16, "batch": 4, "seed": 3, "frames": 3, "motion": False}
    mixed, plain = (PairSampler(plain_clips(clips), **kinds, colours=colours)(0) for colours in (True, False))
    assert not torch.equal(mixed.sharp, plain.sharp)
    assert torch.equal(mixed.sharp.sort(1).values, plain.sharp.sort(1).values)
    frames = [torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()) for path in sorted(clips.rglob("sharp/*.png"))]
    colours = {tuple(pixel) for frame in frames for pixel in frame.reshape(-1, 3).tolist()}
    drawn = (plain.sharp * 255).round().int().movedim(1, -1).reshape(-1, 3)
    assert {tuple(pixel) for pixel in drawn.tolist()} <= colours

"""What happens to each frame happens on the device of the network: nothing leaves it, and one frame in is one out.

No GPU is needed: PyTorch's device "meta" has shapes without values, so that anything that asks for a value, or mixes it
with main memory, fails; and PyTorch's own way of every operation can be forced on the processor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from textures import Lighten, texture
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metadeblur.clip import Clip
from metadeblur.imaging import optical_flow, primitives
from metadeblur.imaging.primitives import backend
from metadeblur.imaging.quality import psnr
from metadeblur.imaging.torch_flow import torch_flow
from metadeblur.models.adapted import FusionSettings, with_fusion
from metadeblur.models.lite import Lite
from metadeblur.restoration import clips
from metadeblur.restoration import restorer as restoring
from metadeblur.restoration import windows as arriving
from metadeblur.restoration.clips import restore, restore_pairs
from metadeblur.restoration.fusion import fuse_pairs
from metadeblur.restoration.restorer import Restorer, RestoreSettings

META = torch.device("meta")
FUSED = FusionSettings(radius=1, exposure=0.8)
FRAMES = 5


def moving(count: int = FRAMES, height: int = 40, width: int = 48, step: int = 3) -> Tensor:
    """A camera that moves along a picture, (T, 3, H, W)."""
    whole = texture(height, width + step * count)
    return torch.stack([whole[..., step * index : step * index + width] for index in range(count)])


def small_lite() -> Lite:
    return Lite(channels=(8, 12), encoder=(1, 1), decoder=(1,), fold=2, frames=5).eval()


class Transfers(TorchDispatchMode):
    """Counts tensors of more than a few values that are copied from one device to another, by the two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.mixed: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim}
        result = func(*args, **(kwargs or {}))
        after = {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if len(before) > 1:
            self.mixed.append(str(func))
        if before and after and before != after and max(sizes) > 8:
            self.counts[before.pop(), after.pop()] += 1
        return result


def grid_sample(pictures: Tensor, grid: Tensor, *_: Any, **__: Any) -> Tensor:
    """As PyTorch's, of shapes: on "meta" that is taken apart into hundreds of steps of Python (test_primitives)."""
    assert pictures.device == grid.device
    return pictures.new_empty(*pictures.shape[:2], *grid.shape[1:3])


def flow_of_shapes(sources: Tensor, targets: Tensor) -> Tensor:
    """As PyTorch's flow, which is thousands of steps; a test of its own takes them."""
    assert sources.device == targets.device == META
    assert sources.shape == targets.shape
    return sources.new_empty(*sources.shape, 2, dtype=torch.float32)


@contextmanager
def doors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts the frames that go to the device and come back; none has values there, so black ones come back."""
    counts: Counter[str] = Counter()
    there = arriving.to_device

    def to_device(frame: Tensor, device: torch.device) -> Tensor:
        counts["in"] += 1
        return there(frame, device)

    def to_memory(frame: Tensor) -> Tensor:
        assert frame.device == META
        counts["out"] += 1
        return torch.zeros(frame.shape)

    with monkeypatch.context() as patch:
        patch.setattr(arriving, "to_device", to_device)
        patch.setattr(restoring, "to_memory", to_memory)
        patch.setattr(clips, "pays", lambda _: False)  # the counting sees one thread
        patch.setattr(F, "grid_sample", grid_sample)
        patch.setattr(optical_flow, "torch_flow", flow_of_shapes)
        yield counts


@pytest.mark.parametrize(
    ("net", "pixels"),
    [(small_lite(), 256_000), (Lighten(), 36 * 30)],
    ids=["lite", "another, large frames"],
)
def test_a_frame_goes_to_the_device_once_and_comes_back_once(
    net: nn.Module, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fusion = FusionSettings(radius=1, exposure=0.8, pixels=pixels)
    on_meta = with_fusion(net, fusion).to(META)
    monkeypatch.setattr(restoring, "choose_device", lambda *_: META)  # a network without weights is nowhere
    restorer = Restorer(on_meta, 40, 48, RestoreSettings(tile=0, precision="fp32"))
    clip = Clip(moving())
    with doors(monkeypatch) as counts, Transfers() as transfers:
        pairs = list(restore_pairs(restorer, clip))
    assert len(pairs) == FRAMES
    assert counts == {"in": FRAMES, "out": FRAMES}
    assert transfers.counts == {("cpu", "meta"): FRAMES}
    assert not transfers.mixed
    assert all(torch.equal(blurred, clip[number]) for number, (blurred, _) in enumerate(pairs))


def test_the_flow_asks_a_device_for_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "grid_sample", grid_sample)
    pictures = torch.zeros(2, 40, 48, dtype=torch.uint8, device=META)
    with Transfers() as transfers:
        flow = torch_flow(pictures, pictures)
    assert flow.shape == (2, 40, 48, 2)
    assert flow.device == META
    assert not transfers.counts
    assert not transfers.mixed


def test_a_change_of_brightness_takes_no_frame_there_or_back(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moving()
    frames[3:] = frames[3:] * 0.6
    restorer = Restorer(with_fusion(small_lite(), FUSED).to(META), 40, 48, RestoreSettings(tile=0))
    with Transfers() as transfers, doors(monkeypatch) as counts:
        assert len(list(restore_pairs(restorer, Clip(frames)))) == FRAMES
    assert counts == {"in": FRAMES, "out": FRAMES}  # neighbours are brought to a frame's brightness there
    assert not [pair for pair in transfers.counts if pair[1] == "cpu"]
    assert not transfers.mixed


def test_several_windows_go_through_the_network_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    restorer = Restorer(small_lite().to(META), 40, 48, RestoreSettings(tile=0))
    forward = restorer._forward
    monkeypatch.setattr(restorer, "_forward", lambda frames: sizes.append(len(frames)) or forward(frames))
    with doors(monkeypatch):
        list(restore_pairs(restorer, Clip(moving())))
    assert sizes == [4, 1]


def test_a_batch_gives_what_single_windows_give() -> None:
    restorer = Restorer(small_lite(), 40, 48, RestoreSettings(tile=0, device="cpu", precision="fp32"))
    clip = Clip(moving())
    alone = [frame for _, frame in restore_pairs(restorer, clip)]
    restorer.batch = 3
    together = [frame for _, frame in restore_pairs(restorer, clip)]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(alone, together, strict=True))


def test_a_batch_that_memory_does_not_hold_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = Restorer(small_lite(), 40, 48, RestoreSettings(tile=0, device="cpu", precision="fp32"))
    expected = [frame for _, frame in restore_pairs(restorer, Clip(moving()))]
    forward = restorer._forward

    def full(frames: Tensor) -> Tensor:
        if len(frames) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(frames)

    monkeypatch.setattr(restorer, "_forward", full)
    restorer.batch = 4
    found = [frame for _, frame in restore_pairs(restorer, Clip(moving()))]
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert restorer.batch == 1


def test_nothing_of_the_path_uses_opencv_where_pytorch_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moving(3)
    seen: list[tuple[int, ...]] = []
    door = primitives.array
    monkeypatch.setattr(primitives, "array", lambda picture: seen.append(tuple(picture.shape)) or door(picture))
    with backend("torch"):
        list(fuse_pairs(zip(frames, frames, strict=True), FUSED))
    assert not seen


def test_both_ways_restore_alike() -> None:
    sharp = moving(4, 60, 80)
    blurred = (sharp + torch.roll(sharp, 1, -1) + torch.roll(sharp, 2, -1)) / 3
    net = with_fusion(nn.Identity(), FUSED)
    settings = RestoreSettings(tile=0, precision="fp32", device="cpu")
    usual = restore(net, Clip(blurred), settings).frames
    with backend("torch"):
        other = restore(net, Clip(blurred), settings).frames
    inside = (..., slice(12, -12), slice(12, -12))
    truth = [float(psnr(frames[inside], sharp[inside]).mean()) for frames in (usual, other)]
    assert abs(truth[1] - truth[0]) < 0.02
    assert float(psnr(usual, other).min()) > 50

"""Whole frames through a network: any size, tiles without seams, precision, memory, prefetching, faults."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.tiles import pad_to_multiple, spans
from metadeblur.models.lite import Lite
from metadeblur.restoration import clips
from metadeblur.restoration import restorer as restoring
from metadeblur.restoration.clips import restore, restore_frames, restore_pairs
from metadeblur.restoration.prefetching import pays, prefetch
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.restoration.windows import windows
from metadeblur.system import memory

CPU = RestoreSettings(device="cpu", precision="fp32")


def small_lite(seed: int = 0, gain: float = 1.0) -> Lite:
    """A small Lite whose residual is visible and whose blocks all take part."""
    generator = torch.Generator().manual_seed(seed)
    net = Lite(channels=(8, 12, 16), encoder=(1, 1, 1), decoder=(1, 1), fold=2)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("weight"):
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (gain / fan) ** 0.5)
        net.head.weight.mul_(0.2)
    return net


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth random picture with edges, (3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, max(height // 6, 2), max(width // 6, 2), generator=generator)
    return F.interpolate(coarse, (height, width), mode="bilinear").squeeze(0)


class Middle(nn.Module):
    """Video deblurrer that gives the mean of its frames, and says how many it takes."""

    frames = 3
    multiple = 4

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 3
        assert x.shape[-1] % 4 == x.shape[-2] % 4 == 0
        return x.mean(1)


class Strict(nn.Module):
    """Identity that insists on its multiple, and gives several scales."""

    multiple = 32

    def forward(self, x: Tensor) -> list[Tensor]:
        assert x.shape[-1] % 32 == x.shape[-2] % 32 == 0
        return [F.avg_pool2d(x, 2), x]


class Hungry(nn.Module):
    """Identity that runs out of memory above a number of pixels."""

    def __init__(self, pixels: int, error: Exception) -> None:
        super().__init__()
        self.pixels, self.error = pixels, error
        self.seen: list[tuple[int, int]] = []

    def __deepcopy__(self, memo: dict[int, object]) -> Hungry:
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.shape[-2], x.shape[-1]))
        if x.shape[-1] * x.shape[-2] > self.pixels:
            raise self.error
        return x


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_any_size_comes_back_unchanged_from_an_identity(height: int, width: int) -> None:
    frame = torch.rand(3, height, width)
    assert torch.equal(Restorer(Strict(), height, width, CPU)(frame), frame)


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), multiple=st.sampled_from([1, 2, 8, 16, 32]))
def test_padding_reflects_and_keeps_the_picture(height: int, width: int, multiple: int) -> None:
    frames = torch.rand(2, 3, height, width)
    padded = pad_to_multiple(frames, multiple)
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple
    assert torch.equal(padded[..., :height, :width], frames)
    if padded.shape[-1] > width > 1:
        assert torch.equal(padded[..., :height, width], frames[..., width - 2])


@settings(max_examples=100, deadline=None)
@given(
    units=st.integers(1, 60),
    tile=st.integers(16, 400),
    margin=st.sampled_from([0, 16, 64]),
    multiple=st.sampled_from([1, 8, 16]),
)
def test_tile_weights_add_up_to_one_on_the_grid(units: int, tile: int, margin: int, multiple: int) -> None:
    length = units * multiple
    total = torch.zeros(length)
    for span in spans(length, tile, margin, multiple):
        assert span.start % multiple == 0
        assert span.stop % multiple == 0
        assert 0 <= span.start < span.stop <= length
        assert span.stop - span.start == len(span.weight)
        if span.start > 0:
            assert float(span.weight[:margin].abs().sum()) == 0  # the margin is thrown away
        total[span.start : span.stop] += span.weight
    assert torch.allclose(total, torch.ones(length), atol=1e-6)


@pytest.mark.parametrize("size", [(250, 331), (331, 250)])
def test_tiles_leave_no_seam(size: tuple[int, int]) -> None:
    net, frame = small_lite(gain=1.6), picture(*size)
    whole = Restorer(net, *size, RestoreSettings(tile=0, device="cpu", precision="fp32"))(frame)
    assert float((whole - frame).abs().mean()) > 0.005  # the network does something
    tiled = Restorer(net, *size, RestoreSettings(tile=64, device="cpu", precision="fp32"))
    assert float((tiled(frame) - whole).abs().max()) < 1e-3
    assert tiled.margin is not None
    assert tiled.margin > 0
    careless = Restorer(net, *size, RestoreSettings(tile=64, overlap=0, device="cpu", precision="fp32"))
    assert float((careless(frame) - whole).abs().max()) > 1e-3  # so that the margin is what it takes


def test_tiles_leave_no_seam_on_lite_at_full_size() -> None:
    torch.manual_seed(0)
    net = Lite()
    nn.init.normal_(net.head.weight, std=0.01)
    frame = picture(256, 800)
    whole = Restorer(net, 256, 800, RestoreSettings(tile=0, device="cpu", precision="fp32"))(frame)
    tiled = Restorer(net, 256, 800, RestoreSettings(tile=256, device="cpu", precision="fp32"))(frame)
    assert float((tiled - whole).abs().max()) < 1e-3


def test_a_black_first_frame_does_not_hide_how_far_the_network_reaches() -> None:
    net, frame = small_lite(gain=1.6), picture(200, 300)
    for parameter in net.parameters():
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)  # black stays black
    whole = Restorer(net, 200, 300, RestoreSettings(tile=0, device="cpu", precision="fp32"))(frame)
    tiled = Restorer(net, 200, 300, RestoreSettings(tile=64, device="cpu", precision="fp32"))
    tiled(torch.zeros(3, 200, 300))
    assert float((tiled(frame) - whole).abs().max()) < 1e-3


def test_video_network_gets_clamped_windows() -> None:
    frames = torch.rand(4, 3, 21, 30)
    restored = restore(Middle(), Clip(frames, fps=24, name="x", bit_depth=10), CPU)
    assert (len(restored), restored.fps, restored.name, restored.bit_depth) == (4, 24, "x", 10)
    assert torch.allclose(restored[0], (2 * frames[0] + frames[1]) / 3)
    assert torch.allclose(restored[2], frames[1:4].mean(0))
    assert torch.allclose(restored[3], (frames[2] + 2 * frames[3]) / 3)


def test_video_network_in_tiles() -> None:
    frames = torch.rand(3, 3, 80, 140)
    restorer = Restorer(Middle(), 80, 140, RestoreSettings(tile=64, device="cpu", precision="fp32"))
    assert torch.allclose(restorer(frames), frames.mean(0), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 9), half=st.integers(0, 4))
def test_windows_agree_with_the_clip_and_read_each_frame_once(length: int, half: int) -> None:
    frames = torch.rand(length, 3, 2, 2)
    reads: list[int] = []

    class Counting:
        def __len__(self) -> int:
            return length

        def __getitem__(self, index: int, /) -> Tensor:
            reads.append(index)
            return frames[index]

    clip = Clip(Counting())
    reads.clear()
    made = list(windows(clip, 2 * half + 1))
    assert reads == list(range(length))
    assert all(torch.equal(one, Clip(frames).window(index, 2 * half + 1)) for index, one in enumerate(made))
    assert len(made) == length


def test_network_given_is_never_changed() -> None:
    net = small_lite().train()
    before = copy.deepcopy(net.state_dict())
    restore(net, Clip(picture(40, 50)[None]), RestoreSettings(device="cpu", precision="bf16"))
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(
        torch.equal(value, before[name]) and value.dtype == torch.float32 for name, value in net.state_dict().items()
    )
    assert net.stem.weight.is_contiguous()


def test_result_is_clamped_float32() -> None:
    class Wild(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 4 - 2).double()

    restored = Restorer(Wild(), 16, 16, CPU)(torch.rand(3, 16, 16))
    assert restored.dtype == torch.float32
    assert float(restored.min()) == 0
    assert float(restored.max()) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
    ],
)
def test_tile_is_lowered_when_memory_runs_out(error: Exception) -> None:
    net, frame = Hungry(200 * 200, error), torch.rand(3, 300, 420)
    restorer = Restorer(net, 300, 420, RestoreSettings(tile=0, device="cpu", precision="fp32"))
    assert torch.allclose(restorer(frame), frame, atol=1e-6)
    assert 0 < restorer.tile < 300
    tried = len(net.seen)
    restorer(frame)
    assert max(height * width for height, width in net.seen[tried:]) <= 200 * 200  # it learns from it


def test_too_little_memory_for_anything_says_so() -> None:
    restorer = Restorer(Hungry(10, MemoryError()), 100, 100, RestoreSettings(tile=0, device="cpu", precision="fp32"))
    with pytest.raises(MetadeblurError, match="not enough memory"):
        restorer(torch.rand(3, 100, 100))


@pytest.mark.parametrize("settings", [RestoreSettings(device="cpu"), CPU], ids=["precision", "tile"])
def test_too_little_memory_to_settle_anything_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, settings: RestoreSettings
) -> None:
    monkeypatch.setattr(restoring, "has_native_bf16", lambda _device: True)
    restorer = Restorer(Hungry(10, MemoryError()), 100, 100, settings)
    with pytest.raises(MetadeblurError, match=r"not enough memory .* 64x64 pixels: close other programs"):
        restorer.prepare(torch.rand(3, 100, 100))


def test_what_to_settle_on_shrinks_with_the_memory() -> None:
    frame = torch.rand(3, 200, 300)
    restorer = Restorer(Hungry(130 * 130, MemoryError()), 200, 300, CPU)
    assert torch.allclose(restorer(frame), frame, atol=1e-6)
    assert 0 < restorer.tile < 130


def test_other_errors_of_the_network_are_not_taken_for_memory() -> None:
    restorer = Restorer(Hungry(10, RuntimeError("shapes differ")), 32, 32, RestoreSettings(tile=0, device="cpu"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        restorer(torch.rand(3, 32, 32))


def test_tile_follows_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    net, frame = small_lite(), picture(300, 400)

    def tile_with(free: int) -> int:
        monkeypatch.setattr(restoring, "available_bytes", lambda _device: free)
        restorer = Restorer(net, 300, 400, CPU)
        restorer.prepare(frame)
        return restorer.tile

    assert tile_with(10 << 30) == 0
    little, least = tile_with(7 << 20), tile_with(1)
    assert 300 > little > least == 64


def test_peak_bytes_grow_with_the_picture_and_free_memory_is_known() -> None:
    net = small_lite().eval()

    def peak(side: int) -> int:
        with torch.inference_mode():
            return memory.peak_bytes(lambda: net(torch.zeros(1, 3, side, side)), torch.device("cpu"))

    assert 3.5 < peak(128) / peak(64) < 4.5
    assert memory.available_bytes(torch.device("cpu")) > 1 << 20


def test_what_was_there_before_takes_no_memory() -> None:
    there = torch.zeros(1 << 18)

    def peak(work: Callable[[], object]) -> int:
        return memory.peak_bytes(work, torch.device("cpu"))

    assert peak(lambda: there.detach().view(512, 512).add_(1)) < there.nbytes
    assert peak(lambda: there.detach() + 1) < 2 * there.nbytes
    assert peak(lambda: (there + 1).view(512, 512) + 1) >= 2 * there.nbytes


def test_container_limit_counts(tmp_path: object) -> None:
    from pathlib import Path

    root = Path(str(tmp_path))
    assert memory._container_bytes(root) == 1 << 62
    (root / "memory.max").write_text("1000000\n")
    (root / "memory.current").write_text("400000\n")
    assert memory._container_bytes(root) == 600_000
    (root / "memory.max").write_text("max\n")
    assert memory._container_bytes(root) == 1 << 62


def test_auto_precision_takes_bf16_only_where_native_and_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = picture(64, 64)

    def precision(net: nn.Module, native: bool) -> str:
        monkeypatch.setattr(restoring, "has_native_bf16", lambda _device: native)
        restorer = Restorer(net, 64, 64, RestoreSettings(device="cpu"))
        restorer.prepare(frame)
        return restorer.precision

    class Coarse(nn.Module):
        """bf16 loses three quarters of its digits: a large offset is added and taken away."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1, bias=False)
            self.conv.weight.data.copy_(torch.eye(3)[:, :, None, None])

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x + 8) - 8

    gentle = small_lite()
    gentle.head.weight.data.mul_(0.1)
    assert precision(gentle, native=True) == "bf16"
    assert precision(gentle, native=False) == "fp32"
    assert precision(Coarse(), native=True) == "fp32"


@pytest.mark.parametrize("tile", [0, 64])
def test_nan_weights_give_one_clear_line(tile: int) -> None:
    net = small_lite()
    net.head.bias.data[0] = float("nan")
    restorer = Restorer(net, 90, 100, RestoreSettings(tile=tile, device="cpu"))
    with pytest.raises(MetadeblurError, match="not numbers") as caught:
        restorer(picture(90, 100))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"tile": -1}, {"tile": 8}, {"overlap": -1}, {"precision": "fp64"}, {"device": "abacus"}]
)
def test_settings_refuse_what_they_do_not_know(wrong: dict[str, object]) -> None:
    with pytest.raises(MetadeblurError):
        RestoreSettings(**wrong)  # type: ignore[arg-type]


def test_missing_gpu_and_wrong_size_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MetadeblurError, match="cuda"):
        Restorer(nn.Identity(), 8, 8, RestoreSettings(device="cuda"))
    with pytest.raises(MetadeblurError, match="shaped"):
        Restorer(nn.Identity(), 8, 8, CPU)(torch.zeros(3, 8, 9))


def test_nothing_is_decoded_ahead_where_every_processor_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert not pays(cpu)
    assert pays(torch.device("cuda"))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert pays(cpu)
    names = []
    for depth in (0, 2):
        names += list(prefetch((threading.current_thread().name for _ in range(1)), depth))
    assert names == [threading.current_thread().name, "prefetch_0"]


def test_prefetch_works_ahead_and_no_further() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    ahead = prefetch(items(), depth=2)
    assert next(ahead) == 0
    deadline = time.monotonic() + 2
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) <= 4  # one taken, two queued, one in the hand
    assert list(ahead) == list(range(1, 10))


def test_errors_while_decoding_reach_the_reader() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise MetadeblurError("frame 1 is broken")

    ahead = prefetch(items(), depth=4)
    assert next(ahead) == 1
    with pytest.raises(MetadeblurError, match="frame 1 is broken"):
        next(ahead)


def test_closing_stops_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "pays", lambda _: True)

    def threads() -> int:
        return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())

    clip = Clip(torch.rand(50, 3, 8, 8))
    frames = restore_frames(Restorer(nn.Identity(), 8, 8, CPU), clip)
    next(frames)
    assert threads() == 1
    frames.close()
    assert threads() == 0


def test_pairs_and_progress() -> None:
    clip = Clip(torch.rand(3, 3, 8, 8))
    pairs = list(restore_pairs(Restorer(nn.Identity(), 8, 8, CPU), clip))
    assert all(
        torch.equal(blurred, clip[i]) and torch.equal(restored, clip[i]) for i, (blurred, restored) in enumerate(pairs)
    )
    seen: list[tuple[int, int]] = []
    restore(nn.Identity(), clip, CPU, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]

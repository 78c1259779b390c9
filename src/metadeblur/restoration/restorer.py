"""Whole frames through a deblurrer: windows, padding, tiles, precision and memory.

A frame of any size is padded by reflection to the network's multiple and cropped back. Where it does not fit into
memory it is cut into tiles. Each pass sees a margin around its tile that is thrown away (as wide as the reach of the
network, measured on the frame itself), and neighbours fade into each other along a raised cosine; the tiles lie on the
network's multiple, so that its down-sampling falls on the same pixels as in the whole frame.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.brightness import matched_window
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.optical_flow import window_flows
from metadeblur.imaging.tiles import RAMP, pad_to_multiple, spans
from metadeblur.limits import Tile, Within, check, keep_plain, spelt
from metadeblur.models.adapted import fusion_of
from metadeblur.models.deblurrer import as_deblurrer
from metadeblur.models.forward import failed, in_float32, picture_of
from metadeblur.models.registry import traits
from metadeblur.restoration.samples import centre_of, with_texture
from metadeblur.restoration.windows import to_memory
from metadeblur.system.device import choose_device, has_native_bf16, mixed_precision
from metadeblur.system.memory import available_bytes, give_back_memory, is_out_of_memory, peak_bytes
from metadeblur.types import Device, Precision

SAFE_BF16_DB = 60.0
"""PSNR between the bf16 and the fp32 result from which bf16 is used. Rounding errors are uncorrelated with the errors
of the restoration, so they change its PSNR p by 10 log10(1 + 10^((p - 60) / 10)): less than 0.01 dB up to p = 33.6 dB,
and restored motion blur stays below that (25 to 30 dB on the measuring clips)."""

_SEAM_TOLERANCE = 2.5e-4  # what a cut edge may still change beyond the margin: a quarter of the 1e-3 promised
_PROBE_DEPTH = 384  # px: as far as the reach of a network is searched
_PROBE_SIDE = 256  # px: crop on which memory and precision are tried
_SMALLEST_TILE = 64  # px
_BATCH = 4  # windows at once on a device: a single one does not fill a large GPU


@spelt
@dataclass(frozen=True)
class RestoreSettings:
    """How frames go through the network.

    Raises:
        MetadeblurError: a value that is not allowed.
    """

    tile: Tile | None = None  # side of a tile, px; none: chosen from free memory; 0: the whole frame at once
    # margin around a tile, px; none: the network's reach, measured on the first frame
    overlap: Annotated[int, Within(0, 65_536)] | None = None
    precision: Precision = "auto"  # auto: bf16 where native and as good
    device: Device | None = None  # none: where the network is; auto: cuda where there is one

    def __post_init__(self) -> None:
        keep_plain(self)
        check(self)


class Restorer:
    """Sends windows of one size through a network; the network given is copied, never changed.

    Tile and precision are chosen on the first window (see :meth:`prepare`); a tile is made smaller when memory runs
    out.

    Args:
        net: image deblurrer (B, 3, H, W) or video deblurrer (B, N, 3, H, W) -> (B, 3, H, W), unclamped.
        height: of the frames to come, px.
        width: likewise.
        settings: how; the defaults choose by themselves.
        cache: of the clip that the windows are of.
        shared: take the network itself, which is a :func:`fixed_copy` on its device already.

    Raises:
        MetadeblurError: the device asked for does not exist.

    >>> restorer = Restorer(nn.Identity(), 30, 41, RestoreSettings(device="cpu"))
    >>> frame = torch.rand(3, 30, 41)
    >>> torch.equal(restorer(frame), frame), restorer.tile
    (True, 0)
    """

    def __init__(
        self,
        net: nn.Module,
        height: int,
        width: int,
        settings: RestoreSettings | None = None,
        cache: ClipCache | None = None,
        *,
        shared: bool = False,
    ) -> None:
        self.settings = settings or RestoreSettings()
        self.height, self.width = height, width
        net = as_deblurrer(net)
        self.traits = traits(net)
        self.fusion = fusion_of(net)
        self.device = choose_device(self.settings.device, net)
        self.frames = self.traits.frames
        self.tile = self.settings.tile or 0  # px, actual; 0: the whole frame at once
        self.margin = self.settings.overlap  # px, actual once the frame is cut; None until then
        self.precision = "fp32"  # actual: "fp32" or "bf16"
        self.is_prepared = False
        self.batch = 1 if self.device.type == "cpu" else _BATCH  # windows that go through the network at once, at most
        self.cache = cache or ClipCache(megabytes=64)
        self._proven = False  # whether the network has done a pass
        self._net = net if shared else fixed_copy(net, self.device)
        # Some networks look beyond a pixel's surroundings first (motion); only what comes after is cut into tiles.
        self._prepare: Callable[..., Tensor] | None = getattr(self._net, "prepare_window", None)
        self._body: Callable[[Tensor], Tensor | Sequence[Tensor]] = getattr(self._net, "deblur_prepared", self._net)

    def __call__(self, window: Tensor) -> Tensor:
        """Restore the centre of a window.

        Args:
            window: (N, 3, H, W), or (3, H, W) for an image deblurrer, RGB in [0, 1].

        Returns:
            (3, H, W), float32 in [0, 1], on the CPU.

        Raises:
            MetadeblurError: another size or number of frames; the network gave values that are not finite; memory does
                not even hold the smallest tile.
        """
        return to_memory(self.there(window))

    def there(self, window: Tensor) -> Tensor:
        """The same, left where the network is."""
        frames = self._checked(self._matched(window))
        if not self.is_prepared:
            self.prepare(window)
        restored = self.restored(frames)[0]
        if self.device.type != "cpu":
            _refuse_strange(restored)
        return restored

    def restored(self, frames: Tensor) -> Tensor:
        """Restore the centres of some windows at once.

        Args:
            frames: (B, N, 3, H, W), or (B, 3, H, W) for an image deblurrer, on the restorer's device. It is prepared
                (:meth:`prepare`), and neighbours are as bright as their centre.

        Returns:
            (B, 3, H, W), float32 in [0, 1] where they are numbers, on the device.
        """
        with torch.inference_mode():
            padded = pad_to_multiple(frames, self.traits.multiple)
            ready = self._ready(padded)
            while True:
                try:
                    output = self._tiled(ready, self._margin_of(padded)) if self.tile else self._forward(ready)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                # Outside the handler: the error's traceback holds on to the tensors that filled the memory.
                if len(frames) > 1:
                    self.batch = len(frames) // 2
                    give_back_memory(self.device)
                    return torch.cat([self.restored(part) for part in torch.split(frames, self.batch)])
                self._lower_tile(padded)
            restored = output[:, :, : self.height, : self.width].float()
            if self.device.type == "cpu":  # elsewhere it would have to be waited for, and brought_back finds it
                _refuse_strange(restored)
            return restored.clamp(0, 1)

    def brought_back(self, restored: Tensor) -> Tensor:
        """A restored frame (3, H, W) in main memory.

        Raises:
            MetadeblurError: it has values that are not finite.
        """
        frame = to_memory(restored)
        if self.device.type != "cpu":
            _refuse_strange(frame)
        return frame

    def prepare(self, window: Tensor) -> None:
        """Choose precision and tile on a window of the clip; the first call of the restorer does it by itself.

        Args:
            window: (N, 3, H, W) or (3, H, W), RGB in [0, 1].

        Raises:
            MetadeblurError: memory does not even hold the smallest tile.
        """
        with torch.inference_mode():
            padded = pad_to_multiple(self._checked(window), self.traits.multiple)
            side = _PROBE_SIDE
            while True:
                sample = centre_of(padded, side, self.traits.multiple)
                try:
                    self._choose_tile(padded, sample)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                side //= 2
                if side < self._smallest_tile():
                    raise _too_little(*sample.shape[-2:])
        if self.tile:
            self.batch = 1
        self.is_prepared = True

    def _choose_tile(self, padded: Tensor, sample: Tensor) -> None:
        """Choose precision and tile on a sample of the padded frame."""
        self.precision = self._choose_precision(sample)
        if self.settings.tile is None:
            self.tile = self._fitting_tile(padded, sample)
        if self.tile >= max(padded.shape[-2:]):
            self.tile = 0

    def _checked(self, window: Tensor) -> Tensor:
        """The window as the network takes it, on its device: (1, 3, H, W) or (1, N, 3, H, W)."""
        frames = window if window.ndim == 4 else window[None]
        expected = (self.frames, 3, self.height, self.width)
        if tuple(frames.shape) != expected:
            raise MetadeblurError(
                f"a window shaped {tuple(window.shape)}: this restorer takes (frames, 3, height, width) = {expected}"
            )
        frames = frames.to(self.device, torch.float32)
        return frames if self.frames == 1 else frames[None]

    def _matched(self, window: Tensor) -> Tensor:
        return matched_window(window, self.cache) if self.frames > 1 and window.ndim == 4 else window

    def _ready(self, frames: Tensor) -> Tensor:
        """What the network makes of frames before they are cut into tiles: itself, or with its motion."""
        if self._prepare is None:
            return frames
        if frames.ndim == 4:
            return self._prepare(frames)
        flows = torch.stack([window_flows(window, flow=self.cache.flow) for window in frames])
        return self._prepare(frames, flows)

    def _forward(self, frames: Tensor) -> Tensor:
        """The network on prepared frames, (B, C, H, W) or (B, N, 3, H, W), in the chosen precision."""
        if frames.ndim == 4 and self._prepare is None:  # folding the 26 channels of a prepared window is slower so
            frames = frames.contiguous(memory_format=torch.channels_last)
        with mixed_precision(self.device, enabled=self.precision == "bf16"):
            try:
                output = self._body(frames)
            except MetadeblurError:
                raise
            except Exception as error:  # a network of somebody's own can fail in any way
                if self._proven or is_out_of_memory(error):
                    raise
                raise failed(self._net, frames, error) from error
        self._proven = True
        return picture_of(output, frames)

    def _choose_precision(self, sample: Tensor) -> str:
        """The setting, or for "auto" bf16 where it is native and agrees with fp32 on the sample."""
        if self.settings.precision != "auto":
            return self.settings.precision
        if not has_native_bf16(self.device):
            return "fp32"
        sample = self._ready(with_texture(sample))
        self.precision = "fp32"
        exact = self._forward(sample).float().clamp(0, 1)
        self.precision = "bf16"
        try:
            rounded = self._forward(sample).float().clamp(0, 1)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return "fp32"  # the network has an operation that bf16 lacks
        squared = float((exact - rounded).square().mean((1, 2, 3)).max())
        return "bf16" if squared <= 10 ** (-SAFE_BF16_DB / 10) else "fp32"

    def _fitting_tile(self, padded: Tensor, sample: Tensor) -> int:
        """Side of the largest tile that fits into memory, px; 0 where the whole frame does."""
        pixel_bytes = peak_bytes(partial(self._forward, self._ready(sample)), self.device) / (
            sample.shape[-2] * sample.shape[-1]
        )
        pixels = available_bytes(self.device) / pixel_bytes
        if pixels >= padded.shape[-2] * padded.shape[-1]:
            return 0
        side = math.isqrt(int(pixels)) - 2 * self._margin_of(padded) - RAMP
        return max(side // self.traits.multiple * self.traits.multiple, self._smallest_tile())

    def _smallest_tile(self) -> int:
        return max(_SMALLEST_TILE, self.traits.multiple)

    def _lower_tile(self, padded: Tensor) -> None:
        """Make the tile smaller after memory ran out."""
        give_back_memory(self.device)
        seen = self.tile + 2 * (self.margin or 0) if self.tile else max(padded.shape[-2:])
        if self.tile == self._smallest_tile():
            if not self.margin:
                raise _too_little(seen, seen)
            self.margin = self.margin // 2 // self.traits.multiple * self.traits.multiple
            return
        lowered = (self.tile or seen) * 2 // 3 // self.traits.multiple * self.traits.multiple
        self.tile = max(lowered, self._smallest_tile())

    def _margin_of(self, padded: Tensor) -> int:
        if self.margin is None:
            self.margin = self._measure_reach(padded)
        return self.margin

    def _measure_reach(self, padded: Tensor) -> int:
        """How far a cut edge changes the result, px: the network on a strip against the same strip cut in half.

        A network that looks at the whole picture at once has no such distance; it gets the depth of the probe.
        """
        multiple = self.traits.multiple
        along_height = padded.shape[-2] > padded.shape[-1]
        frames = padded.transpose(-1, -2) if along_height else padded
        depth = max(min(_PROBE_DEPTH, frames.shape[-1] // 2) // multiple * multiple, multiple)

        def strip_of(length: int, height: int) -> Tensor:
            strip = with_texture(centre_of(frames, length, multiple, height=height))
            ready = self._ready(strip.transpose(-1, -2) if along_height else strip)
            return ready.transpose(-1, -2) if along_height else ready

        def run(part: Tensor) -> Tensor:
            return self._forward(part.transpose(-1, -2) if along_height else part).float()

        strip = strip_of(2 * depth, _PROBE_SIDE)
        while True:
            try:
                whole, cut = run(strip), run(strip[..., depth:])
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or depth <= 2 * multiple:
                    raise
            depth = depth // 2 // multiple * multiple
            strip = strip_of(2 * depth, 2 * depth)
        if along_height:
            whole, cut = whole.transpose(-1, -2), cut.transpose(-1, -2)
        profile = (whole[..., -cut.shape[-1] :] - cut).abs().amax((0, 1, 2))  # by distance from the cut
        changed = torch.nonzero(profile > _SEAM_TOLERANCE)
        reach = int(changed.max()) + 1 if len(changed) else 0
        return min(-(-reach * 5 // (4 * multiple)) * multiple, depth)  # a quarter more: elsewhere it may reach further

    def _tiled(self, padded: Tensor, margin: int) -> Tensor:
        """The network tile by tile, faded together: (B, 3, H, W) float32 on the network's device."""
        height, width = padded.shape[-2:]
        multiple = self.traits.multiple
        result = torch.zeros(len(padded), 3, height, width, device=self.device)
        for row in spans(height, self.tile, margin, multiple):
            for column in spans(width, self.tile, margin, multiple):
                part = self._forward(padded[..., row.start : row.stop, column.start : column.stop]).float()
                weight = row.weight[:, None] * column.weight
                result[..., row.start : row.stop, column.start : column.stop] += part * weight.to(self.device)
        return result


def fixed_copy(net: nn.Module, device: torch.device) -> nn.Module:
    """A network's copy as restorers use it: on the device, float32, evaluation mode, no gradients, channels last."""
    # Channels-last is the faster layout in fp32 and bf16 alike (benchmarks/speed.py).
    copied = in_float32(copy.deepcopy(net)).to(device).eval().requires_grad_(False)
    copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied


def whole_frames(
    net: nn.Module, height: int, width: int, cache: ClipCache | None = None, *, shared: bool = False
) -> Restorer:
    """Sends windows of one size through a network uncut, on the device that the network is on."""
    return Restorer(net, height, width, RestoreSettings(tile=0), cache, shared=shared)


def _refuse_strange(restored: Tensor) -> None:
    if not bool(torch.isfinite(restored).all()):
        raise MetadeblurError(
            "the network's output has values that are not numbers (NaN or infinite): its weights are damaged or do not "
            "fit it; check them with 'metadeblur weights verify' or choose another --model"
        )


def _too_little(height: int, width: int) -> MetadeblurError:
    """The error where memory does not hold the smallest tile."""
    return MetadeblurError(
        f"not enough memory for the network on even {width}x{height} pixels: close other programs or choose a smaller "
        "--model"
    )

"""Further pair sources for ``adapt``: self-reconstruction and aligned sharp neighbours.

A pair source makes the support set's training pairs from the clip, the chosen places and the fitted reblurrer. What it
makes may carry an operator that the deblurrer's output goes through before it is compared (:attr:`Pair.through`): blur,
for self-reconstruction, or a mask, where only part of a target is trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metadeblur.adaptation.pairs import PairSource
from metadeblur.adaptation.stages import Pair
from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.linear_light import to_display, to_linear
from metadeblur.imaging.primitives import array
from metadeblur.imaging.quality import dis_flow, warp_frame
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.reblur.fitting import NetworkReblurrer
from metadeblur.reblur.flow import FlowReblurrer
from metadeblur.reblur.paths import Spot, paths
from metadeblur.reblur.place import Place
from metadeblur.reblur.reblurrer import Reblurrer
from metadeblur.types import Response

_MARGIN = 64  # px around a patch that flow may look at
_LEAST_TRUSTED = 0.5  # share of a patch whose flow must agree forwards and backwards
_LEAST_GAP_DB = 1.0  # dB of self-shift score by which a neighbour must be sharper to be a target
_SAMPLES = 17  # along a path, for blur with gradient


@dataclass(frozen=True)
class Masked:
    """Keeps what is trusted of a picture (3, P, P); the rest becomes 0 on both sides of the loss."""

    mask: Tensor  # (1, P, P), 0 or 1

    def __call__(self, picture: Tensor) -> Tensor:
        """The picture times the mask."""
        return picture * self.mask.to(picture.device)


@dataclass(frozen=True)
class BlurredAlong:
    """Blurs a picture (3, P, P) along paths, with gradient, and keeps the pixels whose light comes from inside it."""

    grids: Tensor  # (S, P, P, 2), where the samples lie, in [-1, 1]
    mask: Tensor  # (1, P, P)
    response: Response

    def __call__(self, picture: Tensor) -> Tensor:
        """The mean of the samples in linear light, times the mask."""
        grids = self.grids.to(picture.device)
        light = to_linear(picture.float(), self.response)[None].expand(len(grids), -1, -1, -1)
        mean = F.grid_sample(light, grids, mode="bilinear", padding_mode="border", align_corners=True).mean(0)
        return to_display(mean, self.response) * self.mask.to(picture.device)

    @classmethod
    def of(cls, reblurrer: FlowReblurrer, spot: Spot) -> BlurredAlong:
        """The blur that a frame of the clip has at a spot, by its own motion and the clip's exposure."""
        size = spot.size
        velocity, bend = (array(part.cpu()) for part in paths(reblurrer.clip_motion, spot, size))
        exposure = reblurrer.exposure if reblurrer.exposure is not None else sum(reblurrer.settings.prior) / 2
        times = ((np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5) * exposure
        moved = np.stack([t * velocity + t * t * bend for t in times])  # (S, P, P, 2), right and down
        rows, columns = np.mgrid[0:size, 0:size]
        where = np.stack([columns, rows], -1)[None] - moved
        inside = ((where >= 0) & (where <= size - 1)).all(axis=(0, 3))
        grids = torch.from_numpy((2 * where / (size - 1) - 1).astype(np.float32))
        return cls(grids, torch.from_numpy(inside.astype(np.float32))[None], reblurrer.response)


@dataclass(frozen=True)
class BlurredByNetwork:
    """Blurs a picture (3, P, P) with a frozen reblurring network, in the middle of a window of the clip."""

    reblurrer: NetworkReblurrer
    window: Tensor  # (F, 3, P, P)

    def __call__(self, picture: Tensor) -> Tensor:
        """The network's blurred centre, with gradient to the picture."""
        middle = len(self.window) // 2
        window = self.window.to(picture.device)
        fed = torch.cat([window[:middle], picture[None].clamp(0, 1), window[middle + 1 :]])
        blurred: Tensor = self.reblurrer.network(fed[None])[0]
        return blurred


def self_reconstruction(
    clip: Clip, places: Sequence[Place], reblurrer: Reblurrer, blurs: int, frames: int, generator: torch.Generator
) -> list[Pair]:
    """Pairs of a blurred patch with itself: the restored patch is blurred again (Chi et al., CVPR 2021, section 3).

    In the form that needs no change of the network: restore, then blur with a frozen reblurrer by the frame's own
    motion. Each place gives its blurriest frame first, then frames drawn at random.

    Raises:
        MetadeblurError: the reblurrer is neither optical flow nor the reblurring network.
    """
    pairs = []
    for place in places:
        drawn = torch.randint(len(clip), (max(blurs - 1, 0),), generator=generator).tolist()
        for frame in [place.blurred_frame, *drawn][:blurs]:
            window = _cut(clip.window(frame, frames), place)
            target = window[frames // 2]
            spot = Spot(frame, place.top, place.left, place.size)
            if isinstance(reblurrer, FlowReblurrer):
                along = BlurredAlong.of(reblurrer, spot)
                pairs.append(Pair(_fed(window), target * along.mask, along))
            elif isinstance(reblurrer, NetworkReblurrer):
                around = _cut(clip.window(frame, reblurrer.frames), place)
                pairs.append(Pair(_fed(window), target, BlurredByNetwork(reblurrer, around)))
            else:
                raise MetadeblurError(f"self-reconstruction needs a reblurrer with gradient, not {reblurrer.name!r}")
    return pairs


def aligned_neighbours(
    clip: Clip, places: Sequence[Place], reblurrer: Reblurrer, blurs: int, frames: int, generator: torch.Generator
) -> list[Pair]:
    """Really blurred patches with the sharp patch of a neighbouring frame, warped onto them, as target.

    At each place the up to four frames around the pseudo-sharp one are looked at, the blurriest first; those count
    that are clearly blurrier and whose optical flow agrees forwards and backwards on at least half of the patch, and
    only there. A clip whose frames are all alike gives few pairs, or none.
    """
    del reblurrer, generator
    pairs: list[Pair] = []
    for place in places:
        near = [place.frame + step for step in (-2, -1, 1, 2) if 0 <= place.frame + step < len(clip)]
        scores = {frame: float(self_shift_score(_cut(clip[frame], place))) for frame in near}
        blurrier = [frame for frame in near if scores[frame] >= place.score + _LEAST_GAP_DB]
        aligned = (_aligned(clip, place, frame, frames) for frame in sorted(blurrier, key=lambda frame: -scores[frame]))
        pairs += [pair for pair in aligned if pair is not None][:blurs]
    return pairs


def mixed(sources: Sequence[PairSource]) -> PairSource:
    """Several sources together, in turn, so that their number of pairs is that of one."""

    def make(
        clip: Clip, places: Sequence[Place], reblurrer: Reblurrer, blurs: int, frames: int, generator: torch.Generator
    ) -> list[Pair]:
        by_source = [source(clip, places, reblurrer, blurs, frames, generator) for source in sources]
        shares = [pairs[number :: len(sources)] for number, pairs in enumerate(by_source)]
        return [pair for share in shares for pair in share]

    return make


def _aligned(clip: Clip, place: Place, frame: int, frames: int) -> Pair | None:
    """The pair of a blurred frame at a place, or None where its flow to the pseudo-sharp frame is not trusted."""
    top, left = max(0, place.top - _MARGIN), max(0, place.left - _MARGIN)
    region = (..., slice(top, place.top + place.size + _MARGIN), slice(left, place.left + place.size + _MARGIN))
    blurred, sharp = clip[frame][region].contiguous(), clip[place.frame][region].contiguous()
    forward, backward = dis_flow(blurred, sharp), dis_flow(sharp, blurred)
    moved, inside = warp_frame(sharp, forward)
    returned, _ = warp_frame(backward, forward)
    longest = forward.square().sum(0) + returned.square().sum(0)
    agrees = inside & ((forward + returned).square().sum(0) < 0.5 + 0.01 * longest)
    row, column = place.top - top, place.left - left
    piece = (..., slice(row, row + place.size), slice(column, column + place.size))
    mask = agrees[piece].float()[None]
    if float(mask.mean()) < _LEAST_TRUSTED:
        return None
    window = _cut(clip.window(frame, frames), place)
    return Pair(_fed(window), moved[piece].clamp(0, 1) * mask, Masked(mask))


def _fed(window: Tensor) -> Tensor:
    """What a deblurrer takes: the window, or its only frame."""
    return window if len(window) > 1 else window[0]


def _cut(frames: Tensor, place: Place) -> Tensor:
    """The place's pixels of frames (..., 3, H, W)."""
    return frames[..., place.top : place.top + place.size, place.left : place.left + place.size].clone()

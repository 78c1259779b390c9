"""Reblur pseudo-sharp patches by the clip's own motion: optical flow, no weights.

The light of the frame around a patch is averaged along the path that pixels of a blurred place of the clip take while
the shutter is open; exposure, response and noise are estimated from the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.clip import Clip, as_clip
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.motion import ClipMotion
from metadeblur.imaging.noise import draw_noise, estimate_noise
from metadeblur.imaging.primitives import lengths, median, quantile
from metadeblur.limits import RISING, Count, CountOrNone, Pixels, Share, Within, check, spelt
from metadeblur.models.adapted import FusionSettings
from metadeblur.reblur.exposure import LONGEST, ExposureEstimate, estimate_exposure
from metadeblur.reblur.paths import Spot, blur_patch, mean_motion, paths, smoothed, turned
from metadeblur.reblur.place import Place, Shrunk
from metadeblur.reblur.reblurrer import Reblurrer
from metadeblur.types import Response

Array = NDArray[Any]

_EDGE = 0.15  # px of smoothing of a field's edges for each px of motion in a frame interval
_STRONGEST = 2.0  # times the centre's blur that a neighbour's may have


Exposed: TypeAlias = Annotated[float, Within(0, LONGEST)]


@spelt
@dataclass(frozen=True)
class FlowSettings:
    """How blur is taken from the clip's motion."""

    any_frame: Share = 0.5  # share of patches blurred by the motion of their own place in a frame drawn at random
    colocated: Share = 0.25  # share blurred by the motion of their own place in its most blurred frame
    spots: CountOrNone = 40  # further blurred places of the clip that lend their motion
    samples: Annotated[int, Within(1, 10_001)] = 33  # most samples along a path; shorter paths take one a pixel
    # frame intervals; drawn from where the clip does not tell its exposure
    prior: Annotated[tuple[Exposed, Exposed], RISING] = (0.5, 1.0)
    flow_pixels: Pixels = 256_000  # px; pictures are reduced to about this before the flow is computed
    smoothing: Share = 0.03  # of the patch's side: blur of a borrowed motion, whose edges are not the patch's own
    noise_frames: Count = 6  # frames looked at for the noise

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class FlowReblurrer(Reblurrer):
    """Blurs patches as the clip itself is blurred; made by :func:`fit_flow_reblurrer`.

    Attributes:
        exposure: frame intervals the shutter is open; None draws from the prior for each patch.
        exposure_error: standard error of ``exposure``; patches are blurred with a little more or less accordingly.
        response: how display values depend on light.
        noise: (3, 3) covariance of the clip's noise in display values.
        motion: median blur length in px of the clip's blurred places; under about one there is nothing to learn from.
        estimate: the evidence, None where the exposure was given or the clip says nothing.
    """

    clip_motion: ClipMotion
    spots: tuple[Spot, ...]
    exposure: float | None
    exposure_error: float
    response: Response
    noise: Array
    motion: float
    estimate: ExposureEstimate | None
    given: bool
    settings: FlowSettings = field(default_factory=FlowSettings)
    name: str = "flow"
    anywhere: ClassVar[bool] = True

    @property
    def knows_motion(self) -> bool:
        """It does."""
        return True

    def reblur(self, clip: Clip, place: Place, generator: torch.Generator) -> Tensor:
        """The pseudo-blurred patch at ``place``, (3, P, P); see :meth:`reblur_window`."""
        return self.reblur_window(clip, place, 1, generator)[0]

    def reblur_window(
        self, clip: Clip, place: Place, frames: int, generator: torch.Generator, shrunk: Shrunk | None = None
    ) -> Tensor:
        """The pseudo-blurred patch at ``place`` between neighbours blurred by the same motion.

        The clip's own neighbours would show another motion than the one that blurs the patch.

        Args:
            clip: the clip this was fitted to.
            place: the pseudo-sharp place.
            frames: N, odd.
            generator: all that is drawn comes from it.
            shrunk: what is around the place, smaller and sharper; it is blurred instead.

        Returns:
            (N, 3, P, P) float32 in [0, 1], where the clip's frames are.

        Raises:
            MetadeblurError: the place reaches over the frame, or the clip is not the one this was fitted to.
        """
        return self.blur_along_path(clip, place, frames, generator, shrunk)[0]

    def blur_along_path(
        self, clip: Clip, place: Place, frames: int, generator: torch.Generator, shrunk: Shrunk | None = None
    ) -> tuple[Tensor, Tensor]:
        """The window of :meth:`reblur_window`, and the path that its centre's pixels take while the shutter is open.

        The path is (2, P, P) in px, x then y; how it bends is left out.
        """
        fitted = self.clip_motion.clip
        if (len(clip), clip.height, clip.width) != (len(fitted), fitted.height, fitted.width):
            raise MetadeblurError(
                f"{clip.name}: {len(clip)} frames of {clip.width}x{clip.height} are not the clip that the reblurrer "
                f"was fitted to ({len(fitted)} of {fitted.width}x{fitted.height}); fit one for each clip"
            )
        spot = self._draw_spot(place, generator)
        velocity, bend = self._paths(shrunk.region if shrunk else place, place.size, spot)
        exposure = self._draw_exposure(generator)
        picture, at = (shrunk.picture, shrunk.place) if shrunk else (clip[place.frame], place)
        # A program may hand in the clip as it was read, and gets its patches back there.
        here, picture = picture.device, picture.to(self.clip_motion.device)
        window = []
        for shift in range(-(frames // 2), frames // 2 + 1):
            blurred, mean_length = blur_patch(
                picture,
                at.top,
                at.left,
                velocity,
                bend,
                exposure * self._strength(spot, shift),
                self.response,
                self.settings.samples,
                middle=float(shift),
            )
            # Averaging along the path has taken away the patch's own noise but for about one part in its length.
            # Shrinking has taken nearly all of it.
            kept = 0.0 if shrunk else 1 / max(mean_length, 1.0)
            missing = self.noise * max(0.0, 1 - kept)
            noise = draw_noise(missing, place.size, place.size, generator).to(blurred.device)
            window.append((blurred + noise).clamp(0, 1))
        return torch.stack(window).to(here), (exposure * velocity).permute(2, 0, 1).to(here)

    def path_at(self, place: Place) -> Tensor:
        """The path of the most blurred patch at a place, lent to its pseudo-sharp one: (2, P, P) px, x then y."""
        spot = Spot(place.blurred_frame, place.top, place.left, place.size)
        path = _assumed(self.exposure, self.settings) * self._paths(place, place.size, spot)[0]
        return path.permute(2, 0, 1)

    def blur_at(self, place: Place) -> float:
        """How long the blur of the pseudo-sharp patch itself is, in px, by the clip's motion in its frame."""
        own = paths(self.clip_motion, Spot(place.frame, place.top, place.left, place.size), 16)[0]
        return _assumed(self.exposure, self.settings) * median(lengths(own))

    def fusion(self) -> FusionSettings:
        """Fusing that also corrects frames by the clip's exposure, where that is known."""
        return FusionSettings(exposure=self.exposure or None, response=self.response)

    def describe(self) -> dict[str, Any]:
        """Exposure, response, noise and motion with the evidence for each, ready for JSON."""
        source = "given" if self.given else "estimated" if self.exposure is not None else "prior"
        estimate = self.estimate
        return {
            "name": self.name,
            "motion_px": round(self.motion, 2),
            "exposure": None if self.exposure is None else round(self.exposure, 3),
            "exposure_source": source,
            "exposure_drawn_from": list(self.settings.prior) if self.exposure is None else None,
            "exposure_evidence": None
            if estimate is None
            else {
                "estimate": round(estimate.exposure, 3),
                "standard_error": round(estimate.error, 3),
                "contrast": round(estimate.contrast, 2),
                "frame_pairs": estimate.pairs,
                "votes": estimate.votes,
            },
            "response": self.response,
            "response_unexplained": None
            if estimate is None
            else {name: round(value, 3) for name, value in estimate.unexplained.items()},
            "noise_std_255": [round(float(value), 2) for value in 255 * np.sqrt(np.diag(self.noise))],
            "spots": len(self.spots),
        }

    def _draw_exposure(self, generator: torch.Generator) -> float:
        if self.exposure is None:
            low, high = self.settings.prior
            return low + (high - low) * float(torch.rand((), generator=generator))
        jitter = float(torch.randn((), generator=generator).clamp(-2, 2))
        return min(max(self.exposure + self.exposure_error * jitter, 0.0), LONGEST)

    def _draw_spot(self, place: Place, generator: torch.Generator) -> Spot:
        """The place of the clip whose motion blurs the patch."""
        spot = Spot(place.blurred_frame, place.top, place.left, place.size)
        drawn = float(torch.rand((), generator=generator))
        if drawn < self.settings.any_frame:
            # A clip has quiet moments too: a network that only ever sees strong blur would overdo them.
            frame = int(torch.randint(len(self.clip_motion.clip), (), generator=generator))
            spot = Spot(frame, place.top, place.left, place.size)
        elif self.spots and drawn >= self.settings.any_frame + self.settings.colocated:
            spot = self.spots[int(torch.randint(len(self.spots), (), generator=generator))]
        return spot

    def _strength(self, spot: Spot, shift: int) -> float:
        """How much faster the clip moves ``shift`` frames from a spot: neighbours may be sharper, or more blurred."""
        if shift == 0:
            return 1.0
        last = len(self.clip_motion.clip) - 1
        other = replace(spot, frame=min(max(spot.frame + shift, 0), last))
        here, there = (abs(mean_motion(paths(self.clip_motion, one, 16)[0])) for one in (spot, other))
        return min(there / here, _STRONGEST) if here > 0 else 1.0

    def _paths(self, place: Place, size: int, spot: Spot) -> tuple[Tensor, Tensor]:
        """Velocity and bend (P, P, 2) for a patch of ``size`` px that shows a place, with a blurred spot's mean motion.

        Where the patch moves itself, its own field is turned and stretched to the spot's mean motion, so that its edges
        stay where they are; where it is at rest, it gets the spot's field, smoothed.
        """
        lent = paths(self.clip_motion, spot, size)
        own = paths(self.clip_motion, Spot(place.frame, place.top, place.left, place.size), size)
        lent_mean, own_mean = mean_motion(lent[0]), mean_motion(own[0])
        if abs(own_mean) >= max(1.0, 0.5 * abs(lent_mean)):
            longest = own[0].new_tensor(1.5 * quantile(lengths(lent[0]), 0.99))
            field_ = [turned(part, lent_mean / own_mean) for part in own]
            shorter = (longest / lengths(field_[0]).clamp(min=1e-6)).clamp(max=1)[..., None]
            # An edge of a field, read backwards, tears what lies across it: the longer the path, the wider.
            sigma = min(_EDGE * abs(lent_mean), self.settings.smoothing * size)
            return smoothed(field_[0] * shorter, sigma), smoothed(field_[1] * shorter, sigma)
        sigma = self.settings.smoothing * size
        return smoothed(lent[0], sigma), smoothed(lent[1], sigma)


def fit_flow_reblurrer(
    clip: Clip,
    *,
    generator: torch.Generator,
    places: Sequence[Place] | None = None,
    exposure: float | None = None,
    settings: FlowSettings | None = None,
    cache: ClipCache | None = None,
) -> FlowReblurrer:
    """Learn how a clip is blurred.

    Args:
        clip: the blurred clip; of a long one only a bounded number of frames is read.
        generator: the further blurred spots are drawn from it.
        places: the support set's places; their blurred frames say what the clip's blur is. Without them spots are
            drawn over the clip.
        exposure: frame intervals the shutter was open, where it is known; estimated otherwise.
        settings: how; the defaults are good.
        cache: of the clip.

    Raises:
        MetadeblurError: ``exposure`` is not in 0..1.6.
    """
    if exposure is not None and not 0 <= exposure <= LONGEST:
        raise MetadeblurError(f"exposure {exposure} is not allowed; give 0 to {LONGEST} frame intervals, or nothing")
    clip, settings = as_clip(clip), settings or FlowSettings()
    motion = ClipMotion(clip, pixels=settings.flow_pixels, cache=cache)
    estimate = estimate_exposure(motion) if exposure is None else None
    chosen = exposure if estimate is None or not estimate.strong else estimate.exposure
    spots = _find_spots(motion, places or (), settings.spots, generator)
    assumed = _assumed(chosen, settings)
    blur = [assumed * median(lengths(paths(motion, spot, 16)[0])) for spot in spots[0] or spots[1]]
    step = max(1, len(clip) // settings.noise_frames)
    frames = [clip[index] for index in range(0, len(clip), step)][: settings.noise_frames]
    return FlowReblurrer(
        clip_motion=motion,
        spots=tuple(spots[0] + spots[1]),
        exposure=chosen,
        exposure_error=estimate.error if estimate is not None and estimate.strong else 0.0,
        response=estimate.response if estimate is not None and estimate.strong else "srgb",
        noise=estimate_noise(frames),
        motion=float(np.median(blur)) if blur else 0.0,
        estimate=estimate,
        given=exposure is not None,
        settings=settings,
    )


def _assumed(exposure: float | None, settings: FlowSettings) -> float:
    """The exposure; where it is not estimated, the middle of the prior."""
    return exposure if exposure is not None else sum(settings.prior) / 2


def _find_spots(
    motion: ClipMotion, places: Sequence[Place], count: int, generator: torch.Generator
) -> tuple[list[Spot], list[Spot]]:
    """The places' blurred spots; and further ones, drawn over the clip, that move at least half as fast as those.

    Without places the faster half of what was drawn is taken.
    """
    clip = motion.clip
    blurred = [Spot(place.blurred_frame, place.top, place.left, place.size) for place in places]
    size = min([clip.height, clip.width, blurred[0].size if blurred else 256])
    # A few frames, several spots in each: a frame's flow is what costs.
    frames = torch.randint(len(clip), (min(len(clip), 12),), generator=generator).tolist()
    drawn = []
    for index in range(count):
        top = int(torch.randint(clip.height - size + 1, (), generator=generator))
        left = int(torch.randint(clip.width - size + 1, (), generator=generator))
        drawn.append(Spot(frames[index % len(frames)], top, left, size))
    speeds = {spot: median(lengths(paths(motion, spot, 16)[0])) for spot in blurred + drawn}
    if blurred:
        slowest = 0.5 * float(np.median([speeds[spot] for spot in blurred]))
    else:
        slowest = float(np.median([speeds[spot] for spot in drawn]))
    return blurred, [spot for spot in drawn if speeds[spot] >= slowest]

"""The first stages of the inner update: a reblurring network and its critic fit a clip (paper, section 3, Eq. 3 to 5).

For each place of the support set the reblurrer blurs the pseudo-sharp centre of a window of the clip; the critic learns
to tell what it makes from really blurred patches of the clip; the reblurrer learns by L_adv + 0.01 L_cycle, where
L_cycle asks the deblurrer to bring the pseudo-sharp patch back. The deblurrer is frozen but passes gradient. After
that the reblurrer makes all pairs once (:class:`NetworkReblurrer`), and the deblurrer is trained on them
(:func:`metadeblur.adaptation.stages.inner_update`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metadeblur.clip import Clip, as_clip
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.models.critic import critic_optimizer, gradient_penalty, hold
from metadeblur.models.forward import frozen, own_loss, trainable
from metadeblur.models.losses import critic_loss, cycle, generator_loss
from metadeblur.models.rates import stepped_at
from metadeblur.models.registry import Loss, traits
from metadeblur.models.told_reblurring import ToldReblurNetwork, blur_along
from metadeblur.reblur.balance import EVERY, RATIO, adaptive_weight, drowned, gradient_ratio
from metadeblur.reblur.flow import FlowReblurrer, fit_flow_reblurrer
from metadeblur.reblur.place import Place, Shrunk, place_window, real_blurred
from metadeblur.reblur.reblurrer import Reblurrer
from metadeblur.reblur.settings import CriticSettings, ReblurUpdates
from metadeblur.types import AdaptStage, CriticBound, RealSample

Terms = dict[str, float]


@dataclass(frozen=True)
class Item:
    """What one step of the reblurrer and its critic works on.

    Attributes:
        window: (N, 3, P, P), co-located patches of the blurred clip, the pseudo-sharp one in the middle; N is at least
            the number of frames of the reblurrer and of the deblurrer.
        real: (3, P, P), a really blurred patch.
        path: (2, P, P) px, which a network that is told the motion blurs along; None: it finds one in the window.
    """

    window: Tensor
    real: Tensor
    path: Tensor | None = None


@dataclass(frozen=True)
class NetworkReblurrer(Reblurrer):
    """The paper's reblurring network as a reblurrer; its critic goes along.

    Attributes:
        network: (B, F, 3, H, W) -> (B, 3, H, W), with an attribute ``frames``; in evaluation mode.
        critic: (B, 3, H, W) -> (B,); without one, only L_cycle can adapt the network.
        bf16: make patches in mixed precision.
        history: what its stage of the adaptation measured, a dictionary a step; empty as trained.
        updates: how it was adapted.
        motion: the clip's own, for a network that is told it: the network corrects blur along it.
    """

    network: nn.Module
    critic: nn.Module | None = None
    bf16: bool = False
    history: tuple[Terms, ...] = ()
    updates: ReblurUpdates | None = None
    motion: FlowReblurrer | None = None
    name: str = field(default="network", init=False)
    learnt: ClassVar[bool] = True
    anywhere: ClassVar[bool] = True

    @property
    def frames(self) -> int:
        """Frames of the window that the network takes."""
        return int(self.network.frames)  # type: ignore[arg-type]

    @property
    def knows_motion(self) -> bool:
        """Whether it is told a clip's motion."""
        return self.motion is not None

    def told(
        self, clip: Clip, places: Sequence[Place], generator: torch.Generator, cache: ClipCache | None = None
    ) -> NetworkReblurrer:
        """The same for a clip: a network that is told the motion gets that of the clip."""
        if not isinstance(self.network, ToldReblurNetwork):
            return self
        return replace(self, motion=fit_flow_reblurrer(clip, places=places, generator=generator, cache=cache))

    def reblur(self, clip: Clip, place: Place, generator: torch.Generator) -> Tensor:
        """The pseudo-blurred patch at ``place``, (3, P, P) in [0, 1]; without a motion nothing is drawn for it."""
        if self.motion is not None:
            return self.reblur_window(clip, place, 1, generator)[0]
        return self.blur(place_window(clip, place, self.frames))

    def reblur_window(
        self, clip: Clip, place: Place, frames: int, generator: torch.Generator, shrunk: Shrunk | None = None
    ) -> Tensor:
        """The pseudo-blurred patch between its neighbours, (N, 3, P, P).

        With a motion they are blurred by it, and the network corrects the centre; otherwise they are the clip's own.
        """
        if self.motion is None:
            return super().reblur_window(clip, place, frames, generator, shrunk)
        made, path = self.motion.blur_along_path(clip, place, frames, generator, shrunk)
        fed = shrunk.patch.expand(self.frames, -1, -1, -1) if shrunk else place_window(clip, place, self.frames)
        made[frames // 2] = (made[frames // 2] + self._correction(fed, path).to(made)).clamp(0, 1)
        return made

    def _correction(self, window: Tensor, path: Tensor) -> Tensor:
        """What the network adds to the centre of a window (F, 3, P, P) blurred along a path (2, P, P): (3, P, P)."""
        network = self.network
        assert isinstance(network, ToldReblurNetwork)
        device = next(network.parameters()).device
        window, path = window[None].to(device), path[None].to(device)
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            plain = blur_along(window[:, self.frames // 2], path)
            return network.correction(window, path, plain)[0].float()

    def blur_at(self, place: Place) -> float:
        """How long the blur of the pseudo-sharp patch itself is, in px; 0 without a motion."""
        return 0.0 if self.motion is None else self.motion.blur_at(place)

    def blur(self, window: Tensor) -> Tensor:
        """The blurred centre (3, P, P), clamped, of a window (F, 3, P, P), where this is, without gradient."""
        device = next(self.network.parameters()).device
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            reblurred = self.network(window[None].to(device))
        blurred: Tensor = reblurred[0].float().clamp(0, 1).to(window.device)
        return blurred

    @property
    def drowned(self) -> str | None:
        """One line where one loss drowned the other when the network was fitted to a clip, or None."""
        ratios = [row[RATIO] for row in self.history if RATIO in row]
        remedy = "use --balance, which weighs both alike, or one of them alone (--reblur-losses)"
        return drowned(ratios[-1], ("the adversarial loss", "L_cycle"), remedy) if ratios else None

    def ready(self, device: torch.device, *, bf16: bool = False) -> NetworkReblurrer:
        """A frozen copy on a device, to make patches with."""
        return replace(self, network=frozen(self.network).to(device), bf16=bf16)

    def describe(self) -> dict[str, Any]:
        """Size, how it was adapted, the critic's scores at the first and last step, how both losses pulled (JSON)."""
        first, last = (self.history[0], self.history[-1]) if self.history else ({}, {})
        gaps = [row["real"] - row["made"] if "real" in row else None for row in (first, last)]
        return {
            "name": self.name,
            "parameters": sum(weight.numel() for weight in self.network.parameters()),
            "steps": len(self.history),
            "critic_gap": gaps if self.history else None,
            RATIO: [row[RATIO] for row in self.history if RATIO in row],
            "drowned": self.drowned,
            "updates": asdict(self.updates) if self.updates else None,
            "motion": self.motion.describe() if self.motion else None,
        }


class ReblurStage:
    """The networks and optimisers of the stage that fits a reblurrer and its critic to a clip; one item a step.

    Networks are copied. The deblurrer is frozen; with ``shared_adam`` it moves too, at ``lr_deblurrer``.

    Raises:
        MetadeblurError: the adversarial loss is wanted and there is no critic.
    """

    def __init__(
        self,
        reblurrer: NetworkReblurrer,
        deblurrer: nn.Module,
        updates: ReblurUpdates,
        *,
        loss: Loss | None = None,
        lr_deblurrer: float = 2.5e-6,
        bf16: bool = False,
    ) -> None:
        self.updates, self.loss, self.bf16, self._steps = updates, loss, bf16, 0
        self.motion = reblurrer.motion
        self.device = next(deblurrer.parameters()).device
        self.reblurrer = self._movable(reblurrer.network)
        self.deblurrer = (
            self._movable(deblurrer) if updates.shared_adam else frozen(deblurrer).train(updates.train_mode)
        )
        self.critic: nn.Module | None = None
        groups: list[dict[str, Any]] = [{"params": trainable(self.reblurrer), "lr": updates.lr_reblurrer}]
        if updates.shared_adam:
            groups += stepped_at(self.deblurrer, trainable(self.deblurrer), lr_deblurrer)
        self.optimizer = torch.optim.Adam(groups)
        if updates.losses in ("both", "gan"):
            if reblurrer.critic is None:
                raise MetadeblurError(
                    f"the reblurrer has no critic, and losses {updates.losses!r} need one; use losses 'cycle' or 'none'"
                )
            self.critic = self._movable(reblurrer.critic)
            self.critic_optimizer = critic_optimizer(
                self.critic, updates.critic.lr_critic, updates.critic.critic_optimizer
            )

    def _movable(self, net: nn.Module) -> nn.Module:
        return copy.deepcopy(net).to(self.device).train(self.updates.train_mode).requires_grad_(True)

    def step(self, item: Item) -> Terms:
        """One critic step, then one reblurrer step with the same made patch and the updated critic (Eq. 3 and 4).

        Returns:
            The loss terms before the steps; "real" and "made" are the critic's scores, "adversarial" and "cycle" L_adv
            and L_cycle, unweighted. At the first step and every 20th, where both count, also "gradient_ratio", see
            :func:`metadeblur.reblur.balance.gradient_ratio`.
        """
        window, real = item.window[None].to(self.device), item.real[None].to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            fed = _middle(window, int(self.reblurrer.frames))  # type: ignore[arg-type]
            told = () if item.path is None else (item.path[None].to(self.device),)
            reblurred = self.reblurrer(fed, *told).float()
        terms: Terms = {}
        parts: list[Tensor] = []
        if self.critic is not None:
            terms |= critic_step(self.critic, self.critic_optimizer, real, reblurred.detach(), self.updates.critic)
            adversarial = adversarial_term(self.critic, reblurred, self.updates.critic)
            terms["adversarial"] = adversarial.item()
            parts.append(self.updates.adversarial * adversarial)
        if self.updates.losses in ("both", "cycle"):
            frames = traits(self.deblurrer).frames

            def deblur_loss(blurred: Tensor, sharp: Tensor) -> Tensor:
                return own_loss(self.deblurrer, with_centre(window, blurred, frames), sharp, self.loss, bf16=self.bf16)

            back = cycle(deblur_loss, reblurred, window[:, window.shape[1] // 2])
            terms["cycle"] = back.item()
            parts.append(self.updates.cycle * back)
        if len(parts) == 2 and self.updates.adversarial and self.updates.cycle:
            if self.updates.critic.balance:
                weight = self.updates.adversarial * adaptive_weight(parts[0], parts[1], self.reblurrer)
                parts[0] = weight * parts[0]
            if self._steps % EVERY == 0:
                terms[RATIO] = gradient_ratio(parts[0], parts[1], self.reblurrer)
        self._steps += 1
        loss = torch.stack(parts).sum()
        terms["loss"] = loss.item()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return terms

    def result(self, history: Sequence[Terms] = ()) -> NetworkReblurrer:
        """The adapted reblurrer, frozen in evaluation mode."""
        critic = None if self.critic is None else self.critic.eval().requires_grad_(False)
        network = self.reblurrer.eval().requires_grad_(False)
        return NetworkReblurrer(network, critic, self.bf16, tuple(history), self.updates, self.motion)


def critic_step(
    critic: nn.Module,
    optimizer: torch.optim.Optimizer,
    real: Tensor,
    reblurred: Tensor,
    settings: CriticSettings,
    *,
    average: Callable[[Iterable[nn.Parameter]], None] | None = None,
) -> Terms:
    """One step of the critic on real and reblurred patches (B, 3, H, W), then the clip or norm of its weights.

    Args:
        critic: (B, 3, H, W) -> (B,); changed.
        optimizer: of its weights.
        real: really blurred patches.
        reblurred: not clamped to [0, 1], without gradient.
        settings: kind of loss and bound.
        average: averages the gradients over the processes that train together.

    Returns:
        Before the step: "real" and "made", the mean scores, and "critic", the loss.
    """
    scores = critic(real), critic(reblurred)
    loss = critic_loss(*scores, settings.adversarial_kind)
    bound = bound_of(critic, settings)
    if bound == "penalty":
        loss = loss + settings.critic_penalty * gradient_penalty(critic, real, reblurred)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if average is not None:
        average(critic.parameters())
    optimizer.step()
    hold(critic, bound, settings.critic_clip)
    return {"real": scores[0].mean().item(), "made": scores[1].mean().item(), "critic": loss.item()}


def bound_of(critic: nn.Module, settings: CriticSettings) -> CriticBound:
    """How a critic is bounded: as the settings say, or else as it was when it was trained, or else by the clip."""
    own: CriticBound | None = getattr(critic, "bound", None)
    wanted = settings.critic_bound
    return own or "clip" if wanted == "trained" else wanted


def adversarial_term(critic: nn.Module, reblurred: Tensor, settings: CriticSettings) -> Tensor:
    """L_adv of reblurred patches, with gradient to them but none to the critic's weights."""
    critic.requires_grad_(False)
    term = generator_loss(critic(reblurred), settings.adversarial_kind)
    critic.requires_grad_(True)
    return term


def fit_stage(
    stage: ReblurStage,
    items: Sequence[Item],
    *,
    seconds: float = 0.0,
    progress: Callable[[int, int, AdaptStage], None] | None = None,
) -> tuple[list[Terms], str | None]:
    """All steps of the stage over the items, in their order, ``passes`` times, or for so many seconds (0: no limit).

    Returns:
        The terms of each step, with "step" and "seconds"; and None, or why the result cannot be used.
    """
    history: list[Terms] = []
    began = time.monotonic()
    total = stage.updates.passes * len(items)
    for number in range(total):
        terms = stage.step(items[number % len(items)])
        history.append({"step": number, **terms, "seconds": time.monotonic() - began})
        if progress:
            progress(number + 1, total, "fit the reblurrer")
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        if broken:
            return history, f"the reblurrer's {broken[0]} is not finite at step {number}; the base model is used"
        if 0 < seconds < time.monotonic() - began:
            break
    return history, None


def collect(
    clip: Clip,
    places: Sequence[Place],
    frames: int,
    real: RealSample,
    generator: torch.Generator,
    motion: FlowReblurrer | None = None,
) -> list[Item]:
    """The items of a clip's support set, with windows of an odd number of frames; the paths are of a ``motion``.

    Real is the most blurred co-located patch, as the paper says; or that of a neighbouring frame drawn at random, at
    most two away, as the release does (docs/fidelity.md, real sample).
    """
    clip, items = as_clip(clip), []
    for place in places:
        if real == "blurriest":
            sample = real_blurred(clip, place)
        else:
            near = [place.frame + offset for offset in (-2, -1, 1, 2) if 0 <= place.frame + offset < len(clip)]
            frame = near[int(torch.randint(len(near), (), generator=generator))]
            rows, columns = (slice(start, start + place.size) for start in (place.top, place.left))
            sample = clip[frame][:, rows, columns].clone()
        path = None if motion is None else motion.path_at(place)
        items.append(Item(place_window(clip, place, frames), sample, path))
    return items


def with_centre(window: Tensor, centre: Tensor, frames: int) -> Tensor:
    """A deblurrer's input (B, frames, 3, P, P): the window's middle frames with another centre; or this alone for one.

    >>> window = torch.zeros(1, 5, 3, 2, 2)
    >>> with_centre(window, torch.ones(1, 3, 2, 2), 3).mean((2, 3, 4)).tolist()
    [[0.0, 1.0, 0.0]]
    """
    if frames == 1:
        return centre
    middle = _middle(window, frames)
    return torch.cat([middle[:, : frames // 2], centre[:, None], middle[:, frames // 2 + 1 :]], dim=1)


def _middle(window: Tensor, frames: int) -> Tensor:
    """The middle ``frames`` of a window (B, N, 3, P, P)."""
    first = window.shape[1] // 2 - frames // 2
    return window[:, first : first + frames]

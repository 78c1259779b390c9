"""Pre-train the reblurring network with its critic on paired clips (``metadeblur train reblur``).

"Meta Transferring for Deblurring" (Liu et al., BMVC 2022), section 4: windows of five sharp frames become the blurred
centre; Charbonnier plus adversarial loss, batch 8, crops of 256, flips and rotations, Adam with 1e-4 and a cosine to
1e-8 over 1000 epochs of GoPro's 2,103 frames. No deblurrer is trained beside it (docs/fidelity.md, pre-training), and
the critic's rate falls over all steps as the reblurrer's does (docs/fidelity.md, critic's schedule).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metadeblur.data.ahead import Ahead, loading_threads
from metadeblur.data.layouts import plain_clips
from metadeblur.data.pairs import FrameCache
from metadeblur.data.windows import Windows, WindowSampler
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.pictures import Picture, side_by_side, to_uint8
from metadeblur.models.critic import Critic, VGGCritic, critic_optimizer
from metadeblur.models.forward import uses_bf16
from metadeblur.models.losses import charbonnier
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.told_reblurring import ToldReblurNetwork, blur_along, told_motion, told_paths
from metadeblur.pipeline.console import Terminal
from metadeblur.reblur.balance import EVERY, RATIO, adaptive_weight, drowned, gradient_ratio
from metadeblur.reblur.fitting import NetworkReblurrer, adversarial_term, bound_of, critic_step
from metadeblur.training.loop import Trainee, follow, run
from metadeblur.training.settings import ReblurTraining
from metadeblur.training.tracking import Callback
from metadeblur.training.workers import TrainingProcess, join

VALIDATION_BATCH = 4  # windows at once
ROUNDING = 1 / (12 * 255**2)  # squared error that 8 bits make: below it windows in which nothing moves tell nothing
SHOWN = 3  # validation windows in the sample pictures


class ReblurTrainee(Trainee):
    """A reblurring network, the running mean of its weights, its critic, their optimisers and data."""

    def __init__(
        self,
        start: NetworkReblurrer,
        settings: ReblurTraining,
        workers: TrainingProcess,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.settings, self.workers, self.device, self._say = settings, workers, workers.device, say
        self._ratio: dict[str, float] = {}  # of both losses' gradients, when last looked at; empty: not yet
        self._warned = False
        self.net = start.network.to(self.device).train().requires_grad_(True)
        self.mean = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=settings.learning_rate)
        self.critic: nn.Module | None = None
        if settings.adversarial > 0:
            critic = None if settings.new_critic else start.critic
            if critic is None:
                critic = Critic(settings.critic_channels, settings.critic_input)
                critic.bound = "spectral"
            if isinstance(critic, Critic | VGGCritic):  # its file says how to go on
                critic.bound = bound_of(critic, settings.critic)
            self.critic = critic.to(self.device).train().requires_grad_(True)
            self.critic_optimizer = critic_optimizer(
                self.critic, settings.critic.lr_critic, settings.critic.critic_optimizer
            )
        self.bf16 = uses_bf16(settings.precision, self.device)
        cache, frames, share = FrameCache(), start.frames, workers.share(settings.batch)
        sampler = WindowSampler(
            [clip for root in settings.clips for clip in plain_clips(Path(root))],
            patch=settings.patch,
            seed=settings.loop.seed,
            frames=frames,
            flip=settings.flip,
            rotate=settings.rotate,
            cache=cache,
        )
        self.data = Ahead(lambda number: sampler(number, share), loading_threads(self.device))
        held_out = [clip for root in settings.validation for clip in plain_clips(Path(root))]
        self.held_out: WindowSampler | None = None
        if held_out:
            self.held_out = WindowSampler(held_out, patch=settings.patch, seed=1, frames=frames, cache=cache)

    def step(self, number: int, rate: float) -> dict[str, float]:
        """One step of the critic, then one of the reblurrer with the same made patches."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        batch = self.data(number)
        sharp, blurred = batch.sharp.to(self.device), batch.blurred.to(self.device)
        reblurred = self._reblurred(self.net, sharp, told_paths(self.net, sharp, blurred))
        fidelity = charbonnier(reblurred, blurred)
        figures = {"loss": fidelity.item()}
        loss = fidelity
        if self.critic is not None:
            for group in self.critic_optimizer.param_groups:
                group["lr"] = settings.critic.lr_critic * rate
            terms = critic_step(
                self.critic,
                self.critic_optimizer,
                blurred,
                reblurred.detach(),
                settings.critic,
                average=self.workers.average_gradients,
            )
            adversarial = adversarial_term(self.critic, reblurred, settings.critic)
            term = settings.adversarial * adversarial
            if settings.critic.balance:
                term = settings.adversarial * adaptive_weight(term, fidelity, self.net) * term
            loss = loss + term
            figures |= self._looked(number, term, fidelity)
            figures |= {"critic": terms["critic"], "critic_gap": terms["real"] - terms["made"]}
            figures["adversarial"] = adversarial.item()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.workers.average_gradients(self.net.parameters())
        longest = settings.clip_gradient or float("inf")
        figures["gradient"] = float(nn.utils.clip_grad_norm_(self.net.parameters(), longest))
        self.optimizer.step()
        follow(self.mean, self.net, settings.ema, number)
        return figures

    def _looked(self, number: int, adversarial: Tensor, fidelity: Tensor) -> dict[str, float]:
        """How many times as hard the weighted adversarial loss pulls as Charbonnier, looked at now and then.

        Told once where one drowns the other; with balance, by far more than it was asked to.
        """
        if number % EVERY == 0 or not self._ratio:
            self._ratio = {RATIO: gradient_ratio(adversarial, fidelity, self.net)}
            ratio, weight = self._ratio[RATIO], self.settings.adversarial
            remedy = f"give --adversarial {weight / ratio:.2g}" if ratio else "give a larger --adversarial"
            remedy += "" if self.settings.critic.balance else ", or --balance"
            names = "the adversarial loss", "the Charbonnier loss"
            told = drowned(ratio, names, remedy)
            asked = weight if self.settings.critic.balance else 1.0
            if told and drowned(ratio / asked, names, remedy) and not self._warned:
                self._say(f"step {number}: {told}")
                self._warned = True
        return self._ratio

    def state_dict(self) -> dict[str, Any]:
        """The state of every part, and the ratio that the log goes on with."""
        return super().state_dict() | {"ratio": self._ratio}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().load_state_dict(state)
        self._ratio = state.get("ratio", {})

    def validate(self, number: int) -> dict[str, float]:
        """On held-out windows, for the mean weights.

        Returns:
            Mean PSNR in dB against the true blurred patch, of what the network makes (``psnr_made``), of the sharp
            centre as it is (``psnr_centre``) and, for a network that is told the motion, blurred along it alone
            (``psnr_motion``); what the network gains over the centre (``gain``), and the critic's mean score of real
            patches less that of made ones (``critic_gap``).
        """
        del number
        if self.held_out is None:
            return {}
        measured = ("psnr_made", "psnr_centre", "psnr_motion", "critic_gap")
        figures: dict[str, list[float]] = {name: [] for name in measured}
        for first in range(0, self.settings.validation_windows, VALIDATION_BATCH):
            batch, reblurred, paths = self._held_out(range(first, first + VALIDATION_BATCH))
            pictures = {"psnr_made": reblurred.clamp(0, 1), "psnr_centre": batch.centre}
            for path in paths:
                pictures["psnr_motion"] = blur_along(batch.centre, path.cpu())
            for name, picture in pictures.items():
                error = (picture - batch.blurred).square().flatten(1).mean(1)
                figures[name] += (-10 * torch.log10(error.clamp(min=ROUNDING))).tolist()
            if self.critic is not None:
                with torch.inference_mode():
                    scores = [self.critic(part.to(self.device)) for part in (batch.blurred, reblurred)]
                figures["critic_gap"] += (scores[0] - scores[1]).tolist()
        means = {name: float(np.mean(values)) for name, values in figures.items() if values}
        return {**means, "gain": means["psnr_made"] - means["psnr_centre"]}

    def pictures(self, number: int) -> dict[str, Picture]:
        """Held-out windows: the sharp centre, what the network makes of it, and the true blurred patch."""
        del number
        if self.held_out is None:
            return {}
        batch, reblurred, _ = self._held_out(range(SHOWN))
        rows = [
            side_by_side([to_uint8(part[index]) for part in (batch.centre, reblurred, batch.blurred)])
            for index in range(SHOWN)
        ]
        return {"sharp_made_blurred": np.concatenate(rows)}

    def _held_out(self, numbers: range) -> tuple[Windows, Tensor, tuple[Tensor, ...]]:
        """Held-out windows, what the mean weights make of them, on the CPU, and the paths if they are told any."""
        assert self.held_out is not None
        batch = self.held_out(0, numbers)
        sharp, blurred = batch.sharp.to(self.device), batch.blurred.to(self.device)
        with torch.inference_mode():
            paths = told_paths(self.mean, sharp, blurred)
            reblurred = self._reblurred(self.mean, sharp, paths).cpu()
        return batch, reblurred, paths

    def _reblurred(self, net: nn.Module, sharp: Tensor, paths: tuple[Tensor, ...]) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            reblurred: Tensor = net(sharp, *paths)
        return reblurred.float()

    def result(self) -> NetworkReblurrer:
        """The running mean of the network, and the critic."""
        return NetworkReblurrer(self.mean, self.critic)

    def rates(self, rate: float) -> dict[str, float]:
        """The reblurrer's, and its critic's where there is one."""
        rates = {"learning_rate": self.settings.learning_rate * rate}
        return rates if self.critic is None else rates | {"rate_critic": self.settings.critic.lr_critic * rate}

    def parts(self) -> dict[str, Any]:
        """The network, the mean of its weights, its critic, and the optimisers."""
        parts: dict[str, Any] = {"net": self.net, "mean": self.mean, "optimizer": self.optimizer}
        if self.critic is not None:
            parts |= {"critic": self.critic, "critic_optimizer": self.critic_optimizer}
        return parts


def train_reblur(
    settings: ReblurTraining,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
    callback: Callback | None = None,
) -> Path:
    """Train a reblurring network and its critic, and write ``out/reblurrer.safetensors`` (half precision).

    ``callback`` is called with the figures, see :func:`metadeblur.training.loop.run`.

    Raises:
        MetadeblurError: no clips, a setting out of range, or see :func:`metadeblur.training.loop.run`.
    """
    from metadeblur.reblur.weights import load_reblurrer, save_reblurrer

    if not settings.clips:
        raise MetadeblurError("no training clips; give a folder of paired clips, for instance one that synth made")
    workers = join(torch.device(device))
    torch.manual_seed(settings.loop.seed)
    start = load_reblurrer(settings.start) if settings.start else NetworkReblurrer(new_network(settings))
    if settings.motion and isinstance(start.network, ReblurNetwork):
        start = replace(start, network=told_motion(start.network))
    say = Terminal(quiet=quiet or not workers.leads).say
    trainee = ReblurTrainee(start, settings, workers, say)
    how: dict[str, Any] = {"resume": resume, "quiet": quiet, "workers": workers, "callback": callback}
    steps = run(trainee, settings.loop, out, items=settings.batch, **how)
    target = out / "reblurrer.safetensors"
    if workers.leads:
        save_reblurrer(trainee.result(), target, {"steps": str(steps)}, half=True)
    return target


def new_network(settings: ReblurTraining) -> ReblurNetwork:
    """The network that training from nothing starts with.

    >>> sum(p.numel() for p in new_network(ReblurTraining()).parameters())
    10436979
    """
    kind = ToldReblurNetwork if settings.motion else ReblurNetwork
    return kind(
        channels=settings.channels,
        units=settings.units,
        width=settings.width,
        blocks=settings.blocks,
        heads=settings.heads,
    )

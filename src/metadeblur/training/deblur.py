"""Train a deblurrer on paired clips (``metadeblur train deblur``)."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metadeblur.data.ahead import Ahead, loading_threads
from metadeblur.data.layouts import plain_clips
from metadeblur.data.pairs import Batch, PairSampler
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.pictures import Picture, side_by_side, to_uint8
from metadeblur.models.adapted import unwrapped
from metadeblur.models.forward import own_loss, uses_bf16, whole_picture
from metadeblur.models.lite import Lite
from metadeblur.models.losses import balanced, charbonnier, psnr_loss
from metadeblur.models.registry import ARCHITECTURES, Loss, final, traits
from metadeblur.training.loop import Trainee, follow, run
from metadeblur.training.settings import DeblurTraining
from metadeblur.training.tracking import Callback
from metadeblur.training.workers import TrainingProcess, join

LOSSES: dict[str, Loss] = {"balanced": balanced, "charbonnier": charbonnier, "psnr": psnr_loss}


class DeblurTrainee(Trainee):
    """A deblurrer, the running mean of its weights, its optimiser and its data."""

    def __init__(
        self, net: nn.Module, settings: DeblurTraining, device: torch.device, workers: TrainingProcess | None = None
    ) -> None:
        self.settings, self.device = settings, device
        self.bf16 = uses_bf16(settings.precision, device)
        self.workers = workers or TrainingProcess(device)
        self.share = self.workers.share(settings.batch)
        self.net: nn.Module = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        loop = settings.loop
        frames, motion = traits(net).frames, isinstance(net, Lite)
        sampler = PairSampler(
            [clip for root in settings.clips for clip in plain_clips(Path(root))],
            patch=settings.patch,
            batch=settings.batch,
            seed=loop.seed,
            frames=frames,
            motion=motion,
            identity=settings.identity,
            alone=settings.alone,
            easy=settings.easy,
            colours=settings.colours,
            targets=traits(net).window_target,
        )
        self.data = Ahead(lambda number: sampler(number, self.share), loading_threads(device))
        held_out = [clip for root in settings.validation for clip in plain_clips(Path(root))]
        self.held_out = (
            PairSampler(held_out, patch=settings.patch, batch=8, seed=1, frames=frames, motion=motion, easy=0.0)
            if held_out
            else None
        )

    def step(self, number: int, rate: float) -> dict[str, float]:
        """One gradient step of AdamW on a batch of patches."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate
        batch = self.data(number)
        loss = self._loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.workers.average_gradients(self.net.parameters())
        length = nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.clip_gradient)
        self.optimizer.step()
        follow(self.mean, self.net, self.settings.ema, number)
        return {"loss": loss.item(), "gradient": float(length)}

    def validate(self, number: int) -> dict[str, float]:
        """Mean PSNR in dB over blurred held-out patches: of the blurred input, and of the mean weights' output."""
        del number
        if self.held_out is None:
            return {}
        scores: dict[str, list[Tensor]] = {"blurred": [], "base": []}
        for index in range(8):
            batch = self.held_out(index)
            with torch.inference_mode():
                restored = self._forward(self.mean, batch).clamp(0, 1).cpu()
            for name, picture in (("blurred", batch.centre), ("base", restored)):
                error = (picture - batch.sharp).square().flatten(1).mean(1)
                scores[name].append(-10 * torch.log10(error + 1e-5))
        return {name: float(torch.cat(values).mean()) for name, values in scores.items()}

    def pictures(self, number: int) -> dict[str, Picture]:
        """Two held-out patches: blurred, restored by the mean weights, sharp."""
        del number
        if self.held_out is None:
            return {}
        batch = self.held_out(0)
        with torch.inference_mode():
            restored = self._forward(self.mean, batch).clamp(0, 1).cpu()
        rows = [
            side_by_side([to_uint8(part[index]) for part in (batch.centre, restored, batch.sharp)])
            for index in range(min(2, len(restored)))
        ]
        return {"blurred_restored_sharp": np.concatenate(rows)}

    def _loss(self, batch: Batch) -> Tensor:
        """The loss of the network being trained on a batch."""
        sharp, name = batch.sharp.to(self.device), self.settings.loss
        if isinstance(self.net, Lite):
            chosen = traits(self.net).loss if name == "own" else LOSSES[name]
            return chosen(self._forward(self.net, batch), sharp)
        other = None if name == "own" else partial(_of_the_final_picture, LOSSES[name])
        if other is None and batch.targets is not None:  # CDVD-TSP's first pass learns from its frames' own truth
            sharp = batch.targets.to(self.device)
        return own_loss(self.net, batch.blurred.to(self.device), sharp, other, bf16=self.bf16)

    def _forward(self, net: nn.Module, batch: Batch) -> Tensor:
        """The full-size picture (B, 3, P, P) that a network gives for a batch."""
        blurred = batch.blurred.to(self.device)
        ready: Tensor | None = None
        if isinstance(net, Lite):  # its motion was worked out once for each frame
            flows = None if batch.flows is None else batch.flows.to(self.device)
            ready = net.prepare_window(blurred, flows).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            if isinstance(net, Lite) and ready is not None:
                return net.deblur_prepared(ready).float()
            return whole_picture(net, blurred)

    def rates(self, rate: float) -> dict[str, float]:
        """AdamW's."""
        return {"learning_rate": self.settings.learning_rate * rate}

    def parts(self) -> dict[str, Any]:
        """The network, the mean of its weights, and the optimiser."""
        return {"net": self.net, "mean": self.mean, "optimizer": self.optimizer}


def new_network(settings: DeblurTraining) -> nn.Module:
    """The network that training from nothing starts with.

    >>> type(new_network(DeblurTraining(network="mprnet", size="small"))).__name__
    'MPRNet'

    Raises:
        MetadeblurError: no such network, or it has no small form.
    """
    entry = ARCHITECTURES[settings.network]
    build = entry.published if settings.size == "published" else entry.small
    if build is None:
        able = ", ".join(name for name, entry in ARCHITECTURES.items() if entry.small is not None)
        raise MetadeblurError(f"{settings.network} has no small form; those that have: {able}")
    return build()


def _of_the_final_picture(loss: Loss, output: Any, sharp: Tensor) -> Tensor:
    return loss(final(output), sharp)


def train_deblur(
    settings: DeblurTraining,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
    callback: Callback | None = None,
) -> Path:
    """Train a deblurrer and write ``out/weights.safetensors`` (the running mean, half precision).

    ``callback`` is called with the figures, see :func:`metadeblur.training.loop.run`.

    Raises:
        MetadeblurError: no clips, an unknown network, loss or precision, or see
            :func:`metadeblur.training.loop.run`.
    """
    from metadeblur.models.weights import load_deblurrer, save_deblurrer

    if not settings.clips:
        raise MetadeblurError("no training clips; give a folder of paired clips, for instance one that synth made")
    workers = join(torch.device(device))
    torch.manual_seed(settings.loop.seed)
    # What is trained on other clips is no longer adapted to one.
    net = unwrapped(load_deblurrer(settings.start)).train() if settings.start else new_network(settings)
    if not isinstance(net, ARCHITECTURES[settings.network].network):
        raise MetadeblurError(f"{settings.start} holds weights of another network than {settings.network} (--network)")
    trainee = DeblurTrainee(net, settings, workers.device, workers)
    how: dict[str, Any] = {"resume": resume, "quiet": quiet, "workers": workers, "callback": callback}
    steps = run(trainee, settings.loop, out, items=settings.batch, **how)
    target = out / "weights.safetensors"
    if workers.leads:
        save_deblurrer(trainee.mean, target, {"architecture": settings.network, "steps": str(steps)}, half=True)
    return target

"""Meta-train a deblurrer and a reblurring network, so that a few steps on a clip help more (``metadeblur train meta``).

"Meta Transferring for Deblurring" (Liu et al., BMVC 2022), section 3.4: a task is a training clip. A copy of both
networks adapts to it as at test time, from its blurred frames alone (:func:`metadeblur.adaptation.stages.adapt`); what
the adapted copies get wrong on the clip's true pairs moves the meta-weights (:mod:`metadeblur.training.outer`). The
weights that count are those after the last step (docs/fidelity.md, which checkpoint).

With flow pairs (``inner="flow"``) the deblurrer alone adapts, as :func:`~metadeblur.adaptation.stages.adapt` does by
default, and is meta-trained alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metadeblur.adaptation.places import MINIMUM_FRAMES
from metadeblur.adaptation.stages import AdaptSettings, adapt
from metadeblur.clip import Clip
from metadeblur.data.layouts import ClipFolder, plain_clips
from metadeblur.data.paired import PairedClip, PictureFiles
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.pictures import Picture, side_by_side, to_uint8
from metadeblur.imaging.quality import psnr
from metadeblur.models.adapted import unwrapped
from metadeblur.models.forward import frozen, uses_bf16, whole_picture
from metadeblur.models.registry import recognise, traits
from metadeblur.reblur.fitting import NetworkReblurrer
from metadeblur.restoration.clips import restore
from metadeblur.system.names import counted
from metadeblur.training.loop import Trainee, follow, run
from metadeblur.training.outer import RATES, LayerRates, MetaLearner, Query, query_set, starting
from metadeblur.training.settings import MetaTraining
from metadeblur.training.tracking import Callback
from metadeblur.training.workers import TrainingProcess, join


class MetaTrainee(Trainee):
    """A meta-learner with its tasks."""

    def __init__(
        self,
        reblurrer: NetworkReblurrer | None,
        deblurrer: nn.Module,
        settings: MetaTraining,
        workers: TrainingProcess,
    ) -> None:
        self.settings, self.workers = settings, workers
        if settings.outer.outer_step == "frame" and workers.world > 1:
            raise MetadeblurError(
                "outer steps for each frame cannot be shared by processes; use --outer-step clip, or one"
            )
        bf16 = uses_bf16(settings.precision, workers.device)
        self.learner = MetaLearner(
            reblurrer, deblurrer, settings.outer, workers, bf16=bf16, first_rate=settings.first_rate
        )
        self.share, self.place, self.sharing = workers.team(settings.tasks)
        self.clips = _tasks(settings.clips)
        self.held_out = _tasks(settings.validation)[: settings.validation_clips]
        own = traits(deblurrer).frames
        self.frames = (own if reblurrer is None else reblurrer.frames, own)
        self.means: dict[str, nn.Module] = {}
        if settings.ema > 0:
            self.means = {name: frozen(net) for name, net in self.learner.networks.items()}

    def step(self, number: int, rate: float) -> dict[str, float]:
        """One outer step on the next clip, or batch of clips."""
        self.learner.clear()
        rows = []
        for task in self.share:
            folder = self._clip(number * self.settings.tasks + task)
            seed = _seed(self.settings.loop.seed, number, task)
            rows.append(self._learn(folder, seed, rate))
        figures = {name: fmean(row[name] for row in rows) for name in rows[0]}
        # Without anything learnt, an Adam would go on by its moments alone.
        learnt = self.workers.average({"diverged": figures["diverged"]})["diverged"] < 1
        figures["gradient"] = self.learner.step(rate) if learnt and self.settings.outer.outer_step == "clip" else 0.0
        for name, mean in self.means.items():
            follow(mean, self.learner.networks[name], self.settings.ema, number)
        rates = self.learner.networks.get(RATES)
        if isinstance(rates, LayerRates):
            factors = rates.rates().values()
            found = {"least": min(factors), "mean": fmean(factors), "most": max(factors)}
            figures |= {f"step_rate_{name}": value for name, value in found.items()}
        return figures

    def _clip(self, number: int) -> ClipFolder:
        """The clip of a task: every epoch takes each once, in an order of its own."""
        epoch, place = divmod(number, len(self.clips))
        order = np.random.default_rng((self.settings.loop.seed, epoch)).permutation(len(self.clips))
        return self.clips[int(order[place])]

    def _learn(self, folder: ClipFolder, seed: int, rate: float) -> dict[str, float]:
        """Adapt to a clip and learn from its query set; a task whose adaptation diverges teaches nothing."""
        pair = self._task(folder, seed)
        reblurrer, deblurrer = self.learner.start()
        figures = dict.fromkeys(("support", *self.learner.losses, "diverged"), 0.0)
        fused: Clip | None = None
        if self.sharing > 1:  # those that share a task adapt alike, whatever they draw beside the adaptation's own seed
            torch.manual_seed(seed)
        if self.settings.outer.algorithm != "plain":
            outcome = adapt(deblurrer, pair.blurred, settings=self._adaptation(seed), reblurrer=reblurrer)
            if outcome.adapted is None:
                return {**figures, "diverged": 1.0}
            if self.settings.outer.fused:
                fused = restore(outcome.adapted, pair.blurred)
            reblurrer = outcome.reblurrer if isinstance(outcome.reblurrer, NetworkReblurrer) else None
            deblurrer = unwrapped(outcome.adapted)
            figures["support"] = fmean(row["loss"] for row in outcome.history)
        every = self._queries(pair, seed, fused)
        queries = every[self.place :: self.sharing]
        share = 1 / len(self.share)
        if self.settings.outer.algorithm != "reptile":
            share *= self.sharing  # of a sum over frames, of which this process adds a part
        fitted = None if reblurrer is None else reblurrer.network
        learnt = self.learner.learn(fitted, deblurrer, queries, share=share, rate=rate)
        # Means over this process's frames, so weighted that their mean over the processes is that over all frames.
        weight = len(queries) * self.sharing / len(every)
        return figures | {name: value * weight for name, value in learnt.items()}

    def _task(self, folder: ClipFolder, seed: int) -> PairedClip:
        """A clip, or the piece of it that this task is."""
        return _read(folder, self.settings.crop, seed)

    def _queries(self, pair: PairedClip, seed: int, fused: Clip | None = None) -> list[Query]:
        patch = self._adaptation(seed).patch
        return query_set(pair, self.frames, patch, self.settings.query_frames, seed, fused)

    def _adaptation(self, seed: int) -> AdaptSettings:
        return self.settings.adaptation(seed).changed(device=self.workers.device)

    def validate(self, number: int) -> dict[str, float]:
        """On held-out clips: what one adaptation from the meta-weights wins.

        Returns:
            Mean PSNR in dB over query patches, of the blurred input, of the meta-weights (``psnr_before``) and of the
            adapted weights (``psnr_after``), the difference (``gain``), and, where there is a reblurring network, of
            its patches against the blurred ones (``psnr_reblurred``).
        """
        del number
        rows = [self._measure(folder)[0] for folder in self.held_out]
        if not rows:
            return {}
        means = {name: fmean(row[name] for row in rows) for name in rows[0]}
        return {**means, "gain": means["psnr_after"] - means["psnr_before"]}

    def pictures(self, number: int) -> dict[str, Picture]:
        """A query patch of the first held-out clip: blurred, by the meta-weights, by the adapted weights, sharp."""
        del number
        if not self.held_out:
            return {}
        parts = self._measure(self.held_out[0])[1]
        return {"blurred_before_after_sharp": side_by_side([to_uint8(part) for part in parts])}

    def _measure(self, folder: ClipFolder) -> tuple[dict[str, float], list[Tensor]]:
        """Figures of one held-out clip, and the pictures of its first query patch."""
        seed = _seed(self.settings.loop.seed, 0, 0)
        pair = self._task(folder, seed)
        reblurrer, deblurrer = starting(self.means or self.learner.networks, self.learner.critic)
        outcome = adapt(deblurrer, pair.blurred, settings=self._adaptation(seed), reblurrer=reblurrer)
        adapted = deblurrer if outcome.adapted is None else unwrapped(outcome.adapted)
        queries = self._queries(pair, seed)
        rows: list[dict[str, float]] = []
        shown: list[Tensor] = []
        for query in queries:
            sharp, blurred = (part[part.shape[0] // 2] for part in (query.sharp, query.blurred))
            before, after = (self._deblurred(net, query) for net in (deblurrer, adapted))
            kinds = (("blurred", blurred, sharp), ("before", before, sharp), ("after", after, sharp))
            figures = {f"psnr_{name}": float(psnr(one, other)) for name, one, other in kinds}
            if reblurrer is not None:
                figures["psnr_reblurred"] = float(psnr(reblurrer.blur(query.sharp), blurred))
            rows.append(figures)
            shown = shown or [blurred, before, after, sharp]
        return {name: fmean(row[name] for row in rows) for name in rows[0]}, shown

    def _deblurred(self, net: nn.Module, query: Query) -> Tensor:
        window = query.blurred
        frames = window if traits(net).frames > 1 else window[len(window) // 2]
        with torch.no_grad():
            return whole_picture(net, frames[None].to(self.workers.device))[0].clamp(0, 1).cpu()

    def result(self) -> tuple[NetworkReblurrer | None, nn.Module]:
        """The meta-trained reblurrer with the critic as it was, where there is one, and the meta-trained deblurrer."""
        return starting(self.means or self.learner.networks, self.learner.critic)

    def rates(self, rate: float) -> dict[str, float]:
        """Those of both outer optimisers."""
        return {f"rate_{name}": base * rate for name, base in self.learner.rates.items()}

    def parts(self) -> dict[str, Any]:
        """Meta-weights, their means, and the outer optimisers with their moments."""
        means = {f"mean_{name}": net for name, net in self.means.items()}
        optimizers = {f"{name}_optimizer": optimizer for name, optimizer in self.learner.optimizers.items()}
        return self.learner.networks | means | optimizers


def train_meta(
    settings: MetaTraining,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
    callback: Callback | None = None,
) -> tuple[Path | None, Path]:
    """Meta-train, and write ``out/weights.safetensors`` (the deblurrer, with its layers' rates where they are learnt).

    Beside it ``out/reblurrer.safetensors``, unless pairs are made by flow: then there is none. The weights are those
    after the last step: a rule, not a choice (docs/fidelity.md, which checkpoint).

    ``callback`` is called with the figures, see :func:`metadeblur.training.loop.run`.

    Raises:
        MetadeblurError: no clips, clips too short, a setting out of range, or see :func:`metadeblur.training.loop.run`.
    """
    from metadeblur.models.weights import load_deblurrer, save_deblurrer
    from metadeblur.reblur.weights import load_reblurrer, save_reblurrer

    if not settings.clips:
        raise MetadeblurError("no training clips; give a folder of paired clips, for instance one that synth made")
    workers = join(torch.device(device))
    torch.manual_seed(settings.loop.seed)
    deblurrer = unwrapped(load_deblurrer(settings.model))
    start = load_reblurrer(settings.reblurrer) if settings.fits_reblurrer else None
    trainee = MetaTrainee(start, deblurrer, settings, workers)
    how: dict[str, Any] = {"resume": resume, "quiet": quiet, "workers": workers, "callback": callback}
    steps = run(trainee, settings.loop, out, **how)
    target = out / "weights.safetensors"
    beside = None if start is None else out / "reblurrer.safetensors"
    if workers.leads:
        reblurrer, deblurrer = trainee.result()
        about = {"steps": str(steps), "algorithm": settings.outer.algorithm}
        if reblurrer is not None and beside is not None:
            save_reblurrer(reblurrer, beside, about)
        name = recognise(deblurrer.state_dict()) or "unknown"
        inner = {"inner": settings.inner, "inner_steps": str(settings.inner_steps)}
        save_deblurrer(deblurrer, target, {"architecture": name, "base": settings.model, **inner, **about})
    return beside, target


def _seed(run: int, step: int, task: int) -> int:
    """A seed of its own for each task of each step."""
    return int(np.random.default_rng((run, step, task)).integers(2**31))


def _read(folder: ClipFolder, crop: int = 0, seed: int = 0) -> PairedClip:
    """A clip, or a piece of it at a place that the seed draws; frames are decoded when they are asked for, once."""
    files = [PictureFiles(side) for side in (folder.blurred, folder.sharp)]
    height, width = files[0][0].shape[-2:]
    rows, columns = (min(crop or length, length) for length in (height, width))
    rng = np.random.default_rng((seed, 2))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    sides = (_Piece(side, slice(top, top + rows), slice(left, left + columns)) for side in files)
    return PairedClip(*(Clip(side if crop else side.frames, name=folder.name) for side in sides))


@dataclass(frozen=True)
class _Piece:
    """The same piece of every frame."""

    frames: PictureFiles
    rows: slice
    columns: slice

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int, /) -> Tensor:
        return self.frames[index][:, self.rows, self.columns]


def _tasks(roots: Sequence[str]) -> list[ClipFolder]:
    """The clips below some folders, of which each is long enough to adapt to.

    Raises:
        MetadeblurError: no clips, or one too short.
    """
    clips = [clip for root in roots for clip in plain_clips(Path(root))]
    short = next((clip for clip in clips if len(clip.blurred) < MINIMUM_FRAMES), None)
    if short is not None:
        raise MetadeblurError(
            f"{short.name} has {counted(len(short.blurred), 'frame')}; a task needs {MINIMUM_FRAMES} or more: "
            f"take it away, or make clips with metadeblur synth --frames {MINIMUM_FRAMES} or more"
        )
    return clips

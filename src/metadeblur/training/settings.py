"""How networks are trained: every setting of the commands ``train ...``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from metadeblur.adaptation.settings import AdaptSettings, preset
from metadeblur.limits import (
    Count,
    CountOrNone,
    Crop,
    LearningRate,
    OutOfRange,
    Past,
    Rate,
    Seed,
    Share,
    Steps,
    TrainingBatch,
    TrainingPatch,
    Weight,
    Within,
    check,
    spelt,
)
from metadeblur.reblur.settings import CriticSettings
from metadeblur.types import Algorithm, CriticInput, Moving, Network, OuterStep, Precision, Tracker


@spelt
@dataclass(frozen=True)
class LoopSettings:
    """How long, how fast and how safely a training runs."""

    steps: Annotated[int, Within(1, 1_000_000_000)] = 100_000  # gradient steps in all
    warmup: Annotated[int, Within(0, 1_000_000_000)] = 200  # steps over which the learning rate rises
    # of the learning rate: level, half a cosine over all steps, or step: lowered every so many steps
    schedule: Literal["level", "cosine", "step"] = "level"
    # last steps over which a level rate falls to zero (before, a run can be prolonged)
    decay: Annotated[int, Within(0, 1_000_000_000)] = 0
    floor: Share = 0.0  # share of the learning rate that a cosine ends at
    # steps after which the schedule step lowers the rate, again and again
    step_every: Annotated[int, Within(1, 1_000_000_000)] = 100_000
    step_factor: Share = 0.5  # what it then multiplies the rate by
    checkpoint_minutes: Annotated[float, Within(0, 100_000)] = 4.0  # time between checkpoints
    # steps between checkpoints that are kept for good, in the folder checkpoints; 0: only the last two are
    keep_steps: Annotated[int, Within(0, 1_000_000_000)] = 0
    validate_steps: Annotated[int, Within(1, 1_000_000_000)] = 1000  # steps between validations
    log_steps: Annotated[int, Within(1, 1_000_000_000)] = 50  # steps whose mean makes one line of log.csv
    seed: Seed = 0  # the randomness of the whole run
    tensorboard: bool = False  # also write the figures for TensorBoard
    track: Tracker = "none"  # also send the figures to Weights & Biases (wandb) or MLflow, where that is installed

    def __post_init__(self) -> None:
        check(self)


@spelt
@dataclass(frozen=True)
class DeblurTraining:
    """Settings of ``train deblur``."""

    network: Network = "lite"  # name of the network, as metadeblur models lists them
    size: Literal["published", "small"] = "published"  # small: reduced, for experiments; the paper's networks have it
    clips: tuple[str, ...] = ()  # folders with paired clips, <clip>/{blur,sharp}
    validation: tuple[str, ...] = ()  # folders with paired clips that are never trained on
    batch: TrainingBatch = 8  # patches a step
    patch: TrainingPatch = 160  # side of a patch in px
    learning_rate: LearningRate = 1e-3  # of AdamW, at its highest
    # own (what the network's paper trains with), balanced, charbonnier or psnr
    loss: Literal["own", "balanced", "charbonnier", "psnr"] = "own"
    identity: Share = 0.15  # share of patches that are sharp on both sides
    alone: Share = 0.08  # share of windows that stand still and repeat their centre, as a single picture does
    easy: Share = 0.2  # chance that a drawn patch is used whose two sides are more than 33 dB alike
    ema: Past = 0.999  # weight of the past in the running mean of the weights, which is what is kept
    clip_gradient: Annotated[float, Within(0, 1_000_000, above=True)] = 0.5  # longest gradient (2-norm)
    precision: Precision = "auto"  # auto (bf16 where native), bf16 (mixed) or fp32
    colours: bool = True  # draw the order of the colour channels anew for each patch
    start: str = ""  # weights to start from (safetensors); empty: from nothing
    loop: LoopSettings = field(default_factory=LoopSettings)

    def __post_init__(self) -> None:
        check(self)


@spelt
@dataclass(frozen=True)
class ReblurTraining:
    """Settings of ``train reblur``; the defaults are the paper's, but for the critic."""

    clips: tuple[str, ...] = ()  # folders with paired clips, <clip>/{blur,sharp}
    validation: tuple[str, ...] = ()  # folders with paired clips that are never trained on
    validation_windows: Count = 64  # windows of them that are reblurred, always the same
    channels: Annotated[int, Within(1, 4096)] = 32  # of the network at full size
    units: Annotated[int, Within(1, 100)] = 3  # residual units a level
    width: Annotated[int, Within(1, 65_536)] = 256  # of a token in the fusion blocks
    blocks: Annotated[int, Within(1, 1000)] = 4  # fusion blocks
    heads: Annotated[int, Within(1, 1024)] = 4  # of every attention
    batch: TrainingBatch = 8  # windows a step, over all processes
    patch: TrainingPatch = 256  # side of a patch in px
    flip: bool = True  # mirror half of the windows
    rotate: bool = True  # turn windows by quarter turns
    learning_rate: LearningRate = 1e-4  # of Adam, at its highest
    # weight of the adversarial loss, with balance: how hard it pulls beside Charbonnier; 0: no critic is trained
    adversarial: Weight = 0.1
    critic_channels: tuple[Annotated[int, Within(1, 65_536)], ...] = (32, 64, 128)  # of the critic's convolutions
    # what a new critic sees of a patch: rgb (the patch as it is, as published), centred (its colours less their mean),
    # highpass (its fine detail), or gradients
    critic_input: CriticInput = "gradients"
    new_critic: bool = False  # train a critic anew where the weights to start from hold one
    critic: CriticSettings = field(default_factory=lambda: CriticSettings(lr_critic=5e-5, balance=True))
    motion: bool = False  # tell the network the clip's motion: the sharp centre read along the path of each pixel
    ema: Past = 0.999  # weight of the past in the running mean of the weights, which is what is kept
    clip_gradient: Weight = 0.0  # longest gradient of the reblurrer (2-norm); 0: any
    precision: Precision = "auto"  # auto (bf16 where native), bf16 (mixed) or fp32
    start: str = ""  # weights to start from (safetensors); empty: from nothing
    loop: LoopSettings = field(
        default_factory=lambda: LoopSettings(steps=263_000, warmup=0, schedule="cosine", floor=1e-4)
    )

    def __post_init__(self) -> None:
        check(self)


@spelt
@dataclass(frozen=True)
class OuterUpdate:
    """How meta-weights learn from a task."""

    algorithm: Algorithm = "first-order"  # first-order (Eq. 7), reptile, or plain (no inner update, for comparison)
    lr_deblurrer: Rate = 2.5e-6  # of the deblurrer's Adam
    lr_reblurrer: Rate = 1e-6  # of the reblurrer's
    # one for the sum over a clip's frames, or one a query batch (the release)
    outer_step: OuterStep = "clip"
    # query frames at once: more takes more memory and, with a step a clip, gives the same
    query_batch: Annotated[int, Within(1, 65_536)] = 1
    # charbonnier, or charbonnier_edge (the release)
    reblur_loss: Literal["charbonnier", "charbonnier_edge"] = "charbonnier"
    reptile: Share = 0.5  # share of the way to the adapted weights that Reptile goes
    clip_gradient: Weight = 0.0  # longest gradient of each network (2-norm); 0: any
    # judge an adapted deblurrer by its frames once they are fused and corrected, as they ship, not by its output alone
    fused: bool = False
    # of the Adam that learns a rate of the inner update for each layer (its logarithm); 0: all move at one rate
    lr_rates: Rate = 0.0

    def __post_init__(self) -> None:
        check(self)
        if self.lr_rates and (self.algorithm != "first-order" or self.outer_step != "clip"):
            raise OutOfRange(
                "lr_rates", f"is {self.lr_rates:g}; rates are learnt with algorithm first-order and outer_step clip"
            )
        if self.fused and self.algorithm != "first-order":
            raise OutOfRange("algorithm", f"is {self.algorithm!r}; fused frames are judged with first-order")


@spelt
@dataclass(frozen=True)
class MetaTraining:
    """Settings of ``train meta``; the defaults are the paper's. 0 means what the inner update's preset has."""

    clips: tuple[str, ...] = ()  # folders with paired clips, <clip>/{blur,sharp}; each clip is a task
    validation: tuple[str, ...] = ()  # folders with paired clips that are never trained on
    validation_clips: CountOrNone = 3  # of them that are adapted to at each validation
    model: str = "lite"  # the deblurrer to start from: a model's name or a weight file
    reblurrer: str = ""  # weights of the reblurring network with its critic, from train reblur
    # preset of the inner update; flow: what adapt does by default
    inner: Literal["paper", "release", "flow"] = "paper"
    pairs: Annotated[int, Within(1, 10_000, also=0)] = 0  # M of the inner update; 0: the preset's
    # side of support and query patches in px; 0: the preset's
    patch: Annotated[int, Within(32, 8192, also=0)] = 0
    inner_steps: Steps = 0  # gradient steps of the deblurrer in the inner update; 0: the preset's
    # its learning rate in the inner update; 0: the preset's. Where rates are learnt, what every layer's begins with
    inner_lr: Rate = 0.0
    inner_lr_reblurrer: Rate = 1e-6  # the reblurrer's, in the inner update of the preset "paper"
    inner_parameters: Moving = "all"  # which of its weights move in the inner update
    # side of the piece of a clip's frames, at a place drawn for each task, that is the task, px; 0: whole frames
    crop: Crop = 0
    tasks: Annotated[int, Within(1, 65_536)] = 1  # clips an outer step, over all processes
    query_frames: CountOrNone = 0  # frames of a clip whose losses are summed, drawn at random; 0: all of them
    outer: OuterUpdate = field(default_factory=OuterUpdate)
    ema: Past = 0.0  # weight of the past in a running mean of the meta-weights, which is then kept; 0: none
    precision: Precision = "auto"  # auto (bf16 where native), bf16 (mixed) or fp32
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=66, warmup=0, log_steps=1, validate_steps=22))

    def __post_init__(self) -> None:
        check(self)
        if self.reblurrer and not self.fits_reblurrer:
            fault = "inner flow blurs by the clip's own motion: leave it out, or give inner paper or release"
            raise OutOfRange("reblurrer", f"is {self.reblurrer!r}; {fault}")
        if self.inner == "release" and self.inner_parameters != "all":
            raise OutOfRange("inner_parameters", f"is {self.inner_parameters!r}; the preset release moves all of them")

    @property
    def fits_reblurrer(self) -> bool:
        """Whether the inner update fits a reblurring network, which is then meta-trained too."""
        return preset(self.inner).reblur == "network"

    @property
    def first_rate(self) -> float:
        """What the layers' rates begin with, as a factor of the preset's learning rate."""
        usual = preset(self.inner).lr
        return (self.inner_lr or usual) / usual

    def adaptation(self, seed: int) -> AdaptSettings:
        """The inner update's settings: the preset's own, without the guard's judgement.

        Of flow pairs places are held out as ever, for which those are that is learnt from depends on it.
        """
        base = preset(self.inner)
        given = {"pairs": self.pairs, "patch": self.patch, "steps": self.inner_steps}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value}
        if self.inner_lr and not self.outer.lr_rates:
            changes["lr"] = self.inner_lr
        if self.inner == "paper":
            changes["updates"] = replace(base.updates, lr_reblurrer=self.inner_lr_reblurrer)
        if self.fits_reblurrer:
            changes["held_out"] = 0.0
        return base.changed(
            **changes,
            fuse=base.fuse or self.outer.fused,
            parameters=self.inner_parameters,
            precision=self.precision,
            guard=False,
            seed=seed,
        )

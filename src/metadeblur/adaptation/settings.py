"""How a deblurrer adapts to a clip: every setting, and the presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from metadeblur.errors import MetadeblurError
from metadeblur.limits import (
    YEAR,
    CountOrNone,
    LearningRate,
    Pairs,
    Patch,
    Seed,
    Share,
    Steps,
    Within,
    check,
    keep_plain,
    meant,
    spelt,
)
from metadeblur.reblur.settings import ReblurUpdates
from metadeblur.types import Device, Method, Moving, Precision


@spelt
@dataclass(frozen=True)
class AdaptSettings:
    """How a deblurrer adapts to a clip."""

    pairs: Pairs = 24  # M: places whose pseudo-sharp patch is reblurred
    blurs: Annotated[int, Within(1, 100)] = 2  # different blurs made for each place
    steps: Steps = 80  # gradient steps; 0: no weights are learnt, frames are only fused and corrected
    lr: LearningRate = 2.2e-4  # learning rate of Adam
    patch: Patch = 192  # side of a patch in px; shrinks to fit small frames
    batch: Annotated[int, Within(1, 1024)] = 1  # pairs a step
    # where the blur comes from: flow (the clip's optical flow), network (the paper's), auto (now: flow)
    reblur: Literal["auto", "flow", "network"] = "auto"
    method: Method = "guided"  # choice of places; random: as in the paper
    restore_first: bool = True  # restore the pseudo-sharp patches with the base model before flow blurs them again
    # px of its own blur from which flow shrinks a restored patch too; 0: never
    shrink_from: Annotated[float, Within(0, 1000)] = 1.2
    still: Share = 0.05  # share of a video deblurrer's pairs with a sharp centre, where sharp and blurred take turns
    margin: CountOrNone = 0  # frames at each end of the clip that give no pseudo-sharp patch; the release: 2
    # steps are counted as passes through the pairs; 0: there are as many steps as ``steps`` says
    passes: Annotated[int, Within(0, 10_000)] = 0
    shuffle: bool = True  # draw the order of the pairs anew for each pass
    mirror: bool = True  # mirror and transpose each batch at random
    average: Share = 1.0  # share of the steps, the last ones, over which the weights are averaged; 0: the last weights
    reblurrer: str = ""  # weight file of the reblurring network and its critic; none: the built-in one
    updates: ReblurUpdates = field(default_factory=ReblurUpdates)  # how that network is fitted to the clip
    # what moves: all, or a part that takes less memory (last: the last stage, or the finest decoder level)
    parameters: Moving = "all"
    fuse: bool = True  # fuse restored frames with neighbours that show the same sharper (metadeblur.restoration.fusion)
    back_project: bool = True  # correct fused frames by what they leave unexplained of the blurred ones
    held_out: Share = 0.25  # further places, as a share of M, that only the guard sees
    # let the guard keep, weaken or drop the adaptation; cheap: it looks at one place and two held-out pairs, for sweeps
    guard: bool | Literal["cheap"] = True
    precision: Precision = "auto"  # of the gradient steps: auto (bf16 where native), bf16 or fp32
    # adapt within about this time, with fewer pairs and steps; 0: no limit
    budget_seconds: Annotated[float, Within(0, YEAR)] = 0.0
    device: Device | None = None  # none: where the network is; auto: cuda where there is one
    seed: Seed = 0  # the only source of randomness

    def __post_init__(self) -> None:
        keep_plain(self)
        check(self)
        if self.updates.shared_adam and self.parameters != "all":
            raise MetadeblurError(f"parameters is {self.parameters!r}; the preset release moves all of them")

    def steps_on(self, pairs: int) -> int:
        """Gradient steps of the deblurrer on so many pairs.

        >>> AdaptSettings(batch=2, passes=3).steps_on(5)
        9
        """
        return self.passes * math.ceil(pairs / self.batch) if self.passes else self.steps

    def changed(self, **overrides: Any) -> AdaptSettings:
        """The settings with some fields changed; a number of steps replaces a number of passes.

        >>> preset("paper").changed(steps=40).steps_on(20)
        40
        """
        if "steps" in overrides:
            overrides.setdefault("passes", 0)
        return replace(self, **overrides)


def preset(name: str) -> AdaptSettings:
    """The settings called "quick", "balanced" (or "flow"), "best", "paper" or "release".

    "quick" learns no weights: frames of the base model are fused and corrected where the guard's votes let it.
    "balanced" is the usual; "best" learns longer, from more pairs.

    "paper" is the inner update as the paper says it: M = 20 random places of 256x256, reblurrer and critic by L_adv +
    0.01 L_cycle, all pairs made once, one pass of a fresh Adam over them, evaluation mode throughout. "release" differs
    as the authors' released code does (docs/fidelity.md, deblurrer frozen, fresh Adam, real sample, loss weights,
    learning rates, clip ends): it moves the deblurrer in the reblurrer's stage too (its FFT loss of MIMO-UNet,
    docs/fidelity.md, FFT loss, is ``loss=partial(multiscale_fft, transform="1d")``). Both keep this program's own guard
    and the places that it holds out; ``guard=False, held_out=0`` is without.

    >>> preset("paper").lr, preset("release").lr
    (2.5e-06, 2.5e-06)

    Raises:
        MetadeblurError: no such preset.
    """
    efforts = {
        "flow": AdaptSettings(),
        "balanced": AdaptSettings(),
        "quick": AdaptSettings(steps=0),
        "best": AdaptSettings(pairs=60, steps=240, batch=2, patch=256, lr=1.5e-4),
    }
    if name in efforts:
        return efforts[name]
    paper = AdaptSettings(
        reblur="network",
        method="random",
        pairs=20,
        patch=256,
        restore_first=False,
        shrink_from=0.0,
        still=0.0,
        fuse=False,
        blurs=1,
        batch=1,
        passes=1,
        lr=2.5e-6,
        mirror=False,
        average=0.0,
        updates=ReblurUpdates(),
    )
    if name == "paper":
        return paper
    if name == "release":
        updates = ReblurUpdates(adversarial=0.99, lr_reblurrer=2.5e-6, real="neighbour", shared_adam=True)
        return replace(paper, margin=2, updates=updates)
    allowed = (*efforts, "paper", "release")
    raise MetadeblurError(
        f"effort or preset {name!r} is not known; allowed: {', '.join(allowed)}{meant(name, allowed)}"
    )

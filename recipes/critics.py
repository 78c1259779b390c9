"""What each kind of critic tells: blur, what the reblurring network makes, or only how bright a patch is.

    python recipes/critics.py CLIPS [--reblurrer FILE] [--steps 600] [--seeds 3] [-o critics.csv]

Critics of every input and bound are trained for some minutes on patches of paired clips (``metadeblur synth``): really
blurred ones against what a reblurring network, which stays as it is, makes of the sharp windows. They are measured on
clips that they did not see. docs/results/critic.md has the table and says what was expected.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import torch
import tyro
from torch import Tensor

from metadeblur.data.layouts import plain_clips
from metadeblur.data.windows import WindowSampler
from metadeblur.models.critic import Critic, critic_optimizer
from metadeblur.reblur.fitting import adversarial_term, critic_step
from metadeblur.reblur.settings import CriticSettings
from metadeblur.reblur.weights import load_reblurrer
from metadeblur.types import CriticBound, CriticInput

LEVEL = 1 / 255


@dataclass(frozen=True)
class Critics:
    """Train critics of every kind on the same patches and measure what they tell."""

    clips: Annotated[Path, tyro.conf.Positional]  # folder of paired clips; the last fifth is measured on
    reblurrer: str = "reblurrer"  # weights of the reblurring network
    steps: int = 600  # of each critic
    seeds: int = 3
    batch: int = 8
    patch: int = 96  # px
    patches: int = 384  # to train on; a quarter as many to measure on
    lr: float = 5e-5  # of RMSprop
    inputs: tuple[CriticInput, ...] = get_args(CriticInput)
    bounds: tuple[CriticBound, ...] = get_args(CriticBound)
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("critics.csv")


@dataclass(frozen=True)
class Patches:
    """Co-located patches (N, 3, P, P)."""

    sharp: Tensor
    blurred: Tensor
    made: Tensor


def patches_of(options: Critics) -> tuple[Patches, Patches]:
    """Patches to train on and to measure on, of different clips."""
    clips = plain_clips(options.clips)
    some = max(1, len(clips) // 5)
    reblurrer = load_reblurrer(options.reblurrer)
    parts = []
    for chosen, count in ((clips[:-some], options.patches), (clips[-some:], options.patches // 4)):
        batch = WindowSampler(chosen, patch=options.patch, seed=0, frames=reblurrer.frames)(0, range(count))
        with torch.no_grad():
            made = torch.cat([reblurrer.network(window[None]) for window in batch.sharp])
        parts.append(Patches(batch.centre, batch.blurred, made))
    return parts[0], parts[1]


def trained(kind: tuple[CriticInput, CriticBound], seed: int, patches: Patches, options: Critics) -> Critic:
    """A critic of one kind."""
    torch.manual_seed(seed)
    critic, settings = Critic(sees=kind[0]), CriticSettings(lr_critic=options.lr, critic_bound=kind[1])
    optimizer = critic_optimizer(critic, settings.lr_critic)
    for _ in range(options.steps):
        chosen = torch.randint(len(patches.made), (options.batch,))
        critic_step(critic, optimizer, patches.blurred[chosen], patches.made[chosen], settings)
    return critic.eval()


def measured(critic: Critic, patches: Patches) -> dict[str, float]:
    """What a critic tells, and where it would lead the network."""
    rows, columns = patches.made.shape[-2:]
    across = torch.linspace(-1, 1, columns).expand(rows, columns)
    shade = LEVEL * across / across.square().mean().sqrt()
    with torch.no_grad():
        sharp, real, made = (critic(part) for part in (patches.sharp, patches.blurred, patches.made))
        level, shading = ((critic(patches.blurred + by) - real).abs().mean() for by in (LEVEL, shade))
    asked = patches.made.clone().requires_grad_()
    adversarial_term(critic, asked, CriticSettings()).backward()
    wanted, pull = patches.blurred - patches.made, -asked.grad
    mean = pull.mean((2, 3), keepdim=True).expand_as(pull)
    cosine = (wanted * pull).flatten(1).sum(1) / (wanted.flatten(1).norm(dim=1) * pull.flatten(1).norm(dim=1) + 1e-20)
    return {
        "blurred_less_sharp": float((real - sharp).mean()),
        "real_less_made": float((real - made).mean()),
        "a_level": float(level),
        "a_shade": float(shading),
        "blurred_above_sharp": float((real > sharp).float().mean()),
        "real_above_made": float((real > made).float().mean()),
        "towards_the_truth": float(cosine.mean()),
        "pull_on_brightness": float(mean.square().sum() / pull.square().sum()),
    }


def main(options: Critics) -> None:
    """Train, measure, write a line for each critic."""
    training, held_out = patches_of(options)
    rows = []
    for sees in options.inputs:
        for bound in options.bounds:
            for seed in range(options.seeds):
                critic = trained((sees, bound), seed, training, options)
                rows.append({"input": sees, "bound": bound, "seed": seed, **measured(critic, held_out)})
                print(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else str(value)
                                for name, value in rows[-1].items()), file=sys.stderr, flush=True)  # fmt: skip
    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(tyro.cli(Critics))

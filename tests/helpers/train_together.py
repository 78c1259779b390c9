"""What the processes of a test run: each training for a few steps, into the folder of its name."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from metadeblur.models.lite import Lite
from metadeblur.training import deblur
from metadeblur.training.deblur import train_deblur
from metadeblur.training.meta import train_meta
from metadeblur.training.reblur import train_reblur
from metadeblur.training.settings import DeblurTraining, LoopSettings, MetaTraining, OuterUpdate, ReblurTraining


def train_all(material: Path, out: Path) -> None:
    """Train a deblurrer, a reblurrer and both by meta-training on the clips and weights of ``material``."""
    torch.set_num_threads(1)
    clips = (str(material / "train"),)
    loop = LoopSettings(steps=3, warmup=0, log_steps=1, validate_steps=3, checkpoint_minutes=0.0)
    deblur.new_network = lambda _: Lite(channels=(8, 8), encoder=(1, 1), decoder=(1,), fold=2)
    train_deblur(
        DeblurTraining(clips=clips, batch=4, patch=32, precision="fp32", loop=loop), out / "deblur", quiet=True
    )
    reblur = ReblurTraining(
        clips=clips,
        validation=clips,
        validation_windows=4,
        channels=4,
        units=1,
        width=8,
        blocks=1,
        heads=2,
        batch=4,
        patch=32,
        critic_channels=(4,),
        precision="fp32",
        loop=loop,
    )
    train_reblur(reblur, out / "reblur", quiet=True)
    meta = MetaTraining(
        clips=clips,
        model=str(material / "deblurrer.safetensors"),
        reblurrer=str(material / "reblurrer.safetensors"),
        pairs=2,
        patch=32,
        tasks=2,
        outer=OuterUpdate(lr_deblurrer=1e-3, lr_reblurrer=1e-3),
        precision="fp32",
        loop=replace(loop, steps=2),
    )
    train_meta(meta, out / "meta", quiet=True)
    train_meta(replace(meta, tasks=1), out / "meta_shared", quiet=True)  # one task: its query frames are shared


if __name__ == "__main__":
    train_all(Path(sys.argv[1]), Path(sys.argv[2]))

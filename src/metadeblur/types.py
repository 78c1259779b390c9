"""Choices that settings, functions and flags share; each is written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Matching:
    """The texts that a setting may be: those that match a pattern as a whole, and the same in words."""

    pattern: str
    words: str


if TYPE_CHECKING:
    Device: TypeAlias = str | torch.device
else:
    Device = Annotated[
        str, Matching(r"auto|cpu|(cuda|mps|xpu)(:\d{1,3})?", "auto, cpu, cuda, cuda:N, mps or xpu (N: 0, 1, ...)")
    ]
"""What computes: PyTorch's name of it, or a ``torch.device``, which settings keep by its name."""

Response = Literal["srgb", "gamma22", "linear"]
"""How display values depend on light: the sRGB curve, a plain power of 2.2, or not at all (values are light)."""
TokenOrder = Literal["own", "published"]
CriticOptimizer = Literal["rmsprop", "adam"]
CriticInput = Literal["rgb", "centred", "highpass", "gradients"]
"""What a critic sees of a patch: it all, its colours less their mean, its fine detail, or its gradients."""
CriticBound = Literal["clip", "penalty", "spectral"]
"""How a critic is kept from growing steep: its weights are clipped, its gradient is penalised, or layers are normed."""
AdversarialKind = Literal["wgan", "hinge", "lsgan"]
ReblurLosses = Literal["both", "gan", "cycle", "none"]
RealSample = Literal["blurriest", "neighbour"]
Method = Literal["guided", "random"]
SsimKind = Literal["luma", "rgb", "matlab", "aligned"]
Algorithm = Literal["first-order", "reptile", "plain"]
OuterStep = Literal["clip", "frame"]
Moving = Literal["all", "norms-and-biases", "decoder", "last", "low-rank"]
"""What moves of a network that adapts (:mod:`metadeblur.adaptation.parameters`)."""
Codec = Literal["auto", "h264", "h265", "av1", "vp9", "ffv1"]
RawPixels = Literal[
    "yuv420p", "yuv411p", "yuv422p", "yuv444p", "gray", "yuv420p9le", "yuv420p10le", "yuv420p12le", "yuv420p14le",
    "yuv420p16le", "yuv422p9le", "yuv422p10le", "yuv422p12le", "yuv422p14le", "yuv422p16le", "yuv444p9le",
    "yuv444p10le", "yuv444p12le", "yuv444p14le", "yuv444p16le", "gray9le", "gray10le", "gray12le", "gray16le",
]  # fmt: skip
"""Layouts of raw frames, by FFmpeg's names: those that y4m can hand on."""
Precision = Literal["auto", "fp32", "bf16"]
"""Numbers of the work; auto: bf16 where the device has it natively, otherwise fp32."""
Network = Literal[
    "lite", "mimo-unet", "mimo-unet-plus", "mprnet", "restormer", "cdvd-tsp", "nafnet-32", "nafnet-64", "maxim"
]
"""Networks that can be built by name (:mod:`metadeblur.models.registry`)."""
Tracker = Literal["none", "wandb", "mlflow"]
"""Where the figures of a training also go."""
Effort = Literal["quick", "balanced", "best"]
"""How much is spent on a clip: no weights are learnt, the usual, or more pairs and steps."""
AdaptStage = Literal["fit the reblurrer", "adapt"]
"""What the steps of an adaptation are spent on."""
Unlearnt = Literal["off", "picture", "short", "small", "still", "quick", "time"]
"""Why no weights were learnt: switched off, a picture, too few frames, too small, nothing moves, quick, no time."""
ShotOutcome = Literal["untouched", "base", "partly", "adapted"]
"""What became of a shot: left as it is, or restored by the base model, a part of the adaptation, or all of it."""

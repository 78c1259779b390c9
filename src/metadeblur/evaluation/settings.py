"""Settings of an evaluation, and the conditions on which its figures depend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.data.layouts import Benchmark
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.forms import PUBLISHED, reblurrer_form
from metadeblur.evaluation.measures import measure_for
from metadeblur.evaluation.methods import find_method
from metadeblur.evaluation.perceptual import describe
from metadeblur.limits import CountOrNone, Crop, Processes, check, spelt
from metadeblur.models.registry import recognise
from metadeblur.models.weights import built_in_path, checksum, parameters_digest, read_reblurrer
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.json_files import plain

ROWS = ("blurred", "base", "adapted", "oracle")


@spelt
@dataclass(frozen=True)
class EvaluateSettings:
    """What is measured and how."""

    rows: tuple[str, ...] = ROWS  # blurred is always measured
    methods: tuple[str, ...] = ("flow",)  # ways to adapt, see evaluation/methods.py; the first one is "adapted"
    meta: str = ""  # folder that "train meta" wrote: the networks that the method meta starts from; empty: lite's
    layout: str = "auto"  # of the folder of clips
    part: str = ""  # of a benchmark; empty: what its papers report
    inputs: str = "blur"  # GoPro's folder of blurred frames: blur or blur_gamma
    ssim: str = "auto"  # kind of SSIM; auto: as the papers on the benchmark take it
    perceptual: bool = False  # also LPIPS, DISTS and NIQE, by pyiqa: reported, never used to choose
    clips: tuple[str, ...] = ()  # names of the clips to measure; none: all
    crop: Crop = 0  # measure on the piece of this side in the middle of the frames, px; 0: whole frames
    frames: CountOrNone = 0  # measure on this many frames in the middle of each clip; 0: all
    adaptation: AdaptSettings = field(default_factory=AdaptSettings)
    restoration: RestoreSettings = field(default_factory=RestoreSettings)
    apart: tuple[str, ...] = ()  # names of clips whose mean is also given apart from the others'
    resume: bool = False  # keep what is there and do the rest
    workers: Processes = 1  # processes that measure clips side by side

    def __post_init__(self) -> None:
        check(self)
        strange = [row for row in self.rows if row not in ROWS]
        if strange:
            raise MetadeblurError(f"no row {strange[0]!r}; rows are {', '.join(ROWS)}")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise MetadeblurError(f"methods {', '.join(self.methods) or 'none'}: name one or more, each once")
        for method in self.methods:
            find_method(method)
        if "meta" in self.methods:
            meta_files(self.meta)

    def refuse(self, net: nn.Module, model: str) -> None:
        """Refuse a network that cannot be measured so.

        Raises:
            MetadeblurError: the method meta without a folder, for another network than the built-in one; or perceptual
                figures without what measures them.
        """
        if self.perceptual:
            describe()
        if "meta" in self.methods and not self.meta and recognise(net.state_dict()) != "lite":
            raise MetadeblurError(
                f"the method meta needs what metadeblur train meta wrote for {model} (--meta DIR); "
                "only lite's is built in"
            )

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Refuse names of clips that are none of these.

        Raises:
            MetadeblurError: names the first one, and those there are.
        """
        for wanted, purpose in ((self.clips, "measure"), (self.apart, "report apart")):
            unknown = sorted(set(wanted) - set(names))
            if unknown:
                raise MetadeblurError(f"no clip {unknown[0]!r} to {purpose}; clips are {', '.join(names)}")

    def conditions(self, net: nn.Module, model: str, benchmark: Benchmark) -> dict[str, Any]:
        """Everything that the figures depend on, as plain values.

        Raises:
            MetadeblurError: as :meth:`refuse`.
        """
        self.refuse(net, model)
        facts: dict[str, Any] = plain(
            self._reblurrer_read()
            | ({"perceptual": describe()} if self.perceptual else {})
            | {
                "model": model,
                "weights": parameters_digest(net)[:16],
                "rows": self.rows,
                "methods": self.methods,
                "meta": [checksum(path)[:16] for path in meta_files(self.meta)] if "meta" in self.methods else None,
                "layout": benchmark.layout,
                "part": benchmark.part,
                "inputs": benchmark.inputs,
                "measure": measure_for(benchmark.layout, self.ssim).describe(),
                "crop": self.crop,
                "frames": self.frames,
                "adapt": asdict(self.adaptation),
                "restore": asdict(self.restoration),
            }
        )
        return facts

    def _reblurrer_read(self) -> dict[str, Any]:
        """Checksums of the reblurring network and its critic, where a method takes them.

        Raises:
            MetadeblurError: they are not there, or broken.
        """
        if "finetune" not in self.methods or "adapted" not in self.rows:
            return {}
        parts = read_reblurrer(self.adaptation.reblurrer)
        return {"reblurrer": [None if part is None else parameters_digest(part)[:16] for part in parts]}

    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know of the networks that the methods take."""
        if "finetune" not in self.methods or "adapted" not in self.rows:
            return ()
        form = reblurrer_form(read_reblurrer(self.adaptation.reblurrer)[0])
        return () if form == PUBLISHED else (f"the reblurring network of finetune is {form}, not the paper's",)


NETWORKS = ("weights", "meta", "reblurrer")
"""The conditions that say which networks were measured, by content."""


def unnamed(conditions: dict[str, Any], *but: str) -> dict[str, Any]:
    """Conditions without the names that files had, which say nothing of what is in them, and without some others."""
    kept = {name: value for name, value in conditions.items() if name not in ("model", *but)}
    if isinstance(kept.get("adapt"), dict):
        kept["adapt"] = {name: value for name, value in kept["adapt"].items() if name != "reblurrer"}
    return kept


def meta_files(folder: str) -> tuple[Path, Path]:
    """The deblurrer and the reblurring network that ``metadeblur train meta`` wrote into a folder; "": built-in ones.

    Raises:
        MetadeblurError: not both are there.
    """
    if not folder:
        return built_in_path("lite-meta"), built_in_path("reblurrer-meta")
    files = Path(folder) / "weights.safetensors", Path(folder) / "reblurrer.safetensors"
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise MetadeblurError(
            f"the method meta needs what metadeblur train meta wrote (--meta DIR): {missing[0]} is not there"
        )
    return files

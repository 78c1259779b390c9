"""Data sets, networks and runs of the paper's experiments; each run is done once and kept.

Whatever is absent (data, weights) is an :class:`Absent` with the reason; the rest still runs. Every run is an
evaluation of its own in a folder of its own, so that a stopped experiment goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from torch import nn

from metadeblur.adaptation.stages import AdaptSettings, preset
from metadeblur.data.layouts import Benchmark, open_benchmark
from metadeblur.data.paired import read_trial
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.builtin import make_builtin
from metadeblur.evaluation.forms import PUBLISHED, network_form, reblurrer_form
from metadeblur.evaluation.protocol import EvaluateSettings, evaluate, read_records
from metadeblur.evaluation.records import Focus, Summary
from metadeblur.imaging.pictures import Picture, to_uint8
from metadeblur.limits import CountOrNone, Crop, Pairs, Patch, Processes, Steps, Within, check, keep_plain, spelt
from metadeblur.models.weights import (
    USUAL_REBLURRER,
    built_in_path,
    checksum,
    load_deblurrer,
    parameters_digest,
    reblurrer_path,
)
from metadeblur.paper.numbers import DATASETS, NETWORKS, PARTS, SSIM
from metadeblur.pipeline.time_left import Range, Work, expected, rough_costs
from metadeblur.reblur.weights import load_reblurrer
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.system.names import in_words
from metadeblur.types import Device, ReblurLosses

BUILT_IN = "builtin"

_SMALL_RATES = 40.0
"""What small experiments multiply the rates of the paper's inner update by: with its own, a dozen steps do nothing."""


@dataclass(frozen=True)
class Absent:
    """What is not there, and why."""

    reason: str


@spelt
@dataclass(frozen=True)
class ReproduceSettings:
    """Settings of an experiment.

    The folder of weights holds pre-trained networks as ``NETWORK.safetensors``, the pre-trained reblurring network as
    ``reblurrer.safetensors``, and what ``metadeblur train meta`` wrote for a network as the folder ``meta/NETWORK``.
    What is not there is taken from the installed weights; the built-in reblurring network, a reduced form, only with
    ``small``.
    """

    small: bool = False  # on any clips, with few steps: minutes instead of days
    weights: Path | None = None  # folder with NETWORK.safetensors, reblurrer.safetensors and meta/NETWORK, see below
    networks: tuple[str, ...] = ()  # names of networks; none: the paper's four, with small also lite
    apart: tuple[str, ...] = ()  # clips that are a data set of their own, such as those not made with optical flow
    pairs: tuple[Pairs, ...] = ()  # numbers of pairs M that figure6 compares
    seeds: Annotated[int, Within(1, 1000)] = 1  # runs that a mean is over
    frames: CountOrNone | None = None  # frames measured of each clip, in its middle; none: all, with small 8
    crop: Crop | None = None  # side of the piece that is measured, px; none: whole frames
    steps: Steps | None = None  # gradient steps of flow's adaptations; none: 40, with small 16
    patch: Patch | None = None  # side of the patches that are learnt from, px; none: 256, with small 96
    device: Device = "auto"  # what adapts
    restoration: RestoreSettings = field(default_factory=RestoreSettings)
    workers: Processes = 1  # processes that measure clips side by side; with several GPUs each takes one in turn
    flow: bool = True  # measure this program's own adaptation too: pairs by optical flow, guarded

    def __post_init__(self) -> None:
        keep_plain(self)
        check(self)


@dataclass
class Plan:
    """Data sets and networks of an experiment, and the folder of its runs.

    Attributes:
        datasets: label to clips.
        networks: label to (name, network).
        out: folder of the experiment.
        say: told before each run.
    """

    settings: ReproduceSettings
    datasets: dict[str, Benchmark | Absent]
    networks: dict[str, tuple[str, nn.Module] | Absent]
    out: Path
    say: Callable[[str], None]
    kept: dict[Path, Summary] = field(default_factory=dict)

    def absent(self) -> list[str]:
        """What is not there, one sentence each."""
        both = [*self.datasets.items(), *self.networks.items()]
        return [f"{label}: {part.reason}" for label, part in both if isinstance(part, Absent)]

    def here(self) -> tuple[dict[str, Benchmark], dict[str, tuple[str, nn.Module]]]:
        """The data sets and networks that are there."""
        datasets = {label: part for label, part in self.datasets.items() if isinstance(part, Benchmark)}
        networks = {label: part for label, part in self.networks.items() if not isinstance(part, Absent)}
        return datasets, networks

    def folder(self, dataset: str, network: str, variant: str, seed: int = 0) -> Path:
        """Where a run goes."""
        name = f"{variant}-seed{seed}" if seed else variant
        return self.out / "runs" / _slug(dataset) / _slug(network) / _slug(name)

    def reblurrer(self, network: str, *, meta: bool) -> str | Absent:
        """The weight file of the reblurring network: meta-trained beside a deblurrer, or as pre-trained."""
        if meta:
            return self._meta(network, "reblurrer.safetensors")
        own = self.settings.weights / "reblurrer.safetensors" if self.settings.weights is not None else None
        source = str(own) if own is not None and own.is_file() else ""
        if not source and not self.settings.small and reblurrer_path() == built_in_path(USUAL_REBLURRER):
            return Absent(
                "reblurrer.safetensors is not in the folder of --weights; metadeblur train reblur makes it "
                "(the built-in one is a reduced form, which only --small takes)"
            )
        try:
            load_reblurrer(source)
        except MetadeblurError as error:
            return Absent(str(error))
        return source

    def _meta(self, network: str, file: str) -> str | Absent:
        """A file of the folder that ``train meta`` wrote for a network."""
        folder = self.settings.weights / "meta" / network if self.settings.weights is not None else None
        if folder is None or not (folder / file).is_file():
            return Absent(f"meta/{network}/{file} is not in the folder of --weights; metadeblur train meta makes it")
        return str(folder / file)

    def is_meta_trained(self, network: str) -> bool:
        """Whether both networks are there that ``train meta`` made of one."""
        name = next((key for key, label in NETWORKS.items() if label == network), network)
        files = ("weights.safetensors", "reblurrer.safetensors")
        return not any(isinstance(self._meta(name, file), Absent) for file in files)

    def frame_in_focus(self, dataset: str, network: str) -> tuple[Picture, Focus]:
        """The whole blurred frame of the first clip that pictures show a piece of, and where the piece is."""
        summary = self.base(dataset, network)
        folder = next(clip for clip in self.here()[0][dataset].clips if clip.name == summary.clips[0])
        (record, *_) = read_records(self.folder(dataset, network, "base"), summary)
        assert record.focus is not None
        clip = read_trial(folder, crop=self.settings.crop or 0, frames=self._frames())
        return to_uint8(clip.whole[record.focus.frame]), record.focus

    def base(self, dataset: str, network: str) -> Summary:
        """The run that measures the blurred input and the network as it is."""
        return self._run(dataset, network, "base", rows=("blurred", "base"))

    def left_out(self, dataset: str, network: str) -> str | None:
        """Why a small experiment leaves a network out on a data set: its base is worse than the blurred input."""
        means = self.base(dataset, network).psnr
        if not self.settings.small or means["base"] >= means["blurred"]:
            return None
        below = f"{means['blurred'] - means['base']:.2f} dB below the blurred input"
        return f"{network} on {dataset} is left out: its base is {below}; train it longer"

    def flow(self, dataset: str, network: str, *, seed: int = 0, pairs: int = 0) -> Summary:
        """The run of this program's own adaptation: pairs by optical flow, guarded."""
        adaptation = AdaptSettings(
            pairs=pairs or self._pairs(),
            steps=self._steps(),
            patch=self._patch(),
            fuse=False,  # the experiments are about pairs and weights
            device=self.settings.device,
            seed=seed,
        )
        variant = f"flow-M{pairs}" if pairs else "flow"
        return self._run(dataset, network, variant, rows=("adapted",), adaptation=adaptation, seed=seed)

    def by_network(
        self, dataset: str, network: str, *, meta: bool, losses: ReblurLosses = "both", seed: int = 0, pairs: int = 0
    ) -> Summary | Absent:
        """The run of the paper's method, unguarded: meta-trained networks, or (fine-tuning) pre-trained ones."""
        name, net = self.here()[1][network]
        reblurrer = self.reblurrer(name, meta=meta)
        if isinstance(reblurrer, Absent):
            return reblurrer
        if meta:
            source = self._meta(name, "weights.safetensors")
            if isinstance(source, Absent):
                return source
            net = load_deblurrer(source)
        if losses in ("both", "gan") and load_reblurrer(reblurrer).critic is None:
            where = reblurrer or "the installed reblurring network"
            return Absent(
                f"{where} holds no critic, which the adversarial loss needs; metadeblur train reblur makes one"
            )
        paper = preset("paper")
        faster = _SMALL_RATES if self.settings.small else 1.0
        adaptation = paper.changed(
            pairs=pairs or self._pairs(),
            passes=2 if self.settings.small else paper.passes,
            lr=paper.lr * faster,
            patch=self._patch(),
            reblurrer=reblurrer,
            updates=replace(paper.updates.faster(faster), losses=losses),
            guard=False,
            held_out=0.0,
            device=self.settings.device,
            seed=seed,
        )
        parts = ["meta" if meta else "finetune", losses if losses != "both" else "", f"M{pairs}" if pairs else ""]
        variant = "-".join(part for part in parts if part)
        return self._run(dataset, network, variant, rows=("adapted",), adaptation=adaptation, net=net, seed=seed)

    def _pairs(self) -> int:
        return 8 if self.settings.small else 20

    def _steps(self) -> int:
        return self.settings.steps or (16 if self.settings.small else 40)

    def _patch(self) -> int:
        return self.settings.patch or (96 if self.settings.small else 256)

    def _run(
        self,
        dataset: str,
        network: str,
        variant: str,
        *,
        rows: tuple[str, ...],
        adaptation: AdaptSettings | None = None,
        net: nn.Module | None = None,
        seed: int = 0,
    ) -> Summary:
        """One evaluation, made or taken from an earlier run."""
        datasets, networks = self.here()
        name, own = networks[network]
        benchmark, out = datasets[dataset], self.folder(dataset, network, variant, seed)
        if out in self.kept:
            return self.kept[out]
        method = "finetune" if variant.startswith(("meta", "finetune")) else "flow"
        settings = EvaluateSettings(
            rows=rows,
            methods=(method,),
            ssim=SSIM.get(benchmark.layout, "auto"),
            frames=self._frames(),
            crop=self.settings.crop or 0,
            adaptation=adaptation or AdaptSettings(),
            restoration=self.settings.restoration,
            resume=True,
            workers=self.settings.workers,
        )
        self.say(f"{network} on {dataset}: {variant}{f', seed {seed}' if seed else ''}")
        # What other networks than these made is made again: its figures would stand under the wrong name.
        self.kept[out] = evaluate(benchmark, net or own, out, settings, model=name, say=self.say, renew=True)
        return self.kept[out]

    def _frames(self) -> int:
        return (8 if self.settings.small else 0) if self.settings.frames is None else self.settings.frames

    def ways(self, *wanted: str) -> int:
        """How many of these ways to adapt ("flow", "fine-tuning", "meta") some network has."""
        names = [name for name, _ in self.here()[1].values()]

        def is_there(way: str) -> bool:
            if way == "flow":
                return self.settings.flow
            return any(not isinstance(self.reblurrer(name, meta=way == "meta"), Absent) for name in names)

        return sum(map(is_there, wanted))

    def measured_as(self, network: str, *, meta: bool | None = None) -> str:
        """What of a network's cells is not as the paper has it: sizes of networks, frames, crops, patches.

        Args:
            network: its label.
            meta: whether the reblurring network is the meta-trained one, or the pre-trained; None: the first of the
                two that is there.
        """
        settings, said = self.settings, []
        entry = self.networks[network]
        if not isinstance(entry, Absent):
            name, net = entry
            said = [form] if (form := network_form(net)) != PUBLISHED else []
            sources = [self.reblurrer(name, meta=one) for one in ((True, False) if meta is None else (meta,))]
            source = next((one for one in sources if not isinstance(one, Absent)), None)
            if source is not None and (form := reblurrer_form(load_reblurrer(source).network)) != PUBLISHED:
                said.append(f"reblurrer {form}")
        if frames := self._frames():
            said.append(f"{frames} frames of each clip")
        if settings.crop:
            said.append(f"crop of {settings.crop} px")
        if self._patch() != preset("paper").patch:
            said.append(f"patches of {self._patch()} px")
        return ", ".join(said) or PUBLISHED

    def checksums(self) -> dict[str, dict[str, str]]:
        """SHA-256 of every network that is there, by label and part: its own weights, and those it adapts with."""
        found: dict[str, dict[str, str]] = {}
        for label, (name, net) in self.here()[1].items():
            found[label] = {"weights": parameters_digest(net)}
            for part in ("weights", "reblurrer"):
                path = self._meta(name, f"{part}.safetensors")
                if not isinstance(path, Absent):
                    found[label][f"meta {part}"] = checksum(Path(path))
            source = self.reblurrer(name, meta=False)
            if not isinstance(source, Absent):
                found[label]["reblurrer"] = checksum(reblurrer_path(source))
        return found

    def forecast(self, adaptations: int) -> Range:
        """Seconds that so many adaptations of every clip by every network may take, from one frame of each."""
        low = high = 0.0
        datasets, networks = self.here()
        for benchmark in datasets.values():
            count = self._frames()
            frames = sum(min(len(clip.blurred), count or len(clip.blurred)) for clip in benchmark.clips)
            window = read_trial(benchmark.clips[0], crop=self.settings.crop or 0, frames=1).whole
            for _, net in networks.values():
                restorer = Restorer(net, window.height, window.width, self.settings.restoration)
                restorer(window.window(0, restorer.frames) if restorer.frames > 1 else window[0])
                began = time.monotonic()
                restorer(window.window(0, restorer.frames) if restorer.frames > 1 else window[0])
                settings = AdaptSettings(pairs=self._pairs(), steps=self._steps(), patch=self._patch(), fuse=False)
                costs = rough_costs(time.monotonic() - began, settings, window.height * window.width)
                clips = len(benchmark.clips)
                rounds = adaptations * self.settings.seeds
                work = Work(clips * rounds, clips * rounds * settings.steps, clips * rounds, frames * (1 + 2 * rounds))
                least, most = expected(work, costs)
                low, high = low + least / self.settings.workers, high + most
        return low, high


def make_plan(roots: Sequence[Path | str], out: Path, settings: ReproduceSettings, say: Callable[[str], None]) -> Plan:
    """Find data and weights.

    Args:
        roots: folders that hold the paper's data sets; with ``small`` folders of clips in any layout, or "builtin".
        out: folder of the experiment.
        settings: what is wanted.
        say: told before each run.

    Raises:
        MetadeblurError: with ``small``, a root without clips.
    """
    out.mkdir(parents=True, exist_ok=True)
    datasets = _clips_at_hand(roots, out, settings) if settings.small else _paper_sets([Path(root) for root in roots])
    names = settings.networks or (("lite", *NETWORKS) if settings.small else tuple(NETWORKS))
    networks = {NETWORKS.get(name, name): _network(name, settings) for name in names}
    return Plan(settings, datasets, networks, out, say)


def say_range(seconds: Range) -> str:
    """A range of time in words.

    >>> say_range((30, 90))
    'about 30 s to 1 min 30 s'
    """
    return f"about {in_words(seconds[0])} to {in_words(seconds[1])}"


def _paper_sets(roots: Sequence[Path]) -> dict[str, Benchmark | Absent]:
    """DVD, REDS and RealBlur-J below the roots."""
    datasets: dict[str, Benchmark | Absent] = {}
    for layout, label in DATASETS.items():
        datasets[label] = Absent(f"its folder is not in {', '.join(map(str, roots))}")
        for root in roots:
            try:
                datasets[label] = open_benchmark(root, layout, part=PARTS[layout])
                break
            except MetadeblurError as error:
                if "no clips in the layout" not in str(error):
                    datasets[label] = Absent(str(error))
    return datasets


def _clips_at_hand(
    roots: Sequence[Path | str], out: Path, settings: ReproduceSettings
) -> dict[str, Benchmark | Absent]:
    """Every root as one data set, or two where some of its clips are to be kept apart."""
    datasets: dict[str, Benchmark | Absent] = {}
    for root in roots:
        builtin = str(root) == BUILT_IN
        benchmark = make_builtin(out / "clips") if builtin else open_benchmark(Path(root))
        label = BUILT_IN if builtin else Path(root).resolve().name
        label = str(root) if label in datasets else label
        apart = tuple(clip for clip in benchmark.clips if clip.name in settings.apart)
        others = tuple(clip for clip in benchmark.clips if clip.name not in settings.apart)
        if apart and others:
            datasets[f"{label} but {', '.join(clip.name for clip in apart)}"] = replace(benchmark, clips=others)
            datasets[f"{label}: {', '.join(clip.name for clip in apart)}"] = replace(benchmark, clips=apart)
        else:
            datasets[label] = benchmark
    return datasets


def _network(name: str, settings: ReproduceSettings) -> tuple[str, nn.Module] | Absent:
    """The pre-trained network of a name: from the folder of weights, or as installed."""
    source = settings.weights / f"{name}.safetensors" if settings.weights is not None else None
    try:
        return name, load_deblurrer(source if source is not None and source.is_file() else name)
    except MetadeblurError as error:
        return Absent(str(error))


def _slug(label: str) -> str:
    """A label as a folder's name."""
    return "".join(letter if letter.isalnum() or letter in "+-." else "_" for letter in label).strip("_")

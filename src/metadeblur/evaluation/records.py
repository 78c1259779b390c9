"""What an evaluation writes as JSON, as dataclasses: a clip's record, its notes, the summary, one trial of the guard.

Names of rows (blurred, base, adapted, ...) and of methods are open sets and stay keys of dictionaries. Written by
:func:`metadeblur.system.json_files.plain`, read by :func:`metadeblur.system.json_files.from_plain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.sealed import read_sealed
from metadeblur.system.json_files import from_plain

Figure = Literal["psnr", "ssim", "flicker", "self_shift", "lpips", "dists", "niqe"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
PERCEPTUAL: tuple[Figure, ...] = ("lpips", "dists", "niqe")  # measured where they are asked for
Interval = tuple[float, float]
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Figures by row, of the rows that have them."""

    psnr: dict[str, float]  # dB
    ssim: dict[str, float]
    flicker: dict[str, float]  # 8-bit levels, against the blurred frames; of videos with one frame size
    self_shift: dict[str, float]  # dB, low = sharp
    lpips: dict[str, float] = field(default_factory=dict)  # low = alike; as the next two where asked for
    dists: dict[str, float] = field(default_factory=dict)  # low = alike
    niqe: dict[str, float] = field(default_factory=dict)  # low = natural; needs no truth

    def to_json(self) -> dict[str, Any]:
        """Without figures that were not asked for."""
        return _asked_for({entry.name: getattr(self, entry.name) for entry in fields(self)})

    def column(self, figure: Figure) -> dict[str, float]:
        """One figure by row."""
        values: dict[str, float] = getattr(self, figure)
        return values


@dataclass(frozen=True)
class FrameFigures:
    """Figures of each frame of one row."""

    psnr: tuple[float, ...]  # dB
    ssim: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RowRecord:
    """Figures of one row of a clip: means over its frames, and those of each frame."""

    psnr: float  # dB
    ssim: float
    aligned: float | None = None  # share of frames that could be aligned, 0 to 1; of RealBlur
    self_shift: float  # dB, low = sharp; needs no truth
    flicker: float | None = None  # 8-bit levels, against the blurred frames; of videos with one frame size
    lpips: float | None = None
    dists: float | None = None
    niqe: float | None = None
    per_frame: FrameFigures

    def to_json(self) -> dict[str, Any]:
        """Without what was not measured."""
        return _without_none(self, "flicker", "aligned", *PERCEPTUAL)


@dataclass(frozen=True)
class Focus:
    """The piece of a clip that pictures show: chosen by the blurred frames and the truth alone, for every row alike."""

    frame: int  # from 0
    top: int  # px
    left: int  # px
    side: int  # px


@dataclass(frozen=True)
class MethodNotes:
    """How a method adapted to a clip."""

    rows: tuple[str, ...]  # that it gave
    share: float  # of the adaptation that the guard let through, 0 to 1
    seconds: dict[str, float]  # by stage
    patch: int  # side of the patches that were learnt from, px
    adaptation: dict[str, Any]  # the outcome's own record, or a note why there was none


@dataclass(frozen=True)
class ClipNotes:
    """What has been measured of a clip until its record is written."""

    conditions: Any  # what the figures depend on
    rows: dict[str, RowRecord]  # of a method as METHOD/ROW
    methods: dict[str, MethodNotes]
    seconds: dict[str, float]  # by stage


@dataclass(frozen=True, kw_only=True)
class MethodRecord(Columns):
    """One of several methods on a clip."""

    aligned: dict[str, float]  # share of frames that could be aligned, 0 to 1; of RealBlur
    share: float  # of the adaptation that the guard let through, 0 to 1
    seconds: dict[str, float]  # by stage
    patch: int  # side of the patches that were learnt from, px
    adaptation: dict[str, Any]  # the outcome's own record, or a note why there was none


@dataclass(frozen=True, kw_only=True)
class ClipRecord(Columns):
    """One clip: what its JSON file holds."""

    clip: str
    frames: int
    aligned: dict[str, float]  # share of frames that could be aligned, 0 to 1; of RealBlur
    per_frame: dict[str, dict[str, tuple[float, ...]]]  # psnr (dB) and ssim by row
    seconds: dict[str, float]  # by stage
    share: float  # of the first method's adaptation that the guard let through, 0 to 1
    peak_memory_mb: int | None
    gpu_peak_memory_mb: int | None
    focus: Focus | None
    adaptation: dict[str, Any] | None  # of the first method
    methods: dict[str, MethodRecord] | None = None  # where several were compared
    conditions: dict[str, Any]  # what the figures depend on
    input: str  # by which the clip's files are recognised

    def to_json(self) -> dict[str, Any]:
        """The clip's name first."""
        return {"clip": self.clip, "frames": self.frames} | _asked_for(_without_none(self, "methods"))


@dataclass(frozen=True)
class Effect:
    """The effect of an adaptation against the base, over clips."""

    gain: float  # dB: adapted - base
    harm_rate: float  # share of clips that are more than 0.05 dB below base, 0 to 1
    oracle_ratio: float | None  # gain / (oracle - base) of the means; none: no oracle, or one that is not above base
    interval: Interval | None  # 95 % bootstrap interval of the gain over clips, dB; none: fewer than two clips


@dataclass(frozen=True, kw_only=True)
class MethodSummary(Columns):
    """One of several methods: means over clips."""

    effect: Effect | None  # none: without base
    unguarded: Effect | None  # of the adaptation used whole
    share: float  # of the adaptation that the guard let through, 0 to 1
    seconds: float  # to adapt to a clip


@dataclass(frozen=True, kw_only=True)
class Means(Columns):
    """What the records of several clips say together: means over clips, by row."""

    over_frames: dict[str, dict[str, float]]  # psnr (dB) and ssim: means over all frames, as papers print them
    intervals: dict[str, Interval | None]  # 95 % bootstrap intervals of PSNR over clips, dB; none: fewer than two
    effect: Effect | None  # none: without rows base and adapted
    seconds: dict[str, float]  # by stage, all clips together
    peak_memory_mb: int | None
    methods: dict[str, MethodSummary] | None = None  # where several were compared

    def to_json(self) -> dict[str, Any]:
        """The figures of the effect between the means, as summary.json has them."""
        oracle = "oracle" in self.psnr
        written = _asked_for({entry.name: getattr(self, entry.name) for entry in fields(Columns)})
        written |= {"over_frames": self.over_frames, "intervals": {"psnr": self.intervals}}
        if self.effect is not None:
            effect = _effect_to_json(self.effect, oracle)
            written["intervals"]["gain"] = effect.pop("interval")
            written |= effect
        written |= {"seconds": self.seconds, "peak_memory_mb": self.peak_memory_mb}
        if self.methods is not None:
            written["methods"] = {name: _method_to_json(method, oracle) for name, method in self.methods.items()}
        return written

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields' values."""
        intervals = values.get("intervals")
        if not isinstance(intervals, dict):
            return dict(values)
        read = _with_effect({**values, "interval": intervals.get("gain")}) | {"intervals": intervals.get("psnr")}
        if isinstance(values.get("methods"), dict):
            read["methods"] = {name: _method_from_json(method) for name, method in values["methods"].items()}
        return read


@dataclass(frozen=True, kw_only=True)
class GroupMeans(Means):
    """Means over some of the clips."""

    clips: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The clips first."""
        return {"clips": self.clips} | super().to_json()


@dataclass(frozen=True, kw_only=True)
class Summary(Means):
    """All clips of an evaluation: what ``summary.json`` holds."""

    clips: tuple[str, ...]
    frames: int
    layout: str
    notes: tuple[str, ...]  # what to know of the folder of clips
    conditions: dict[str, Any]  # what the figures depend on
    versions: dict[str, str]
    machine: dict[str, Any]
    apart: GroupMeans | None = None  # of the clips that are reported apart
    others: GroupMeans | None = None  # of the clips beside them

    def to_json(self) -> dict[str, Any]:
        """The clips and conditions first; the groups only where there are any."""
        first = ("clips", "frames", "layout", "notes", "conditions")
        written = {name: getattr(self, name) for name in first} | super().to_json()
        written |= {"versions": self.versions, "machine": self.machine}
        return written | ({"apart": self.apart, "others": self.others} if self.apart is not None else {})


@dataclass(frozen=True)
class GuardRecord:
    """One adaptation of the guard's trial. PSNR in dB."""

    clip: str
    kind: str  # one of evaluation.guard_trials.KINDS
    seed: int
    base: float  # PSNR before the adaptation
    conditions: dict[str, Any]  # what the figures depend on
    whole: float  # PSNR of the adaptation used whole
    guarded: float  # PSNR of what the guard let through
    share: float  # that it let through, 0 to 1
    reasons: tuple[dict[str, Any], ...]  # of the guard


class OtherVersion(MetadeblurError):
    """A record is whole, but other keys or types are expected: another version of this program wrote it."""


def read_record(path: Path, kind: type[Record]) -> Record:
    """A sealed record.

    Raises:
        OtherVersion: another version of this program wrote it.
        MetadeblurError: it is damaged, was changed, or is another file.
    """
    values = read_sealed(path)
    try:
        return from_plain(kind, values)
    except MetadeblurError as error:
        raise OtherVersion(
            f"{path}: was written by another version of this program ({error}); remove it, and --resume measures that "
            "clip again"
        ) from error


def _without_none(record: Any, *names: str) -> dict[str, Any]:
    """The fields of a dataclass; those of these names only where they are not None."""
    values = {entry.name: getattr(record, entry.name) for entry in fields(record)}
    return {name: value for name, value in values.items() if value is not None or name not in names}


def _asked_for(values: dict[str, Any]) -> dict[str, Any]:
    """Fields without the perceptual figures that were not measured."""
    return {name: value for name, value in values.items() if value or name not in PERCEPTUAL}


def _effect_to_json(effect: Effect | None, oracle: bool) -> dict[str, Any]:
    """A ratio only where an oracle was measured."""
    if effect is None:
        return {}
    ratio = {"oracle_ratio": effect.oracle_ratio} if oracle else {}
    return {"gain": effect.gain, "harm_rate": effect.harm_rate, **ratio, "interval": effect.interval}


def _with_effect(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of which those of a :class:`Effect` are put together."""
    own = {entry.name for entry in fields(Effect)}
    effect = {"oracle_ratio": None} | {name: value for name, value in values.items() if name in own}
    rest = {name: value for name, value in values.items() if name not in own}
    return {**rest, "effect": effect if "gain" in effect else None}


def _method_to_json(method: MethodSummary, oracle: bool) -> dict[str, Any]:
    columns = _asked_for({figure: method.column(figure) for figure in FIGURES})
    whole = _effect_to_json(method.unguarded, oracle)
    rest = {"unguarded": whole, "share": method.share, "seconds": method.seconds}
    return {**columns, **_effect_to_json(method.effect, oracle), **rest}


def _method_from_json(values: Any) -> Any:
    if not isinstance(values, dict) or not isinstance(values.get("unguarded"), dict):
        return values
    return _with_effect(values) | {"unguarded": _with_effect(values["unguarded"])["effect"]}

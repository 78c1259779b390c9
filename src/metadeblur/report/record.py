"""What the JSON record of a restoration holds: of the whole run, and of each shot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from html import escape
from typing import Any

from metadeblur.guard.judge import Reason
from metadeblur.models.adapted import FusionSettings
from metadeblur.reblur.place import Place
from metadeblur.types import ShotOutcome, Unlearnt


@dataclass(frozen=True)
class ShotRecord:
    """How one shot was restored, and why."""

    index: int = 0  # number of the shot
    start: int = 0  # first frame, counted from the beginning of the file
    stop: int = 0  # one past the last
    outcome: ShotOutcome = "base"
    untouched: bool = False  # whether the frames pass as they are
    adapted: bool = False  # whether weights were adapted, also where the guard dropped them
    share: float = 0.0  # of the adapted weights that is used, 0 to 1
    fused: bool = False  # whether restored frames are fused with their neighbours
    back_projected: bool = False  # whether fused frames are corrected by the blurred ones
    fusion: FusionSettings | None = None  # how frames would be fused, before the guard
    reasons: tuple[Reason, ...] = ()  # the votes of the guard
    note: str | None = None  # what else there is to say
    pairs: tuple[Place, ...] = ()  # places that were learnt from; frames counted from the beginning of the file
    losses: tuple[Mapping[str, float], ...] = ()  # one a step: step, loss, seconds
    reblur_losses: tuple[Mapping[str, float], ...] = ()  # one a step of the reblurring network: its terms
    reblurrer: Mapping[str, Any] | None = None  # what made the pairs
    stage_memory_mb: Mapping[str, float] = field(default_factory=dict)  # most memory held in each stage
    unlearnt: Unlearnt | None = None  # why no weights were learnt; None: some were, or the frames pass as they are
    sharper: int | None = None  # frames that are measurably sharper than before; None: they pass as they are
    scores: tuple[float, ...] = ()  # self-shift score of each frame, dB; low is sharp
    tile: int | None = None  # side of the tiles that frames were cut into, px; 0: whole frames; None: untouched
    precision: str | None = None  # "fp32" or "bf16"; None: untouched
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage
    worker: Mapping[str, Any] | None = None  # which process did it, where several did the work

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ShotRecord:
        """The record of a shot from what :func:`metadeblur.system.json_files.plain` made of it.

        >>> ShotRecord.from_json({"start": 3, "stop": 9, "outcome": "untouched", "untouched": True}).stop
        9
        """
        read: dict[str, Any] = dict(values)
        if read.get("fusion") is not None:
            read["fusion"] = FusionSettings(**read["fusion"])
        for name, kind in (("reasons", Reason), ("pairs", Place)):
            read[name] = tuple(kind(**entry) for entry in read.get(name, ()))
        lists = ("losses", "reblur_losses", "scores")
        return cls(**read | {name: tuple(read.get(name, ())) for name in lists})

    @property
    def length(self) -> int:
        """Number of frames."""
        return self.stop - self.start


@dataclass(frozen=True, repr=False)
class RunRecord:
    """What was done to a file, with what, on what; shown in short, and in notebooks as its verdict."""

    input: str = ""
    output: str = ""
    side_by_side: str | None = None
    version: str = ""  # of this program
    settings: Mapping[str, Any] = field(default_factory=dict)  # model, its weights' checksum, all settings of the run
    video: Mapping[str, Any] = field(default_factory=dict)  # size, rate, codec, colours, ... of the input
    shots: tuple[ShotRecord, ...] = ()
    untouched: bool = False  # whether all shots are
    share: float = 0.0  # mean of the shots' shares, by their frames
    not_kept: tuple[str, ...] = ()  # what the output could not take over from the input
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage, and "total"
    peak_memory_mb: float | None = None
    tile: int | None = None  # of the first shot that was restored
    precision: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)  # of Python and the libraries that count
    machine: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        headline, _ = self._verdict()
        return f"RunRecord({self.input!r} to {self.output!r}: {headline})"

    def _repr_html_(self) -> str:
        headline, why = self._verdict()
        return f"<p><b>{escape(headline)}</b><br>{escape(why)}</p><p>{escape(self.output)}</p>"

    def _verdict(self) -> tuple[str, str]:
        """Headline and reason in plain words."""
        from metadeblur.report.verdict import network_of, overall_verdict

        verdict = overall_verdict(self.shots, network_of(self))
        return verdict.headline, verdict.why

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunRecord:
        """The record of a run as it was written to a JSON file; what this version does not know is left out."""
        names = {entry.name for entry in fields(cls)}
        read = {name: value for name, value in values.items() if name in names}
        shots = tuple(map(ShotRecord.from_json, read.get("shots", ())))
        return cls(**read | {"shots": shots, "not_kept": tuple(read.get("not_kept", ()))})

"""What a restoration tells while it goes on, as typed events; terminal, page, cluster and time estimate listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from metadeblur.types import AdaptStage

if TYPE_CHECKING:
    from torch import Tensor

    from metadeblur.imaging.pictures import Picture

Phase = Literal["scan", "measure", "preview", "restore", "compare"]
"""A file is looked through, the speed is measured on a part of it, its preview is made, the whole is restored, the
result is compared with the truth."""


@dataclass(frozen=True)
class Note:
    """A line for the person who waits."""

    text: str


@dataclass(frozen=True)
class Detail:
    """A line for who asks for reasons."""

    text: str


@dataclass(frozen=True)
class PhaseStarted:
    """A part of the work on a file begins."""

    phase: Phase
    name: str  # of the file


@dataclass(frozen=True)
class PhaseEnded:
    """It is over, also where an error ended it."""

    phase: Phase


@dataclass(frozen=True)
class FirstLook:
    """One frame is restored by the base network, before anything else is done."""

    number: int  # of the frame in the file, from 0
    pictures: tuple[Picture, Picture]  # before and after, as a player shows them; of a large frame the middle


@dataclass(frozen=True)
class FrameScanned:
    """Frames of the file have been looked through."""

    done: int
    total: int  # an estimate until the last one


@dataclass(frozen=True)
class Position:
    """Where in the file the work is."""

    shot: int  # number of the shot, from 0
    shots: int  # that the file has
    frames_done: int  # before this moment
    frames: int  # that the file has


@dataclass(frozen=True)
class ShotStarted:
    """A shot is looked at, and adapted to where that makes sense."""

    at: Position
    adapts: bool  # whether it is to be adapted to
    steps: int  # gradient steps that are planned for it


@dataclass(frozen=True)
class StepDone:
    """A step of an adaptation is taken."""

    at: Position
    stage: AdaptStage
    done: int
    total: int


@dataclass(frozen=True)
class ShotDecided:
    """It is decided how a shot is restored."""

    at: Position
    untouched: bool
    length: int  # frames of the shot


@dataclass(frozen=True)
class FrameRestored:
    """A frame is written."""

    at: Position  # with this frame among those that are done
    seconds: float | None  # that the network took for it; None: it passes as it is
    pictures: tuple[Tensor, Tensor] | None  # blurred and restored, each (3, H, W) in [0, 1]; None: another machine's


@dataclass(frozen=True)
class FilesAdvanced:
    """Several files are restored at the same time, and so much of all of them is done."""

    frames_done: int
    frames: int  # those of files that have not been opened are taken to be like the others
    files_done: int
    files: int


@dataclass(frozen=True)
class TimeLeft:
    """How long the rest will take: a first estimate, or a better one where the last was wrong."""

    least: float  # s
    most: float  # s
    changed: Literal["", "slower", "faster"]  # than the last estimate
    text: str  # for a person


Event: TypeAlias = (
    Note
    | Detail
    | PhaseStarted
    | PhaseEnded
    | FirstLook
    | FrameScanned
    | ShotStarted
    | StepDone
    | ShotDecided
    | FrameRestored
    | FilesAdvanced
    | TimeLeft
)
Listener: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""

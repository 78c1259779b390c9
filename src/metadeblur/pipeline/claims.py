"""What a run keeps for itself alone, its outputs, and what has to stay as it is: what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.models.weights import checksum, imported_path, reblurrer_path
from metadeblur.pipeline.outputs import Job, preview_path
from metadeblur.system.files import filling, refusals
from metadeblur.system.identity import InputChanged, identify_files, refuse_change
from metadeblur.system.locks import writing
from metadeblur.video import VideoReader


def hold_outputs(job: Job, locks: ExitStack, *, preview: bool) -> None:
    """Keep the outputs of a job for this run alone until ``locks`` is closed.

    Raises:
        MetadeblurError: somebody else is writing one of them, or it cannot be written.
    """
    with refusals(job.output):
        locks.enter_context(writing(job.output))
        if preview:
            locks.enter_context(writing(preview_path(job.output)))
    if job.side_by_side is not None:
        with refusals(job.side_by_side):
            locks.enter_context(writing(job.side_by_side, "--side-by-side"))
    if job.report is not None:
        locks.enter_context(filling(job.report, "--report", "--report"))


@dataclass(frozen=True)
class Reads:
    """The files that a run reads, and by what they were recognised when it began."""

    source: Path
    files: tuple[Path, ...]  # of the source
    input: str
    weights: Mapping[Path, str]  # of the reblurring network and its critic

    @classmethod
    def of(cls, reader: VideoReader, adaptation: AdaptSettings | None) -> Reads:
        """What a run reads; without an adaptation, the input alone."""
        files = tuple(reader.info.files) or (reader.info.path,)
        return cls(reader.info.path, files, identify_files(files), _weights(adaptation))

    def refuse_changes(self) -> None:
        """See that all of it still is what it was.

        Raises:
            InputChanged: something is not.
        """
        refuse_change(self.source, self.files, self.input)
        for path, mark in self.weights.items():
            if not path.is_file() or checksum(path) != mark:
                raise InputChanged(path)


def _weights(adaptation: AdaptSettings | None) -> dict[Path, str]:
    if adaptation is None or adaptation.reblur == "flow":
        return {}
    paths = (reblurrer_path(adaptation.reblurrer), imported_path("critic"))
    return {path: checksum(path) for path in paths if path.is_file()}

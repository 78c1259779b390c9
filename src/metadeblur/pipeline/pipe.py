"""Raw frames from a pipe, restored as a whole clip, and raw frames out again."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from torch import nn

from metadeblur.errors import MetadeblurError
from metadeblur.pipeline.console import Terminal
from metadeblur.pipeline.events import Event, Listener, Note
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.system.scratch import scratch_folder
from metadeblur.video.encoding import EncodeSettings
from metadeblur.video.y4m import Y4mHeader, copy_frames, read_header, write_frames

_INPUT, _OUTPUT = "standard-input.y4m", "output.mkv"  # the first is what a person is told


@dataclass(frozen=True)
class PipeSettings:
    """How a pipe is restored."""

    run: RunSettings  # its encoding is not used: all is lossless
    raw: Y4mHeader | None = None  # of raw frames without a header; None: y4m comes in


def restore_pipe(
    source: BinaryIO,
    target: BinaryIO,
    net: nn.Module,
    settings: PipeSettings,
    terminal: Terminal,
    *,
    model: str = "",
) -> None:
    """Read all frames of a stream, restore them as :func:`restore_file` does a file, and write them as y4m.

    The whole clip is looked at before its first frame is restored, so nothing comes out before everything is in. Until
    then the frames wait in a temporary folder, where they take as much room as they do in the pipe.

    Args:
        source: y4m, or raw frames.
        target: takes y4m; nothing is written to it unless all went well.
        net: the base deblurrer; it is not changed.
        settings: how.
        terminal: tells a person how it goes.
        model: what the messages call the network.

    Raises:
        MetadeblurError: a stream that is not y4m, is damaged or ends in the middle of a frame.
        BrokenPipeError: nobody reads the target any more.
    """
    header = settings.raw or read_header(source)
    with scratch_folder() as folder:
        try:
            with (folder / _INPUT).open("wb") as file, terminal.bar("reading standard input") as bar:
                copy_frames(source, header, file, raw=settings.raw is not None, each=lambda count: bar(count, 0))
            job = Job(folder / _INPUT, folder / _OUTPUT)
            restore_file(job, net, _lossless(settings.run), model=model, listener=_named(job.output, terminal))
        except (OSError, MetadeblurError) as error:
            if _is_full(error):
                error.add_note(
                    f"the frames of a pipe wait in {folder.parent}, and TMPDIR names another folder for them"
                )
            raise
        write_frames(job.output, header, target)


def _lossless(settings: RunSettings) -> RunSettings:
    """The same settings for a result that only waits to be handed on."""
    encoding = EncodeSettings(codec="ffv1", quality="lossless")
    return replace(settings, encoding=encoding, first_look=False, preview_seconds=None, resume=False)


def _named(output: Path, listener: Listener) -> Listener:
    """A listener that hears of standard output where the name of the temporary file would be told."""

    def tell(event: Event) -> None:
        named = Note(event.text.replace(str(output), "standard output")) if isinstance(event, Note) else event
        listener(named)

    return tell


def _is_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a disk that is full."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__
    return False

"""``metadeblur pipe``: raw frames from another program in, restored ones to the next program out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, BinaryIO

import tyro

from metadeblur.cli.flags import AdaptationFlags, MachineFlags
from metadeblur.errors import UsageError
from metadeblur.limits import Seed, check
from metadeblur.pipeline.console import Terminal
from metadeblur.types import Matching, RawPixels

if TYPE_CHECKING:
    from metadeblur.pipeline.pipe import PipeSettings
    from metadeblur.video.y4m import Y4mHeader

_CHAIN = "ffmpeg -i IN -f yuv4mpegpipe -strict -1 - | metadeblur pipe | ffmpeg -i - OUT"
_Size = Annotated[str, Matching(r"[1-9]\d{0,4}x[1-9]\d{0,4}", "WIDTHxHEIGHT in px, such as 1920x1080")]
_Rate = Annotated[
    str, Matching(r"(?=.*[1-9])\d{1,6}(\.\d{1,6})?|[1-9]\d{0,8}[/:][1-9]\d{0,8}", "a number such as 25 or 30000/1001")
]


@dataclass(frozen=True)
class Pipe:
    """Restore raw frames between two programs: y4m from standard input, y4m to standard output.

    The same as metadeblur restore --effort quick on a file. All frames are read before the first one is written,
    for the whole clip is looked at; messages go to standard error. Sound does not come through a pipe of frames.
    """

    size: Annotated[_Size | None, tyro.conf.arg(metavar="WxH", help_behavior_hint="")] = None
    """Raw frames without a header come in, of this size in px; default: y4m comes in, whose header tells."""
    rate: Annotated[_Rate | None, tyro.conf.arg(metavar="FPS", help_behavior_hint="")] = None
    """Raw frames a second, such as 25 or 30000/1001; needed with --size."""
    pixel_format: Annotated[
        RawPixels | None,
        tyro.conf.arg(
            metavar="NAME",
            help_behavior_hint="",
            help="Layout of raw frames by FFmpeg's names, 8 bits: yuv420p, yuv411p, yuv422p, yuv444p, gray; for 9, 10, "
            "12, 14, 16 bits with the ending, such as yuv420p10le or gray16le. Default with --size: yuv420p.",
        ),
    ] = None
    model: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "lite"
    """The deblurring network: a model's name (metadeblur models), a weight file, or a folder of md.save_pretrained."""
    seed: Annotated[Seed, tyro.conf.arg(metavar="S")] = 0
    """The same seed, settings and frames give the same result on the same machine."""
    verbose: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(aliases=["-v"])] = False
    """Also say why: every check of each shot, with its figure and limit."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(aliases=["-q"])] = False
    """Say nothing but errors."""
    machine: Annotated[MachineFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=MachineFlags)

    def __post_init__(self) -> None:
        check(self)

    def run(self) -> None:
        """Read, restore, write."""
        if self.size is None and (self.rate is not None or self.pixel_format is not None):
            raise UsageError("--rate and --pixel-format tell of raw frames, which need --size too; y4m tells it itself")
        if self.size is not None and self.rate is None:
            raise UsageError("--size is for raw frames, which do not tell their rate; give --rate too, such as 25")
        source, target = _binary(sys.stdin, "input"), _binary(sys.stdout, "output")
        from metadeblur.models.weights import load_deblurrer
        from metadeblur.pipeline.pipe import restore_pipe

        settings = self._settings()
        terminal = Terminal(quiet=self.quiet, verbose=self.verbose)
        restore_pipe(source, target, load_deblurrer(self.model), settings, terminal, model=self.model)

    def _settings(self) -> PipeSettings:
        from metadeblur.pipeline.pipe import PipeSettings
        from metadeblur.pipeline.run import RunSettings
        from metadeblur.restoration.restorer import RestoreSettings

        machine = self.machine
        return PipeSettings(
            RunSettings(
                adaptation=AdaptationFlags(effort="quick", seed=self.seed).settings(
                    guard=True, device=machine.device, precision=machine.precision
                ),
                restoration=RestoreSettings(tile=machine.tile, precision=machine.precision, device=machine.device),
            ),
            self._raw(),
        )

    def _raw(self) -> Y4mHeader | None:
        """What the flags tell of raw frames."""
        if self.size is None or self.rate is None:
            return None
        from metadeblur.video.y4m import SIDE, raw_header

        width, height = map(int, self.size.split("x"))
        if not (SIDE.holds(width) and SIDE.holds(height)):
            raise UsageError(f"--size is {self.size}; each side is {SIDE.words('a whole number')}")
        return raw_header(width, height, Fraction(self.rate.replace(":", "/")), self.pixel_format or "yuv420p")


def _binary(stream: object, name: str) -> BinaryIO:
    """The bytes of a standard stream.

    Raises:
        UsageError: it is closed, or a person's terminal.
    """
    found: BinaryIO | None = getattr(stream, "buffer", None)
    if found is None or found.isatty():
        state = "closed" if found is None else "a terminal"
        raise UsageError(f"standard {name} is {state}; frames need a pipe or a file there: {_CHAIN}")
    return found

"""``metadeblur demo``: the whole program on a clip whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from metadeblur.cli.flags import NoPrefix, Switch, TalkFlags
from metadeblur.limits import Within, check


@dataclass(frozen=True)
class Demo:
    """Make a shaky clip on the spot, restore it, and compare it with the truth.

    A simulated hand-held camera films a photograph, so the sharp frames are known.
    """

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = Path("metadeblur-demo")
    """Folder for the clip, its restoration, the report and the figures; made where it is missing."""

    film: Switch = False
    """Film the clip only, to be restored by hand: shaky.mp4 and the folder sharp."""
    frames: Annotated[int, Within(1, 1000), tyro.conf.arg(metavar="N")] = 32
    """Frames of the clip, at 30 a second."""
    width: Annotated[int, Within(32, 640), tyro.conf.arg(metavar="PX")] = 480
    """Width of the clip; at most 640."""
    height: Annotated[int, Within(32, 480), tyro.conf.arg(metavar="PX")] = 360
    """Height of the clip; at most 480."""
    talk: Annotated[TalkFlags, NoPrefix, tyro.conf.arg(name="")] = field(default_factory=TalkFlags)

    def __post_init__(self) -> None:
        check(self)

    def run(self) -> None:
        """Run it and print the figures."""
        from metadeblur.pipeline.demo import OUTPUT, SHAKY, DemoSettings, make_clip, run_demo
        from metadeblur.pipeline.first_look import showing_first_look

        settings = DemoSettings(frames=self.frames, width=self.width, height=self.height)
        terminal = self.talk.terminal()
        if self.film:
            make_clip(self.directory, settings, terminal)
            terminal.show(str(self.directory / SHAKY))
            return
        with showing_first_look(self.directory / OUTPUT, terminal) as listener:
            result = run_demo(self.directory, settings, listener=listener)
        terminal.show(f"{'':<10}{'PSNR in dB':>12}{'SSIM':>8}")
        for row, value in result["psnr"].items():
            terminal.show(f"{row:<10}{value:>12.2f}{result['ssim'][row]:>8.3f}")
        for name in result["files"]:
            terminal.show(str(name))

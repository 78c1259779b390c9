"""``metadeblur demo``: the whole program on a clip whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metadeblur.limits import Within, check
from metadeblur.pipeline.console import Terminal


@dataclass(frozen=True)
class Demo:
    """Make a shaky clip on the spot, restore it, and compare it with the truth.

    A simulated hand-held camera films a photograph, so the sharp frames are known.
    """

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = Path("metadeblur-demo")
    """Folder for the clip, its restoration, the report and the figures; made where it is missing."""

    film: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Film the clip only, to be restored by hand: shaky.mp4 and the folder sharp."""
    frames: Annotated[int, Within(1, 1000), tyro.conf.arg(metavar="N")] = 32
    """Of the clip, at 30 a second."""
    width: Annotated[int, Within(32, 640), tyro.conf.arg(metavar="PX")] = 480
    """At most 640."""
    height: Annotated[int, Within(32, 480), tyro.conf.arg(metavar="PX")] = 360
    """At most 480."""

    def __post_init__(self) -> None:
        check(self)

    def run(self) -> None:
        """Run it and print the figures."""
        from metadeblur.pipeline.demo import OUTPUT, SHAKY, DemoSettings, make_clip, run_demo
        from metadeblur.pipeline.first_look import showing_first_look

        settings = DemoSettings(frames=self.frames, width=self.width, height=self.height)
        terminal = Terminal()
        if self.film:
            make_clip(self.directory, settings, terminal)
            print(self.directory / SHAKY)
            return
        with showing_first_look(self.directory / OUTPUT, terminal) as listener:
            result = run_demo(self.directory, settings, listener=listener)
        print(f"{'':<10}{'PSNR in dB':>12}{'SSIM':>8}")
        for row, value in result["psnr"].items():
            print(f"{row:<10}{value:>12.2f}{result['ssim'][row]:>8.3f}")
        for name in result["files"]:
            print(name)

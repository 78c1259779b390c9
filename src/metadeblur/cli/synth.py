"""``metadeblur synth``: blurred and sharp clips out of sharp photographs and videos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from metadeblur.cli.flags import EVERYDAY, NoPrefix, TalkFlags
from metadeblur.cli.inputs import needed, refuse_missing
from metadeblur.data.settings import SynthSettings
from metadeblur.errors import UsageError
from metadeblur.system.names import counted


@dataclass(frozen=True)
class EverydayFlags:
    """What most runs need."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR", help_behavior_hint="(required)")] = None
    """Folder that the clips go to, each with its folders blur and sharp."""


@dataclass(frozen=True)
class Synth:
    """Make blurred and sharp clips, in the layout of the GoPro data set, from sharp photographs or videos.

    A simulated camera moves over each photograph and over other things that move; frames are averaged in linear light.
    """

    inputs: Annotated[
        list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="IN...", help_behavior_hint="(one or more)")
    ]
    """Photographs, videos, or folders of them."""
    everyday: Annotated[EverydayFlags, NoPrefix, EVERYDAY] = field(default_factory=EverydayFlags)
    talk: Annotated[TalkFlags, NoPrefix, EVERYDAY] = field(default_factory=TalkFlags)
    settings: Annotated[SynthSettings, NoPrefix, tyro.conf.arg(name="clip")] = field(default_factory=SynthSettings)
    """How the clips are made."""

    @property
    def output(self) -> Path | None:
        """Folder that the clips go to."""
        return self.everyday.output

    def run(self) -> None:
        """Make the clips."""
        if not self.inputs:
            raise UsageError("synth needs at least one photograph, video or folder: metadeblur synth IN -o DIR")
        refuse_missing(self.inputs, self.output)
        output = needed(self.output, "metadeblur synth IN -o DIR")
        from metadeblur.data.synthesis import synthesize

        terminal, before = self.talk.terminal(), set(output.iterdir()) if output.is_dir() else set()
        with terminal.bar("making clips", "clips") as bar:
            folders = synthesize(self.inputs, output, self.settings, progress=bar, say=terminal.say)
        count = sum(folder not in before for folder in folders)
        kept = f", {len(folders) - count} kept that were there" if count < len(folders) else ""
        terminal.say(f"{counted(count, 'clip')} written to {output}{kept}")

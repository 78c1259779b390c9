"""``metadeblur adapt``: adaptation alone; ``restore --model`` uses the weights that it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from metadeblur.cli.flags import AdaptationFlags, DeviceFlag, writing_record
from metadeblur.cli.inputs import needed, refuse_missing
from metadeblur.errors import MetadeblurError
from metadeblur.limits import check
from metadeblur.pipeline.console import Terminal
from metadeblur.system.names import in_words
from metadeblur.types import Precision


@dataclass(frozen=True)
class Adapt:
    """Adapt a network to a clip and save its weights; metadeblur restore --model WEIGHTS uses them.

    Of a video with several shots, the longest one is adapted to.
    """

    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A video file or a folder of frames."""
    output: Annotated[
        Path | None, tyro.conf.arg(aliases=["-o"], metavar="WEIGHTS", help_behavior_hint="(required)")
    ] = None
    """The weight file to write (safetensors)."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "lite"
    """The network to start from: a model's name or a weight file."""
    guard: bool = True
    """Keep, weaken or drop the adaptation by what it does; without, it is saved whole."""
    adaptation: Annotated[AdaptationFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=AdaptationFlags)
    device: DeviceFlag = "auto"
    """What computes; auto: a CUDA GPU where there is one, otherwise the processor."""
    precision: Precision = "auto"
    """Arithmetic of the gradient steps; auto: bf16 where the machine does it natively."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the record as JSON; - is standard output."""

    def __post_init__(self) -> None:
        check(self)

    def run(self) -> None:
        """Adapt and save.

        Raises:
            MetadeblurError: the clip cannot be adapted to at all, or the weights not be written.
        """
        refuse_missing([self.input], self.output)
        output = needed(self.output, "metadeblur adapt IN -o WEIGHTS.safetensors")
        from metadeblur.system.locks import writing
        from metadeblur.video import check_writable

        check_writable(output)
        if output.is_dir():
            raise MetadeblurError(f"{output}: is a folder; name a file in it, such as {output / 'adapted.safetensors'}")
        if output.suffix != ".safetensors":
            raise MetadeblurError(
                f"{output}: weights are written as safetensors; name the file {output.stem}.safetensors"
            )
        with writing(output), writing_record(self.json):
            self._adapt(output)

    def _adapt(self, output: Path) -> None:
        """Do it, with outputs that are this run's alone."""
        from metadeblur.models.registry import recognise
        from metadeblur.models.weights import load_deblurrer, parameters_digest, save_deblurrer
        from metadeblur.pipeline.cuts import find_shots
        from metadeblur.pipeline.policy import decide
        from metadeblur.system.identity import identify_files, refuse_change
        from metadeblur.system.json_files import versions, write_json
        from metadeblur.system.machine import describe_machine
        from metadeblur.version import __version__
        from metadeblur.video import VideoReader, reader_clip

        settings = self.adaptation.settings(guard=self.guard, device=self.device, precision=self.precision)
        terminal, reader, net = Terminal(), VideoReader(self.input), load_deblurrer(self.model)
        files = reader.info.files or (self.input,)
        mark = identify_files(files)
        with terminal.bar("looking for shots") as bar:
            scan = find_shots(reader, progress=bar)
        shot = max(scan.shots, key=lambda part: part.stop - part.start)
        if len(scan.shots) > 1:
            terminal.say(f"{len(scan.shots)} shots: adapting to the longest, frames {shot.start} to {shot.stop - 1}")
        clip = reader_clip(reader, shot.start, shot.stop)
        with terminal.bar("adapting", "steps") as bar:
            # Asked to adapt, it adapts: a sharp clip is left to the guard of the adaptation.
            decision = decide(net, clip, scan.sharpness[shot.start : shot.stop], settings, guard=False, progress=bar)
        outcome = decision.outcome
        if outcome is None or (outcome.adapted is None and settings.steps_on(1)):
            why = decision.note or "; ".join(reason.text for reason in decision.reasons)
            raise MetadeblurError(f"{self.input}: {why}; no weights were written")
        model = outcome.model
        metadata = {
            "architecture": recognise(model.state_dict()) or "unknown",
            "base": self.model,
            "base_checksum": parameters_digest(net),
            "share": f"{outcome.share:g}",
            "clip": reader.info.path.name,
            "frames": f"{shot.start}-{shot.stop - 1}",
            "steps": str(len(outcome.history)),
            "seed": str(settings.seed),
            "metadeblur": __version__,
        }
        refuse_change(self.input, files, mark)
        save_deblurrer(model, output, metadata)
        if self.json is not None:
            about = {"input": self.input, "output": output, "model": self.model, "version": __version__}
            about |= {"weights": parameters_digest(net)[:16], "settings": settings}
            write_json(
                {**about, **outcome.to_record(), "versions": versions(), "machine": describe_machine()}, self.json
            )
        spent = in_words(sum(outcome.seconds.values()))
        if outcome.adapted is None:
            terminal.say(
                f"{output}: the base weights; frames are {'fused' if outcome.fused else 'not fused'} ({spent})"
            )
        elif outcome.share == 0:
            why = "; ".join(reason.text for reason in outcome.reasons if not reason.passed)
            terminal.say(f"{output}: the guard dropped the adaptation, so these are the base weights ({why})")
        else:
            terminal.say(f"{output}: weights adapted to {self.input.name}, share {outcome.share:.2f}, {spent}")

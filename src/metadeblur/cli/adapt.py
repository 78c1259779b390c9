"""``metadeblur adapt``: adaptation alone; ``restore --model`` uses the weights that it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from metadeblur.adaptation.settings import AdaptSettings
from metadeblur.cli.flags import (
    ADAPTATION,
    EVERYDAY,
    EXPERT,
    OUTPUT,
    AdaptationFlags,
    ConfigFlags,
    DeviceFlag,
    NoPrefix,
    PresetFlags,
    Switch,
    TalkFlags,
    writing_record,
)
from metadeblur.cli.inputs import given, needed, refuse_missing
from metadeblur.errors import MetadeblurError
from metadeblur.limits import check
from metadeblur.system.names import in_words
from metadeblur.types import Precision


@dataclass(frozen=True)
class EverydayFlags:
    """What most runs need."""

    output: Annotated[
        Path | None, tyro.conf.arg(aliases=["-o"], metavar="WEIGHTS", help_behavior_hint="(required)")
    ] = None
    """The weight file to write (safetensors)."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "lite"
    """The network to start from: a model's name, a weight file, or a folder of md.save_pretrained."""
    verbose: Annotated[Switch, tyro.conf.arg(aliases=["-v"])] = False
    """Also say why: every check, with its figure and limit."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class WhetherFlags:
    """How the network adapts, and how that is checked."""

    guard: bool = True
    """Keep, weaken or drop the adaptation by what it does; without, it is saved whole."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class OutputFlags:
    """What else is written."""

    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the record as JSON; - is standard output."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class MachineFlags:
    """What computes."""

    device: DeviceFlag = "auto"
    """What computes; auto: a CUDA GPU where there is one, otherwise the processor."""
    precision: Precision = "auto"
    """Arithmetic of the gradient steps; auto: bf16 where the machine does it natively."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Adapt:
    """Adapt a network to a clip and save its weights; metadeblur restore --model WEIGHTS uses them.

    Of a video with several shots, the longest one is adapted to.
    """

    input: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="IN", help_behavior_hint="(required)")
    ] = None
    """A video file or a folder of frames."""
    everyday: Annotated[EverydayFlags, NoPrefix, EVERYDAY] = field(default_factory=EverydayFlags)
    presets: Annotated[PresetFlags, NoPrefix, EVERYDAY] = field(default_factory=PresetFlags)
    settings: Annotated[ConfigFlags, NoPrefix, EVERYDAY] = field(default_factory=ConfigFlags)
    talk: Annotated[TalkFlags, NoPrefix, EVERYDAY] = field(default_factory=TalkFlags)
    whether: Annotated[WhetherFlags, NoPrefix, ADAPTATION] = field(default_factory=WhetherFlags)
    adaptation: Annotated[AdaptationFlags, NoPrefix, ADAPTATION] = field(default_factory=AdaptationFlags)
    files: Annotated[OutputFlags, NoPrefix, OUTPUT] = field(default_factory=OutputFlags)
    machine: Annotated[MachineFlags, NoPrefix, EXPERT] = field(default_factory=MachineFlags)

    def __post_init__(self) -> None:
        check(self)

    @property
    def output(self) -> Path | None:
        """The weight file to write."""
        return self.everyday.output

    def adapt_settings(self) -> AdaptSettings:
        """The settings of the adaptation."""
        machine = self.machine
        return self.adaptation.settings(guard=self.whether.guard, device=machine.device, precision=machine.precision)

    def run(self) -> None:
        """Adapt and save.

        Raises:
            MetadeblurError: the clip cannot be adapted to at all, or the weights not be written.
        """
        source = given(self.input, "a video or a folder of frames", "metadeblur adapt IN -o WEIGHTS.safetensors")
        refuse_missing([source], self.output)
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
        with writing(output), writing_record(self.files.json):
            self._adapt(source, output)

    def _adapt(self, source: Path, output: Path) -> None:
        """Do it, with outputs that are this run's alone."""
        from metadeblur.models.registry import recognise
        from metadeblur.models.weights import load_deblurrer, parameters_digest, save_deblurrer
        from metadeblur.pipeline.cuts import find_shots
        from metadeblur.pipeline.events import Detail
        from metadeblur.pipeline.policy import decide
        from metadeblur.reblur.fitting import NetworkReblurrer
        from metadeblur.system.identity import identify_files, refuse_change
        from metadeblur.system.json_files import versions, write_json
        from metadeblur.system.machine import describe_machine
        from metadeblur.version import __version__
        from metadeblur.video import VideoReader, reader_clip

        settings, base = self.adapt_settings(), self.everyday.model
        terminal = self.talk.terminal(verbose=self.everyday.verbose)
        reader, net = VideoReader(source), load_deblurrer(base)
        files = reader.info.files or (source,)
        mark = identify_files(files)
        with terminal.bar("looking for shots") as bar:
            scan = find_shots(reader, progress=bar)
        shot = max(scan.shots, key=lambda part: part.stop - part.start)
        if len(scan.shots) > 1:
            terminal.say(f"{len(scan.shots)} shots: adapting to the longest, frames {shot.start + 1} to {shot.stop}")
        clip = reader_clip(reader, shot.start, shot.stop)
        with terminal.bar("adapting", "steps") as bar:
            # Asked to adapt, it adapts: a sharp clip is left to the guard of the adaptation.
            decision = decide(net, clip, scan.sharpness[shot.start : shot.stop], settings, guard=False, progress=bar)
        outcome = decision.outcome
        if outcome is None or (outcome.adapted is None and settings.steps_on(1)):
            why = decision.note or "; ".join(reason.text for reason in decision.reasons)
            raise MetadeblurError(f"{source}: {why}; no weights were written")
        model = outcome.model
        metadata = {
            "architecture": recognise(model.state_dict()) or "unknown",
            "base": base,
            "base_checksum": parameters_digest(net),
            "share": f"{outcome.share:g}",
            "clip": reader.info.path.name,
            "frames": f"{shot.start}-{shot.stop - 1}",
            "steps": str(len(outcome.history)),
            "seed": str(settings.seed),
            "metadeblur": __version__,
        }
        refuse_change(source, files, mark)
        save_deblurrer(model, output, metadata)
        if self.files.json is not None:
            about = {"input": source, "output": output, "model": base, "version": __version__}
            about |= {"weights": parameters_digest(net)[:16], "settings": settings}
            write_json(
                {**about, **outcome.to_record(), "versions": versions(), "machine": describe_machine()}, self.files.json
            )
        if isinstance(outcome.reblurrer, NetworkReblurrer) and outcome.reblurrer.drowned:
            terminal.say(outcome.reblurrer.drowned)
        for reason in outcome.reasons:
            terminal(Detail(f"{'passed' if reason.passed else 'failed'}: {reason.text}"))
        spent = in_words(sum(outcome.seconds.values()))
        if outcome.adapted is None:
            terminal.say(
                f"{output}: the base weights; frames are {'fused' if outcome.fused else 'not fused'} ({spent})"
            )
        elif outcome.share == 0:
            why = "; ".join(reason.text for reason in outcome.reasons if not reason.passed)
            terminal.say(f"{output}: the guard dropped the adaptation, so these are the base weights ({why})")
        else:
            terminal.say(f"{output}: weights adapted to {source.name}, share {outcome.share:.2f}, {spent}")

"""What this machine and installation can do, what is wrong with it, and what to do about that."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import torch
from av import library_versions

from metadeblur.errors import MetadeblurError
from metadeblur.models.importing import fault, remedy
from metadeblur.models.weights import expected, imported_path, installed_path
from metadeblur.pipeline.catalogue import names
from metadeblur.pipeline.speed import SIZES, Speed, coding_seconds, measure
from metadeblur.system.device import choose_device, has_native_bf16, present_devices
from metadeblur.system.extras import how_to_install
from metadeblur.system.json_files import versions
from metadeblur.system.machine import describe_machine, usable_cpus
from metadeblur.system.memory import available_bytes
from metadeblur.system.nvidia import NvidiaCard, install_command, nvidia_cards, oldest_driver, pytorch_build
from metadeblur.video.encoding import encoders

DECODERS = ("h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mjpeg", "prores", "dnxhd", "ffv1")
"""What cameras, phones and editing programs write."""

SCARCE_BYTES = 1 << 30  # less memory than this to work with is a problem
DRIVERS = "nvidia.com/drivers"

Rows = list[tuple[str, str]]  # what, and what was found


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and what to do about it."""

    what: str
    remedy: str
    grave: bool = False  # the program cannot do its work


@dataclass(frozen=True)
class Gpu:
    """A GPU that PyTorch can use."""

    name: str
    memory_bytes: int
    native_bf16: bool


@dataclass(frozen=True)
class Extra:
    """A set of packages that only some commands need."""

    name: str
    installed: dict[str, str]  # versions by package
    missing: tuple[str, ...]  # packages


@dataclass(frozen=True)
class WeightFile:
    """A weight file that is, or should be, here."""

    name: str
    kind: str  # "built in" or "imported"
    path: Path
    fault: str  # empty: its checksum is that of its card, and it loads


@dataclass(frozen=True)
class Checkup:
    """All that was found."""

    versions: dict[str, str]
    machine: dict[str, Any]  # as in every record
    processors: int  # that this process may use
    device: str  # what --device auto takes
    native_bf16: bool  # of that device
    usable_bytes: int  # of its memory
    gpu: Gpu | None
    unused_cards: tuple[NvidiaCard, ...]  # NVIDIA's, that the system has and PyTorch cannot use
    ffmpeg: dict[str, str]  # versions by library
    decoders: dict[str, bool]
    encoders: dict[str, bool]
    extras: tuple[Extra, ...]
    weights: tuple[WeightFile, ...]
    speed: tuple[Speed, ...]  # of each model whose weights are here; empty: not measured
    problems: tuple[Problem, ...]


def examine(*, speed: bool = True, progress: Callable[[int, int, str], None] | None = None) -> Checkup:
    """Look at everything.

    Args:
        speed: measure each model whose weights are here, for about two seconds.
        progress: called with (models measured, models in all, the model's name).
    """
    device = choose_device("auto")
    weights = tuple(_weight_file(path, name) for path, name in expected().items())
    faulty = {file.path for file in weights if file.fault}
    measured: list[Speed] = []
    gpu = _gpu()
    cards = nvidia_cards() if gpu is None else ()
    damages = map(_damage, filter(lambda file: file.fault, weights))
    problems = [
        *_machine_problems(device),
        *_card_problems(cards),
        *_foreign_card_problems(gpu),
        *_codec_problems(),
        *damages,
    ]
    if speed:
        present = [name for name in names() if installed_path(name).is_file() and installed_path(name) not in faulty]
        problems += _measure(present, measured, progress or (lambda *_: None))
    return Checkup(
        versions=versions(),
        machine=describe_machine(),
        processors=usable_cpus(),
        device=device.type,
        native_bf16=has_native_bf16(device),
        usable_bytes=available_bytes(device),
        gpu=gpu,
        unused_cards=cards,
        ffmpeg={name: ".".join(map(str, number)) for name, number in sorted(library_versions.items())},
        decoders={name: _decodes(name) for name in DECODERS},
        encoders=encoders(),
        extras=tuple(map(_extra, _extras())),
        weights=weights,
        speed=tuple(measured),
        problems=tuple(problems),
    )


# --- what was found --------------------------------------------------------------------------------------------------


def _gpu() -> Gpu | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return Gpu(properties.name, properties.total_memory, has_native_bf16(torch.device("cuda")))


def _decodes(codec: str) -> bool:
    try:
        av.Codec(codec, "r")
    except ValueError:
        return False
    return True


def _extras() -> list[str]:
    """The names of the extras that the package declares."""
    return metadata.metadata("metadeblur").get_all("Provides-Extra") or []


def _extra(name: str) -> Extra:
    """What is there of the packages of an extra."""
    installed, missing = {}, []
    for requirement in metadata.requires("metadeblur") or []:
        if re.search(rf"extra == ['\"]{name}['\"]", requirement):
            package = package_name(requirement)
            try:
                installed[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                missing.append(package)
    return Extra(name, installed, tuple(missing))


def package_name(requirement: str) -> str:
    """The package that a requirement asks for.

    >>> package_name("mkdocstrings[python]>=0.28; extra == 'docs'")
    'mkdocstrings'
    """
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _weight_file(path: Path, name: str) -> WeightFile:
    kind = "imported" if path == imported_path(name) else "built in"
    return WeightFile(name, kind, path, fault(name, path))


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _machine_problems(device: torch.device) -> list[Problem]:
    problems = []
    threads, processors, usable = torch.get_num_threads(), usable_cpus(), available_bytes(device)
    told = [name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    if device.type == "cpu" and told and threads < processors:
        what = f"the network uses {threads} of {processors} processors, because {told[0]} says so"
        problems.append(Problem(what, f"unset {told[0]}, unless that was meant"))
    if usable < SCARCE_BYTES:
        what = f"only {gigabytes(usable)} of memory are free to work with"
        problems.append(Problem(what, "close other programs; --tile 256 needs less, and frames are cut up as needed"))
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > (os.cpu_count() or 1) + 0.5:
        what = f"the machine is busy: {load:.1f} programs want its {os.cpu_count()} processors"
        problems.append(Problem(what, "wait or end some; the speeds are those beside that work"))
    return problems


def _card_problems(cards: Sequence[NvidiaCard]) -> list[Problem]:
    """Why PyTorch does not use the cards of NVIDIA's that are there, and the next thing to do about it."""
    if not cards:
        return []
    card = cards[0]
    here = f"there is an NVIDIA GPU ({card.name}), but "
    built_for = torch.version.cuda
    build = pytorch_build(card)
    then = "then metadeblur doctor again"
    if not card.driven:
        remedy = f"install its driver from {DRIVERS}, restart the machine, {then}"
        return [Problem(f"{here}no driver of NVIDIA's runs", remedy)]
    if not build or (built_for and 0 < card.driver_major < oldest_driver(built_for)):
        needed = oldest_driver(built_for) if built_for else oldest_driver("12")
        what = f"{here}its driver {card.driver} is too old for PyTorch{f' for CUDA {built_for}' * bool(built_for)}"
        remedy = f"install driver {needed} or newer from {DRIVERS}, restart the machine, {then}"
        return [Problem(what, f"{remedy}; or keep it: {install_command(build)}" if build else remedy)]
    if not built_for:
        what = f"{here}this PyTorch ({torch.__version__}) is built without CUDA and cannot use it"
        return [Problem(what, f"run this, {then}: {install_command(build)}")]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and not re.match(r"\s*(\d|GPU-|MIG-)", hidden):
        what = f"{here}CUDA_VISIBLE_DEVICES is {hidden!r} and hides it"
        return [Problem(what, "unset CUDA_VISIBLE_DEVICES, unless that was meant")]
    what = f"{here}this PyTorch ({torch.__version__}) cannot use it: {_why_no_cuda()}"
    return [Problem(what, f"restart the machine (a container: start it with --gpus all), {then}")]


def _foreign_card_problems(gpu: Gpu | None) -> list[Problem]:
    """A card that PyTorch sees but has no machine code for: too old for its build, or too new."""
    if gpu is None or not torch.version.cuda:
        return []
    major, minor = torch.cuda.get_device_capability(0)
    if _has_code_for(major, minor):
        return []
    card = NvidiaCard(gpu.name, capability=float(f"{major}.{minor}"))
    what = f"this PyTorch ({torch.__version__}) has no code for {gpu.name} (compute capability {major}.{minor})"
    return [Problem(what, f"run this, then metadeblur doctor again: {install_command(pytorch_build(card))}")]


def _has_code_for(major: int, minor: int) -> bool:
    """Whether PyTorch has machine code for a card ("sm"), or code that a driver can translate for it ("compute")."""
    for name in torch.cuda.get_arch_list():
        if found := re.match(r"(sm|compute)_(\d+)(\d)", name):
            newest = (int(found[2]), int(found[3]))
            if newest <= (major, minor) and (found[1] == "compute" or newest[0] == major):
                return True
    return False


def _why_no_cuda() -> str:
    """What PyTorch says when it is asked to use CUDA."""
    try:
        torch.cuda.current_device()
    except (RuntimeError, AssertionError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return "it finds none"


def _codec_problems() -> list[Problem]:
    again = "install PyAV from its wheel: pip install --force-reinstall --only-binary av av"
    problems = []
    for kind, codecs in (("encoder", encoders()), ("decoder", {name: _decodes(name) for name in DECODERS})):
        missing = [name for name, there in codecs.items() if not there]
        if missing:
            problems.append(Problem(f"FFmpeg has no {kind} {', '.join(missing)}", again))
    return problems


def _damage(file: WeightFile) -> Problem:
    what = f"the {file.kind} weights of {file.name}: {file.fault}"
    return Problem(what, remedy(file.path), grave=file.kind == "built in")


def _measure(
    models: Sequence[str], measured: list[Speed], progress: Callable[[int, int, str], None]
) -> Sequence[Problem]:
    """Measure models one after the other; what cannot be measured is a problem."""
    problems = []
    try:
        coding = coding_seconds()
    except MetadeblurError as error:  # without its encoder; that is a problem of its own
        coding = 0.0
        problems.append(Problem(f"no video can be written: {error}", "write folders of frames until then: -o FOLDER"))
    for index, model in enumerate(models):
        progress(index, len(models), model)
        try:
            measured.append(measure(model, coding))
        except (MetadeblurError, RuntimeError) as error:
            what = f"{model} does not run here: {str(error).strip().splitlines()[0]}"
            problems.append(Problem(what, "choose a smaller --model, or --device cpu"))
    return problems


# --- in words --------------------------------------------------------------------------------------------------------


def sections(found: Checkup) -> dict[str, Rows]:
    """All that was found as lines for a person, by heading."""
    host = found.machine
    total = gigabytes((host["memory_mb"] or 0) << 20)
    here = {
        "system": host["system"],
        "processor": f"{host['processor']}, {found.processors} of {host['cpus']} CPUs, {host['threads']} threads used",
        "memory": f"{total} in all, {gigabytes(found.usable_bytes)} to use",
        "gpu": _gpu_in_words(found),
        "device": f"{found.device} (what --device auto takes)",
        "native bf16": "yes" if found.native_bf16 else "no (fp32 is used)",
    }
    ffmpeg = {
        "libraries": ", ".join(f"{name} {number}" for name, number in found.ffmpeg.items()),
        "encoders": ", ".join(name for name, there in found.encoders.items() if there),
        "decoders": ", ".join(name for name, there in found.decoders.items() if there),
    }
    return {
        "versions": list(found.versions.items()),
        "this machine": list(here.items()),
        "FFmpeg": list(ffmpeg.items()),
        "extras": [(extra.name, _told(extra)) for extra in found.extras],
        "weights": [(file.name, f"{file.kind}, {file.fault or 'good'}") for file in found.weights],
        SPEED: [(speed.model, _expectation(speed)) for speed in found.speed],
    }


def _gpu_in_words(found: Checkup) -> str:
    if found.gpu is not None:
        return f"{found.gpu.name}, {gigabytes(found.gpu.memory_bytes)}"
    asked_for = [name for name in present_devices() if name != "cpu"]  # auto takes none of these
    there = [f"{name}, with --device {name} only" for name in asked_for]
    for card in found.unused_cards:
        memory = f", {gigabytes(card.memory_bytes)}" if card.memory_bytes else ""
        there.append(f"{card.name}{memory}, which PyTorch cannot use (see problem)")
    return "; ".join(there) or "none that PyTorch can use"


SPEED = "frames a second to expect (estimate)"
ABOUT_SPEED = (
    "Estimates, from one patch and its pixels, of restoring with --no-adapt; adapting comes on top, once a shot."
)


def _told(extra: Extra) -> str:
    if not extra.missing:
        return "installed"
    return f"without {', '.join(extra.missing)}; where it is wanted: {how_to_install(extra.name)}"


def _expectation(speed: Speed) -> str:
    by_size = ", ".join(f"{size} {speed.frames_a_second[size]:.2g}" for size in SIZES)
    return f"{by_size} ({speed.precision}, from {speed.side}x{speed.side} in {speed.seconds:.2g} s)"


def gigabytes(size: int) -> str:
    """A size in bytes for people.

    >>> gigabytes(3 << 29)
    '1.5 GB'
    """
    return f"{size / 2**30:.1f} GB"

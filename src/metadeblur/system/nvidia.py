"""NVIDIA cards as the system knows them: PyTorch sees none of them where it was built without CUDA."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

UNNAMED = "NVIDIA card"

_QUESTIONS = ("name,memory.total,driver_version,compute_cap", "name,memory.total,driver_version")  # old drivers: second
_PATIENCE = 30.0  # s that a program may take to answer; a card that sleeps takes a few
_PROC = Path("/proc/driver/nvidia")  # there where a driver runs on Linux, also in containers without nvidia-smi
_PCI = Path("/sys/bus/pci/devices")
_VENDOR = "10DE"  # NVIDIA's number among makers of PCI devices
_ASK_WINDOWS = (
    "Get-CimInstance Win32_VideoController | ForEach-Object { $_.PNPDeviceID + '|' + $_.Name + '|' + $_.DriverVersion }"
)
_DRIVERS = {13: 580, 12: 525}  # the oldest driver for PyTorch's builds of each CUDA


@dataclass(frozen=True)
class NvidiaCard:
    """A card, and what its driver tells of it."""

    name: str
    memory_bytes: int = 0  # 0: not told
    driver: str = ""  # its version; empty: not told
    capability: float = 0.0  # compute capability, as 8.6; 0: not told
    driven: bool = True  # whether a driver of NVIDIA's runs

    @property
    def driver_major(self) -> int:
        """The first number of the driver's version; 0 where that is not told."""
        return int(self.driver.partition(".")[0] or 0)


def nvidia_cards() -> tuple[NvidiaCard, ...]:
    """The cards that NVIDIA's driver tells of; where none answers, those that the system lists."""
    for program in _programs():
        if cards := _told(program):
            return cards
    return _driven() or _plugged_in() or _shown_by_windows()


def oldest_driver(cuda: str) -> int:
    """The first number of the oldest driver that a PyTorch built for this CUDA works with.

    >>> oldest_driver("12.6"), oldest_driver("13.0")
    (525, 580)
    """
    return _DRIVERS.get(int(cuda.partition(".")[0]), max(_DRIVERS.values()))


def pytorch_build(card: NvidiaCard) -> str:
    """The name of the build of PyTorch that fits a card and its driver; empty where that driver is too old for all.

    >>> pytorch_build(NvidiaCard("RTX 3060", driver="581.29", capability=8.6))
    'cu130'
    >>> pytorch_build(NvidiaCard("RTX 3060", driver="551.23", capability=8.6))
    'cu126'
    """
    driver = card.driver_major or max(_DRIVERS.values())  # not told: one that is to be installed is new
    old, new = 0 < card.capability < 7.5, card.capability >= 10  # before Turing: not in CUDA 13; Blackwell: from 12.8
    if driver >= _DRIVERS[13] and not old:
        return "cu130"
    if driver >= _DRIVERS[12]:
        return "cu128" if new else "cu126"
    return ""


def install_command(build: str) -> str:
    """What to run to put PyTorch in one build in the place of the one that is here."""
    words = f"pip install --python {_quoted(sys.executable)} --reinstall torch --torch-backend {build}"
    if not _has_pip():  # as in environments that uv makes
        return f"uv {words}"
    return f"{_python()} -m pip install uv, then {_python()} -m uv {words}"  # pip knows no builds by their names


def _has_pip() -> bool:
    """Whether pip is here. Looking for it as a module would turn off what setuptools puts in distutils' place."""
    with suppress(metadata.PackageNotFoundError):
        return bool(metadata.distribution("pip"))
    return False


def _python() -> str:
    """How this Python is called: by its name where that leads to it, otherwise by its path."""
    by_name = shutil.which("python")
    same = by_name is not None and os.path.normcase(by_name) == os.path.normcase(sys.executable)
    return "python" if same else _quoted(sys.executable)


def _quoted(path: str) -> str:
    """A path for a command line; cmd and PowerShell know double quotes only."""
    if os.name == "nt":
        return f'"{path}"' if " " in path else path
    return shlex.quote(path)


# --- nvidia-smi ------------------------------------------------------------------------------------------------------


def _programs() -> Iterator[str]:
    """Every nvidia-smi that is here: on the path, and where drivers put it that do not put it there."""
    if on_path := shutil.which("nvidia-smi"):
        yield on_path
    yield from (str(place) for place in _places() if place.is_file())


def _places() -> Iterator[Path]:
    yield Path("/usr/bin/nvidia-smi")
    yield Path("/usr/lib/wsl/lib/nvidia-smi")  # Windows' own, within its Linux
    if root := _variable("SYSTEMROOT", "WINDIR"):
        system = Path(root) / "System32"
        yield system / "nvidia-smi.exe"
        yield from sorted((system / "DriverStore" / "FileRepository").glob("nv*/nvidia-smi.exe"))
    if programs := _variable("PROGRAMW6432", "PROGRAMFILES"):
        yield Path(programs) / "NVIDIA Corporation" / "NVSMI" / "nvidia-smi.exe"  # of drivers before 2021


def _variable(*names: str) -> str:
    """The first of these variables of Windows that is set; case does not matter in their names."""
    known = {name.upper(): value for name, value in os.environ.items()}
    return next((known[name] for name in names if known.get(name)), "")


def _told(program: str) -> tuple[NvidiaCard, ...]:
    """The cards that one nvidia-smi tells of."""
    for question in _QUESTIONS:
        lines = _lines(program, f"--query-gpu={question}", "--format=csv,noheader,nounits")
        if cards := tuple(_card(line) for line in lines):
            return cards
    names = (re.match(r"GPU \d+: (.+?)(?: \(UUID.*)?$", line) for line in _lines(program, "-L"))
    return tuple(NvidiaCard(name[1]) for name in names if name)


def _card(line: str) -> NvidiaCard:
    """A card from a line of name, memory in MiB, driver and compute capability; what is not told may be missing.

    >>> _card("NVIDIA GeForce RTX 3060, 12288, 551.23, 8.6")
    NvidiaCard(name='NVIDIA GeForce RTX 3060', memory_bytes=12884901888, driver='551.23', capability=8.6, driven=True)
    >>> _card("GPU 0: Tesla T4 (UUID: GPU-1)").name, _card("NVIDIA GB10, [N/A], 580.95.05, 12.1").memory_bytes
    ('Tesla T4', 0)
    """
    name, memory, driver, capability, *_ = (*(part.strip() for part in line.split(",")), "", "", "")
    name = re.sub(r"^GPU \d+: | \(UUID.*$", "", name)
    return NvidiaCard(
        name or UNNAMED,
        int(memory) << 20 if memory.isdecimal() else 0,
        driver if re.fullmatch(r"\d+(\.\d+)*", driver) else "",
        float(capability) if re.fullmatch(r"\d+(\.\d+)?", capability) else 0.0,
    )


def _lines(*words: str) -> list[str]:
    """What a program prints, without empty lines; nothing where it fails."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    lines = (line.strip() for line in done.stdout.splitlines())
    return [line for line in lines if line and not line.startswith(("No devices", "name,"))]


# --- without nvidia-smi ----------------------------------------------------------------------------------------------


def _driven() -> tuple[NvidiaCard, ...]:
    """The cards of the driver that runs on this Linux."""
    try:
        version = re.search(r"Kernel Module(?: for \w+)?\s+([\d.]+)", (_PROC / "version").read_text())
    except OSError:
        return ()
    driver = version[1] if version else ""
    models = [
        re.search(r"^Model:\s*(.+?)\s*$", path.read_text(errors="replace"), re.MULTILINE)
        for path in sorted(_PROC.glob("gpus/*/information"))
    ]
    return tuple(NvidiaCard(one[1], driver=driver) for one in models if one) or (NvidiaCard(UNNAMED, driver=driver),)


def _plugged_in() -> tuple[NvidiaCard, ...]:
    """The cards that this Linux lists, without a driver of NVIDIA's."""
    cards = []
    for folder in sorted(_PCI.glob("*")):
        try:
            vendor, kind = ((folder / name).read_text().strip().lower() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == f"0x{_VENDOR.lower()}" and kind.startswith("0x03"):  # displays; sound has another class
            cards.append(NvidiaCard(UNNAMED, driven=False))
    return tuple(cards)


def _shown_by_windows() -> tuple[NvidiaCard, ...]:
    """The cards that Windows lists; without a driver of NVIDIA's their names are Windows' own."""
    program = shutil.which("powershell") if _variable("SYSTEMROOT", "WINDIR") else None
    if program is None:
        return ()
    cards = []
    for line in _lines(program, "-NoProfile", "-NonInteractive", "-Command", _ASK_WINDOWS):
        device, name, version, *_ = (*line.split("|"), "", "")
        if f"VEN_{_VENDOR}" in device.upper():
            driven = "nvidia" in name.lower()
            cards.append(NvidiaCard(name if driven else UNNAMED, driver=_own(version) if driven else "", driven=driven))
    return tuple(cards)


def _own(version: str) -> str:
    """NVIDIA's number of a driver whose version in Windows this is.

    >>> _own("31.0.15.3623")
    '536.23'
    """
    digits = "".join(version.split(".")[-2:])[-5:]
    return f"{digits[:3]}.{digits[3:]}" if digits.isdecimal() and len(digits) == 5 else ""

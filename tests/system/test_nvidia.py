"""NVIDIA cards that are found without PyTorch, on Linux and Windows; programs and folders are stand-ins."""

from __future__ import annotations

from pathlib import Path

import pytest

from metadeblur.system import nvidia
from metadeblur.system.nvidia import UNNAMED, NvidiaCard, nvidia_cards

CARD = NvidiaCard("NVIDIA GeForce RTX 3060", 12288 << 20, "551.23", 8.6)
ANSWER = "echo 'NVIDIA GeForce RTX 3060, 12288, 551.23, 8.6'"
WINDOWS = ("SYSTEMROOT", "WINDIR", "PROGRAMW6432", "PROGRAMFILES")


@pytest.fixture(autouse=True)
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux without a card, a driver, or nvidia-smi."""
    (tmp_path / "programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    for name in WINDOWS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(nvidia, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(nvidia, "_PCI", tmp_path / "pci")
    linux = nvidia._places
    monkeypatch.setattr(nvidia, "_places", lambda: (place for place in linux() if place.is_relative_to(tmp_path)))


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_nothing_is_found_where_there_is_nothing() -> None:
    assert nvidia_cards() == ()


def test_nvidia_smi_on_the_path_tells(tmp_path: Path) -> None:
    program(tmp_path / "programs" / "nvidia-smi", f"{ANSWER}; {ANSWER}")
    assert nvidia_cards() == (CARD, CARD)


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("SYSTEMROOT", "System32/nvidia-smi.exe"),
        ("windir", "System32/nvidia-smi.exe"),
        ("SystemRoot", "System32/DriverStore/FileRepository/nv_dispi.inf_amd64_1/nvidia-smi.exe"),
        ("ProgramFiles", "NVIDIA Corporation/NVSMI/nvidia-smi.exe"),
        ("PROGRAMW6432", "NVIDIA Corporation/NVSMI/nvidia-smi.exe"),
    ],
)
def test_nvidia_smi_is_found_in_each_of_its_places_in_windows(
    variable: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "windows"))
    program(tmp_path / "windows" / place, ANSWER)
    assert nvidia_cards() == (CARD,)


def test_an_old_nvidia_smi_that_does_not_know_all_questions_is_asked_less(tmp_path: Path) -> None:
    program(
        tmp_path / "programs" / "nvidia-smi",
        """case "$1" in
        *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2;;
        *) echo 'Tesla K80, 11441, 470.82.01';; esac""",
    )
    assert nvidia_cards() == (NvidiaCard("Tesla K80", 11441 << 20, "470.82.01"),)
    program(
        tmp_path / "programs" / "nvidia-smi",
        """[ "$1" = -L ] || exit 2
        echo 'GPU 0: Tesla K80 (UUID: GPU-1)'""",
    )
    assert nvidia_cards() == (NvidiaCard("Tesla K80"),)


@pytest.mark.parametrize(
    "fault", ["exit 9", "echo 'No devices were found'", "exec /bin/sleep 9", "exec /no/such/program"]
)
def test_one_that_fails_gives_way_to_what_the_system_lists(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "_PATIENCE", 0.2)
    program(tmp_path / "programs" / "nvidia-smi", fault)
    assert nvidia_cards() == ()
    for number, (vendor, kind) in enumerate([("0x10de", "0x030000"), ("0x10de", "0x040300"), ("0x8086", "0x030000")]):
        folder = tmp_path / "pci" / str(number)
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    assert nvidia_cards() == (NvidiaCard(UNNAMED, driven=False),)


def test_a_driver_without_nvidia_smi_tells_too(tmp_path: Path) -> None:
    (tmp_path / "proc" / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "proc" / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat\n")
    assert nvidia_cards() == (NvidiaCard(UNNAMED, driver="535.104.05"),)
    information = tmp_path / "proc" / "gpus" / "0000:01:00.0" / "information"
    information.write_text("Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   	 44\n")
    assert nvidia_cards() == (NvidiaCard("NVIDIA A100-SXM4-40GB", driver="535.104.05"),)


def test_windows_lists_cards_with_and_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SystemRoot", str(tmp_path / "windows"))
    program(
        tmp_path / "programs" / "powershell",
        """echo 'PCI\\VEN_8086&DEV_4680\\3|Intel(R) UHD Graphics|31.0.101.4032'
        echo 'PCI\\VEN_10DE&DEV_2504\\4|NVIDIA GeForce RTX 3060|31.0.15.5123'
        echo 'PCI\\VEN_10DE&DEV_1B80\\5|Microsoft Basic Display Adapter|10.0.19041.3636'""",
    )
    assert nvidia_cards() == (
        NvidiaCard("NVIDIA GeForce RTX 3060", driver="551.23"),
        NvidiaCard(UNNAMED, driven=False),
    )

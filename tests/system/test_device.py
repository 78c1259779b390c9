"""Devices: names, what this machine has, and where a network is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import metadeblur as md
from metadeblur.adaptation.settings import AdaptSettings
from metadeblur.cli.entry import main
from metadeblur.errors import MetadeblurError
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.system.device import choose_device, mixed_precision, present_devices

SETTINGS = (RestoreSettings, AdaptSettings)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch.cuda, torch.xpu):
        monkeypatch.setattr(module, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps", "xpu", "xpu:1"])
def test_settings_take_every_name_as_text_or_as_a_device(settings: type, name: str) -> None:
    assert settings(device=name).device == name
    if name != "auto":
        assert settings(device=torch.device(name)).device == name


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    "name", ["", "abacus", "cuda:", "cuda:x", "cuda:-1", "CUDA", "gpu", "cuda:0000", 0, "cpu cuda"]
)
def test_settings_refuse_other_names(settings: type, name: object) -> None:
    with pytest.raises(MetadeblurError, match=r"device is .*; give auto, cpu, cuda, cuda:N, mps or xpu"):
        settings(device=name)


@pytest.mark.usefixtures("two_gpus")
def test_a_device_that_is_there_is_chosen() -> None:
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == choose_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert present_devices()[:3] == ["cpu", "cuda:0", "cuda:1"]
    with pytest.raises(MetadeblurError, match=r"'cuda:2'.*choose auto or one that is here: cpu, cuda:0, cuda:1"):
        choose_device("cuda:2")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3", "mps", "xpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(MetadeblurError, match=rf"^device '{name}': .* here: cpu$"):
        choose_device(name)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_the_processor() -> None:
    assert choose_device("auto") == choose_device(None) == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_library_calls_stay_where_the_network_is() -> None:
    assert choose_device(None, nn.Linear(1, 1)) == torch.device("cpu")
    assert choose_device(None, nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert choose_device(None, nn.Identity()) == torch.device("cpu")
    assert Restorer(nn.Conv2d(3, 3, 1), 32, 32).device == torch.device("cpu")
    assert md.AdaptSettings().device is None


def test_files_are_restored_on_the_best_device() -> None:
    from metadeblur.pipeline.run import RunSettings

    settings = RunSettings()
    assert settings.restoration.device == settings.adaptation.device == "auto"
    chosen = RunSettings(restoration=RestoreSettings(device="cpu"), adaptation=AdaptSettings(device="cpu"))
    assert chosen.restoration.device == chosen.adaptation.device == "cpu"


@pytest.mark.parametrize("kind", ["cpu", "meta"])
def test_mixed_precision_is_off_where_there_is_none(kind: str) -> None:
    with mixed_precision(torch.device(kind), enabled=True):
        product = torch.ones(2, 2, device=kind) @ torch.ones(2, 2, device=kind)
    assert product.dtype == (torch.bfloat16 if kind == "cpu" else torch.float32)


COMMANDS = (
    ["restore", "{clip}", "-o", "{out}/restored"],
    ["adapt", "{clip}", "-o", "{out}/adapted.safetensors"],
    ["evaluate", "builtin", "-o", "{out}/evaluated"],
    ["train", "deblur", "--clips", "{clip}", "-o", "{out}/trained"],
    ["train", "reblur", "--clips", "{clip}", "-o", "{out}/trained"],
    ["train", "meta", "--clips", "{clip}", "-o", "{out}/trained"],
    ["reproduce", "table1", "--root", "builtin", "-o", "{out}/reproduced"],
)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize(("name", "code"), [("cuda:5", 1), ("abacus", 2)])
def test_every_command_refuses_a_device_before_anything_is_made(
    words: list[str], name: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = tmp_path / "clip", tmp_path / "out"
    clip.mkdir()
    out.mkdir()
    for number in range(6):
        write_frame(clip / f"{number}.png")
    assert main([*(word.format(clip=clip, out=out) for word in words), "--device", name]) == code
    said = capsys.readouterr().err.strip()
    assert name in said
    assert "cpu" in said
    assert len(said.splitlines()) == 1
    assert not list(out.rglob("*.*"))


def write_frame(path: Path) -> None:
    import cv2
    import numpy as np

    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))

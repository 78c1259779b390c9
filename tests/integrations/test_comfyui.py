"""The node for ComfyUI, in a stand-in of it: the frames of ``restore``, its bar, its Cancel, its device."""

from __future__ import annotations

import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import fake_comfyui
import numpy as np
import pytest
import torch
from journey import run, shaky, small_model

import metadeblur as md

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


@pytest.fixture
def comfyui(monkeypatch, tmp_path):
    return fake_comfyui.install(monkeypatch, tmp_path)


@pytest.fixture
def node(comfyui, monkeypatch):
    """The node's class, found as ComfyUI finds it: the folder is a package of its own."""
    assert comfyui
    spec = spec_from_file_location("metadeblur_nodes", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "metadeblur_nodes", module)
    monkeypatch.delitem(sys.modules, "metadeblur_nodes.node", raising=False)
    spec.loader.exec_module(module)
    assert set(module.NODE_CLASS_MAPPINGS) == set(module.NODE_DISPLAY_NAME_MAPPINGS)
    assert list(module.NODE_DISPLAY_NAME_MAPPINGS.values()) == ["Deblur video (metadeblur)"]
    (found,) = module.NODE_CLASS_MAPPINGS.values()
    return found


@pytest.fixture
def small(comfyui, node):
    """A small network among ComfyUI's models, and its name there."""
    assert node
    folder = comfyui.folders["metadeblur"]
    folder.mkdir(parents=True)
    small_model(folder / "small.safetensors")
    return "small.safetensors"


def restored(frames, bits, model, folder, effort="quick"):
    """What the command makes of the same frames, (T, H, W, 3)."""
    md.write_clip(md.Clip(frames, bit_depth=bits), folder / "walk")
    assert run("restore", folder / "walk", "-o", folder / "sharp", "--effort", effort, "--model", model, "-q") == 0
    return md.read_clip(folder / "sharp").frames.movedim(1, -1)


def left_of(comfyui):
    return [path.name for path in (comfyui.base / "temp").iterdir() if path.is_dir()]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("bits", [8, 16])
def test_frames_are_those_of_the_command(bits, comfyui, node, small, tmp_path):
    images = torch.from_numpy(shaky((5, 4)) if bits == 8 else shaky((5,), (40, 64))).float() / 255
    if bits == 16:
        images = images * 0.9
    made, verdict = comfyui.call(node, images=images, effort="quick", model=small)
    assert (made.shape, made.dtype) == (images.shape, torch.float32)
    assert not torch.equal(made, images)
    assert torch.equal(made, restored(images, bits, comfyui.folders["metadeblur"] / small, tmp_path))
    assert verdict.startswith(("Sharper", "Hardly sharper"))
    assert comfyui.bar == sorted(set(comfyui.bar))
    assert comfyui.bar[-1] == 100
    assert comfyui.emptied
    assert left_of(comfyui) == []


def test_what_learns_may_have_gradients_although_comfyui_forbids_them(comfyui, node, small, monkeypatch):
    learnt = []

    def learn(source, target, *, effort, **_):
        weight = torch.ones(1, requires_grad=True)
        (weight * md.read_clip(source)[0].mean()).backward()
        learnt.append((effort, float(weight.grad) > 0))
        shutil.copytree(source, target)
        return md.RunRecord()

    monkeypatch.setattr(md, "restore_video", learn)
    images = torch.from_numpy(shaky((5,), (40, 64))).float() / 255
    made, _ = comfyui.call(node, images=images, effort="balanced", model=small)
    assert learnt == [("balanced", True)]
    assert torch.equal(made, images)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.long
def test_balanced_is_that_of_the_command(comfyui, node, small, tmp_path):
    images = torch.from_numpy(shaky((6,), (48, 64))).float() / 255
    made, _ = comfyui.call(node, images=images, effort="balanced", model=small)
    model = comfyui.folders["metadeblur"] / small
    assert torch.equal(made, restored(images, 8, model, tmp_path, effort="balanced"))


def test_transparency_passes_and_a_single_image_too(comfyui, node, small):
    images = torch.rand(1, 40, 48, 4, generator=torch.Generator().manual_seed(0))
    made, _ = comfyui.call(node, images=images, effort="quick", model=small)
    assert made.shape == images.shape
    assert torch.equal(made[..., 3], images[..., 3])


def test_what_overshoots_is_cut_off(comfyui, node, small):
    images = torch.from_numpy(shaky((5,), (40, 64))).float() / 255
    made, _ = comfyui.call(node, images=images * 1.4 - 0.2, effort="quick", model=small)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


@pytest.mark.parametrize("patience", [0, 3, 9, 14])
def test_cancel_ends_it_wherever_it_is_and_leaves_nothing(patience, comfyui, node, small):
    comfyui.patience = patience
    images = torch.from_numpy(shaky((5,), (40, 64))).float() / 255
    with pytest.raises(fake_comfyui.InterruptProcessingException):
        comfyui.call(node, images=images, effort="quick", model=small)
    assert comfyui.questions == patience + 1
    assert left_of(comfyui) == []


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(5, 40, 48), "images shaped (5, 40, 48); the node takes (frames, height, width, 3 or 4)"),
        (torch.zeros(5, 40, 48, 1), "images shaped (5, 40, 48, 1)"),
        (torch.full((2, 40, 48, 3), np.nan), "image 0 has values that are not numbers"),
    ],
)
def test_what_is_no_video_is_said(images, told, comfyui, node, small):
    with pytest.raises(md.MetadeblurError) as caught:
        comfyui.call(node, images=images, effort="quick", model=small)
    assert told in str(caught.value)


def test_it_offers_what_is_here(comfyui, node, small):
    inputs = node.INPUT_TYPES()["required"]
    assert inputs["images"][0] == "IMAGE"
    assert inputs["effort"][0] == ["quick", "balanced"]
    offered, told = inputs["model"]
    assert told["default"] == offered[0] == "lite"
    assert small in offered
    assert "restormer" not in offered  # nobody has imported its weights
    assert node.RETURN_TYPES == ("IMAGE", "STRING")
    assert len(node.RETURN_NAMES) == 2
    assert comfyui.folders == {"metadeblur": comfyui.base / "models" / "metadeblur"}


@pytest.mark.parametrize(("device", "used"), [("cuda:1", "cuda:1"), ("mps", "mps"), ("meta", "cpu")])
def test_it_computes_where_comfyui_does(device, used, comfyui, node, monkeypatch):
    comfyui.device = torch.device(device)
    module = sys.modules[node.__module__]
    assert module._device() == used
    monkeypatch.setattr(module.model_management, "get_torch_device", lambda: torch.device("cpu"))
    assert module._device() == "cpu"


def test_its_folder_is_all_that_is_copied(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "metadeblur", ignore=shutil.ignore_patterns("__pycache__"))
    assert {path.name for path in (tmp_path / "metadeblur").iterdir()} == {"__init__.py", "node.py", "README.md"}

"""The node: frames into a temporary folder, ``metadeblur.restore_video`` on it, and the restored frames out again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy import model_management
from comfy.utils import ProgressBar
from torch import Tensor

import metadeblur as md
from metadeblur.models.weights import installed_path
from metadeblur.pipeline.catalogue import names
from metadeblur.report.verdict import network_of, overall_verdict
from metadeblur.system.scratch import scratch_folder

_FOLDER = "metadeblur"  # of ComfyUI's models: weight files to choose from
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_SCANNED = 10  # of 100 parts of the bar: the frames have been looked through
_EXACT = 1e-6  # so close to a whole number of 255ths are values that were 8 bits

_log = logging.getLogger(__name__)
folder_paths.add_model_folder_path(_FOLDER, str(Path(folder_paths.models_dir) / _FOLDER))


class DeblurVideo:
    """Motion blur removed from the frames of a video."""

    DESCRIPTION = (
        "Removes motion blur from a video: the frames are restored by a network, corrected by what the camera must "
        "have seen, and help each other where a check finds that this is right. Give consecutive frames of one video."
    )
    CATEGORY = "video/metadeblur"
    FUNCTION = "deblur"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("images", "verdict")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What the node takes, as ComfyUI wants it told."""
        effort = (
            "quick: learns no weights, most of the gain; balanced: the network learns from each shot, and is checked"
        )
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "consecutive frames of a video"}),
                "effort": (["quick", "balanced"], {"default": "quick", "tooltip": effort}),
                "model": (_models(), {"default": "lite", "tooltip": "lite is built in"}),
            }
        }

    def deblur(self, images: Tensor, effort: str, model: str) -> tuple[Tensor, str]:
        """Restore the frames.

        Args:
            images: (B, H, W, C), float in [0, 1]; a fourth channel, transparency, passes as it is.
            effort: "quick" or "balanced".
            model: one of those that the node offers.

        Returns:
            As many images, and one line about what came out.

        Raises:
            MetadeblurError: these are no images, or the work failed; the message says what to do.
        """
        # ComfyUI calls its nodes in inference mode, in which nothing can be learnt.
        with torch.inference_mode(False), torch.enable_grad():
            return _deblurred(images, effort, model)


def _deblurred(images: Tensor, effort: str, model: str) -> tuple[Tensor, str]:
    if images.ndim != 4 or images.shape[-1] not in (3, 4):
        raise md.MetadeblurError(f"images shaped {tuple(images.shape)}; the node takes (frames, height, width, 3 or 4)")
    model_management.soft_empty_cache()  # so that the tiles are chosen from all memory that is free
    place = Path(folder_paths.get_temp_directory())
    place.mkdir(parents=True, exist_ok=True)
    restored = images.to("cpu", torch.float32, copy=True)
    with scratch_folder(place) as folder:
        frames = md.Clip(_Frames(images), bit_depth=8 if _has_8_bits(images) else 16)
        md.write_clip(frames, folder / "blurred")
        record = md.restore_video(
            folder / "blurred",
            folder / "restored",
            effort=effort,
            model=_weights(model),
            device=_device(),
            progress=_Progress(),
        )
        for index, frame in enumerate(md.read_clip(folder / "restored")):
            restored[index, ..., :3] = frame.movedim(0, -1)
    return restored, overall_verdict(record.shots, network_of(record)).headline


class _Frames:
    """The frames of a batch, (3, H, W) each; stops where a person has asked for it."""

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        model_management.throw_exception_if_processing_interrupted()
        frame = self._images[index, ..., :3].movedim(-1, 0).to("cpu", torch.float32)
        if not bool(torch.isfinite(frame).all()):
            raise md.MetadeblurError(f"image {index} has values that are not numbers (NaN or infinite)")
        return frame.clamp(0, 1)


class _Progress:
    """Moves ComfyUI's bar, and stops the work where a person has asked for it."""

    def __init__(self) -> None:
        self._bar, self._parts = ProgressBar(100), 0

    def __call__(self, done: int, total: int, stage: str) -> None:
        model_management.throw_exception_if_processing_interrupted()
        first, last = {"scan": (0, _SCANNED), "restore": (_SCANNED, 100)}.get(stage, (0, 0))
        parts = first + (last - first) * done // max(total, 1)
        if parts > self._parts:
            self._parts = parts
            self._bar.update_absolute(parts)


def _has_8_bits(images: Tensor) -> bool:
    """Whether all colours are whole 255ths, as those of pictures and videos of 8 bits are."""
    steps = (image[..., :3].float() * 255 for image in images)
    return all(bool((values - values.round()).abs().max() <= 255 * _EXACT) for values in steps)


def _models() -> list[str]:
    """The models whose weights are here: built in, imported, or files in ComfyUI's folder of models."""
    return [name for name in names() if installed_path(name).is_file()] + folder_paths.get_filename_list(_FOLDER)


def _weights(model: str) -> str:
    """The name or the file that a choice means."""
    return folder_paths.get_full_path(_FOLDER, model) or model


def _device() -> str:
    """The device that ComfyUI computes on, or the processor where metadeblur does not know it."""
    device = model_management.get_torch_device()
    if device.type in _DEVICES:
        return str(device)
    _log.warning("metadeblur does not know the device %s: the processor is used", device)
    return "cpu"


NODE_CLASS_MAPPINGS = {"MetadeblurDeblurVideo": DeblurVideo}
NODE_DISPLAY_NAME_MAPPINGS = {"MetadeblurDeblurVideo": "Deblur video (metadeblur)"}

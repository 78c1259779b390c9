"""A stand-in of ComfyUI: the modules that a node imports, and how it calls a node."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


class InterruptProcessingException(Exception):
    """A person has asked for an end."""


class ComfyUI:
    """What ComfyUI knows, and what a node has told it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.device = torch.device("cpu")
        self.folders: dict[str, Path] = {}
        self.bar: list[int] = []
        self.emptied = 0
        self.questions = 0  # how often the node has asked whether it is to end
        self.patience: int | None = None  # after so many it is

    def interrupted(self) -> None:
        self.questions += 1
        if self.patience is not None and self.questions > self.patience:
            raise InterruptProcessingException

    def empty(self) -> None:
        self.emptied += 1

    def modules(self) -> dict[str, ModuleType]:
        comfy, management, utils, paths = (
            ModuleType(name) for name in ("comfy", "comfy.model_management", "comfy.utils", "folder_paths")
        )
        management.__dict__.update(
            get_torch_device=lambda: self.device,
            soft_empty_cache=self.empty,
            throw_exception_if_processing_interrupted=self.interrupted,
            InterruptProcessingException=InterruptProcessingException,
        )
        outer = self

        class ProgressBar:
            def __init__(self, total: float) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
                assert total is None
                assert preview is None
                outer.bar.append(value)

        utils.__dict__.update(ProgressBar=ProgressBar)
        comfy.__dict__.update(model_management=management, utils=utils, __path__=[])
        paths.__dict__.update(
            models_dir=str(self.base / "models"),
            add_model_folder_path=lambda name, path: self.folders.update({name: Path(path)}),
            get_filename_list=self.files,
            get_full_path=lambda name, file: next(
                (str(self.folders[name] / one) for one in self.files(name) if one == file), None
            ),
            get_temp_directory=lambda: str(self.base / "temp"),
        )
        return {one.__name__: one for one in (comfy, management, utils, paths)}

    def files(self, name: str) -> list[str]:
        folder = self.folders[name]
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def call(self, node: type, **inputs: Any) -> tuple[Any, ...]:
        """Run a node as ComfyUI does: in inference mode, with tensors made there."""
        with torch.inference_mode():
            given = {name: one.clone() if isinstance(one, torch.Tensor) else one for name, one in inputs.items()}
            result: tuple[Any, ...] = getattr(node(), node.FUNCTION)(**given)
        return result


def install(monkeypatch: Any, base: Path) -> ComfyUI:
    """Put the stand-in into the place of the real modules."""
    program = ComfyUI(base)
    for name, module in program.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return program

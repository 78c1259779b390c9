"""A stand-in of VapourSynth: as much of it as a filter written in Python uses, pulled frame by frame.

It keeps VapourSynth's two rules: a frame is made after those that it depends on, and functions that it calls ask it for
no frames themselves.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

NAMES = {"RGB24": np.uint8, "RGB48": np.uint16, "RGBS": np.float32, "RGB30": np.uint16, "YUV420P8": np.uint8}


class Error(Exception):
    """What VapourSynth raises."""


@dataclass(frozen=True)
class Format:
    name: str

    @property
    def id(self) -> str:
        return self.name

    @property
    def color_family(self) -> str:
        return self.name[:3]


class Frame:
    def __init__(self, planes: Any, props: dict[str, Any], *, writable: bool = False) -> None:
        self.planes, self.props = np.array(planes), dict(props)
        self.planes.flags.writeable = writable

    def __getitem__(self, plane: int) -> memoryview:
        return memoryview(self.planes[plane])

    def copy(self) -> Frame:
        return Frame(self.planes, self.props, writable=True)


@dataclass
class Node:
    """A clip: what makes its frame n, and what it tells of itself."""

    make: Callable[[int], Frame]
    num_frames: int
    width: int
    height: int
    format: Format | None
    fps: Fraction = Fraction(24000, 1001)
    made: dict[int, Frame] = field(default_factory=dict)

    def get_frame(self, n: int) -> Frame:
        if Selector.inside:
            raise AssertionError("a function that VapourSynth calls asks it for a frame")
        return self.frame(n)

    def frame(self, n: int) -> Frame:
        """Frame n, or the last one where there is none; made once."""
        n = min(max(n, 0), self.num_frames - 1)
        if n not in self.made:
            self.made[n] = self.make(n)
        return self.made[n]

    def like(self, make: Callable[[int], Frame], **changed: Any) -> Node:
        told = {"num_frames": self.num_frames, "width": self.width, "height": self.height}
        return Node(make, **{**told, "format": self.format, "fps": self.fps, **changed})


class Selector:
    """Calls a function of the script."""

    inside = 0

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, **given: Any) -> Any:
        Selector.inside += 1
        try:
            return self.function(**given)
        finally:
            Selector.inside -= 1


class Standard:
    """The filters of the namespace std."""

    def ModifyFrame(self, clip: Node, clips: Node | Sequence[Node], selector: Callable[..., Frame]) -> Node:
        nodes, call = [clips] if isinstance(clips, Node) else list(clips), Selector(selector)

        def make(n: int) -> Frame:
            frames = {index: nodes[index].frame(n) for index in random.sample(range(len(nodes)), len(nodes))}
            given = [frames[index] for index in range(len(nodes))]
            made = call(n=n, f=given if len(nodes) > 1 else given[0])
            assert made.planes.shape[-2:] == (clip.height, clip.width)
            return made

        return clip.like(make)

    def FrameEval(self, clip: Node, eval: Callable[[int], Node]) -> Node:
        call = Selector(eval)
        return clip.like(lambda n: call(n=n).frame(n))

    def CropAbs(self, clip: Node, width: int, height: int) -> Node:
        def make(n: int) -> Frame:
            frame = clip.frame(n)
            return Frame(frame.planes[:, :height, :width], frame.props)

        return clip.like(make, width=width, height=height)

    def DuplicateFrames(self, clip: Node, frames: list[int]) -> Node:
        order = sorted([*range(clip.num_frames), *frames])
        return clip.like(lambda n: clip.frame(order[n]), num_frames=len(order))

    def AverageFrames(self, clips: Node, weights: list[float]) -> Node:
        assert len(weights) % 2 == 1
        assert len(weights) <= 31
        reach = len(weights) // 2

        def make(n: int) -> Frame:
            places = list(range(n - reach, n + reach + 1))
            random.shuffle(places)
            frames = [clips.frame(place) for place in places]
            return Frame(np.mean([one.planes for one in frames], 0).astype(frames[0].planes.dtype), frames[0].props)

        return clips.like(make)

    def SelectEvery(self, clip: Node, cycle: int, offsets: list[int]) -> Node:
        chosen = [n for n in range(clip.num_frames) if n % cycle in offsets]
        assert chosen
        return clip.like(lambda n: clip.frame(chosen[n]), num_frames=len(chosen))

    def Loop(self, clip: Node, times: int) -> Node:
        return clip.like(lambda n: clip.frame(n % clip.num_frames), num_frames=clip.num_frames * times)


def fake_module() -> ModuleType:
    """The module ``vapoursynth``; ``told`` has what was logged, ``ending`` what is to be called at the end."""
    module = ModuleType("vapoursynth")
    told: list[str] = []
    ending: list[Callable[[], None]] = []
    core = SimpleNamespace(std=Standard(), log_message=lambda _, text: told.append(text))
    module.__dict__.update(
        {name: name for name in NAMES},
        Error=Error,
        VideoNode=Node,
        VideoFrame=Frame,
        RGB="RGB",
        YUV="YUV",
        MESSAGE_TYPE_INFORMATION=1,
        core=core,
        told=told,
        ending=ending,
        register_on_destroy=ending.append,
    )
    return module


def clip_of(values: Any, name: str, **changed: Any) -> Node:
    """A clip of frames (T, 3, H, W), float in [0, 1], in a format."""
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[NAMES[name]]
    stored = values.astype(np.float32) if white == 1 else (values * white).round().astype(NAMES[name])
    given = {"num_frames": len(values), "width": values.shape[-1], "height": values.shape[-2], "format": Format(name)}
    return Node(lambda n: Frame(stored[n], {"_Matrix": 0, "number": n}), **{**given, **changed})


def install(monkeypatch: Any) -> ModuleType:
    """Put the stand-in into the place of the real module."""
    module = fake_module()
    monkeypatch.setitem(sys.modules, "vapoursynth", module)
    return module

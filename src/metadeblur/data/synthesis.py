"""Make blurred and sharp clips from sharp photographs and videos (``metadeblur synth``).

A photograph becomes a scene: a camera path moves over it, and layers cut from other photographs move before it, each
with a motion of its own. A blurred frame is the mean of many renderings during the exposure, taken in linear light,
with lights that clip before they are averaged; its truth is the rendering in the middle of the exposure. Noise and
compression come after, as in a camera. Frames of a fast video are averaged as they are (``average``).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from metadeblur.data.pairs import Bytes, write_png
from metadeblur.data.settings import SynthSettings
from metadeblur.data.trajectory import Trajectory, random_trajectory
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.linear_light import RESPONSES, to_display, to_linear
from metadeblur.imaging.pictures import is_whole_png
from metadeblur.system.files import filling, whole
from metadeblur.system.json_files import write_whole
from metadeblur.system.names import counted
from metadeblur.system.plain_files import RECORD, read_object
from metadeblur.types import Response

if TYPE_CHECKING:
    from metadeblur.data.sources import Source

LightPicture = NDArray[Any]  # float32 (H, W, 3) RGB; linear light (above 1 where it would clip) or display values 0..1


@dataclass(frozen=True)
class Layer:
    """Something with a shape that moves: colour (linear light) and coverage on a canvas, and where it goes."""

    colour: LightPicture
    coverage: LightPicture  # (H, W, 1), 0..1
    path: Trajectory
    start: tuple[float, float]  # top left corner on the frame at time 0, px


@dataclass(frozen=True)
class Scene:
    """What the camera sees: a background larger than the frame, layers before it, and the camera's response."""

    background: LightPicture
    camera: Trajectory
    layers: tuple[Layer, ...]
    response: Response  # of the camera: how display values depend on light
    width: int
    height: int

    def render(self, time: float, interpolation: int) -> LightPicture:
        """The frame (H, W, 3) in linear light at ``time`` in frame intervals, lights clipped at 1."""
        view, *places = self.placements(time)
        frame = cv2.warpAffine(
            self.background, view, (self.width, self.height), flags=interpolation, borderMode=cv2.BORDER_REFLECT_101
        )
        for layer, matrix in zip(self.layers, places, strict=True):
            warped = [
                cv2.warpAffine(part, matrix, (self.width, self.height), flags=cv2.INTER_LINEAR)
                for part in (layer.colour, layer.coverage)
            ]
            frame = frame * (1 - warped[1][..., None]) + warped[0] * warped[1][..., None]
        return np.clip(frame, 0, 1).astype(np.float32)

    def placements(self, time: float) -> list[NDArray[np.float64]]:
        """Matrices (2, 3) that take pixels of the background, and of each layer, to pixels of the frame at a time."""
        rows, columns = self.background.shape[:2]
        view = _placement(self.camera.at(time), ((columns - self.width) / 2, (rows - self.height) / 2), self)
        return [view, *(_layer_placement(layer.path.at(time), layer) for layer in self.layers)]

    def speed(self, time: float) -> float:
        """The fastest motion in px a frame interval around ``time``: decides how many renderings a frame needs."""
        paths = [self.camera, *(layer.path for layer in self.layers)]
        reach = np.hypot(self.width, self.height) / 2
        fastest = 0.0
        for path in paths:
            change = path.at(time + 0.25) - path.at(time - 0.25)
            fastest = max(fastest, 2 * float(np.hypot(change[0], change[1]) + reach * np.abs(change[2:]).sum()))
        return fastest

    def expose(self, time: float, exposure: float, moments: int = 0) -> tuple[LightPicture, LightPicture]:
        """(blurred, sharp) in display values (H, W, 3), RGB 0..1: mean over the exposure, and its middle.

        Args:
            time: the middle of the exposure, frame intervals.
            exposure: frame intervals.
            moments: how many to average; 0: as many as it takes for blur without steps.
        """
        samples = moments or int(np.clip(np.ceil(self.speed(time) * exposure), 1, 60)) | 1
        kernel = cv2.INTER_CUBIC if samples < 8 else cv2.INTER_LINEAR
        sharp = self.render(time, cv2.INTER_CUBIC)
        if samples == 1:
            return self.display(sharp), self.display(sharp)
        total = np.zeros_like(sharp)
        for step in range(samples):
            total += self.render(time + exposure * ((step + 0.5) / samples - 0.5), kernel)
        return self.display(total / np.float32(samples)), self.display(sharp)

    def display(self, linear: LightPicture) -> LightPicture:
        """Linear light to display values by the camera's response."""
        return np.asarray(to_display(torch.from_numpy(linear), self.response))


def light(display: LightPicture, response: Response = "srgb") -> LightPicture:
    """Display values 0..1 to linear light."""
    return np.asarray(to_linear(torch.from_numpy(display), response))


def _placement(pose: NDArray[np.float64], origin: tuple[float, float], scene: Scene) -> NDArray[np.float64]:
    """Matrix that takes canvas pixels to frame pixels for a camera at ``pose`` over a canvas."""
    x, y, angle, zoom = pose
    centre, turn = np.array([scene.width / 2, scene.height / 2]), _turn(angle, zoom)
    shift = turn @ (-np.array(origin) - np.array([x, y]) - centre) + centre
    return np.column_stack([turn, shift])


def _layer_placement(pose: NDArray[np.float64], layer: Layer) -> NDArray[np.float64]:
    """Matrix that takes a layer's own pixels to frame pixels at ``pose``."""
    x, y, angle, zoom = pose
    size, turn = np.array([layer.colour.shape[1] / 2, layer.colour.shape[0] / 2]), _turn(angle, zoom)
    return np.column_stack([turn, -turn @ size + size + np.array(layer.start) - np.array([x, y])])


def _turn(angle: float, zoom: float) -> NDArray[np.float64]:
    """Rotation (radians) and scale (its logarithm) as a matrix (2, 2)."""
    return np.asarray(np.exp(zoom) * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))


def _blob(height: int, width: int, rng: np.random.Generator) -> LightPicture:
    """A random closed shape (H, W) with soft edges, zero at the border."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 14))))
    radii = rng.uniform(0.45, 0.95, len(angles))
    points = np.stack(
        [width / 2 * (1 + radii * np.cos(angles)), height / 2 * (1 + radii * np.sin(angles))], axis=1
    ).astype(np.int32)
    mask = np.zeros((height, width), np.float32)
    cv2.fillPoly(mask, [points], 1.0, lineType=cv2.LINE_AA)
    if rng.random() < 0.5:
        soft = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(4, 12)))
        mask = np.clip((soft - 0.4) * 5, 0, 1).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(0.5, 1.2))))


def _canvas(
    photographs: Sequence[Bytes], width: int, height: int, rng: np.random.Generator, tries: int = 3
) -> LightPicture:
    """The most textured of a few random pieces of the photographs, (height, width, 3), display values.

    Pieces are scaled down as far as the photograph allows, within a factor of two: reduced photographs have the dense
    fine detail that frames of a video have, and blur can only be learnt where there is detail.
    """
    pieces = [_piece(photographs[int(rng.integers(len(photographs)))], width, height, rng) for _ in range(tries)]
    best = pieces[int(np.argmax([_texture(piece) for piece in pieces]))]
    return (best[:, ::-1] if rng.random() < 0.5 else best).astype(np.float32) / 255


def _piece(photograph: Bytes, width: int, height: int, rng: np.random.Generator) -> Bytes:
    rows, columns = photograph.shape[:2]
    smallest = max(width / columns, height / rows)
    scale = max(smallest, min(1.0, smallest * float(np.exp(rng.uniform(0, np.log(2.2))))))
    cut_rows, cut_columns = min(rows, int(np.ceil(height / scale))), min(columns, int(np.ceil(width / scale)))
    top, left = int(rng.integers(0, rows - cut_rows + 1)), int(rng.integers(0, columns - cut_columns + 1))
    piece = photograph[top : top + cut_rows, left : left + cut_columns]
    smoothly = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(piece, (width, height), interpolation=smoothly), np.uint8)


def _texture(piece: Bytes) -> float:
    """Mean absolute difference of neighbouring pixels, in 8-bit levels."""
    green = piece[::2, ::2, 1].astype(np.int16)
    return float(np.abs(np.diff(green, axis=1)).mean() + np.abs(np.diff(green, axis=0)).mean())


def random_scene(photographs: Sequence[Bytes], settings: SynthSettings, rng: np.random.Generator) -> Scene:
    """One scene with its camera path, drawn from photographs (H, W, 3) RGB uint8."""
    frames = settings.frames
    moving = rng.random() >= settings.still
    speed = float(np.exp(rng.uniform(*np.log(settings.speed_px)))) if moving else 0.0
    direction = None if settings.angle_degrees is None else float(np.deg2rad(settings.angle_degrees))
    free = direction is None
    margin = int(min(48 + 3 * speed, 220))
    width, height = settings.width + 2 * margin, settings.height + 2 * margin
    # Drawn only where asked for, so that clips made without it stay the same.
    steady = settings.steady > 0 and rng.random() < settings.steady
    smoothness, intermittency = float(rng.uniform(0.0, 0.95)), float(rng.uniform(0, 0.8))
    if steady:
        smoothness, intermittency = _steadier(smoothness), 0.1 * intermittency
    camera = random_trajectory(
        frames,
        speed,
        rng,
        smoothness=smoothness,
        intermittency=intermittency,
        direction=direction,
        turn=float(rng.choice([0.0, 1.0])) * speed * 6e-4 if free else 0.0,
        zoom=float(rng.choice([0.0, 1.0])) * speed * 6e-4 if free else 0.0,
    )
    response: Response = RESPONSES[int(rng.choice(len(RESPONSES), p=[0.7, 0.2, 0.1]))]

    boost = float(rng.choice([0.0, rng.uniform(0, 12)]))
    soft = float(max(0.0, rng.uniform(-1.2, 0.9)))

    def lit(canvas: LightPicture) -> LightPicture:
        softened = cv2.GaussianBlur(canvas, (0, 0), soft) if soft > 0.2 else canvas
        linear = light(np.asarray(softened), response)
        return np.asarray(linear + boost * np.maximum(linear - 0.8, 0))

    dim = float(rng.choice([1.0, rng.uniform(0.25, 1.0)], p=[0.7, 0.3]))
    background = np.float32(dim) * lit(_canvas(photographs, width, height, rng))
    layers = []
    for _ in range(int(rng.integers(0, settings.layers + 1)) if moving else 0):
        side = int(rng.uniform(0.2, 0.9) * settings.height), int(rng.uniform(0.2, 0.9) * settings.height)
        # Half of the layers keep nearly still in the scene (parallax), the rest go their own way.
        own = float(np.exp(rng.uniform(*np.log(settings.speed_px)))) * float(rng.choice([0.1, 1.0]))
        path = random_trajectory(
            frames,
            own,
            rng,
            smoothness=_steadier(float(rng.uniform(0.3, 0.98))) if steady else float(rng.uniform(0.3, 0.98)),
            intermittency=float(rng.uniform(0, 1)) * (0.1 if steady else 1.0),
            direction=direction,
            turn=float(rng.choice([0.0, 1.0])) * min(own, 12) * 4e-3 if free else 0.0,
            zoom=float(rng.choice([0.0, 1.0])) * min(own, 12) * 2e-3 if free else 0.0,
        )
        with_camera = Trajectory(path.knots + camera.knots * np.array([1.0, 1.0, 0.0, 0.0]))
        layers.append(
            Layer(
                colour=np.float32(dim) * lit(_canvas(photographs, side[1], side[0], rng)),
                coverage=_blob(side[0], side[1], rng),
                path=with_camera,
                start=(
                    float(rng.uniform(-side[1] / 3, settings.width - side[1] * 2 / 3)),
                    float(rng.uniform(-side[0] / 3, settings.height - side[0] * 2 / 3)),
                ),
            )
        )
    return Scene(background, camera, tuple(layers), response, settings.width, settings.height)


def _steadier(smoothness: float) -> float:
    """A smoothness brought near 1, where the velocity stays what it is."""
    return 0.92 + 0.08 * smoothness


def degrade(blurred: LightPicture, noise: float, quality: int | None, rng: np.random.Generator) -> Bytes:
    """Noise that grows with brightness, then JPEG at ``quality`` (None: none); (H, W, 3) uint8."""
    if noise > 0:
        grain = rng.standard_normal(blurred.shape, dtype=np.float32)
        blurred = blurred + noise * np.sqrt(0.3 + 0.7 * blurred) * grain
    picture = to_bytes(blurred)
    if quality is None:
        return picture
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1].copy()


def to_bytes(picture: LightPicture) -> Bytes:
    """Display values 0..1 to uint8, rounded."""
    return np.asarray(np.clip(np.rint(picture * 255), 0, 255), np.uint8)


def make_clip(
    photographs: Sequence[Bytes], settings: SynthSettings, rng: np.random.Generator
) -> Iterator[tuple[Bytes, Bytes]]:
    """The (blurred, sharp) frames of one random clip, (H, W, 3) RGB uint8 each."""
    scene = random_scene(photographs, settings, rng)
    exposure = float(rng.uniform(*settings.exposure))
    noise = float(rng.choice([0.0, rng.uniform(0, settings.noise)], p=[2 / 3, 1 / 3]))
    least, most = settings.compression
    quality = int(rng.integers(least, max(most, least + 1))) if rng.random() < 1 / 3 else None
    # Drawn only where asked for, so that clips made without it stay the same.
    stepped = settings.stepped > 0 and rng.random() < settings.stepped
    moments = 2 * int(rng.integers(2, 8)) + 1 if stepped else 0
    for index in range(settings.frames):
        blurred, sharp = scene.expose(float(index), exposure, moments)
        yield degrade(blurred, noise, quality, rng), to_bytes(sharp)


def average_clip(frames: Sequence[Bytes], count: int, settings: SynthSettings) -> Iterator[tuple[Bytes, Bytes]]:
    """Blurred frames as means, in linear light, of ``count`` consecutive frames of a fast video; truth: the middle."""
    for start in range(0, min(len(frames) - count + 1, settings.frames * count), count):
        group = frames[start : start + count]
        mean = np.mean([light(frame.astype(np.float32) / 255) for frame in group], axis=0)
        yield to_bytes(np.asarray(to_display(torch.from_numpy(mean)))), group[count // 2]


def synthesize(
    inputs: Sequence[Path],
    out: Path,
    settings: SynthSettings | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Make paired clips ``out/<clip>/{blur,sharp}/000000.png`` and ``out/synth.json``, which names every source.

    Args:
        inputs: photographs, videos, or folders of them (searched deeply).
        out: folder to make; clips that are already there whole are kept, so that a stopped run goes on.
        settings: see :class:`SynthSettings`.
        progress: called with (clips done, clips in all).
        say: told of clips that are damaged and made again.

    Returns:
        The clips' folders.

    Raises:
        MetadeblurError: nothing usable among the inputs, ``out`` holds clips made with other settings, or somebody else
            is writing there.
    """
    settings = settings or SynthSettings()
    from metadeblur.data.sources import load_sources, refuse_within

    refuse_within(inputs, out)
    sources = load_sources(inputs)
    photographs = [source.photograph for source in sources if source.photograph is not None]
    videos = [source for source in sources if source.frames]
    if settings.average and not videos:
        raise MetadeblurError(
            f"--average {settings.average} needs a video among the inputs; there are only photographs"
        )
    wanted = settings.average * settings.frames
    short = next((video for video in videos if len(video.frames) < wanted), None)
    if short is not None:
        raise MetadeblurError(
            f"{short.path}: has {counted(len(short.frames), 'frame')}; {counted(settings.frames, 'frame')} a clip, "
            f"each the mean of {settings.average}, need {wanted}: give fewer --frames, "
            "a smaller --average or a longer video"
        )
    photographs += [frame for source in videos for frame in source.frames[:: max(1, len(source.frames) // 4)]]
    # How many clips there are is left out: a folder may be filled up later.
    manifest = {
        "settings": {name: value for name, value in asdict(settings).items() if name != "clips"},
        "sources": [{"name": source.path.name, "sha256": source.sha256} for source in sources],
    }
    text = json.dumps(manifest, indent=1)
    with filling(out, "synth"):
        _refuse_others(out / "synth.json", text)
        write_whole(out / "synth.json", text.encode())
        try:
            return list(_clips(photographs, videos, out, settings, progress, say))
        except BaseException:
            if not any(path.is_dir() for path in out.iterdir()):  # a list of sources that nothing was made of
                (out / "synth.json").unlink()
            raise


def _clips(
    photographs: Sequence[Bytes],
    videos: Sequence[Source],
    out: Path,
    settings: SynthSettings,
    progress: Callable[[int, int], None] | None,
    say: Callable[[str], None],
) -> Iterator[Path]:
    """Make the clips that are not there yet, and give the folders of all."""
    for number in range(settings.clips):
        folder = out / f"clip_{number:05d}"
        if folder.exists() and not _is_whole(folder):
            say(f"{folder} is damaged and is made again")
            shutil.rmtree(folder)
        if not folder.exists():
            seed = int.from_bytes(hashlib.sha256(f"{settings.seed}/{number}".encode()).digest()[:8], "big")
            rng = np.random.default_rng(seed)
            if settings.average:
                video = videos[number % len(videos)]
                first = int(rng.integers(0, max(1, len(video.frames) - settings.average * settings.frames)))
                pairs = average_clip(video.frames[first:], settings.average, settings)
            else:
                pairs = make_clip(photographs, settings, rng)
            _write_clip(folder, pairs)
        if progress:
            progress(number + 1, settings.clips)
        yield folder


def _refuse_others(record: Path, text: str) -> None:
    """Refuse a folder with clips that were made with other settings than ``text``, or with unknown ones."""
    if not record.exists() or record.read_bytes() == text.encode():
        return
    try:
        read_object(record, RECORD)
    except MetadeblurError as error:
        if any(record.parent.glob("clip_*")):
            raise MetadeblurError(
                f"{record}: is damaged, so the settings of the clips beside it are unknown; give another folder with -o"
            ) from error
    else:
        raise MetadeblurError(
            f"{record.parent} holds clips made with other settings or sources; give another folder with -o"
        )


def _write_clip(folder: Path, pairs: Iterator[tuple[Bytes, Bytes]]) -> None:
    """Write the frames under a temporary name; the folder appears when it is whole."""
    with whole(folder) as partial:
        for side in ("blur", "sharp"):
            (partial / side).mkdir(parents=True)
        for index, pair in enumerate(pairs):
            for side, frame in zip(("blur", "sharp"), pair, strict=True):
                write_png(partial / side / f"{index:06d}.png", frame, cv2.IMWRITE_PNG_COMPRESSION, 1)


def _is_whole(folder: Path) -> bool:
    """Whether both sides of a clip have the same frames, each as it was written."""
    sides = [sorted((folder / side).glob("*.png")) for side in ("blur", "sharp")]
    names = [[path.name for path in side] for side in sides]
    return names[0] == names[1] != [] and all(is_whole_png(path.read_bytes()) for side in sides for path in side)

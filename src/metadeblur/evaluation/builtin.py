"""The built-in small benchmark: eight short clips of different blur, made on the spot, with their truth.

A simulated camera moves over photographs that no shipped model is trained on (public domain, CC0 and CC BY; see
``assets/photographs/photographs.json``), things move before them, and light is averaged over the exposure. No optical
flow is involved, so the clips do not flatter methods that adapt with it. The same version of this program makes the
same clips; a fingerprint says whether this machine did.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metadeblur.data.layouts import Benchmark, open_benchmark
from metadeblur.data.pairs import Bytes, read_picture, write_png
from metadeblur.data.synthesis import Layer, LightPicture, Scene, degrade, light, to_bytes
from metadeblur.data.trajectory import Trajectory
from metadeblur.errors import MetadeblurError
from metadeblur.system.files import make_folder, whole

if TYPE_CHECKING:
    from metadeblur.evaluation.settings import EvaluateSettings

FRAMES = 16  # of each clip
WIDTH, HEIGHT = 320, 240  # px
VERSION = 1  # of the clips: figures of different versions are figures of different clips
LEVELS_TOLERANCE = 0.02  # 8-bit levels that a clip's mean error against the truth may differ by between machines

_SEED = 20221011


@dataclass(frozen=True)
class BuiltInClip:
    """What one clip shows and how it is filmed."""

    name: str
    says: str  # which blur it is, for people
    photograph: str
    exposure: float  # share of the frame interval
    camera: Callable[[np.random.Generator], NDArray[np.float64]]  # positions at the knots, (K, 2), px
    noise: float = 0.004  # standard deviation, of full scale
    quality: int | None = None  # of JPEG; none: not compressed
    dim: float = 1.0  # light that is left
    boost: float = 0.0  # how far bright light exceeds the sensor's range
    thing: str = ""  # photograph of a thing that moves by itself
    at: tuple[float, float] = (0.5, 0.5)  # which part of the photograph is filmed, 0 to 1 across and down


def _times() -> NDArray[np.float64]:
    """Times of the knots in frame intervals."""
    return np.arange(-2.0, FRAMES + 4)


def _shaken(size: float, quiet: float = 0.0, period: float = 9.0) -> Callable[..., NDArray[np.float64]]:
    """Tremor; ``quiet`` is how far it dies down (0 to 1) every ``period`` frames."""

    def path(rng: np.random.Generator) -> NDArray[np.float64]:
        time, tremor = _times(), np.zeros((FRAMES + 6, 2))
        for low, high, share in ((0.2, 0.4, 1.0), (0.8, 1.1, 0.8), (1.5, 1.9, 0.35)):
            rate, phase = rng.uniform(low, high, 2), rng.uniform(0, 2 * np.pi, 2)
            tremor += size * share * np.sin(rate * time[:, None] + phase)
        envelope = 1 - quiet * (0.5 + 0.5 * np.cos(2 * np.pi * time / period))
        # The envelope damps the speed, not the place, so that the camera stands still in quiet moments.
        return np.asarray(np.cumsum(np.diff(tremor, axis=0, prepend=tremor[:1]) * envelope[:, None], axis=0))

    return path


def _panned(right: float, down: float, sway: float = 0.0) -> Callable[..., NDArray[np.float64]]:
    """Steady motion in px a frame interval, there and back about the middle of the clip, with a little sway."""

    def path(rng: np.random.Generator) -> NDArray[np.float64]:
        time = _times() - (FRAMES - 1) / 2
        wave = sway * np.sin(rng.uniform(0.5, 0.9) * time + rng.uniform(0, 2 * np.pi))
        return np.stack([right * time, down * time + wave], axis=1)

    return path


CLIPS: tuple[BuiltInClip, ...] = (
    BuiltInClip("shake", "a hand that trembles", "astronaut", 0.8, _shaken(14.0, quiet=0.6), at=(0.5, 0.25)),
    BuiltInClip("pan", "a camera that pans", "demo", 0.75, _panned(14.0, 2.0, sway=5.0), at=(0.5, 0.6)),
    BuiltInClip("object", "a thing before a still scene", "coffee", 0.8, _panned(0.0, 0.0), thing="chelsea"),
    BuiltInClip(
        "dark", "low light: dim, noisy", "astronaut", 1.0, _shaken(12.0, quiet=0.5), 0.02, dim=0.2, at=(0.1, 0.6)
    ),
    BuiltInClip("saturated", "lights that clip", "rocket", 0.9, _shaken(11.0, quiet=0.5), boost=8.0, at=(0.25, 0.9)),
    BuiltInClip("compressed", "shaken, compressed", "demo", 0.9, _shaken(16.0, quiet=0.6), quality=45, at=(0.3, 0.35)),
    BuiltInClip(
        "mixed", "sharp and blurred in turn", "coffee", 0.9, _shaken(15.0, quiet=1.0, period=4.0), at=(0.4, 0.4)
    ),
    BuiltInClip("slight", "hardly blurred", "chelsea", 0.5, _shaken(5.0), at=(0.3, 0.5)),
)


def make_builtin(out: Path, progress: Callable[[int, int, str], None] | None = None) -> Benchmark:
    """Make the clips in ``out/<clip>/{blur,sharp}``; those that are there already are checked and kept.

    Returns:
        The clips, with a note where this machine's clips are not the ones that figures elsewhere were measured on.

    Raises:
        MetadeblurError: the folder cannot be written.
    """
    make_folder(out, "evaluate")
    for number, clip in enumerate(CLIPS):
        if progress:
            progress(number, len(CLIPS), f"making {clip.name}")
        if _kept(out / clip.name) is None:
            with whole(out / clip.name) as partial:
                write_pairs(partial, film(clip))
    benchmark = open_benchmark(out, "plain")
    reference = json.loads(_asset("builtin.json").read_bytes())
    here = {clip.name: fingerprint(out / clip.name) for clip in CLIPS}
    note = f"built-in clips, version {VERSION}: {describe_difference(here, reference['clips'])}"
    return replace(benchmark, layout="plain", notes=(note,))


def refuse_unfit(settings: EvaluateSettings) -> None:
    """Refuse, before the clips are made, what they cannot be measured by.

    Raises:
        MetadeblurError: a name that is no clip's, or a piece larger than the frames.
    """
    settings.refuse_unknown([clip.name for clip in CLIPS])
    if settings.crop > min(WIDTH, HEIGHT):
        raise MetadeblurError(
            f"crop is {settings.crop}; the built-in clips are {WIDTH}x{HEIGHT}, so give {HEIGHT} or less"
        )


def _kept(folder: Path) -> dict[str, Any] | None:
    """The fingerprint of a clip that is there already, None where it is not, or not whole."""
    if any(len(list((folder / side).glob("*.png"))) != FRAMES for side in ("blur", "sharp")):
        return None
    try:
        return fingerprint(folder)
    except (MetadeblurError, OSError):
        return None


def describe_difference(here: dict[str, Any], reference: dict[str, Any]) -> str:
    """How a machine's clips relate to those that figures elsewhere were measured on, in words."""
    other = [name for name in reference if here[name]["sha256"] != reference[name]["sha256"]]
    if not other:
        return "the very ones that published figures were measured on"
    apart = [name for name in other if abs(here[name]["error"] - reference[name]["error"]) > LEVELS_TOLERANCE]
    if apart:
        return f"{', '.join(apart)} differ from the published ones: figures do not compare"
    return "not the published ones to the last bit, but as blurred: figures compare to about 0.01 dB"


def fingerprint(folder: Path) -> dict[str, Any]:
    """Checksum of a clip's pixels, and its mean absolute error against the truth in 8-bit levels."""
    digest, errors = hashlib.sha256(), []
    for path in sorted((folder / "blur").iterdir()):
        blurred, sharp = read_picture(path), read_picture(folder / "sharp" / path.name)
        digest.update(blurred.tobytes())
        digest.update(sharp.tobytes())
        errors.append(float(np.abs(blurred.astype(np.int16) - sharp).mean()))
    return {"sha256": digest.hexdigest(), "error": round(fmean(errors), 4)}


def film(clip: BuiltInClip) -> Iterator[tuple[Bytes, Bytes]]:
    """The (blurred, sharp) frames of a clip, (HEIGHT, WIDTH, 3) RGB uint8."""
    scene, rng = staged(clip)
    for index in range(FRAMES):
        blurred, sharp = scene.expose(float(index), clip.exposure)
        yield degrade(blurred, clip.noise, clip.quality, rng), to_bytes(sharp)


def staged(clip: BuiltInClip) -> tuple[Scene, np.random.Generator]:
    """The scene that a clip is filmed from, and what the noise of its frames is drawn from."""
    rng = np.random.default_rng([_SEED, VERSION, CLIPS.index(clip)])
    return _scene(clip, rng), rng


def photograph(name: str) -> Bytes:
    """A photograph that ships, (H, W, 3) RGB uint8."""
    return read_picture(_asset("demo.jpg" if name == "demo" else f"photographs/{name}.jpg"))


def _scene(clip: BuiltInClip, rng: np.random.Generator) -> Scene:
    linear = _lit(clip.photograph, clip)
    rows, columns = linear.shape[:2]
    positions = clip.camera(rng)
    positions = positions - (positions.max(0) + positions.min(0)) / 2
    offset = np.array([(clip.at[0] - 0.5) * (columns - WIDTH), (clip.at[1] - 0.5) * (rows - HEIGHT)])
    turn = rng.normal(0, 6e-4, (len(positions), 1)).cumsum(0) * (np.abs(np.diff(positions, axis=0)).max() > 0)
    knots = np.concatenate([positions + offset, turn, np.zeros_like(turn)], axis=1)
    layers = (_thing(clip),) if clip.thing else ()
    return Scene(linear, Trajectory(knots), layers, "srgb", WIDTH, HEIGHT)


def _thing(clip: BuiltInClip) -> Layer:
    """A round piece of a photograph that crosses the frame, slower at the turning points of its path."""
    side = 150
    piece = _lit(clip.thing, clip)[60 : 60 + side, 130 : 130 + side]
    rows, columns = np.mgrid[0:side, 0:side] - (side - 1) / 2
    disc = np.clip((side / 2 - 4 - np.hypot(rows, columns)) / 2 + 0.5, 0, 1).astype(np.float32)[..., None]
    time = _times()
    across, down = 85 * np.cos(2 * np.pi * time / 14), 18 * np.sin(2 * np.pi * time / 9)
    # A layer's path says how far the camera moves over it, so the thing itself goes the other way.
    knots = np.stack([-across, -down, np.zeros_like(time), np.zeros_like(time)], axis=1)
    return Layer(np.ascontiguousarray(piece), disc, Trajectory(knots), ((WIDTH - side) / 2, (HEIGHT - side) / 2))


def _lit(name: str, clip: BuiltInClip) -> LightPicture:
    """A photograph in linear light, as bright as the clip has it."""
    linear = light(photograph(name).astype(np.float32) / 255)
    return np.asarray(clip.dim * (linear + clip.boost * np.maximum(linear - 0.6, 0)), dtype=np.float32)


def write_pairs(folder: Path, pairs: Iterator[tuple[Bytes, Bytes]]) -> None:
    """Write blurred frames with their sharp ones, (H, W, 3) each, as ``folder``/{blur,sharp}/NNN.png."""
    for side in ("blur", "sharp"):
        (folder / side).mkdir(parents=True)
    for index, pair in enumerate(pairs):
        for side, frame in zip(("blur", "sharp"), pair, strict=True):
            write_png(folder / side / f"{index:03d}.png", frame)


def _asset(name: str) -> Path:
    return Path(str(resources.files("metadeblur") / "assets" / name))

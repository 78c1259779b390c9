"""Measure on paired clips: rows blurred, base, adapted (guarded and not) and oracle, one JSON record a clip.

Adaptation sees blurred frames alone. The oracle takes the same number of gradient steps, on patches of the same size,
but of TRUE pairs of the clip: an upper bound of what adaptation could win, for evaluation only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from metadeblur.adapt import AdaptSettings, Outcome, Pair, adapt, inner_update
from metadeblur.clip import Clip, PairedClip
from metadeblur.data.layouts import ClipFolder, plain_clips
from metadeblur.data.pairs import read_picture
from metadeblur.errors import MetadeblurError
from metadeblur.guard import sharp_already
from metadeblur.metrics import psnr, ssim
from metadeblur.networks import traits
from metadeblur.record import machine, plain, versions, write_json
from metadeblur.restore import Restorer, RestoreSettings, restore_frames

ROWS = ("blurred", "base", "adapted", "oracle")
HARM_DB = 0.05  # adapted further below base than this counts as harm

Progress = Callable[[int, int, str], None]  # (clips done, clips in all, what is going on)


@dataclass(frozen=True)
class EvaluateSettings:
    """What is measured and how."""

    rows: tuple[str, ...] = ROWS  # blurred is always measured
    adaptation: AdaptSettings = field(default_factory=AdaptSettings)
    restoration: RestoreSettings = field(default_factory=RestoreSettings)
    apart: tuple[str, ...] = ()  # names of clips whose mean is also given apart from the others'
    resume: bool = False  # keep the records that are there and do the rest

    def __post_init__(self) -> None:
        strange = [row for row in self.rows if row not in ROWS]
        if strange:
            raise MetadeblurError(f"no row {strange[0]!r}; rows are {', '.join(ROWS)}")


def evaluate(
    root: Path,
    net: nn.Module,
    out: Path,
    settings: EvaluateSettings | None = None,
    *,
    model: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a deblurrer on every paired clip below ``root``.

    Args:
        root: folder of clips in the plain layout, ``<clip>/{blur,sharp}``.
        net: the deblurrer; not changed.
        out: folder for ``<clip>.json`` and ``summary.json``.
        settings: see :class:`EvaluateSettings`.
        model: how the records call the deblurrer.
        progress: called before each step of the work.

    Returns:
        What ``summary.json`` holds: means over the clips, gain, oracle ratio, harm rate, and the same for ``apart``.

    Raises:
        MetadeblurError: no clips, unpaired frames, records of other settings to resume, see the rooms used.
    """
    settings = settings or EvaluateSettings()
    folders = plain_clips(root)
    unknown = set(settings.apart) - {folder.name for folder in folders}
    if unknown:
        names = ", ".join(folder.name for folder in folders)
        raise MetadeblurError(f"no clip {sorted(unknown)[0]!r} to report apart; clips are {names}")
    out.mkdir(parents=True, exist_ok=True)
    conditions = plain(
        {"model": model, "rows": settings.rows, "adapt": asdict(settings.adaptation), **_restoring(settings)}
    )
    records = []
    for number, folder in enumerate(folders):
        path = out / f"{folder.name.replace('/', '_')}.json"
        record = _finished(path, conditions) if settings.resume else None
        if record is None:
            say = (
                (lambda stage, n=number, f=folder: progress(n, len(folders), f"{f.name}: {stage}"))
                if progress
                else None
            )
            record = evaluate_clip(read_paired(folder), net, settings, say=say)
            record["conditions"] = conditions
            write_json(record, path)
        records.append(record)
    summary: dict[str, Any] = {
        "clips": [record["clip"] for record in records],
        "conditions": conditions,
        **summarize(records),
        "versions": versions(),
        "machine": machine(),
    }
    if settings.apart:
        apart = [record for record in records if record["clip"] in settings.apart]
        others = [record for record in records if record["clip"] not in settings.apart]
        summary["apart"] = {"clips": list(settings.apart), **summarize(apart)}
        summary["others"] = {"clips": [record["clip"] for record in others], **summarize(others)} if others else None
    summary = plain(summary)
    write_json(summary, out / "summary.json")
    return summary


def _restoring(settings: EvaluateSettings) -> dict[str, Any]:
    return {"restore": asdict(settings.restoration)}


def _finished(path: Path, conditions: Any) -> dict[str, Any] | None:
    """A clip's record from an earlier run under the same conditions, or None where there is none."""
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if record.get("conditions") != conditions:
        raise MetadeblurError(
            f"{path} was measured under other settings; give another folder with -o, or drop --resume"
        )
    return record


def read_paired(folder: ClipFolder) -> PairedClip:
    """Decode a paired clip once into memory (bytes)."""

    def load(files: Sequence[Path]) -> Clip:
        pictures = [torch.from_numpy(read_picture(path)).permute(2, 0, 1) for path in files]
        sizes = {tuple(picture.shape) for picture in pictures}
        if len(sizes) > 1:
            raise MetadeblurError(f"{folder.name}: frames of different sizes ({sorted(sizes)}); make them equal")
        return Clip(torch.stack(pictures), name=folder.name)

    return PairedClip(load(folder.blurred), load(folder.sharp))


def evaluate_clip(
    clip: PairedClip, net: nn.Module, settings: EvaluateSettings, *, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """One clip's record: PSNR and SSIM by row, seconds by stage, and the adaptation's own record."""
    rows: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        if say:
            say(name)
        began = time.monotonic()
        yield
        seconds[name] = time.monotonic() - began

    def measure(row: str, model: nn.Module | None) -> None:
        with stage(f"restore {row}" if model is not None else "blurred"):
            rows[row] = _score(_restored(model, clip.blurred, settings), clip.sharp)

    measure("blurred", None)
    if "base" in settings.rows:
        measure("base", net)
    outcome: Outcome | None = None
    if "adapted" in settings.rows:
        with stage("adapt"):
            outcome = adapt(net, clip.blurred, settings=settings.adaptation)
            sharp = sharp_already(clip.blurred) if settings.adaptation.guard else None
        if outcome.adapted is not None:
            measure("adapted_unguarded", outcome.adapted)
        elif "base" in rows:
            rows["adapted_unguarded"] = rows["base"]
        if sharp is not None:  # such a clip is given back as it is
            rows["adapted"] = rows["blurred"]
        elif outcome.share == 1 and "adapted_unguarded" in rows:
            rows["adapted"] = rows["adapted_unguarded"]
        elif outcome.share == 0 and "base" in rows:
            rows["adapted"] = rows["base"]
        else:
            measure("adapted", outcome.model)
    if "oracle" in settings.rows:
        with stage("adapt oracle"):
            patch = outcome.support.patch if outcome and outcome.support else settings.adaptation.patch
            oracle = fit_oracle(net, clip, settings.adaptation, patch)
        measure("oracle", oracle)
    record = {
        "clip": clip.name,
        "frames": len(clip),
        "psnr": {row: figures["psnr"] for row, figures in rows.items()},
        "ssim": {row: figures["ssim"] for row, figures in rows.items()},
        "seconds": seconds,
        "share": outcome.share if outcome else 0.0,
        "adaptation": outcome.to_record() if outcome else None,
    }
    return dict(plain(record))


def _restored(model: nn.Module | None, clip: Clip, settings: EvaluateSettings) -> Iterator[Tensor]:
    if model is None:
        return iter(clip)
    return restore_frames(Restorer(model, clip.height, clip.width, settings.restoration), clip)


def _score(frames: Iterator[Tensor], sharp: Clip) -> dict[str, float]:
    """Means over the frames after rounding to 8 bits, PSNR in dB on RGB and SSIM on luma."""
    pairs = list(zip(frames, sharp, strict=True))
    return {
        "psnr": fmean(float(psnr(frame, truth, round_to_8bit=True)) for frame, truth in pairs),
        "ssim": fmean(float(ssim(frame, truth, round_to_8bit=True)) for frame, truth in pairs),
    }


def fit_oracle(net: nn.Module, clip: PairedClip, settings: AdaptSettings, patch: int) -> nn.Module:
    """The deblurrer after the same number of steps on as many true pairs of the clip, places drawn at random."""
    generator = torch.Generator().manual_seed(settings.seed)
    patch = min(patch, clip.blurred.height // 8 * 8, clip.blurred.width // 8 * 8)
    frames = traits(net).frames

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    pairs = []
    for _ in range(settings.pairs * settings.blurs):
        index = draw(len(clip))
        top, left = draw(clip.blurred.height - patch + 1), draw(clip.blurred.width - patch + 1)
        cut = (..., slice(top, top + patch), slice(left, left + patch))
        blurred = clip.blurred.window(index, frames)[cut] if frames > 1 else clip.blurred[index][cut]
        pairs.append(Pair(blurred.clone(), clip.sharp[index][cut].clone()))
    fitted, _, _ = inner_update(net, pairs, settings, generator, loss=traits(net).loss)
    return fitted


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over clips, and what they say of the adaptation.

    Returns:
        ``psnr`` and ``ssim`` by row; ``gain`` = adapted - base in dB; ``oracle_ratio`` = gain / (oracle - base) of the
        means; ``harm_rate`` = share of clips whose adapted row is more than 0.05 dB below base.

    >>> record = {"psnr": {"base": 25.0, "adapted": 25.5, "oracle": 26.0}, "ssim": {}}
    >>> summary = summarize([record, record])
    >>> summary["gain"], summary["oracle_ratio"], summary["harm_rate"]
    (0.5, 0.5, 0.0)
    """
    summary: dict[str, Any] = {
        figure: {row: fmean(record[figure][row] for record in records) for row in records[0][figure]}
        for figure in ("psnr", "ssim")
    }
    means = summary["psnr"]
    if {"base", "adapted"} <= means.keys():
        gains = [record["psnr"]["adapted"] - record["psnr"]["base"] for record in records]
        summary["gain"] = fmean(gains)
        summary["harm_rate"] = sum(gain < -HARM_DB for gain in gains) / len(gains)
        if "oracle" in means:
            room = means["oracle"] - means["base"]
            summary["oracle_ratio"] = summary["gain"] / room if room > 0 else None
    return summary

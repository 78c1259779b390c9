"""The pictures of known failures that the model cards name: docs/images/failures_lite.jpg and failures_reblurrer.jpg.

    python recipes/card_pictures.py DIR

Clips are the built-in ones, so the truth is known and the pictures may be shipped. Of each clip the frame and the piece
of it are shown where the adapted result is worst, not where it looks best.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from method_pictures import enlarged, write
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from metadeblur.adaptation.stages import adapt
from metadeblur.clip import Clip
from metadeblur.data.paired import PairedClip, read_trial
from metadeblur.evaluation.builtin import make_builtin
from metadeblur.imaging.pictures import side_by_side, to_uint8
from metadeblur.imaging.quality import psnr
from metadeblur.models.weights import load_deblurrer
from metadeblur.reblur.weights import load_reblurrer
from metadeblur.restoration.clips import restore

PIECE = 112  # px, side of what is shown
SIGMA = 1.5  # px, of the Gaussian that the reblurring network is compared with
COMPARED = ("pan", "saturated", "compressed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trials = {clip.name: read_trial(clip).pair for clip in make_builtin(Path(folder)).clips}
        clips = {name: PairedClip(one.blurred.in_memory(), one.sharp.in_memory()) for name, one in trials.items()}
    given.out.mkdir(parents=True, exist_ok=True)
    deblurred = [*(_deblurred(name, clips[name]) for name in COMPARED), _alone(clips)]
    write(given.out / "failures_lite.jpg", np.concatenate(deblurred))
    reblurred = [_reblurred(name, clips[name]) for name in ("shake", "pan")]
    write(given.out / "failures_reblurrer.jpg", np.concatenate(reblurred))


def _deblurred(name: str, pair: PairedClip) -> NDArray[np.uint8]:
    """Where the adapted result of a clip is worst: blurred, base, adapted, sharp."""
    net = load_deblurrer("lite")
    rows = {"base": restore(net, pair.blurred), "adapted": restore(adapt(net, pair.blurred).model, pair.blurred)}
    worst = min(range(len(pair.sharp)), key=lambda frame: psnr(rows["adapted"][frame], pair.sharp[frame]))
    shown = {f"{name}: blurred": pair.blurred[worst], **{way: frames[worst] for way, frames in rows.items()}}
    return _row(shown, pair.sharp[worst], _worst_piece(rows["adapted"][worst], pair.sharp[worst]))


def _alone(clips: dict[str, PairedClip]) -> NDArray[np.uint8]:
    """The most blurred frame of a clip, restored among its neighbours and by itself."""
    net, pair = load_deblurrer("lite"), clips["shake"]
    worst = min(range(len(pair.sharp)), key=lambda frame: psnr(pair.blurred[frame], pair.sharp[frame]))
    alone = restore(net, Clip(pair.blurred[worst][None]))[0]
    among = restore(net, pair.blurred)[worst]
    shown = {"shake: blurred": pair.blurred[worst], "base, by itself": alone, "base, in its clip": among}
    return _row(shown, pair.sharp[worst], _worst_piece(alone, pair.sharp[worst]))


def _reblurred(name: str, pair: PairedClip) -> NDArray[np.uint8]:
    """What the reblurring network makes of a true sharp window, beside the camera's own blur and a Gaussian."""
    net = load_reblurrer("reblurrer")
    middle = min(range(2, len(pair.sharp) - 2), key=lambda frame: psnr(pair.sharp[frame], pair.blurred[frame]))
    made = net.blur(pair.sharp.window(middle, net.frames))
    sharp = pair.sharp[middle]
    picture = np.ascontiguousarray(sharp.permute(1, 2, 0).numpy())
    gaussian = torch.from_numpy(cv2.GaussianBlur(picture, (0, 0), SIGMA)).permute(2, 0, 1)
    shown = {f"{name}: sharp": sharp, "network": made, f"Gaussian {SIGMA} px": gaussian}
    return _row(shown, pair.blurred[middle], _worst_piece(made, pair.blurred[middle]), "true blur")


def _worst_piece(picture: Tensor, truth: Tensor) -> tuple[slice, slice, slice]:
    """The piece of a frame whose mean square error is greatest."""
    errors = F.avg_pool2d((picture - truth).square().mean(0)[None, None], PIECE, 8)[0, 0]
    row, column = divmod(int(errors.argmax()), errors.shape[1])
    return slice(None), slice(8 * row, 8 * row + PIECE), slice(8 * column, 8 * column + PIECE)


def _row(
    shown: dict[str, Tensor], truth: Tensor, piece: tuple[slice, slice, slice], last: str = "sharp"
) -> NDArray[np.uint8]:
    """The piece of each picture with the whole frame's PSNR in dB, and of the truth."""
    titles = [f"{name}  {float(psnr(one, truth)):.1f}" for name, one in shown.items()]
    pictures = [to_uint8(one[piece]) for one in (*shown.values(), truth)]
    return side_by_side([enlarged(one) for one in pictures], (*titles, last))


if __name__ == "__main__":
    main()

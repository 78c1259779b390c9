"""The pictures of docs/method.md: one clip of the built-in benchmark through the whole method.

    python recipes/method_pictures.py DIR [--clip shake] [--reblurrer FILE]

Writes method_clip.jpg (its sharpest and its most blurred frame with their self-shift maps), method_pairs.jpg (a
pseudo-sharp patch of each of three places, reblurred both ways, and the real blur there) and method_result.jpg (a frame
blurred, restored by the base, adapted on flow pairs and on the network's, and the truth, with their PSNR).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from paper_methods import adaptation

from metadeblur.adaptation.stages import adapt
from metadeblur.data.paired import PairedClip, read_trial
from metadeblur.evaluation.builtin import make_builtin
from metadeblur.imaging.pictures import encode_jpeg, heat_map, side_by_side, to_uint8
from metadeblur.imaging.quality import psnr
from metadeblur.imaging.sharpness import self_shift_map
from metadeblur.models.weights import load_deblurrer
from metadeblur.reblur.place import Place, real_blurred
from metadeblur.restoration.clips import restore
from metadeblur.system.json_files import write_whole

PATCH, STRIDE = 24, 4  # px, of the self-shift map
SHOWN = 3  # places
ENLARGED = 2  # of the patches and results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clip", default="shake")
    parser.add_argument("--reblurrer", default="")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = {clip.name: clip for clip in make_builtin(Path(folder)).clips}
        trial = read_trial(clips[given.clip]).pair
        pair = PairedClip(trial.blurred.in_memory(), trial.sharp.in_memory())
    clip, net = pair.blurred, load_deblurrer("lite")
    settings = adaptation(steps=40, lr=1e-4, patch=96, reblurrer=given.reblurrer)
    ways = {name: adapt(net, clip, settings=replace(settings, reblur=name)) for name in ("flow", "network")}
    support = ways["flow"].support
    assert support is not None
    order = np.argsort(support.frame_scores)
    sharpest, blurriest = int(order[0]), int(order[-1])
    places = sorted(support.train, key=lambda place: place.score)
    chosen = _apart(places)
    maps = [self_shift_map(clip[number], PATCH, STRIDE) for number in (sharpest, blurriest)]
    low, high = (float(edge) for edge in np.quantile(torch.stack(maps).numpy(), (0.02, 0.98)))
    pictures, labels = [], []
    for number, scores, says in zip((sharpest, blurriest), maps, ("sharpest", "most blurred"), strict=True):
        pictures += [
            _framed(to_uint8(clip[number]), [place for place in chosen if place.frame == number]),
            cv2.resize(heat_map(scores.numpy(), low, high), (clip.width, clip.height), interpolation=cv2.INTER_NEAREST),
        ]
        labels += [f"{says}: frame {number}", f"its self-shift map, {low:.0f} to {high:.0f} dB"]
    write(given.out / "method_clip.jpg", side_by_side(pictures, labels))
    rows = []
    for row, place in enumerate(chosen):
        number = support.train.index(place)
        patches = [
            clip[place.frame][:, place.top : place.top + place.size, place.left : place.left + place.size],
            *(way.pairs[number * settings.blurs].centre for way in ways.values()),
            real_blurred(clip, place),
        ]
        titles = ("pseudo-sharp", "reblurred by flow", "by the network", "real blur here") if row == 0 else ()
        rows.append(side_by_side([enlarged(to_uint8(patch)) for patch in patches], titles))
        rows.append(np.full((4, rows[0].shape[1], 3), 255, np.uint8))
    write(given.out / "method_pairs.jpg", np.concatenate(rows[:-1]))
    nets = {"base": net, **{f"adapted, {name}": way.model for name, way in ways.items()}}
    restored = {"blurred": clip, **{name: restore(one, clip) for name, one in nets.items()}}
    whole = {
        name: [float(psnr(one, true)) for one, true in zip(frames, pair.sharp, strict=True)]
        for name, frames in restored.items()
    }
    for name, values in whole.items():
        print(f"{name}: {np.mean(values):.2f} dB over the clip")
    shown = int(np.argmin(whole["blurred"]))
    top, left = (clip.height - 160) // 2, (clip.width - 160) // 2
    cut = (slice(None), slice(top, top + 160), slice(left, left + 160))
    pieces = [enlarged(to_uint8(frames[shown][cut])) for frames in (*restored.values(), pair.sharp)]
    titles = [f"{name}  {values[shown]:.1f} dB" for name, values in whole.items()]
    write(given.out / "method_result.jpg", side_by_side(pieces, (*titles, "sharp")))


def _apart(places: list[Place]) -> list[Place]:
    """The first places that lie apart."""
    found: list[Place] = []
    for place in places:
        if all(abs(place.top - one.top) > 48 or abs(place.left - one.left) > 48 for one in found):
            found.append(place)
    return found[:SHOWN]


def _framed(picture: NDArray[np.uint8], places: list[Place]) -> NDArray[np.uint8]:
    framed = picture.copy()
    for place in places:
        corner = (place.left + place.size - 1, place.top + place.size - 1)
        cv2.rectangle(framed, (place.left, place.top), corner, (255, 210, 60), 2)
    return framed


def enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small picture at a size at which its pixels are seen."""
    return np.asarray(cv2.resize(picture, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC), np.uint8)


def write(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a JPEG and say how large it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, encode_jpeg(picture, 82))
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

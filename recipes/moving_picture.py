"""The moving picture of README.md: the demonstration's clip as it was filmed and as it was restored, side by side.

    metadeblur demo demo --film --frames 32 --width 480 --height 360
    metadeblur restore demo/shaky.mp4 -o demo/sharp.mp4 --effort quick
    python recipes/moving_picture.py demo/shaky.mp4 demo/sharp.mp4 docs/images/before_after.webp

An animated WebP, which browsers and GitHub play. The clip runs forwards and backwards, more slowly than it was filmed,
so that the eye can follow it. Needs Pillow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from metadeblur.imaging.pictures import shrink, to_uint8
from metadeblur.video import read_clip

GAP = 4  # px between the two


def drawn(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Image.Image:
    """Two pictures side by side, with their names on them."""
    height, width = before.shape[:2]
    both = Image.new("RGB", (2 * width + GAP, height), "white")
    font = ImageFont.load_default(size=16)
    for left, picture, name in ((0, before, "as filmed"), (width + GAP, after, "restored")):
        both.paste(Image.fromarray(picture), (left, 0))
        draw = ImageDraw.Draw(both)
        draw.rounded_rectangle((left + 8, 8, left + 22 + draw.textlength(name, font), 34), 5, fill=(20, 20, 20))
        draw.text((left + 15, 11), name, fill="white", font=font)
    return both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=400, help="of each of the two, px")
    parser.add_argument("--slower", type=float, default=2.0, help="than it was filmed")
    parser.add_argument("--quality", type=int, default=62)
    given = parser.parse_args()
    before, after = read_clip(given.before).in_memory(), read_clip(given.after).in_memory()
    pictures = [
        drawn(shrink(to_uint8(one), given.width), shrink(to_uint8(two), given.width))
        for one, two in zip(before, after, strict=True)
    ]
    there_and_back = [*pictures, *pictures[-2:0:-1]]
    milliseconds = round(1000 * given.slower / float(before.fps or 25))
    there_and_back[0].save(
        given.out,
        save_all=True,
        append_images=there_and_back[1:],
        duration=milliseconds,
        loop=0,
        quality=given.quality,
        method=6,
    )
    print(given.out, f"{given.out.stat().st_size / 1000:.0f} kB, {len(there_and_back)} pictures")


if __name__ == "__main__":
    main()

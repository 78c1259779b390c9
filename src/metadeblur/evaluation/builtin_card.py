"""The card of the built-in clips as a data set, in the form of model hubs."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from metadeblur.evaluation.builtin import CLIPS, FRAMES, HEIGHT, VERSION, WIDTH
from metadeblur.models.cards import TAGS, card
from metadeblur.system.citation import bibtex

_TEXT = """\
# The built-in benchmark of metadeblur

{count} clips of {frames} frames, {width}x{height}, blurred and sharp, version {version}. A simulated camera moves over
photographs, things move before them, and light is averaged over the exposure, in linear light; some clips have more
noise, or compression. No optical flow is involved. No shipped model was trained on the photographs. The clips are few
and small: they show what a setting changes, and rank nothing.

| clip | blur | photograph | exposure | error, 8-bit levels |
| --- | --- | --- | ---: | ---: |
{clips}

## Make and measure

```console
metadeblur evaluate builtin -o scores
```

`scores/clips/CLIP/blur` and `scores/clips/CLIP/sharp` then hold the frames as PNG, and a checksum of each clip says
whether they are the ones that published figures were measured on.

## Photographs

| file | title | author | licence | from | changes |
| --- | --- | --- | --- | --- | --- |
{photographs}

## Citation

```bibtex
{citation}
```
"""


def dataset_card() -> str:
    """The card, with every clip and photograph."""
    facts = {
        "pretty_name": "metadeblur built-in benchmark",
        "license": "cc-by-4.0",  # of the photographs' the one that asks for most
        "task_categories": ["image-to-image"],
        "size_categories": ["n<1K"],
        "annotations_creators": ["machine-generated"],
        "tags": [*TAGS, "synthetic"],
    }
    errors = {name: about["error"] for name, about in _read("builtin.json")["clips"].items()}
    clips = [_row(clip.name, clip.says, clip.photograph, f"{clip.exposure:g}", errors[clip.name]) for clip in CLIPS]
    keys = ("file", "title", "author", "licence", "from", "changes")
    photographs = [_row(*(one[key] for key in keys)) for one in _read("photographs/photographs.json")]
    text = _TEXT.format(
        count=len(CLIPS),
        frames=FRAMES,
        width=WIDTH,
        height=HEIGHT,
        version=VERSION,
        clips="\n".join(clips),
        photographs="\n".join(photographs),
        citation=bibtex().strip(),
    )
    return card(facts, text)


def _read(asset: str) -> Any:
    return json.loads((resources.files("metadeblur") / "assets" / asset).read_text(encoding="utf-8"))


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"

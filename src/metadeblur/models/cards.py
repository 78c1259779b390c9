"""Cards in the form of model hubs: a ``README.md`` that begins with facts as YAML, then says the same to people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from metadeblur.models.published import PUBLISHED
from metadeblur.system.citation import bibtex

TAGS = ("deblurring", "motion-deblurring", "video-restoration", "test-time-adaptation", "metadeblur")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null"}  # that YAML takes for something else than text
_PLAIN = re.compile(r"[A-Za-z][\w.-]*(?: [\w.-]+)*")


def card(facts: Mapping[str, Any], text: str) -> str:
    r"""A card: facts as YAML between two lines of dashes, and then the text, which is Markdown.

    >>> card({"license": "mit", "tags": ["a", "b: c"], "none": None}, "# A network\n").splitlines()
    ['---', 'license: mit', 'tags:', '- a', '- "b: c"', '---', '', '# A network']
    """
    lines = [line for name, value in facts.items() if value not in (None, "", [], ()) for line in _yaml(name, value)]
    return "\n".join(["---", *lines, "---", "", text.strip(), ""])


def _yaml(name: str, value: Any) -> list[str]:
    """One fact; what is neither a word nor a list of words is written as JSON, which is YAML as well."""
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value):
        return [f"{name}:", *(f"- {_scalar(one)}" for one in value)]
    return [f"{name}: {_scalar(value)}"]


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


def network_card(config: Mapping[str, Any], *, facts: Mapping[str, Any], licence: str = "") -> str:
    """The card of a network that somebody saves.

    Args:
        config: what ``config.json`` holds.
        facts: further facts, such as ``datasets`` or ``base_model``; they win over those that are known.
        licence: of the weights, as hubs name it (``apache-2.0``, ``mit``, ``other``, ...).
    """
    name = config["architecture"] or config["network"]
    known = {"license": licence, **_common(), **facts}
    lines = [f"# {name}", "", "A network that removes motion blur, saved by metadeblur.", ""]
    frames = config["frames"]
    takes = "one picture" if frames == 1 else f"windows of {frames} frames, of which it restores the middle one"
    rows = [("network", f"`{config['network']}`"), ("parameters", f"{config['parameters']:,}"), ("takes", takes)]
    rows.append(("sides", "any" if config["multiple"] == 1 else f"multiples of {config['multiple']} px"))
    if config["fusion"]:
        rows.append(("adapted", "to one clip; restored frames are then fused with their neighbours"))
    lines += [*_table(rows), "", *_use(outside=config["architecture"] is None)]
    published = PUBLISHED.get(str(config["architecture"]))
    if published is not None:
        lines += [
            "",
            f"The network: {published.paper}. Weights that started from the published ones keep their licence:",
        ]
        lines += [f"{published.licence}."]
    return card(known, "\n".join([*lines, "", *_citation()]))


def shipped_card(about: Mapping[str, Any]) -> str:
    """The card of weights that ship, made of the card for programs that lies beside them.

    Args:
        about: what ``assets/<name>.json`` holds.
    """
    name, data, training = about["name"], about["data"], about["training"]
    facts = {"license": str(about["licence"]).lower(), **_common(), "model-index": model_index(name, about["figures"])}
    rows = [("parameters", f"{about['parameters']:,}"), ("steps", f"{about['steps']:,}"), ("licence", about["licence"])]
    rows += [("SHA-256", f"`{about['sha256']}`")]
    lines = [f"# {name}", "", f"{_sentence(about['task'])}. It ships with metadeblur.", "", *_table(rows), ""]
    lines += _use(name=name) if about["architecture"] != "reblurrer" else _use_reblurrer(name)
    lines += ["", "## Data", "", f"{_sentence(data['what'])}.", "", f"{_sentence(data['photographs'])}."]
    lines += ["", "## Training", "", *_table([(key, str(value)) for key, value in training.items()])]
    lines += ["", "## Figures", "", *_figures(about["figures"])]
    lines += ["", "## Limits", "", *(f"- {_sentence(limit)}." for limit in about["limits"])]
    return card(facts, "\n".join([*lines, "", *_citation()]))


def model_index(name: str, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Figures of a card in the form that hubs show beside it.

    >>> model_index("lite", {"six clips, PSNR in dB": {"base": 26.11}})[0]["results"][0]["metrics"]
    [{'type': 'psnr', 'name': 'PSNR (dB), base', 'value': 26.11}]
    """
    results = [
        {
            "task": {"type": "image-to-image", "name": "motion deblurring"},
            "dataset": {"type": re.sub(r"\W+", "-", group.lower()).strip("-"), "name": group},
            "metrics": [{"type": "psnr", "name": f"PSNR (dB), {row}", "value": value} for row, value in values.items()],
        }
        for group, values in figures.items()
        if isinstance(values, Mapping)
    ]
    return [{"name": name, "results": results}]


def _common() -> dict[str, Any]:
    return {
        "library_name": "metadeblur",
        "pipeline_tag": "image-to-image",
        "tags": list(TAGS),
        "metrics": ["psnr", "ssim"],
    }


def _use(name: str = "", *, outside: bool = False) -> list[str]:
    """How to use it, as a short script."""
    source = f'md.load_deblurrer("{name}")' if name else 'md.from_pretrained("FOLDER")'
    note = "  # or OWNER/NAME on the hub"
    if outside:
        source, note = 'md.from_pretrained("FOLDER", net=YourNetwork())', note + "; the class is yours"
    lines = ["## Use", "", "```python", "import metadeblur as md", ""]
    lines += [f"net = {source}{'' if name else note}", 'clip = md.read_clip("shaky.mp4")']
    lines += ["outcome = md.adapt(net, clip, seed=0)"]
    return [*lines, 'md.write_clip(md.restore(outcome.model, clip), "sharp.mp4")', "```"]


def _use_reblurrer(name: str) -> list[str]:
    command = f"metadeblur restore shaky.mp4 --reblur network --reblurrer {name}"
    return ["## Use", "", "```console", command, "```"]


def _citation() -> list[str]:
    return ["## Citation", "", "```bibtex", bibtex().strip(), "```"]


def _figures(figures: Mapping[str, Any]) -> list[str]:
    """Figures as a table each; what is not a group of figures is said first."""
    lines = [f"{_sentence(value)}." for value in figures.values() if isinstance(value, str)]
    for group, values in figures.items():
        if isinstance(values, Mapping):
            lines += ["", f"{_sentence(group)}:", "", *_table([(row, f"{value:g}") for row, value in values.items()])]
    return lines[1:] if lines and not lines[0] else lines


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]


def _sentence(text: str) -> str:
    begins = text[:1].upper() if re.match(r"\w+[ ,]", text) else text[:1]  # names of files stay as they are
    return begins + text[1:].rstrip(".")

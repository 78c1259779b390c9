"""What griffe does to docstrings before the reference is made of them."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":\w+:`~?([^`]+)`")


class Docstrings(griffe.Extension):
    """Doctests become examples, roles become plain names, and the comments on a class's fields its attributes."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for everything that griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = with_examples(ROLE.sub(r"`\1`", obj.docstring.value))

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called once all of a class is read."""
        lines = [f"    {name}: {said}" for name, field in cls.attributes.items() if (said := comment(field))]
        if lines and cls.docstring is not None and "Attributes:" not in cls.docstring.value:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(lines)


def comment(field: griffe.Attribute) -> str:
    """The comment on a field of a dataclass, and its default."""
    if field.docstring is not None:
        return ""
    said = " ".join(re.findall(r"  # (.*)$", field.source, re.MULTILINE))
    default = "" if field.value is None or "field(" in str(field.value) else f" Default: `{field.value}`."
    return f"{said[:1].upper()}{said[1:].rstrip('.')}.{default}" if said else ""


def with_examples(text: str) -> str:
    """Paragraphs of doctests under the heading that griffe knows; otherwise they would be quotations."""
    paragraphs = text.split("\n\n")
    for index, paragraph in enumerate(paragraphs):
        if paragraph.startswith(">>>"):
            indented = "\n".join(f"    {line}" for line in paragraph.splitlines())
            first = not (index and paragraphs[index - 1].startswith(("Examples:", "    >>>")))
            paragraphs[index] = f"Examples:\n{indented}" if first else indented
    return "\n\n".join(paragraphs)

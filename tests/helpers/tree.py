"""The tree of packages that CONTRIBUTING shows, made of the first lines of their docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "metadeblur"
LAYERS = re.search(
    r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


def order() -> list[str]:
    """Packages and modules of the root from top to bottom, as the import contracts have them."""
    assert LAYERS is not None
    return re.findall(r"\w+", LAYERS[1])


def first_line(path: Path) -> str:
    """What a module says of itself in one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, f"{path} has no docstring"
    return text.splitlines()[0].rstrip(".")


def tree() -> str:
    """The lines between the marks in CONTRIBUTING."""
    lines = ["src/metadeblur/"]
    for name in order():
        folder = SOURCE / name
        module = folder / "__init__.py" if folder.is_dir() else SOURCE / f"{name}.py"
        label = f"{name}/" if folder.is_dir() else f"{name}.py"
        lines.append(f"  {label:<14}{first_line(module)}")
    return "```\n" + "\n".join(lines) + "\n```\n"


def written(text: str) -> str:
    """CONTRIBUTING with the tree in it."""
    begin, end = "<!-- tree: python tests/helpers/tree.py -->\n", "<!-- end of tree -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}{tree()}{end}{after}"


if __name__ == "__main__":
    page = ROOT / "CONTRIBUTING.md"
    page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")

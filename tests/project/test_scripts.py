"""Benchmarks and recipes find every name of this program that they use."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPTS = sorted(
    path for folder in ("benchmarks", "recipes") for path in (Path(__file__).parents[2] / folder).glob("*.py")
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_imported_name_is_there(script):
    if "cluster" in script.read_text():
        pytest.importorskip("ray", reason="a cluster needs the extra [cluster]")
    nodes = list(ast.walk(ast.parse(script.read_text())))
    modules = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metadeblur"):
            home = import_module(node.module)
            for name in node.names:
                inside = f"{node.module}.{name.name}"
                if not hasattr(home, name.name):
                    assert find_spec(inside), inside
                    modules[name.asname or name.name] = import_module(inside)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), ast.unparse(node)

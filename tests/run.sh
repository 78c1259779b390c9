#!/usr/bin/env bash
# Everything that must pass: the suite with doctests, style, format and types. Needs `pip install '.[dev]'` before.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
mypy
python -m pytest

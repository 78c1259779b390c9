#!/usr/bin/env bash
# Everything that must pass: style, format, types, and the suite with doctests. Needs `pip install '.[dev]'` before.
#
#   bash tests/run.sh [fast] [WORDS FOR PYTEST ...]
#
# fast leaves out the tests marked slow. Two processes by default, one thread each (WORKERS, OMP_NUM_THREADS).
set -euo pipefail
cd "$(dirname "$0")/.."
marks=()
if [ "${1:-}" = fast ]; then
  marks=(-m "not slow")
  shift
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
ruff format --check .
mypy
python -m pytest -n "${WORKERS:-2}" --dist worksteal "${marks[@]}" "$@"

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
  marks=(-m "not slow and not long")
  shift
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
ruff format --check .
lint-imports
if [ $# -gt 0 ]; then
  mypy
  exec python -m pytest -n "${WORKERS:-2}" --dist worksteal "${marks[@]}" "$@"
fi
python -m pytest -n "${WORKERS:-2}" --dist worksteal "${marks[@]}" \
  --ignore tests/cluster/test_cluster.py --ignore tests/app/test_attacks.py
# These start processes of their own and end them, and leave a processor free now and then: for types.
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
mypy &
types=$!
python -m pytest "${marks[@]}" tests/cluster/test_cluster.py tests/app/test_attacks.py
wait "$types"

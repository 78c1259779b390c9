#!/bin/sh
# What a container runs: a command of metadeblur; the page, to all who reach the container, only with a password.
set -eu
if [ "${1:-}" = app ]; then
  if [ -z "${METADEBLUR_PASSWORD:-}" ]; then
    echo "metadeblur: error: the page of a container needs a password; give it with -e METADEBLUR_PASSWORD=..." >&2
    exit 2
  fi
  shift
  exec metadeblur app --host 0.0.0.0 --no-browser "$@"
fi
exec metadeblur "$@"

#!/usr/bin/env bash
# The tables of docs/results/reproduce_small.md: reduced networks trained, then the paper's experiments on paired clips.
#
#   bash recipes/reproduce_small.sh FOLDER CLIPS
#
# FOLDER takes photographs, clips, runs and weights (recipes/small_networks.sh), and FOLDER/out the tables and pictures;
# CLIPS holds CLIP/{blur,sharp} with hero7. Stopped at any point, the same command goes on where it was. With SMOKE=1 all of it
# is as small as it can be, to see that it runs (recipes/nightly.sh).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give a folder for photographs, clips, runs and tables}
clips=${2:?give the folder of paired clips}
bash "$here/small_networks.sh" "$folder"

size=(--crop 256)
if [ -n "${SMOKE:-}" ]; then
  size=(--crop 64 --frames 5 --steps 1 --patch 48)
fi
reproduce() { # experiment, further flags
  metadeblur reproduce "$1" --small --root "$clips" --apart hero7 --weights "$folder/weights" "${size[@]}" \
    -o "$folder/out" "${@:2}"
}
reproduce table1
reproduce table2
reproduce figure5
reproduce figure6 --networks lite,mimo-unet-plus

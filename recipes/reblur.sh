#!/usr/bin/env bash
# Make the small reblurring network and its critic again: photographs -> clips -> training -> weights.
#
#   bash recipes/reblur.sh FOLDER [STEPS]
#
# FOLDER takes photographs, clips (recipes/clips.sh) and the run. Stopped at any point, the same command goes on where it
# was. One step takes about 0.4 s on one CPU core with native bf16.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give a folder for photographs, clips and the run}
steps=${2:-1500}
bash "$here/clips.sh" "$folder"
metadeblur train reblur --config "$here/reblur_small.toml" --clips "$folder/clips/train0" "$folder/clips/train1" \
  --validation "$folder/clips/validation" --steps "$steps" -o "$folder/reblur" --resume

#!/usr/bin/env bash
# Meta-train the built-in model `lite` beside the small reblurring network, each training clip a task: `lite-meta` and
# `reblurrer-meta`.
#
#   bash recipes/meta.sh FOLDER [STEPS] [REBLURRER]
#
# FOLDER takes photographs, clips (recipes/clips.sh) and the run; REBLURRER is a file that recipes/reblur.sh made (default:
# the built-in one). Stopped at any point, the same command goes on where it was. The inner update's rates are the paper's
# times 8: times 40, as in recipes/meta_lite.toml, sixteen steps lose a dB.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give a folder for photographs, clips and the run}
steps=${2:-40}
reblurrer=${3:-reblurrer}
bash "$here/clips.sh" "$folder"
metadeblur train meta --config "$here/meta_lite.toml" --clips "$folder/clips/train2" "$folder/clips/train3" \
  --validation "$folder/clips/validation6" --model lite --reblurrer "$reblurrer" \
  --inner-lr 2e-5 --inner-lr-reblurrer 8e-6 --steps "$steps" -o "$folder/meta" --resume

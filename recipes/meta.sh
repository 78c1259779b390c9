#!/usr/bin/env bash
# Meta-train the built-in model `lite` beside the small reblurring network, each training clip a task.
#
#   bash recipes/meta.sh FOLDER [STEPS]
#
# FOLDER is that of recipes/reblur.sh, which is run first where it was not. Stopped at any point, the same command goes
# on where it was.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give the folder of recipes/reblur.sh}
steps=${2:-40}
[ -e "$folder/reblur/reblurrer.safetensors" ] || bash "$here/reblur.sh" "$folder"
metadeblur train meta --config "$here/meta_lite.toml" --clips "$folder/clips/train0" "$folder/clips/train1" \
  --validation "$folder/clips/validation6" --model lite --reblurrer "$folder/reblur/reblurrer.safetensors" \
  --steps "$steps" -o "$folder/meta" --resume

#!/usr/bin/env bash
# Reduced forms of the paper's networks, trained and meta-trained, for `metadeblur reproduce ... --small --weights`.
#
#   bash recipes/small_networks.sh FOLDER
#
# FOLDER takes photographs and clips (recipes/clips.sh), the runs, and FOLDER/weights for --weights. Stopped at any
# point, the same command goes on where it was. On one CPU core with native bf16: about 35 minutes of training and
# 15 of meta-training.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give a folder for photographs, clips and the runs}
bash "$here/clips.sh" "$folder"
clips=("$folder/clips/train0" "$folder/clips/train1")
mkdir -p "$folder/weights/meta"

# With SMOKE=1 each takes two steps, to see that it runs (recipes/nightly.sh).
steps() { # number
  echo "$((${SMOKE:-0} ? 2 : $1))"
}
train() { # network, steps, patches a step
  metadeblur train deblur --config "$here/small_networks.toml" --network "$1" --steps "$(steps "$2")" --batch "$3" \
    --clips "${clips[@]}" --validation "$folder/clips/validation6" -o "$folder/$1" --resume
  cp "$folder/$1/weights.safetensors" "$folder/weights/$1.safetensors"
}
train mimo-unet-plus 2000 4
train mprnet 1100 4
train restormer 1200 4
train cdvd-tsp 600 2

meta() { # network, tasks
  local model=$folder/weights/$1.safetensors
  [ -e "$model" ] || model=$1
  metadeblur train meta --config "$here/meta_lite.toml" --clips "${clips[@]}" --validation "$folder/clips/validation6" \
    --model "$model" --steps "$(steps "$2")" -o "$folder/weights/meta/$1" --resume
}
meta lite 40
meta mimo-unet-plus 40
meta mprnet 40
meta restormer 40
meta cdvd-tsp 12 # a task takes three times as long

#!/usr/bin/env bash
# The clips that the built-in weights are trained on: photographs -> clips. Needs Debian's package tools.
#
#   bash recipes/clips.sh FOLDER
#
# FOLDER takes packages, photographs and clips. Stopped at any point, the same command goes on where it was. With SMOKE=1 a
# few small clips are made of the package's own photographs, to see that what follows runs (recipes/nightly.sh).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give a folder for photographs and clips}
mkdir -p "$folder/packages" "$folder/photographs"

if [ -n "${SMOKE:-}" ]; then
  cp "$here"/../src/metadeblur/assets/photographs/*.jpg "$folder/photographs"
elif [ ! -e "$folder/photographs/.complete" ]; then
  tail -n +2 "$here/lite_photographs.tsv" | cut -f2 | sort -u | while read -r package; do
    (cd "$folder/packages" && apt-get download "$package" && dpkg -x "$package"_*.deb tree)
  done
  tail -n +2 "$here/lite_photographs.tsv" | while IFS=$'\t' read -r name _ path sum _; do
    cp "$folder/packages/tree/$path" "$folder/photographs/$name"
    echo "$sum  $folder/photographs/$name" | sha256sum --check --quiet
  done
  touch "$folder/photographs/.complete"
fi

synth() { # folder, number of clips, further flags
  local size=() count=$2
  if [ -n "${SMOKE:-}" ]; then
    size=(--width 192 --height 192)
    count=1
  fi
  metadeblur synth "$folder/photographs" -o "$folder/clips/$1" --clips "$count" "${size[@]}" "${@:3}"
}
for seed in 0 1; do
  synth "train$seed" 300 --seed "$seed"
done
# Without clips that move alike in all frames, a network learns to wait for a sharper neighbour.
for seed in 20 21; do
  synth "train$seed" 150 --steady 0.85 --seed "$seed"
done
# Others, partly blurred in few steps, as benchmarks average the frames of a fast camera.
for seed in 2 3; do
  synth "train$seed" 250 --stepped 0.4 --seed "$seed"
done
for seed in 22 23; do
  synth "train$seed" 75 --steady 0.85 --stepped 0.4 --seed "$seed"
done
# Strong blur: long paths, long exposures, and frames that are all blurred alike.
strong=(--speed-px 8 40 --exposure 0.5 1.5 --steady 0.7 --stepped 0.3)
synth train30 60 "${strong[@]}" --seed 30
synth train31 120 "${strong[@]}" --seed 31
synth validation 12 --frames 3 --seed 777
synth validation6 6 --frames 6 --seed 778
synth validation_strong 8 --frames 5 --speed-px 10 40 --exposure 0.6 1.5 --steady 0.8 --seed 877

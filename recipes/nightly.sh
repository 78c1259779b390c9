#!/usr/bin/env bash
# What is too long for every change, once a night: the tests marked long, and every recipe in its smallest form.
#
#   bash recipes/nightly.sh FOLDER [STEP...]
#
# FOLDER takes clips, runs and FOLDER/logs/STEP.log. Without STEPs all are done, in this order. One that fails does not keep
# the others from being done; what failed is said at the end, with exit code 1. The figures mean nothing: everything has a
# step or two on clips of six small frames. Of the recipes, maxim_val.sh is done where MAXIM names the package that it
# takes, and report_pictures.py where there is Chromium. Needs the package with its extra dev.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give a folder for clips, runs and logs}
shift
mkdir -p "$folder/logs"
folder=$(cd "$folder" && pwd)
export SMOKE=1
clips=$folder/val
few=(--frames 5 --steps 1 --pairs 2 --patch 48)

long() { (cd "$here/.." && python -m pytest -m long -p no:cacheprovider); }
clips() {
  bash "$here/clips.sh" "$folder/made" || return
  metadeblur synth "$folder/made/photographs" -o "$folder/val_made" --clips 3 --frames 6 --width 192 --height 192 --seed 9 || return
  rm -rf "$clips"
  mkdir "$clips"
  cp -r "$folder/val_made/clip_00000" "$clips/hero7"
  cp -r "$folder/val_made/clip_00001" "$clips/goat"
  cp -r "$folder/val_made/clip_00002" "$clips/dance-twirl"
}
lite() { bash "$here/lite.sh" "$folder/made" 2; }
reblur() { bash "$here/reblur.sh" "$folder/made" 2; }
reblur_motion() { bash "$here/reblur_motion.sh" "$folder/made" 2; }
meta() { bash "$here/meta.sh" "$folder/made" 1 "$folder/made/reblur/reblurrer.safetensors"; }
meta_curves() {
  python "$here/meta_curves.py" "$clips" --start '{"model": "lite", "patch": 48, "pairs": 2}' --steps 1 2 --every 5 \
    -o "$folder/meta_curves.json"
}
critics() { python "$here/critics.py" "$folder/val_made" --steps 2 --seeds 1 --patch 48 --patches 8 --batch 2 -o "$folder/critics.csv"; }
reblurrers() { python "$here/reblurrers.py" "$clips" --crop 64 --every 3 -o "$folder/reblurrers"; }
nafnet() { bash "$here/nafnet.sh" "$folder/made" "$clips" 2 "${few[@]}" --crop 64; }
small_networks() { bash "$here/small_networks.sh" "$folder/made"; }
reproduce_small() { bash "$here/reproduce_small.sh" "$folder/made" "$clips"; }
readme_figures() { bash "$here/readme_figures.sh" "$clips" "$folder/readme" 2 "${few[@]}" --crop 64; }
seeds() { python "$here/seeds.py" "$folder/readme/seed0" "$folder/readme/seed1"; }
curves() { python "$here/curves.py" "$folder/made/reblur" "$folder/curves.png" --figures validation:psnr_reblurred; }
guard() { python "$here/guard.py" "$clips" -o "$folder/guard" --steps 1 --pairs 2 --patch 48; }
methods() { python "$here/methods.py" "$clips" -o "$folder/methods" --seeds 1 --methods none,flow "${few[@]}" --crop 64; }
paper_methods() {
  python "$here/paper_methods.py" "$clips" -o "$folder/paper_methods" --meta "$folder/made/meta" --seeds 1 --steps 1 \
    --patch 48 --crop 64 --frames 5
}
ablate() { python "$here/ablate.py" "$clips" --every 5 --variant '{"steps": 1, "pairs": 2, "patch": 48}'; }
film() {
  metadeblur demo "$folder/film" --film --frames 12 --width 224 --height 168 || return
  metadeblur restore "$folder/film/shaky.mp4" -o "$folder/film/back.mp4" --report "$folder/film/report" --steps 1 --overwrite
}
development_clips() { python "$here/development_clips.py" "$folder/film/sharp.mp4" -o "$folder/development" --frames 2 --moments 3; }
strong_clips() {
  python "$here/strong_clips.py" "$folder/made/photographs" -o "$folder/strong" --frames 2 --width 192 --height 108
}
moving_picture() { python "$here/moving_picture.py" "$folder/film/shaky.mp4" "$folder/film/back.mp4" "$folder/film/moving.webp"; }
report_pictures() { python "$here/report_pictures.py" "$folder/film/report" "$folder/pictures"; }
card_pictures() { python "$here/card_pictures.py" "$folder/pictures"; }
method_pictures() { python "$here/method_pictures.py" "$folder/pictures"; }
limits_pictures() { python "$here/limits_pictures.py" "$folder/pictures"; }
gpu() { DEVICE=cpu bash "$here/gpu.sh" "$folder/made/photographs" "$folder/gpu" 60; }
maxim_val() { bash "$here/maxim_val.sh" "$MAXIM" "$clips" "$folder/maxim" 64 --frames 5; }

steps=(long clips lite reblur reblur_motion meta meta_curves critics reblurrers nafnet small_networks reproduce_small
  readme_figures seeds curves guard methods paper_methods ablate gpu film development_clips strong_clips moving_picture
  card_pictures method_pictures limits_pictures)
[ ! -x /usr/bin/chromium ] || steps+=(report_pictures)
[ -z "${MAXIM:-}" ] || steps+=(maxim_val)
[ $# -eq 0 ] || steps=("$@")

mkdir -p "$folder/pictures"
failed=()
for step in "${steps[@]}"; do
  began=$SECONDS
  if "$step" > "$folder/logs/$step.log" 2>&1; then
    echo "done    $step ($((SECONDS - began)) s)"
  else
    echo "FAILED  $step ($((SECONDS - began)) s): $folder/logs/$step.log ends with"
    tail -n 5 "$folder/logs/$step.log" | sed 's/^/        /'
    failed+=("$step")
  fi
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi

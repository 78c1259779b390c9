#!/usr/bin/env bash
# Make the small reblurring network that is told the motion, `reblurrer-motion`, from `reblurrer`: clips -> training -> weights.
#
#   bash recipes/reblur_motion.sh FOLDER [STEPS]
#
# FOLDER takes photographs, clips (recipes/clips.sh, and others of strong blur) and the run. Stopped at any point, the same
# command goes on where it was. One step takes about 1.4 s on one CPU core without native bf16.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give a folder for photographs, clips and the run}
steps=${2:-1000}
bash "$here/clips.sh" "$folder"
count=160 few=12 size=()
if [ -n "${SMOKE:-}" ]; then
  count=1 few=1 size=(--width 192 --height 192)
fi
strong() { # folder, number of clips, seed, further flags
  metadeblur synth "$folder/photographs" -o "$folder/clips/$1" --clips "$2" --seed "$3" --stepped 0.3 "${size[@]}" "${@:4}"
}
strong strong30 "$count" 30 --speed-px 8 40 --exposure 0.5 1.5 --steady 0.7
strong validation_strong "$few" 877 --frames 5 --speed-px 10 40 --exposure 0.6 1.5 --steady 0.8
metadeblur train reblur --config "$here/reblur_motion.toml" --clips "$folder"/clips/{train20,strong30,train0} \
  --validation "$folder/clips/validation" "$folder/clips/validation_strong" --steps "$steps" -o "$folder/reblur_motion" --resume

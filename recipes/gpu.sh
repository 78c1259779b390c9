#!/usr/bin/env bash
# Train the built-in model `lite` on for strong blur within a time limit, on one GPU: clips, training from the built-in
# weights, and what the new weights win on the built-in clips.
#
#   bash recipes/gpu.sh PHOTOGRAPHS FOLDER [SECONDS]
#
# PHOTOGRAPHS are sharp ones (recipes/clips.sh fetches those of the built-in weights); FOLDER takes clips, runs and
# FOLDER/result, the weights and figures to take home (under 16 MB). SECONDS is for everything together, 780 unless it is
# given. DEVICE=cpu tries all of it, small, without a GPU: DEVICE=cpu bash recipes/gpu.sh PHOTOGRAPHS FOLDER 120
set -euo pipefail
photographs=${1:?give a folder of sharp photographs}
folder=${2:?give a folder for clips and runs}
all=${3:-780}
device=${DEVICE:-cuda}
if [ "$device" = cpu ]; then
  sizes=(--batch 2 --patch 96) seen=(--width 192 --height 128) clips=2 trial=3
else
  sizes=(--batch 32 --patch 192) seen=(--width 640 --height 360) clips=400 trial=100
fi
result="$folder/result"
mkdir -p "$result"
processors=$(python -c 'from metadeblur.system.machine import usable_cpus; print(usable_cpus())')
left() { echo $((all - SECONDS)); }

# One process for each processor makes clips until an eighth of the time is gone; those that are whole by then are used.
# Half of them are made for strong blur: steady pans and things that are followed.
make() {
  local strong=()
  if (($1 % 2)); then strong=(--speed-px 8 40 --exposure 0.5 1.5 --steady 0.7 --stepped 0.3); fi
  OMP_NUM_THREADS=1 timeout --signal INT $((all / 8)) metadeblur synth "$photographs" -o "$folder/clips/part$1" \
    --clips "$clips" --seed $((1000 + $1)) "${seen[@]}" "${strong[@]}" -q || (($? == 124 || $? == 130))
}
metadeblur synth "$photographs" -o "$folder/clips/validation" --clips 6 --frames 5 --seed 877 "${seen[@]}" \
  --speed-px 10 40 --exposure 0.6 1.5 --steady 0.8 --stepped 0.3 -q &
for part in $(seq "$processors"); do make "$part" & done
wait
echo "clips: $(find "$folder/clips" -name sharp -type d | wc -l), $(left) s left"

# A few steps tell how many the time suffices for; a quarter of it is kept for measuring.
train() {
  metadeblur train deblur --config "$(dirname "$0")/lite.toml" "${sizes[@]}" --precision auto --device "$device" \
    --start lite --clips "$folder"/clips/part* --validation "$folder/clips/validation" --learning-rate 6e-4 \
    --ema 0.998 --warmup 50 --log-steps "$trial" --validate-steps 500 -o "$folder/run" --resume "$@"
}
began=$SECONDS
train --steps "$trial"
pace=$(tail -n 1 "$folder/run/log.csv" | cut -d, -f2)
steps=$(python -c "print($trial + max($trial, int(($all * 3 / 4 - $SECONDS) / $pace)))")
echo "$trial steps took $((SECONDS - began)) s, $pace s each: training to step $steps, $(left) s left"
train --steps "$steps" --decay $((steps * 3 / 4))
cp "$folder/run/weights.safetensors" "$result/lite.safetensors"
cp "$folder"/run/*.csv "$result/"
echo "trained, $(left) s left"

limit=$(($(left) - 10))
for model in lite "$result/lite.safetensors"; do
  timeout --signal INT $((limit / 2)) metadeblur evaluate builtin --model "$model" --device "$device" --frames 8 \
    --rows blurred,base -o "$result/builtin_$(basename "$model" .safetensors)_$([ "$model" = lite ] && echo before || echo after)" \
    || { (($? == 124 || $? == 130)); echo "no time for measuring $model"; }
done
echo "done after $SECONDS s: $result"

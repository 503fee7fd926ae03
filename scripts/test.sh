#!/usr/bin/env bash
# All tests. Fetches the real models first (once, about 850 MB, into the cache), since many tests run on them.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 scripts/fetch_models.py smollm2-135m gemma3-270m qwen2.5-coder-0.5b >/dev/null
cargo test --workspace "$@"

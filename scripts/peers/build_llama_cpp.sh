#!/usr/bin/env bash
# Builds unmodified llama.cpp's tools, the peer of our comparisons, from the source that the Python package
# llama-cpp-python carries. About six minutes on two cores. Prints the folder of the tools.
#
#   scripts/peers/build_llama_cpp.sh      (needs cmake, a C++ compiler, python3 with pip)
set -euo pipefail
# Said here, where it can be acted upon: the package's own build system says it in a long trace.
for tool in cmake c++ python3; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing; it builds llama.cpp (Debian: apt-get install cmake g++ python3-pip)" >&2; exit 2; }
done
version=0.3.36
cache=${BANTAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bantam}/peers/llama.cpp-$version
if [ ! -x "$cache/build/bin/llama-perplexity" ]; then
    mkdir -p "$cache"
    # The package asks for its build system before it can be downloaded as source.
    python3 -m pip install --quiet --target "$cache/build-system" scikit-build-core >&2
    PYTHONPATH="$cache/build-system" python3 -m pip download --quiet --no-deps --no-build-isolation \
        --no-binary llama-cpp-python --dest "$cache" "llama-cpp-python==$version" >&2
    tar -xzf "$cache"/llama_cpp_python-$version.tar.gz -C "$cache"
    cmake -S "$cache/llama_cpp_python-$version/vendor/llama.cpp" -B "$cache/build" -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >&2
    cmake --build "$cache/build" -j "$(nproc)" \
        --target llama-quantize llama-perplexity llama-bench llama-tokenize llama-imatrix >&2
fi
echo "$cache/build/bin"

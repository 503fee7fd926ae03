#!/usr/bin/env python3
"""Encoders against ggml's: time and error on the same weights, one thread each, in turn.

    cargo build --release -p bantam-formats --example encode_speed
    python3 scripts/bench/encode_against_ggml.py path/to/libggml-base.so path/to/encode_speed
        [--formats Q4_K,Q3_K] [--gguf MODEL --tensor NAME]

Columns: ggml's seconds over bantam's, each the best of five (above 1, bantam is faster), then bantam's root mean squared error over ggml's
(below 1, bantam loses less): plain, and weighted (by the format's rule without importance, see
crates/formats/src/blocks/search/weights.rs; by the importance itself with it).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))
from ggml import ENCODED, FORMATS, NEEDS_IMPORTANCE, Ggml, rule  # noqa: E402

ROWS, WIDTH = 512, 2048


def inputs(args):
    rng = np.random.default_rng(2)
    shape = (args.rows, WIDTH)
    if args.gguf:
        import gguf

        for tensor in gguf.GGUFReader(args.gguf).tensors:
            if tensor.name in args.tensor.split(","):
                yield tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        return
    yield "uniform", rng.uniform(-0.05, 0.05, shape).astype(np.float32)
    yield "gaussian", rng.normal(0, 0.02, shape).astype(np.float32)
    yield "laplace", rng.laplace(0, 0.02, shape).astype(np.float32)
    yield "student", (rng.standard_t(3, shape) * 0.02).astype(np.float32)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("libggml")
    parser.add_argument("encode_speed")
    parser.add_argument("--formats", default=",".join(ENCODED))
    parser.add_argument("--gguf")
    parser.add_argument("--tensor", default="blk.2.ffn_down.weight")
    parser.add_argument("--rows", type=int, default=ROWS)
    args = parser.parse_args()
    ggml = Ggml(args.libggml)
    print(f"{'format':8}{'weights':26}{'importance':11}{'speed':>8}{'plain':>9}{'weighted':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for label, x in inputs(args):
            importance = np.random.default_rng(3).lognormal(0, 1.5, x.shape[1]).astype(np.float32)
            x.tofile(f"{folder}/x")
            np.tile(importance, (x.shape[0], 1)).tofile(f"{folder}/w")
            for name in args.formats.split(","):
                if x.shape[1] % FORMATS[name][1]:
                    continue
                for use in (True,) if name in NEEDS_IMPORTANCE else (False, True):
                    seconds = []
                    for _ in range(5):
                        start = time.perf_counter()
                        theirs = ggml.encode(name, x, importance if use else None)
                        seconds.append(time.perf_counter() - start)
                    command = [args.encode_speed, "--raw", name, f"{folder}/x", f"{folder}/out"]
                    ours_seconds = float(subprocess.check_output(command + [f"{folder}/w"] * use))
                    ours = np.fromfile(f"{folder}/out", np.uint8)
                    weight = importance if use else rule(name, x)
                    errors = [(ggml.decode(name, b).reshape(x.shape).astype(np.float64) - x) ** 2 for b in (ours, theirs)]
                    plain = (errors[0].sum() / errors[1].sum()) ** 0.5
                    weighted = ((errors[0] * weight).sum() / (errors[1] * weight).sum()) ** 0.5
                    print(f"{name:8}{label:26}{use!s:11}{min(seconds) / ours_seconds:8.2f}{plain:9.4f}{weighted:9.4f}", flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Calibrated quantization by bantam and by unmodified llama.cpp, from the same base, calibration text and format.

    scripts/peers/calibrated.py BASE.gguf --calibrate FILE --text FILE [--levels Q4_0,Q3_K_M] [--bits 4.5,3.5] [--methods gptq,best]
        [--chunks N] [--tune STEPS] [--threads 2]

llama.cpp: llama-imatrix on the text, llama-quantize with it. bantam: nearest, importance, gptq on the same text; best, whose formats are
chosen to fit the size of llama.cpp's file; and if --tune is given, gptq and then as many steps of tuning. --bits adds files of bantam's
with so many bits per weight, for sizes that llama-quantize does not reach. All are judged by llama-perplexity's KL divergence from the
base on --text.
Prints a Markdown table; exits with 1 if a file of bantam's is larger than llama.cpp's by more than a thousandth.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout + done.stderr


PEER = "llama-quantize + imatrix"


def made(command, output):
    """The file that a command makes in the place of None, and the seconds that it took."""
    start = time.monotonic()
    run(*[output if part is None else part for part in command])
    return output, time.monotonic() - start


def candidates(level, args, work, tools):
    """Name and file of each, with the seconds that it took to make."""
    peer, seconds = made(
        [tools / "llama-quantize", "--imatrix", work / "imatrix.gguf", args.base, None, level, args.threads], work / f"{level}-peer.gguf"
    )
    yield PEER, peer, seconds
    bantam = [args.bantam, "quantize", args.base, "--threads", args.threads, "--quiet", "-o", None]
    calibrate = ["--calibrate", args.calibrate, "--calibration-tokens", args.tokens]
    plans = {
        "nearest": [*bantam, "--to", level],
        "importance": [*bantam, "--to", level, *calibrate, "--method", "importance"],
        "gptq": [*bantam, "--to", level, *calibrate],
        "best": [*bantam, "--fit", peer.stat().st_size, "--sensitivity", work / "sensitivity.jsonl", *calibrate],
    }
    for name in args.methods.split(","):
        yield name, *made(plans[name], work / f"{level}-{name}.gguf")
    if args.tune:
        tune = [args.bantam, "tune", work / f"{level}-gptq.gguf", "--base", args.base, "--data", args.calibrate,
                "--steps", args.tune, "--batch", 2, "--threads", args.threads, "--quiet", "-o", None]
        yield "gptq + tune", *made(tune, work / f"{level}-tuned.gguf")


def of_bits(bits, args, work):
    """A file with so many bits per weight."""
    command = [args.bantam, "quantize", args.base, "--bits", bits, "--sensitivity", work / "sensitivity.jsonl", "--calibrate", args.calibrate,
               "--calibration-tokens", args.tokens, "--threads", args.threads, "--quiet", "-o", None]
    yield "best", *made(command, work / f"{bits}.gguf")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("--calibrate", type=pathlib.Path, required=True)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--levels", default="Q4_0,Q3_K_M")
    parser.add_argument("--bits", default="")
    parser.add_argument("--methods", default="nearest,importance,gptq,best")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--tune", type=int, metavar="STEPS")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--bantam", type=pathlib.Path, default=pathlib.Path("target/release/bantam"))
    parser.add_argument("--llama", type=pathlib.Path, help="folder of llama.cpp's tools (default: built by build_llama_cpp.sh)")
    args = parser.parse_args()
    tools = args.llama or pathlib.Path(run(pathlib.Path(__file__).parent / "build_llama_cpp.sh").strip().splitlines()[-1])
    os.environ["LD_LIBRARY_PATH"] = str(tools)
    chunks = ["--chunks", args.chunks] if args.chunks else []
    larger = False
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        run(tools / "llama-imatrix", "-m", args.base, "-f", args.calibrate, "-o", work / "imatrix.gguf", "-c", 512, "-t", args.threads,
            "--chunks", args.tokens // 512)
        perplexity = [tools / "llama-perplexity", "-c", 512, "-b", 512, "-t", args.threads, "--kl-divergence-base", work / "logits"]
        run(*perplexity, "-m", args.base, "-f", args.text, *chunks)
        print("| format | method | bytes | KL divergence | same top token | of llama.cpp's | seconds |\n|---|---|--:|--:|--:|--:|--:|")
        rows = [(level, candidates(level, args, work, tools)) for level in args.levels.split(",") if level]
        rows += [(f"{bits} bits", of_bits(bits, args, work)) for bits in args.bits.split(",") if bits]
        for level, files in rows:
            peer = None
            for name, file, seconds in files:
                out = run(*perplexity, "-m", file, "--kl-divergence")
                mean, error = map(float, re.search(r"Mean\s+KLD:\s*([\d.]+)\s*±\s*([\d.]+)", out).groups())
                top = re.search(r"Same top p:\s*([\d.]+)", out).group(1)
                size = file.stat().st_size
                peer = (mean, size) if name == PEER else peer
                larger |= peer is not None and size > 1.001 * peer[1]
                ratio = f"{mean / peer[0]:.2f}" if peer else ""
                print(f"| {level} | {name} | {size:,} | {mean:.5f} ± {error:.5f} | {top} % | {ratio} | {seconds:.0f} |", flush=True)
    sys.exit(1 if larger else 0)


if __name__ == "__main__":
    main()

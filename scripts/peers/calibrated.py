#!/usr/bin/env python3
"""Calibrated quantization by bantam and by unmodified llama.cpp, from the same base, calibration text and format.

    scripts/peers/calibrated.py BASE.gguf --calibrate FILE --text FILE [--levels Q4_0,Q3_K_M] [--bits 4.5,3.5] [--methods scaling,best]
        [--chunks N] [--tokens 16384] [--sensitivity FILE] [--keep FOLDER] [--threads 2]

llama.cpp: llama-imatrix on the text, llama-quantize with it. bantam, on the same text: nearest, importance, gptq, descent, scaling; mixed,
formats chosen to fit the size of llama.cpp's file, and scaling; tuned (behind scaling), its file with scales trained, if that helps; best, mixed with scales trained.
--bits adds mixed files with so many bits per weight, for sizes that llama-quantize does not reach. All are judged by llama-perplexity's KL divergence from
the base on --text.
Prints a Markdown table, with the seconds and the peak memory of each; sensitivities are measured in the time of the first file that needs
them, or not at all if --sensitivity has them. Exits with 1 if a file of bantam's is larger than llama.cpp's by more than a thousandth.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parents[1]))
import built  # noqa: E402


def run(*command):
    return measured(*command)[0]


def measured(*command):
    """What a command printed, the seconds that it took and its peak memory in bytes."""
    with tempfile.TemporaryFile() as printed:
        start = time.monotonic()
        process = subprocess.Popen([str(c) for c in command], stdout=printed, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        out = printed.read().decode(errors="replace")
    if process.returncode:
        sys.exit(f"error: {' '.join(map(str, command))}\n{out[-4000:]}")
    return out, seconds, usage.ru_maxrss * 1024


PEER = "llama-quantize + imatrix"


def made(command, output):
    """The file that a command makes in the place of None, the seconds and the memory that it took."""
    _, seconds, memory = measured(*[output if part is None else part for part in command])
    return output, seconds, memory


def candidates(level, args, work, tools):
    """Name and file of each, with the seconds and the memory that it took to make."""
    command = [tools / "llama-quantize", "--imatrix", work / "imatrix.gguf", args.base, None, level, args.threads]
    peer, *took = made(command, work / f"{level}-peer.gguf")
    yield PEER, peer, *took
    bantam = [args.bantam, "quantize", args.base, "--threads", args.threads, "--quiet", "-o", None]
    calibrate = ["--calibrate", args.calibrate, "--calibration-tokens", args.tokens]
    mixed = [*bantam, "--fit", f"{peer.stat().st_size}B", "--sensitivity", args.sensitivity, *calibrate]
    plans = {
        "nearest": [*bantam, "--to", level],
        "importance": [*bantam, "--to", level, *calibrate, "--method", "importance"],
        "gptq": [*bantam, "--to", level, *calibrate, "--method", "gptq"],
        "descent": [*bantam, "--to", level, *calibrate, "--method", "descent"],
        "scaling": [*bantam, "--to", level, *calibrate],
        "tuned": [args.bantam, "tune", work / f"{level}-scaling.gguf", "--base", args.base, "--data", args.calibrate,
                  "--threads", args.threads, "--quiet", "-o", None],
        "mixed": mixed,
        "best": [*mixed, "--effort", "best"],
    }
    for name in args.methods.split(","):
        yield name, *made(plans[name], work / f"{level}-{name}.gguf")


def of_bits(bits, args, work):
    """A file with so many bits per weight."""
    command = [args.bantam, "quantize", args.base, "--bits", bits, "--sensitivity", args.sensitivity, "--calibrate", args.calibrate,
               "--calibration-tokens", args.tokens, "--threads", args.threads, "--quiet", "-o", None]
    yield "mixed", *made(command, work / f"{bits}.gguf")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("--calibrate", type=pathlib.Path, required=True)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--levels", default="Q4_0,Q3_K_M")
    parser.add_argument("--bits", default="")
    parser.add_argument("--methods", default="nearest,importance,gptq,descent,scaling,mixed,best")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--sensitivity", type=pathlib.Path, help="file that keeps the sensitivities")
    parser.add_argument("--keep", type=pathlib.Path, help="folder that keeps the files made")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--bantam", type=pathlib.Path, help="default: built here")
    parser.add_argument("--llama", type=pathlib.Path, help="folder of llama.cpp's tools (default: built by build_llama_cpp.sh)")
    args = parser.parse_args()
    args.bantam = args.bantam or built.program()
    tools = args.llama or pathlib.Path(run(pathlib.Path(__file__).parent / "build_llama_cpp.sh").strip().splitlines()[-1])
    os.environ["LD_LIBRARY_PATH"] = str(tools)
    chunks = ["--chunks", args.chunks] if args.chunks else []
    larger = False
    with tempfile.TemporaryDirectory() as work:
        work = args.keep or pathlib.Path(work)
        work.mkdir(parents=True, exist_ok=True)
        args.sensitivity = args.sensitivity or work / "sensitivity.jsonl"
        run(tools / "llama-imatrix", "-m", args.base, "-f", args.calibrate, "-o", work / "imatrix.gguf", "-c", 512, "-t", args.threads,
            "--chunks", args.tokens // 512)
        # Without repacking: the AMX kernels of this llama.cpp die on virtual machines that show the instructions but do not have them.
        perplexity = [tools / "llama-perplexity", "--no-repack", "-c", 512, "-b", 512, "-t", args.threads, "--kl-divergence-base", work / "logits"]
        run(*perplexity, "-m", args.base, "-f", args.text, *chunks)
        print("| format | method | bytes | KL divergence | same top token | of llama.cpp's | seconds | peak MB |\n|---|---|--:|--:|--:|--:|--:|--:|")
        rows = [(level, candidates(level, args, work, tools)) for level in args.levels.split(",") if level]
        rows += [(f"{bits} bits", of_bits(bits, args, work)) for bits in args.bits.split(",") if bits]
        for level, files in rows:
            peer = None
            for name, file, seconds, memory in files:
                out = run(*perplexity, "-m", file, "--kl-divergence")
                mean, error = map(float, re.search(r"Mean\s+KLD:\s*([\d.]+)\s*±\s*([\d.]+)", out).groups())
                top = re.search(r"Same top p:\s*([\d.]+)", out).group(1)
                size = file.stat().st_size
                peer = (mean, size) if name == PEER else peer
                larger |= peer is not None and size > 1.001 * peer[1]
                ratio = f"{mean / peer[0]:.2f}" if peer else ""
                print(f"| {level} | {name} | {size:,} | {mean:.5f} ± {error:.5f} | {top} % | {ratio} | {seconds:.0f} "
                      f"| {memory / 1e6:.0f} |", flush=True)
    sys.exit(1 if larger else 0)


if __name__ == "__main__":
    main()

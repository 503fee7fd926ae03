#!/usr/bin/env python3
"""bantam against llama-quantize, level by level, judged by llama.cpp's own tool.

    scripts/peers/quantize_table.py MODEL.gguf [--text FILE] [--levels Q8_0,Q4_K_M] [--chunks 12] [--threads 2] [--work DIR]

The text is by default the beginnings of all texts of the standard suite, the categories in turn. For each level: both quantize the same F16 file; unmodified llama-perplexity measures the KL divergence of both files
from the F16 base on the same chunks of 512 tokens; `bantam eval` measures bantam's file on the same text. Prints a
Markdown table with file bytes, KL divergences, and the ratio of the seconds that quantizing took.
"""

import argparse
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time

sys.path.append(str(pathlib.Path(__file__).parents[1]))
import built  # noqa: E402

LEVELS = "F16,Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,Q2_K"


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def timed(*command):
    start = time.monotonic()
    run(*command)
    return time.monotonic() - start


def suite_text(path, excerpt=1700):
    """The first `excerpt` bytes (whole lines) of each text of the standard suite, the categories in turn."""
    data = pathlib.Path(__file__).parents[2] / "crates/measure/data/text"
    categories = [sorted(folder.glob("*.txt")) for folder in sorted(data.iterdir())]
    texts = [text for turn in itertools.zip_longest(*categories) for text in turn if text]
    path.write_bytes(b"".join(text.read_bytes()[:excerpt].rsplit(b"\n", 1)[0] + b"\n\n" for text in texts))
    return path


def kl_of(tools, model, base_logits, args):
    """The mean KL divergence, its standard error, and how often the likeliest token is the same (percent)."""
    # Without repacking: see calibrated.py.
    out = run(tools / "llama-perplexity", "--no-repack", "-m", model, "--kl-divergence", "--kl-divergence-base", base_logits, "-t", args.threads)
    number = lambda label: float(re.search(label + r"\s*(-?[\d.]+)", out).group(1))
    return number(r"Mean\s+KLD:"), number(r"Mean\s+KLD:\s*-?[\d.]+\s*±"), number(r"Same top p:")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("peer-work"))
    parser.add_argument("--bantam", type=pathlib.Path, help="default: built here")
    parser.add_argument("--llama", type=pathlib.Path, help="folder of llama.cpp's tools (default: built by build_llama_cpp.sh)")
    args = parser.parse_args()
    args.bantam = args.bantam or built.program()
    here = pathlib.Path(__file__).parent
    tools = args.llama or pathlib.Path(run(here / "build_llama_cpp.sh").strip().splitlines()[-1])
    args.work.mkdir(parents=True, exist_ok=True)
    args.text = args.text or suite_text(args.work / "suite.txt")

    base = args.work / f"{args.model.stem}-F16.gguf"
    run(tools / "llama-quantize", "--allow-requantize", args.model, base, "F16", args.threads)
    logits = args.work / f"{args.model.stem}.logits"
    run(tools / "llama-perplexity", "--no-repack", "-m", base, "-f", args.text, "-c", 512, "--chunks", args.chunks, "-t", args.threads,
        "--save-all-logits", logits)

    print(f"{args.model.stem}, base F16 {base.stat().st_size} bytes, {args.chunks} chunks of 512 of {args.text.name}\n")
    print("| level | bytes llama.cpp | bytes bantam | KL llama.cpp | KL bantam | ratio | KL bantam by bantam | same top, llama.cpp / bantam | seconds llama.cpp / bantam |")
    print("|---|---|---|---|---|---|---|---|---|")
    for level in args.levels.split(","):
        theirs, ours = args.work / f"llama-{level}.gguf", args.work / f"bantam-{level}.gguf"
        their_seconds = timed(tools / "llama-quantize", base, theirs, level, args.threads)
        our_seconds = timed(args.bantam, "quantize", base, "--to", level, "-o", ours, "--threads", args.threads, "--quiet")
        their_kl, their_error, their_top = kl_of(tools, theirs, logits, args)
        our_kl, our_error, our_top = kl_of(tools, ours, logits, args)
        seen = json.loads(run(args.bantam, "eval", ours, "--base", base, "--text", args.text, "--chunks", args.chunks,
                              "--tasks", "none", "--json", "--quiet", "--threads", args.threads))
        own = seen["evaluations"][0]["overall"]["kl_divergence"]["mean"]
        print(f"| {level} | {theirs.stat().st_size} | {ours.stat().st_size} | {their_kl:.5f} ± {their_error:.5f} | {our_kl:.5f} ± {our_error:.5f} "
              f"| {our_kl / their_kl if their_kl else float('nan'):.3f} | {own:.5f} | {their_top:.1f} / {our_top:.1f} "
              f"| {their_seconds:.1f} / {our_seconds:.1f} |", flush=True)
        theirs.unlink()
        ours.unlink()
    logits.unlink()


if __name__ == "__main__":
    main()

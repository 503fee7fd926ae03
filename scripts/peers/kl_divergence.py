#!/usr/bin/env python3
"""bantam's perplexity and KL divergence against those of unmodified llama.cpp, on the same files, text and chunks.

    scripts/peers/kl_divergence.py BASE.gguf CANDIDATE.gguf... --text FILE [--context 512] [--chunks N] [--threads 2]

Prints a Markdown table of both tools' numbers and their ratios; exits with 1 if a perplexity or a mean KL divergence differs by
more than 1 %, or by more than 1e-4 nats where the divergence is so small that llama.cpp's 16-bit storage of the base's
log-probabilities shows.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).parents[1]))
import built  # noqa: E402

TOLERANCE = 0.01
STORAGE = 1e-4
HEADER = "| candidate | perplexity llama.cpp | bantam | ratio | KL llama.cpp | bantam | ratio | same top llama.cpp | bantam |"


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout, done.stderr


def llama(tool, model, logits, args):
    """Perplexity, mean KL divergence and share of equal likeliest tokens."""
    # Without repacking: see calibrated.py.
    out = "".join(run(tool, "--no-repack", "-m", model, "-c", args.context, "-b", args.context, "-t", args.threads,
                      "--kl-divergence-base", logits, "--kl-divergence"))
    number = lambda label: float(re.search(label + r"\s*:\s*(-?[\d.]+)", out).group(1))
    return number(r"Mean PPL\(Q\)"), number(r"Mean\s+KLD"), number("Same top p") / 100


def bantam(model, text, args):
    chunks = ["--chunks", args.chunks] if args.chunks else []
    out, _ = run(args.bantam, "eval", model, "--base", args.base, "--text", text, "--context", args.context,
                 "--tasks", "none", "--threads", args.threads, "--json", *chunks)
    overall = json.loads(out)["evaluations"][0]["overall"]
    return tuple(overall[name]["mean"] for name in ("perplexity", "kl_divergence", "top1_agreement"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("candidates", type=pathlib.Path, nargs="+")
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--bantam", type=pathlib.Path, help="default: built here")
    parser.add_argument("--llama", type=pathlib.Path, help="folder of llama.cpp's tools (default: built by build_llama_cpp.sh)")
    args = parser.parse_args()
    args.bantam = args.bantam or built.program()
    tools = args.llama or pathlib.Path(run(pathlib.Path(__file__).parent / "build_llama_cpp.sh")[0].strip().splitlines()[-1])

    agree = True
    with tempfile.TemporaryDirectory() as folder:
        # llama.cpp drops a text's last newline; without one both read the same.
        text = pathlib.Path(folder) / args.text.name
        text.write_bytes(args.text.read_bytes().rstrip(b"\n"))
        logits = pathlib.Path(folder) / "base.logits"
        run(tools / "llama-perplexity", "--no-repack", "-m", args.base, "-f", text, "-c", args.context, "-b", args.context,
            "-t", args.threads, "--kl-divergence-base", logits, *(["--chunks", args.chunks] if args.chunks else []))
        print(HEADER + "\n|---" + "|--:" * 8 + "|")
        for candidate in args.candidates:
            theirs = llama(tools / "llama-perplexity", candidate, logits, args)
            ours = bantam(candidate, text, args)
            (ppl, kl, top), (our_ppl, our_kl, our_top) = theirs, ours
            print(f"| {candidate.stem} | {ppl:.4f} | {our_ppl:.4f} | {our_ppl / ppl:.4f} | {kl:.6f} | {our_kl:.6f} "
                  f"| {our_kl / kl if kl else float('nan'):.4f} | {top:.4f} | {our_top:.4f} |", flush=True)
            agree &= abs(our_ppl / ppl - 1) <= TOLERANCE and abs(our_kl - kl) <= max(TOLERANCE * kl, STORAGE)
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Speed of bantam beside llama.cpp, on the same files, taken in turns.

    scripts/peers/speed.py [--threads N] [--prompt 512] [--decode 64] [--depth 0] [--repetitions 5]
                           [--bantam PATH/bantam] --llama-bench PATH/llama-bench MODEL.gguf...

Prints one line of a Markdown table per file: the tokens per second of bantam and of llama.cpp for a prompt of --prompt
tokens in an empty context, and for generating --decode tokens after --depth others, and their ratios (above 1 bantam is
faster). build_llama_cpp.sh beside this script makes llama-bench.

What is done so that the comparison is fair:
- Each repetition runs both programs one after the other, each in a process of its own that warms up first. The numbers
  are the medians over the repetitions, and the ratio is the median of the repetitions' ratios: other work on the machine
  then disturbs both. (llama.cpp waits for its threads at barriers, and falls further behind on a busy machine than
  bantam; only an idle machine says what either can do with several threads. On a busy one, compare with --threads 1.)
- llama.cpp runs with and without flash attention, and the better of the two counts.
- Both compute the logits of the last token of a prompt only, and of every generated token.
- Keys and values are cached in F16 by both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
import built  # noqa: E402


def output(command):
    """The JSON that a command prints."""
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def bantam(args, model):
    """Tokens per second of prefill and decode."""

    def bench(prompt, decode):
        return output(
            [args.bantam, "bench", model, "--json", "--repetitions", "1", "--threads", str(args.threads)]
            + ["--prompt", str(prompt), "--decode", str(decode)]
        )

    if args.depth == args.prompt:
        both = bench(args.prompt, args.decode)
        return both["prefill"], both["decode"]
    # A context cannot be quite empty: the first token is generated after one.
    return bench(args.prompt, 1)["prefill"], bench(max(args.depth, 1), args.decode)["decode"]


def llama(args, model):
    """Tokens per second of prefill and decode."""

    def bench(prompt, decode, depth):
        results = output(
            [args.llama_bench, "-m", model, "-o", "json", "-r", "1", "-t", str(args.threads), "-fa", "0,1"]
            + ["-p", str(prompt), "-n", str(decode), "-d", str(depth)]
        )
        return max(result["avg_ts"] for result in results)

    return bench(args.prompt, 0, 0), bench(0, args.decode, args.depth)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL.gguf")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--depth", type=int, default=0, help="tokens before the generated ones")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--bantam", help="default: built here")
    parser.add_argument("--llama-bench", required=True)
    args = parser.parse_args()
    args.bantam = args.bantam or built.program()

    print(f"{args.threads} threads, a prompt of {args.prompt}, {args.decode} tokens generated at depth {args.depth}\n")
    print("| model | prefill, bantam | llama.cpp | ratio | decode, bantam | llama.cpp | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for model in args.models:
        runs = [(bantam(args, model), llama(args, model)) for _ in range(args.repetitions)]
        cells = [Path(model).stem]
        for what in (0, 1):
            ours = [run[0][what] for run in runs]
            theirs = [run[1][what] for run in runs]
            ratio = statistics.median(a / b for a, b in zip(ours, theirs))
            cells += [f"{statistics.median(ours):.1f}", f"{statistics.median(theirs):.1f}", f"{ratio:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

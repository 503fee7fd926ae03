#!/usr/bin/env python3
"""Compares bantam's outputs with unmodified llama.cpp's on the same model and tokens.

    scripts/peers/compare_llama_cpp.py MODEL.gguf [--llama-bin DIR] [--llama-src DIR] [--text FILE] [--tokens 2048]

Prints mean KL divergences of next-token distributions and shares of equal likeliest tokens, for the file as it is and
for its weights as F16; and whether greedy continuations of several prompts (as F16) are equal.

As F16, both engines multiply (nearly) in floating point and must agree: a divergence of at most 1e-3, and continuations
that differ at most where llama.cpp's two likeliest tokens lie within 0.02 in logit. As it is, both round activations to
8 bits, and the slightest difference upstream changes roundings: llama.cpp then differs from itself when its attention is
computed in its other way. bantam must differ from it by no more than 1.5 times that. Exits with 1 else.

DIR are the tools that scripts/peers/build_llama_cpp.sh built and the source it built them from; needs numpy, a C++
compiler, and cargo.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
import built  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "Question: If a train travels 60 miles in 1.5 hours, what is its average speed?\nAnswer:",
    "The three laws of thermodynamics state that",
]
NEAR_TIE = 0.02


def main():
    args = arguments()
    env = {**os.environ, "LD_LIBRARY_PATH": str(args.llama_bin)}
    bantam = built.program("bantam-nn", example="logits")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        llama = build_llama_logits(args, folder)
        tokens = llama_tokenize(args, env, folder, args.text.read_text(encoding="utf-8"))[: args.tokens]
        np.array(tokens, dtype="<u4").tofile(folder / "tokens")

        def compare(what, model, ours, theirs):
            divergence, agreement = compare_logits(ours, theirs, model, len(tokens), folder, env)
            print(f"{what}: mean KL divergence {divergence:.2e}, likeliest token equal {agreement:.4f}", flush=True)
            return divergence

        print(f"{args.model.name}, {len(tokens)} tokens", flush=True)
        noise = compare("as it is, llama.cpp against itself without flash attention", args.model,
                        [llama, "--no-flash"], [llama])
        difference = compare("as it is, bantam against llama.cpp", args.model, [bantam], [llama])
        as_f16 = folder / "f16.gguf"
        command = [args.llama_bin / "llama-quantize", "--allow-requantize", args.model, as_f16, "F16"]
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        exact = compare("as F16, bantam against llama.cpp", as_f16, [bantam], [llama])
        prompts = [llama_tokenize(args, env, folder, prompt) for prompt in PROMPTS]
        equal = [compare_greedy(bantam, llama, as_f16, prompt, args.follow, folder, env) for prompt in prompts]
    sys.exit(0 if exact <= 1e-3 and difference <= max(1e-3, 1.5 * noise) and all(equal) else 1)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-bin", type=Path, required=True)
    parser.add_argument("--llama-src", type=Path, required=True)
    parser.add_argument("--text", type=Path, default=ROOT / "README.md")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--follow", type=int, default=64)
    return parser.parse_args()


def build_llama_logits(args, folder):
    program = folder / "llama_logits"
    include = [f"-I{args.llama_src}/include", f"-I{args.llama_src}/ggml/include"]
    libraries = [f"-L{args.llama_bin}", f"-Wl,-rpath-link,{args.llama_bin}", "-lllama", "-lggml", "-lggml-base"]
    source = Path(__file__).with_name("llama_logits.cpp")
    subprocess.run(["c++", "-std=c++17", "-O1", source, *include, *libraries, "-o", program], check=True)
    return str(program)


def llama_tokenize(args, env, folder, text):
    (folder / "text").write_text(text, encoding="utf-8")
    command = [args.llama_bin / "llama-tokenize", "-m", args.model, "-f", folder / "text", "--ids", "--log-disable"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env, text=True).stdout
    return json.loads(output.splitlines()[-1])


def compare_logits(ours, theirs, model, tokens, folder, env):
    """The mean KL divergence of `ours` from `theirs`, and how often their likeliest tokens are equal."""
    for out, (program, *options) in [("ours", ours), ("theirs", theirs)]:
        subprocess.run([program, model, folder / "tokens", folder / out, *options], check=True, env=env)
    ours, theirs = (np.memmap(folder / f, dtype="<f4", mode="r").reshape(tokens, -1) for f in ["ours", "theirs"])
    divergence = [kl_divergence(log_softmax(t), log_softmax(o)) for t, o in zip(theirs, ours)]
    return float(np.mean(divergence)), float(np.mean(ours.argmax(1) == theirs.argmax(1)))


def log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def kl_divergence(log_p, log_q):
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def compare_greedy(bantam, llama, model, prompt, follow, folder, env):
    """Whether the continuations agree up to a near tie of llama.cpp's."""
    np.array(prompt, dtype="<u4").tofile(folder / "prompt")
    ours, theirs = (
        [int(t) for t in subprocess.run(
            [program, model, folder / "prompt", "--greedy", str(follow)],
            check=True, stdout=subprocess.PIPE, env=env, text=True,
        ).stdout.split()]
        for program in [bantam, llama]
    )
    if ours == theirs:
        print(f"greedy continuation of {len(prompt)} tokens: {follow} equal")
        return True
    at = next(i for i, (o, t) in enumerate(zip(ours, theirs)) if o != t)
    context = prompt + theirs[:at]
    np.array(context, dtype="<u4").tofile(folder / "context")
    subprocess.run([llama, model, folder / "context", folder / "logits"], check=True, env=env)
    logits = np.fromfile(folder / "logits", dtype="<f4").reshape(len(context), -1)[-1]
    gap = float(logits[theirs[at]] - logits[ours[at]])
    print(f"greedy continuation of {len(prompt)} tokens: {at} equal, then {theirs[at]} against {ours[at]}, "
          f"which llama.cpp itself holds {gap:.3f} apart in logit")
    return abs(gap) <= NEAR_TIE


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""A training step of bantam against PyTorch's: the same model, tokens, optimizer (AdamW) and threads, in turns.

    scripts/bench/training_against_pytorch.py [--width 320 --layers 6 --vocab 8192 --sequence 128 --batch 8] [--threads 2]

Prints steps per second and peak memory of both, their ratios, and the losses, which must agree. Needs torch, transformers
and cargo.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in dict(width=320, layers=6, vocab=8192, sequence=128, batch=8, threads=2, steps=12, rounds=2).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--pytorch", type=Path, help=argparse.SUPPRESS)  # this script as the peer's process
    return parser.parse_args()


def config(args):
    from transformers import LlamaConfig

    return LlamaConfig(vocab_size=args.vocab, hidden_size=args.width, intermediate_size=args.width * 8 // 3 // 64 * 64,
                       num_hidden_layers=args.layers, num_attention_heads=args.width // 64, head_dim=64,
                       num_key_value_heads=args.width // 64, max_position_embeddings=1024, tie_word_embeddings=True)


def pytorch(args):
    import torch
    from transformers import LlamaForCausalLM

    torch.set_num_threads(args.threads)
    model = LlamaForCausalLM.from_pretrained(args.pytorch, dtype=torch.float32).train()
    tokens = torch.frombuffer(bytearray((args.pytorch / "tokens").read_bytes()), dtype=torch.int32)
    tokens = tokens.reshape(args.steps, args.batch, args.sequence).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    losses, seconds = [], []
    for batch in tokens:
        start = time.monotonic()
        optimizer.zero_grad()
        logits = model(batch, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, args.vocab), batch[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.monotonic() - start)
    print(json.dumps({"losses": losses, "seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def build():
    command = ["cargo", "build", "--release", "-p", "bantam-nn", "--example", "training_speed", "--message-format=json"]
    messages = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    artifacts = [json.loads(line) for line in messages.splitlines() if line.startswith("{")]
    return next(a["executable"] for a in reversed(artifacts) if a.get("executable"))


def run(command):
    """What a process printed, and the peak of its memory in KB."""
    timed = [sys.executable, "-c", "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)", *map(str, command)]
    out = subprocess.run(timed, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return json.loads(out[-2]), int(out[-1])


def main():
    args = arguments()
    if args.pytorch:
        return pytorch(args)
    import torch
    from transformers import LlamaForCausalLM

    bantam = build()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        torch.manual_seed(0)
        LlamaForCausalLM(config(args)).save_pretrained(folder)
        tokens = torch.randint(0, args.vocab, (args.steps, args.batch, args.sequence), dtype=torch.int32)
        (folder / "tokens").write_bytes(tokens.numpy().tobytes())
        options = [f"--{k}={v}" for k, v in vars(args).items() if k != "pytorch"]
        speeds, memory = {"PyTorch": [], "bantam": []}, {}
        for _ in range(args.rounds):
            for name, command in [("PyTorch", [sys.executable, __file__, f"--pytorch={folder}", *options]),
                                  ("bantam", [bantam, folder, folder / "tokens", args.sequence, args.batch, args.threads])]:
                result, memory[name] = run(command)
                speeds[name].append(1 / statistics.median(result["seconds"][2:]))
                print(f"{name}: {speeds[name][-1]:.2f} steps/s, {memory[name] / 1000:.0f} MB, "
                      f"losses {result['losses'][0]:.5f} .. {result['losses'][-1]:.5f}", flush=True)
        ratio = statistics.median(speeds["bantam"]) / statistics.median(speeds["PyTorch"])
        print(f"bantam / PyTorch: {ratio:.2f} times the steps, {memory['bantam'] / memory['PyTorch']:.2f} of the memory")


if __name__ == "__main__":
    main()

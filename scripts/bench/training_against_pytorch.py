#!/usr/bin/env python3
"""A training step of bantam against PyTorch's: the same model, tokens, optimizer (AdamW) and threads, in turns.

    scripts/bench/training_against_pytorch.py [--width 320 --layers 6 --vocab 8192 --sequence 128 --batch 8] [--threads 2]
    scripts/bench/training_against_pytorch.py --network 784,1200,1200,10 --batch 128 --steps 300 [--optimizer sgd]

The first trains a transformer, the second a plain network with rectifiers. Prints steps per second and peak memory of both,
their ratios, and the losses, which must agree. Needs torch, transformers, gguf and cargo.
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

sys.path.append(str(Path(__file__).parents[1]))
import built  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in dict(width=320, layers=6, vocab=8192, sequence=128, batch=8, threads=2, steps=12, rounds=2).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--network", help="widths of a plain network instead of a transformer")
    parser.add_argument("--optimizer", choices=["adam", "sgd"], default="adam", help="of the plain network")
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


def pytorch_network(args):
    import numpy
    import torch

    torch.set_num_threads(args.threads)
    widths = [int(w) for w in args.network.split(",")]
    saved = torch.load(args.pytorch / "network.pt")
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    network.load_state_dict(saved)
    words = numpy.fromfile(args.pytorch / "batches", dtype="<u4").reshape(args.steps, -1)
    if args.optimizer == "adam":
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)
    else:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    losses, seconds = [], []
    for step in words:
        pixels = torch.from_numpy(step[: -args.batch].view("<f4").reshape(args.batch, -1).copy())
        classes = torch.from_numpy(step[-args.batch :].astype("int64"))
        start = time.monotonic()
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(pixels), classes)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.monotonic() - start)
    print(json.dumps({"losses": losses, "seconds": seconds}))


def write_network(args, folder):
    """A plain network for both, and random images."""
    import gguf
    import numpy
    import torch

    widths = [int(w) for w in args.network.split(",")]
    writer, state = gguf.GGUFWriter(folder / "network.gguf", "mlp"), {}
    for i, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        layer = torch.nn.Linear(inputs, outputs)
        stem = "output" if i == len(widths) - 2 else f"layers.{i}"
        for name, tensor in (("weight", layer.weight), ("bias", layer.bias)):
            state[f"{2 * i}.{name}"] = tensor.data
            writer.add_tensor(f"{stem}.{name}", tensor.data.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    torch.save(state, folder / "network.pt")
    random = numpy.random.default_rng(0)
    with (folder / "batches").open("wb") as file:
        for _ in range(args.steps):
            file.write(random.random((args.batch, widths[0]), dtype="float32").tobytes())
            file.write(random.integers(0, widths[-1], args.batch).astype("<u4").tobytes())


def write_transformer(args, folder):
    """A transformer for both, and random tokens."""
    import torch
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(config(args)).save_pretrained(folder)
    tokens = torch.randint(0, args.vocab, (args.steps, args.batch, args.sequence), dtype=torch.int32)
    (folder / "tokens").write_bytes(tokens.numpy().tobytes())


def run(command):
    """What a process printed, and the peak of its memory in KB."""
    timed = [sys.executable, "-c", "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)", *map(str, command)]
    out = subprocess.run(timed, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return json.loads(out[-2]), int(out[-1])


def main():
    args = arguments()
    if args.pytorch:
        return pytorch_network(args) if args.network else pytorch(args)
    import torch

    bantam = built.program("bantam-nn", example="image_training_speed" if args.network else "training_speed")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        torch.manual_seed(0)
        if args.network:
            write_network(args, folder)
            ours = [bantam, folder / "network.gguf", folder / "batches", args.batch, args.optimizer, args.threads]
        else:
            write_transformer(args, folder)
            ours = [bantam, folder, folder / "tokens", args.sequence, args.batch, args.threads]
        options = [f"--{k}={v}" for k, v in vars(args).items() if k != "pytorch" and v is not None]
        speeds, memory = {"PyTorch": [], "bantam": []}, {}
        for _ in range(args.rounds):
            for name, command in [("PyTorch", [sys.executable, __file__, f"--pytorch={folder}", *options]),
                                  ("bantam", ours)]:
                result, memory[name] = run(command)
                speeds[name].append(1 / statistics.median(result["seconds"][2:]))
                print(f"{name}: {speeds[name][-1]:.2f} steps/s, {memory[name] / 1000:.0f} MB, "
                      f"losses {result['losses'][0]:.5f} .. {result['losses'][-1]:.5f}", flush=True)
        ratio = statistics.median(speeds["bantam"]) / statistics.median(speeds["PyTorch"])
        print(f"bantam / PyTorch: {ratio:.2f} times the steps, {memory['bantam'] / memory['PyTorch']:.2f} of the memory")


if __name__ == "__main__":
    main()

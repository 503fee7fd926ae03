#!/usr/bin/env python3
"""Compares bantam's conversions with llama.cpp's converter and with transformers.

    scripts/peers/compare_conversion.py BANTAM LLAMA_CPP_SOURCE [MODEL.gguf ...]

For each tiny model of crates/nn/tests/fixtures: bantam's GGUF file against the one of convert_hf_to_gguf.py (metadata and
every tensor's bytes; the tokenizer is left out, theirs knows only published ones), and the logits of transformers on
the model brought to GGUF and back, against those on the original.
For each MODEL: written as a Hugging Face directory in F32, converted back by convert_hf_to_gguf.py with its
tokenizer, and compared with the original: every tensor's numbers, and the tokenizer's metadata; then loaded by
transformers, whose logits must be finite and, by --logits, are saved for comparison with others.
Needs torch, transformers, gguf, safetensors. Exits with 1 if anything differs that should not.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).resolve().parents[2] / "crates/nn/tests/fixtures"
# Keys about the model as a whole, which each converter words in its own way, and defaults that only one writes.
WORDING = ("general.", "tokenizer.", "GGUF.", "bantam.")
# What must come back of the tokenizer. The converter's other keys depend on files that it looks for (tokenizer.model).
MUST = (".tokens", ".merges", ".bos_token_id", ".eos_token_id", ".chat_template")
failures = []


def check(condition, message):
    print(("ok    " if condition else "FAILS ") + message)
    if not condition:
        failures.append(message)


def read(path):
    import gguf
    reader = gguf.GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    return metadata, {tensor.name: tensor for tensor in reader.tensors}


def numbers(tensor):
    from gguf import quants
    return quants.dequantize(tensor.data, tensor.tensor_type)


def convert_theirs(source, directory, out, outtype, tokenizer):
    """Runs convert_hf_to_gguf.py, without the tokenizer if it is not one that it knows."""
    code = ["import sys, runpy", f"sys.path[:0] = [{str(source)!r}, {str(source / 'gguf-py')!r}]"]
    if not tokenizer:
        code += ["import conversion.base as base, conversion.llama, conversion.qwen, conversion.gemma",
                 "classes = [conversion.llama.LlamaModel, conversion.qwen.Qwen2Model, conversion.qwen.Qwen3Model, conversion.gemma.Gemma3Model]",
                 "for c in classes: c.set_vocab = lambda self: None",
                 "conversion.gemma.Gemma3Model.modify_tensors = lambda self, data, name, bid: "
                 "base.TextModel.modify_tensors(self, data + self.norm_shift(name) if self.norm_shift(name) else data, name, bid)"]
    code += [f"sys.argv = ['convert_hf_to_gguf.py', '--outtype', {outtype!r}, '--outfile', {str(out)!r}, {str(directory)!r}]",
             f"runpy.run_path({str(source / 'convert_hf_to_gguf.py')!r}, run_name='__main__')"]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr[-2000:])
    return done.returncode == 0


def logits(directory, tokens):
    import torch
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor(tokens)[None].long()).logits[0].numpy()


def compare_fixture(args, directory, work):
    from safetensors.numpy import load_file
    name = directory.name
    ours, theirs, back = work / f"{name}.gguf", work / f"{name}-theirs.gguf", work / f"{name}-back"
    subprocess.run([args.bantam, "convert", "-q", directory, ours, "--dtype", "bf16"], check=True)
    if convert_theirs(args.source, directory, theirs, "bf16", tokenizer=False):
        (our_metadata, our_tensors), (their_metadata, their_tensors) = read(ours), read(theirs)
        check(our_tensors.keys() == their_tensors.keys(), f"{name}: the same tensors as convert_hf_to_gguf.py")
        same = [n for n in our_tensors.keys() & their_tensors.keys()
                if our_tensors[n].tensor_type == their_tensors[n].tensor_type
                and our_tensors[n].data.tobytes() == their_tensors[n].data.tobytes()]
        differing = sorted(set(our_tensors) - set(same))
        close = all(np.allclose(numbers(our_tensors[n]), numbers(their_tensors[n]), rtol=1e-5, atol=0) for n in differing)
        check(not differing or (differing == ["rope_freqs.weight"] and close),
              f"{name}: {len(same)} of {len(our_tensors)} tensors byte-identical, differing {differing}, {close=}")
        missing = {k: v for k, v in their_metadata.items() if not k.startswith(WORDING) and our_metadata.get(k) != v}
        extra = {k: v for k, v in our_metadata.items() if not k.startswith(WORDING) and k not in their_metadata}
        check(not missing, f"{name}: their metadata is in ours; missing {missing}; only ours {extra}")
    else:
        check(False, f"{name}: convert_hf_to_gguf.py runs")
    subprocess.run([args.bantam, "convert", "-q", ours, back, "--dtype", "bf16"], check=True)
    reference = load_file(directory / "reference.safetensors")
    error = np.abs(logits(back, reference["tokens"]) - reference["logits"]).max() / np.abs(reference["logits"]).max()
    check(error < 1e-4, f"{name}: there and back, transformers' logits differ by {error:.2g}")


def compare_model(args, model, work):
    name = model.stem
    directory, theirs = work / name, work / f"{name}-theirs.gguf"
    subprocess.run([args.bantam, "convert", "-q", model, directory, "--dtype", "f32"], check=True)
    tokens = np.random.default_rng(1).integers(1000, 20000, 200)
    result = logits(directory, tokens)
    check(bool(np.isfinite(result).all()), f"{name}: transformers loads it, its logits are finite")
    if args.logits:
        tokens.astype(np.int32).tofile(Path(args.logits) / f"{name}.tokens")
        result.astype(np.float32).tofile(Path(args.logits) / f"{name}.transformers")
    if not convert_theirs(args.source, directory, theirs, "f32", tokenizer=True):
        check(False, f"{name}: convert_hf_to_gguf.py reads what bantam wrote")
        return
    (metadata, tensors), (their_metadata, their_tensors) = read(model), read(theirs)
    worst = max((float(np.abs(numbers(tensors[n]) - numbers(their_tensors[n])).max()) if n in their_tensors else np.inf)
                for n in tensors)
    check(worst < 1e-6, f"{name}: convert_hf_to_gguf.py gets the original's numbers back, but for {worst:.2g}")
    for key in sorted(k for k in metadata if k.startswith("tokenizer.")):
        ours, given = metadata[key], their_metadata.get(key)
        if ours != given and not key.endswith(MUST):
            print(f"note  {name}: {key} is worded otherwise by convert_hf_to_gguf.py")
            continue
        note = f": {ours if not isinstance(ours, (list, str)) else '...'} became {given if not isinstance(given, (list, str)) else '...'}"
        if isinstance(ours, list) and isinstance(given, list):
            note = f": {sum(a != b for a, b in zip(ours, given))} of {len(ours)} differ, now {len(given)}"
        check(ours == given, f"{name}: {key} comes back" + ("" if ours == given else note))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bantam", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--logits", help="directory for tokens and logits of the models")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for directory in (FIXTURES / name for name in ("gemma3", "llama", "llama-biases", "qwen2", "qwen3")):
            compare_fixture(args, directory, Path(work))
        for model in args.models:
            compare_model(args, model, Path(work))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Loads what bantam writes for other engines with transformers, and compares logits with bantam's own of the same directory.

    scripts/peers/integers.py BANTAM LOGITS MODEL [LEVEL ...] [--quantize OPTION ...]

BANTAM is the program, LOGITS the built example `logits` of crates/nn. MODEL is quantized to each LEVEL (W4A16, W8A8 and GPTQ by default), loaded
by transformers in f32, and run over a text of Shakespeare's. Shown are KL divergences of bantam's logits and of MODEL's from transformers'. GPTQ's weights
are unpacked here and put into a plain model: transformers' own way needs a package with kernels. With W8A8 transformers divides a token's largest
magnitude by 127.5, where vLLM and bantam divide by 127; activations are rounded as vLLM does here, and transformers' own run is shown beside, as is
how far the same model is from itself in double precision: rounded activations make large steps of the last bits where a model has outliers.
Needs torch, transformers, compressed-tensors and safetensors. Exits with 1 if bantam's logits are further away than that explains.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TEXT = Path(__file__).resolve().parents[2] / "crates/shrink/data/calibration/prose/shakespeare-as-you-like-it.txt"
TOKENS = 256


def divergence(of, base):
    """The mean KL divergence of logits from others, in nats."""
    of, base = (torch.log_softmax(torch.as_tensor(l, dtype=torch.float64), -1) for l in (of, base))
    return (base.exp() * (base - of)).sum(-1).mean().item()


def bantam_logits(example, model, tokens, work):
    (work / "tokens").write_bytes(np.asarray(tokens, dtype="<u4").tobytes())
    subprocess.run([example, model, work / "tokens", work / "logits", "--f32-cache"], check=True)
    return np.fromfile(work / "logits", dtype="<f4").reshape(len(tokens), -1)


def unpacked(tensors, module):
    """A GPTQ module's weight."""
    nibbles = lambda words, at: (words.unsqueeze(at) >> (4 * torch.arange(8)).view((8, 1) if at == 1 else (1, 1, 8))) & 15
    codes = nibbles(tensors[f"{module}.qweight"], 1).flatten(0, 1)
    zeros = nibbles(tensors[f"{module}.qzeros"], 2).flatten(1, 2) + 1
    groups = tensors[f"{module}.g_idx"].long()
    return ((codes - zeros[groups]) * tensors[f"{module}.scales"].float()[groups]).t()


def plain(directory):
    """A model of GPTQ's weights in f32."""
    tensors = load_file(directory / "model.safetensors")
    config = AutoConfig.from_pretrained(directory)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    state = {f"{module}.weight": unpacked(tensors, module) for module in modules}
    state |= {name: t.float() for name, t in tensors.items() if name.rsplit(".", 1)[1] in ("weight", "bias")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model.eval()


def by_127(module, args):
    scale = args[0].abs().amax(-1, keepdim=True) / 127
    return ((args[0] / scale).round().clamp(-128, 127) * scale,)


def of_eight_bits(directory, dtype):
    """A model of eight-bit weights that rounds activations as vLLM does, in float arithmetic of this kind."""
    tensors = load_file(directory / "model.safetensors")
    config = AutoConfig.from_pretrained(directory)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    scale = lambda name: tensors.get(name + "_scale", torch.ones(1)).to(dtype)
    state = {name: t.to(dtype) * scale(name) for name, t in tensors.items() if not name.endswith("_scale")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(by_127)
    return model


def transformers_logits(directory, tokens):
    """In the arithmetic of vLLM; how far the same in double precision is from it; and transformers' own run."""
    quantization = json.loads((directory / "config.json").read_text())["quantization_config"]
    run = lambda model: model(torch.tensor(tokens)[None]).logits[0].float().numpy()
    with torch.no_grad():
        if quantization["quant_method"] == "gptq":
            return run(plain(directory)), 0.0, None
        load = lambda: AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
        if quantization["format"] != "int-quantized":
            return run(load()), 0.0, None
        single, double = (run(of_eight_bits(directory, dtype)) for dtype in (torch.float32, torch.float64))
        return single, divergence(single, double), run(load())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bantam")
    parser.add_argument("logits")
    parser.add_argument("model", type=Path)
    parser.add_argument("levels", nargs="*", default=["W4A16", "W8A8", "GPTQ"])
    parser.add_argument("--quantize", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        base = None
        for level in args.levels:
            out = work / level
            subprocess.run([args.bantam, "quantize", "-q", args.model, "--to", level, "-o", out, *args.quantize], check=True)
            tokens = AutoTokenizer.from_pretrained(out)(TEXT.read_text()).input_ids[:TOKENS]
            if base is None:
                base = bantam_logits(args.logits, args.model, tokens, work)
            ours = bantam_logits(args.logits, out, tokens, work)
            theirs, noise, own = transformers_logits(out, tokens)
            away = divergence(ours, theirs)
            beside = "" if own is None else f", the same in double precision {noise:.1e}, transformers' own run {divergence(own, theirs):.1e}"
            print(f"{level}: bantam's run {away:.1e} from transformers' (the model's own {divergence(theirs, base):.4f} from the directory's){beside}")
            # Rounding activations makes steps of what differs in the last bits: engines differ as much as one does from itself in double precision.
            failed |= not away < 1e-5 + 2 * noise
    sys.exit(failed)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes small valid inputs for the fuzz targets to fuzz/corpus/. Needs the `gguf` package."""

import shutil
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "crates/nn/tests/fixtures"
IMATRICES = HERE.parent / "crates/checkpoint/tests/fixtures/imatrix"


def write_gguf(path, tokenizer):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_array("numbers", [1, 2, 3])
    writer.add_bool("flag", True)
    if tokenizer == "gpt2":
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(["H", "e", "l", "o", "Ġ", "He", "ll", "<|end|>"])
        writer.add_token_types([1, 1, 1, 1, 1, 1, 1, 3])
        writer.add_token_merges(["H e", "l l"])
        writer.add_eos_token_id(7)
    if tokenizer == "llama":
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", "H", "e", "l", "o", "He", "▁He"]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 7)
        writer.add_bos_token_id(1)
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((4, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    corpus = {name: HERE / "corpus" / name for name in ("gguf", "safetensors", "config", "model", "imatrix")}
    for folder in corpus.values():
        folder.mkdir(parents=True, exist_ok=True)
    for target in ("gguf", "model"):
        for tokenizer in ("none", "gpt2", "llama"):
            write_gguf(corpus[target] / tokenizer, tokenizer)
    for model in sorted(FIXTURES.iterdir()):
        if (model / "config.json").exists():
            shutil.copy(model / "config.json", corpus["config"] / model.name)
    for form in ("gguf", "dat"):
        shutil.copy(IMATRICES / f"imatrix.{form}", corpus["imatrix"])
    tensor = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}}'
    (corpus["safetensors"] / "two").write_bytes(len(tensor).to_bytes(8, "little") + tensor + bytes(12))


if __name__ == "__main__":
    main()

"""Writes a GGUF of a Llama or Qwen2 folder: to_gguf.py FOLDER OUTPUT.gguf [BF16|Q8_0|Q4_0]"""

import json
import pathlib
import sys

import gguf
import torch
from safetensors.torch import load_file

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}


def interleave(rows, heads):
    """Reorders the rows of a projection from rotating halves (Hugging Face) to rotating neighbours (llama.cpp's Llama)."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def main(folder, output, kind):
    config = json.loads((folder / "config.json").read_text())
    family, layers = config["model_type"], config["num_hidden_layers"]
    arch = ARCHITECTURES[family]
    rope = config.get("rope_parameters") or config
    writer = gguf.GGUFWriter(output, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])

    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    pieces = [f"[unused {i}]" for i in range(config["vocab_size"])]
    kinds = [gguf.TokenType.UNUSED] * len(pieces)
    for piece, index in tokenizer["model"]["vocab"].items():
        pieces[index], kinds[index] = piece, gguf.TokenType.NORMAL
    for token in tokenizer["added_tokens"]:
        pieces[token["id"]], kinds[token["id"]] = token["content"], gguf.TokenType.CONTROL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(config["eos_token_id"])

    names = gguf.get_tensor_name_map(arch, layers)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for shard in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(shard).items():
            values = tensor.float()
            part = name.split(".")[-2]
            if family == "llama" and part in heads:
                values = interleave(values, heads[part])
            target = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if target is None:
                raise SystemExit(f"{shard}: no GGUF name for the tensor `{name}`")
            if values.ndim == 1:
                writer.add_tensor(target, values.numpy())
            else:
                writer.add_tensor(target, gguf.quants.quantize(values.contiguous().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind = sys.argv[3] if len(sys.argv) > 3 else "BF16"
    main(pathlib.Path(sys.argv[1]), sys.argv[2], gguf.GGMLQuantizationType[kind])

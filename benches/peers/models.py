"""Writes the models of the workloads with random bf16 weights: models.py FOLDER. Speed does not depend on what they know.

`w1` has the shape of Qwen2.5-0.5B, `w2` is a Llama of 34 million parameters, `w2-reward` a reward model of `w2`'s size.
"""

import pathlib
import sys
import sysconfig

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
W1 = dict(
    vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
    num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True, eos_token_id=2,
    rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
)  # fmt: skip
W2 = dict(
    vocab_size=8192, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
    num_key_value_heads=4, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip


def tokenizer():
    """8000 byte-level BPE pieces learnt from Python's standard library, which every machine has."""
    files = sorted(str(path) for path in pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train(files, trainers.BpeTrainer(vocab_size=8000, special_tokens=special, initial_alphabet=alphabet))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.chat_template = TEMPLATE
    return wrapped


def main(folder):
    torch.manual_seed(0)
    pieces = tokenizer()
    for name, model in {
        "w1": lambda: Qwen2ForCausalLM(Qwen2Config(**W1)),
        "w2": lambda: LlamaForCausalLM(LlamaConfig(**W2)),
        "w2-reward": lambda: LlamaForSequenceClassification(LlamaConfig(**W2, num_labels=1)),
    }.items():
        made = model().to(torch.bfloat16)
        made.save_pretrained(folder / name)
        pieces.save_pretrained(folder / name)
        print(name, f"{made.num_parameters() / 1e6:.1f}M parameters")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

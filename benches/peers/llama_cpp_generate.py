"""llama.cpp on the generation workload: llama_cpp_generate.py MODEL.gguf PROMPT_LEN GEN_LEN N [N …]

The prompt is decoded once and its cache shared by N sequences of one unified cache, as `llama-parallel` does. Tokens are drawn at
random instead of from the logits, so no time goes to sampling: this favours llama.cpp. One JSON line per N.
"""

import json
import os
import random
import sys
import time

import llama_cpp as llama

BATCH = 512


class Batch:
    """A reusable `llama_batch` of up to BATCH tokens, each in one sequence."""

    def __init__(self):
        self.raw = llama.llama_batch_init(BATCH, 0, 1)

    def fill(self, entries):
        """Takes `(token, position, sequence, wants_logits)` entries."""
        self.raw.n_tokens = len(entries)
        for slot, (token, position, sequence, wants_logits) in enumerate(entries):
            self.raw.token[slot], self.raw.pos[slot] = token, position
            self.raw.n_seq_id[slot], self.raw.seq_id[slot][0] = 1, sequence
            self.raw.logits[slot] = wants_logits

    def decode(self, context):
        code = llama.llama_decode(context, self.raw)
        if code != 0:
            raise SystemExit(f"llama_decode failed with {code}")
        llama.llama_synchronize(context)


def run(model, prompt_len, gen_len, n):
    params = llama.llama_context_default_params()
    params.n_ctx = max(2048, prompt_len + gen_len * n + 64)
    params.n_batch = params.n_ubatch = BATCH
    params.n_seq_max = n
    params.n_threads = params.n_threads_batch = os.cpu_count()
    params.kv_unified = True
    context = llama.llama_init_from_model(model, params)
    memory, batch = llama.llama_get_memory(context), Batch()
    draw = random.Random(0).randrange

    start = time.perf_counter()
    for first in range(0, prompt_len, BATCH):
        last = min(first + BATCH, prompt_len)
        batch.fill([(draw(100, 7900), i, 0, i == prompt_len - 1) for i in range(first, last)])
        batch.decode(context)
    prefilled = time.perf_counter()
    for sequence in range(1, n):
        llama.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
    # The first token of each candidate comes from the prompt's logits, so gen_len tokens take gen_len - 1 steps.
    for position in range(prompt_len, prompt_len + gen_len - 1):
        batch.fill([(draw(100, 7900), position, sequence, True) for sequence in range(n)])
        batch.decode(context)
    end = time.perf_counter()
    llama.llama_batch_free(batch.raw)
    llama.llama_free(context)
    return {"prefill_s": prefilled - start, "total_s": end - start, "tokens_per_s": n * gen_len / (end - start)}


def main():
    path, (prompt_len, gen_len, *counts) = sys.argv[1], map(int, sys.argv[2:])
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit(f"{path}: llama.cpp cannot load this file")
    for n in counts:
        run(model, prompt_len, min(gen_len, 8), n)  # Warm-up: pages of weights, threads.
        result = run(model, prompt_len, gen_len, n)
        print(json.dumps({"n": n, "prompt_len": prompt_len, "gen_len": gen_len, **result}), flush=True)


if __name__ == "__main__":
    main()

"""vLLM on the generation workload: vllm_generate.py FOLDER DTYPE PROMPT_LEN GEN_LEN N [N …]. One JSON line per N.

Its own CPU back end with its own thread binding; `SamplingParams(n=N)` shares the prompt's cache through prefix caching.
"""

import json
import os
import random
import sys
import time

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{os.cpu_count() - 1}")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm import LLM, SamplingParams


def run(llm, seed, prompt_len, gen_len, n):
    # A fresh prompt each time: a repeated one would be found in the prefix cache.
    draw = random.Random(seed).randrange
    prompt = {"prompt_token_ids": [draw(100, 7900) for _ in range(prompt_len)]}
    sampling = SamplingParams(n=n, temperature=1.0, max_tokens=gen_len, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    (output,) = llm.generate([prompt], sampling, use_tqdm=False)
    total = time.perf_counter() - start
    tokens = sum(len(candidate.token_ids) for candidate in output.outputs)
    if tokens != n * gen_len:
        raise SystemExit(f"vLLM generated {tokens} tokens instead of {n * gen_len}")
    return {"total_s": total, "tokens_per_s": tokens / total}


def main():
    path, dtype, (prompt_len, gen_len, *counts) = *sys.argv[1:3], map(int, sys.argv[3:])
    llm = LLM(model=path, dtype=dtype, max_model_len=2048, max_num_seqs=max(counts))
    for n in counts:
        run(llm, 2 * n, prompt_len, gen_len, n)  # Warm-up: compiles for this batch size.
        result = run(llm, 2 * n + 1, prompt_len, gen_len, n)
        print(json.dumps({"n": n, "prompt_len": prompt_len, "gen_len": gen_len, **result}), flush=True)


if __name__ == "__main__":
    main()

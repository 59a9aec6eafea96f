"""Ragged traffic (W3) over HTTP against rectify's server and its peers', one after the other, and records the run.

    cargo build --release
    python3 benches/peers/traffic.py --peers PEERS_ENV --models MODELS

`PEERS_ENV` is the environment `install.sh` made, `MODELS` a folder `models.py` filled. One client, `rectify bench serving`,
sends the same seeded requests to each: prompts of 32–512 random tokens, answers of 16–256 with end of text ignored, streamed,
Poisson arrivals. Servers take turns for `--rounds` rounds, each with traffic of its own seed; a server answers a few other
requests first, which are not counted. `--rates` are requests per second: one that all can follow, and one that none can, so
that throughput is that of the server. Writes `benches/runs/<date>-<machine>-traffic/` with `raw.jsonl`, `raw.csv` and
`README.md`.

`vllm` leaves a core to vLLM's front end, as it does by itself; `vllm-all-cores` computes on all. `--engines` may also name
`rectify-f16`, `llama.cpp-f16` and `vllm-all-cores-f16`, in half precision instead of bf16.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import sys
import tempfile

from compare import PACKAGES, gguf_file
from record import ROOT, begin, lines_of, options, versions, write_csv, write_readme

sys.path.insert(0, str(ROOT / "benches"))
from served import bench, served

SLOTS = 64
COLUMNS = {"tokens_per_s": "tokens/s", "itl_p50": "between tokens, p50", "itl_p99": "p99", "ttft_p50": "first token, p50", "ttft_p99": "p99"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--model", default="w2", help="a folder of `--models`")
    parser.add_argument("--llama-server", type=pathlib.Path, help="the default is the one that install.sh put into PEERS_ENV")
    parser.add_argument("--engines", default="rectify,llama.cpp,vllm,vllm-all-cores")
    parser.add_argument("--rates", default="4,32", help="requests per second")
    parser.add_argument("--requests", type=int, default=64, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--more", action="store_true", help="add to the rows that the folder of the run holds")
    options(parser)
    args = parser.parse_args()
    args.llama_server = args.llama_server or args.peers / "bin" / "llama-server"
    return args


def rectify(args, folder, work, dtype="bfloat16"):
    return [args.rectify, "serve", "--policy", folder, "--dtype", dtype, "--data-dir", work], {}


def llama_cpp(args, folder, work, kind="BF16"):
    # Its prompt cache would be at work for nothing: no prompt comes twice.
    slots = ["--parallel", SLOTS, "--ctx-size", SLOTS * 1024, "--kv-unified", "--cache-ram", 0, "--no-webui"]
    threads = ["--threads", os.cpu_count(), "--threads-batch", os.cpu_count()]
    return [args.llama_server, "--model", gguf_file(args, folder, kind), *slots, *threads], {}


def vllm(args, folder, work, dtype="bfloat16", all_cores=True):
    command = [args.peers / "bin" / "python", "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    env = {"VLLM_CPU_KVCACHE_SPACE": "2"}
    if all_cores:
        env["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{os.cpu_count() - 1}"
    return [*command, "--dtype", dtype, "--max-model-len", 2048, "--max-num-seqs", SLOTS], env


ENGINES = {
    "rectify": rectify,
    "rectify-f16": functools.partial(rectify, dtype="float16"),
    "llama.cpp": llama_cpp,
    "llama.cpp-f16": functools.partial(llama_cpp, kind="F16"),
    "vllm": functools.partial(vllm, all_cores=False),
    "vllm-all-cores": vllm,
    "vllm-all-cores-f16": functools.partial(vllm, dtype="float16"),
}


def measure(args, engine, index):
    """One row for each rate."""
    print(f"round {index}: {engine}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as work:
        command, env = ENGINES[engine](args, args.models / args.model, work)
        with served(command, env) as (url, _):
            traffic = lambda requests, rate, seed: bench(
                args.rectify, "serving", "--url", url, "--requests", requests, "--rate", rate, "--seed", seed
            )
            traffic(16, 0, 1_000_000 + index)
            for place, rate in enumerate(args.rates.split(",")):
                # No prompt comes twice to a server: none is in its prefix cache.
                report = traffic(args.requests, rate, 1000 * index + place)
                row = {"engine": engine, "rate": float(rate), "round": index, "tokens_per_s": report["tokens_per_s"]}
                for name, key in (("itl", "itl_s"), ("ttft", "ttft_s"), ("latency", "latency_s")):
                    row |= {f"{name}_{part}": report[key][part] for part in ("p50", "p99", "max")}
                yield row | {key: report[key] for key in ("completed", "failed", "prompt_tokens", "completion_tokens", "duration_s")}


def table(rows, engines, rates):
    """Medians over the rounds; times in milliseconds."""
    out = ["| requests/s | server | " + " | ".join(COLUMNS.values()) + " |", "|---|---|" + "---|" * len(COLUMNS)]
    median = lambda engine, rate, key: statistics.median(
        row[key] for row in rows if (row["engine"], row["rate"]) == (engine, rate)
    )
    for rate in rates:
        for engine in engines:
            cells = [(1 if key == "tokens_per_s" else 1000) * median(engine, rate, key) for key in COLUMNS]
            out.append(f"| {rate:g} | {engine} | " + " | ".join(f"{cell:.0f}" if cell >= 100 else f"{cell:.1f}" for cell in cells) + " |")
    ours = [engine for engine in engines if engine.startswith("rectify")]
    peers = [engine for engine in engines if engine not in ours]
    for rate, own in [(rate, own) for rate in rates for own in ours if peers]:
        best = max(peers, key=lambda engine: median(engine, rate, "tokens_per_s"))
        ratio = lambda key: median(own, rate, key) / median(best, rate, key)
        out += ["", f"At {rate:g} requests a second {own} has {ratio('tokens_per_s'):.2f} times the tokens per second of {best}, the best"]
        out += [f"peer, at {ratio('itl_p99'):.2f} times its p99 between tokens and {ratio('ttft_p50'):.2f} times its median time to the first token."]
    return "\n".join(out)


def main():
    args = arguments()
    engines, rates = args.engines.split(","), [float(rate) for rate in args.rates.split(",")]
    run = begin(args, "-traffic" + ("" if args.model == "w2" else f"-{args.model}"))
    known = run.folder / "raw.jsonl"
    rows = [json.loads(line) for line in known.read_text().splitlines()] if args.more and known.exists() else []
    next_round = lambda engine: 1 + max((row["round"] for row in rows if row["engine"] == engine), default=-1)
    with open(known, "a" if args.more else "w") as raw:
        for _ in range(args.rounds):
            for engine in engines:
                for row in measure(args, engine, next_round(engine)):
                    rows.append(row)
                    raw.write(json.dumps(row) + "\n")
                    raw.flush()
                    print(json.dumps(row), file=sys.stderr, flush=True)
    write_csv(run.folder / "raw.csv", list(rows[0]), rows)
    engines = [engine for engine in ENGINES if next_round(engine) > 0]
    rounds = max(map(next_round, engines))
    found = versions(args, PACKAGES)
    if any(engine.startswith("llama.cpp") for engine in engines):
        found["llama.cpp"] = lines_of(["sh", "-c", f"'{args.llama_server}' --version 2>&1 | head -1"]).removeprefix("version: ")
    text = (
        f"W3 on the model `{args.model}` of `benches/peers/models.py` in bf16, those with `-f16` in half precision, over HTTP: {args.requests}\n"
        f"requests with prompts of 32–512 tokens and streamed answers of 16–256, Poisson arrivals, the same seeds for every server. The\n"
        f"client is on the same cores. Medians of {rounds} round{'s' * (rounds > 1)} in which the servers took turns; times in milliseconds."
    )
    write_readme(run, "Ragged traffic beside its peers", found, text, table(rows, engines, rates))


if __name__ == "__main__":
    main()

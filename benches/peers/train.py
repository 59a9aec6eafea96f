"""Trains with rectify and with TRL + PEFT on torch, one after the other, and records the run.

    cargo build --release
    python3 benches/peers/train.py --peers PEERS_ENV --models MODELS [--method grpo|ppo]

`PEERS_ENV` is the environment `install.sh` made, `MODELS` a folder `models.py` filled. The work, of a LoRA adapter (r = 16
on all projections) on the model `w2`, is

- `dpo` (workload W5): 64 pairs of about 280 tokens a sequence, batch 8, dropout 0.05, one pass. Tokens are those of both
  sequences of every pair, whoever computes their common prompt once or twice; time is that of the steps, first to last.
- `grpo`: whole steps (sample, score, update) of 8 completions of at most 64 tokens for each of 8 prompts of about 85. Time is
  that of all our steps, and of TRL's without the first, which warms up.
- `ppo`: whole steps (sample, score, four epochs of updates) of a completion of 64 tokens for each of 64 such prompts. Tokens
  are counted once for all epochs. TRL 1.12, the last with PPO; its critic is a model of its own, ours a head on the policy.

Prompts and pairs are `pairs.py`'s. Memory is the process's peak. An engine's name may end with `-checkpointing` (both), `-f32`
(ours, without `mixed_precision`) or `-bf16` (TRL's default, `bf16=True`; without, it computes in f32). Engines take turns for
`--rounds` rounds, so that a drifting machine meets all of them alike. Writes `benches/runs/<date>-<machine>-train/`, or
`-grpo/`, `-ppo/`, with `raw.jsonl`, `raw.csv` and `README.md`.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from compare import lines
from record import begin, options, versions, write_csv, write_readme

HERE = pathlib.Path(__file__).resolve().parent
SHARED = "--use-peft true --lora-r 16 --lora-alpha 16 --learning-rate 1e-4 --lr-scheduler-type constant --seed 0 --logging-steps 1"
OPTIONS = {
    "dpo": "--lora-dropout 0.05 --per-device-train-batch-size 8 --num-train-epochs 1 --max-length 1024",
    "grpo": "--reward length:64 --per-device-train-batch-size 64 --max-completion-length 64 --max-steps 4 --save-steps 0",
    "ppo": "--reward length:64 --per-device-train-batch-size 64 --num-mini-batches 1 --num-ppo-epochs 4 "
    "--max-completion-length 64 --max-steps 12 --save-steps 0",
}
# How often a token that is counted once is gone through.
PASSES = {"ppo": 4}
WORK = {
    "dpo": "W5: DPO of a LoRA adapter (r = 16, all projections, dropout 0.05) on the model `w2` of `benches/peers/models.py`,\n"
    "{pairs} pairs of about {tokens} tokens a sequence, half of them the prompt's, batch 8, one pass. Tokens are those of\n"
    "both sequences of every pair",
    "grpo": "Whole steps of GRPO (sample, score, update) of a LoRA adapter (r = 16, all projections) on the model `w2` of\n"
    "`benches/peers/models.py`: 8 completions of at most 64 tokens for each of 8 prompts of about {prompt} tokens",
    "ppo": "Whole steps of PPO (sample, score, four epochs) of a LoRA adapter (r = 16, all projections) on the model `w2` of\n"
    "`benches/peers/models.py`: a completion of 64 tokens for each of 64 prompts of about {prompt} tokens. TRL is 1.12, the\n"
    "last with PPO; its critic is a model of its own, ours a head on the policy",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--method", choices=["dpo", "grpo", "ppo"], default="dpo")
    parser.add_argument("--engines", default=None, help="the default is each with and, for dpo, without checkpointing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=None, help="of a prompt with one answer; 280, or for online methods 170")
    options(parser)
    return parser.parse_args()


def run_rectify(args, folder, pairs, modes):
    with tempfile.TemporaryDirectory() as output:
        command = [str(args.rectify), "train", args.method, "--data", str(pairs), "--policy", str(folder)]
        command += ["--output", output, *SHARED.split(), *OPTIONS[args.method].split(), "--progress", "never", "--json"]
        command += ["--gradient-checkpointing", str("checkpointing" in modes).lower()]
        command += ["--mixed-precision", "no"] if "f32" in modes else []
        code = (
            "import json, resource, subprocess, sys;"
            "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True);"
            "print(done.stdout);"
            "print(json.dumps({'peak_rss': resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}));"
            "sys.exit(done.returncode)"
        )
        found = lines([sys.executable, "-c", code, *command])
        log = [json.loads(line) for line in open(pathlib.Path(output) / "train_log.jsonl")]
    report = {key: value for part in found for key, value in part.items()}
    passes = PASSES.get(args.method, 1)
    num_tokens, speed = report["metrics"]["num_tokens"] / passes, report["tokens_per_second"] / passes
    result = {"num_tokens": num_tokens, "seconds": num_tokens / speed, "tokens_per_s": speed, "steps": report["steps"]}
    return {**result, "peak_rss": report["peak_rss"], "first_loss": log[0]["loss"], "last_loss": log[-1]["loss"]}


def run_trl(args, folder, pairs, modes):
    command = [args.peers / "bin" / "python", HERE / f"trl_{args.method}.py", folder, pairs]
    found = lines([str(part) for part in command + [f"--{mode}" for mode in modes]])
    return found[-1]


ENGINES = {"rectify": run_rectify, "trl": run_trl}


def table(rows, engines):
    """Median and best tokens per second, peak memory, and both beside TRL's of the same rounds."""
    of = lambda engine, key: [row[key] for row in rows if row["engine"] == engine]
    out = ["| engine | tokens/s, median | best | peak memory | beside TRL: speed | memory |", "|---|---|---|---|---|---|"]
    for engine in engines:
        speeds, memory = of(engine, "tokens_per_s"), max(of(engine, "peak_rss"))
        peer = "trl" + engine.removeprefix("rectify").removesuffix("-f32")
        beside = " – | – "
        if engine.startswith("rectify") and of(peer, "tokens_per_s"):
            ratios = [own / other for own, other in zip(speeds, of(peer, "tokens_per_s"))]
            share = memory / max(of(peer, "peak_rss"))
            beside = f" {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | {share:.2f} "
        median, best = statistics.median(speeds), max(speeds)
        out.append(f"| {engine} | {median:.0f} | {best:.0f} | {memory / 2**30:.2f} GiB |{beside}|")
    return "\n".join(out)


def main():
    args = arguments()
    args.tokens = args.tokens or (280 if args.method == "dpo" else 170)
    of_method = {"dpo": "rectify,rectify-checkpointing,trl,trl-checkpointing", "grpo": "rectify,trl", "ppo": "rectify,trl"}
    engines = (args.engines or of_method[args.method]).split(",")
    run = begin(args, {"dpo": "-train"}.get(args.method, f"-{args.method}"))
    rows = []
    with tempfile.TemporaryDirectory() as data, open(run.folder / "raw.jsonl", "w") as raw:
        pairs, policy = pathlib.Path(data) / "pairs.jsonl", args.models / "w2"
        command = [args.peers / "bin" / "python", HERE / "pairs.py", policy, pairs]
        lines([str(part) for part in [*command, "--pairs", args.pairs, "--tokens", args.tokens]])
        for index in range(args.rounds):
            for engine in engines:
                name, *modes = engine.split("-")
                result = ENGINES[name](args, policy, pairs, modes)
                row = {"method": args.method, "engine": engine, "round": index, **result}
                rows.append(row)
                raw.write(json.dumps(row) + "\n")
                raw.flush()
                print(json.dumps(row), file=sys.stderr, flush=True)
    columns = ["method", "engine", "round", "num_tokens", "seconds", "steps", "tokens_per_s", "peak_rss", "first_loss", "last_loss"]
    write_csv(run.folder / "raw.csv", columns, rows)
    text = (
        f"{WORK[args.method].format(pairs=args.pairs, tokens=args.tokens, prompt=args.tokens // 2)};\n"
        f"{args.rounds} round{'s' * (args.rounds > 1)} in which the engines took turns, ratios within a round. Ours is as it is by default\n"
        f"(`mixed_precision: auto`), or with `-f32` in f32; TRL's is in f32, or with `-bf16` as its own default."
    )
    made_with = versions(args, ["trl", "peft", "transformers", "torch"])
    write_readme(run, "Training beside TRL", made_with, text, table(rows, engines))


if __name__ == "__main__":
    main()

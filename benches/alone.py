"""Figures of one machine without peers: `start`, how long the demo takes from its start to its first answer at
`/health`; `neighbour`, what a busy loop beside it leaves of generation; `votes`, how long votes wait for their commit
beside live streams, and what the streams feel of them and of a store that another program holds; `load`, how long a
policy takes from its files into memory beside reading them once, with `cat`, past a buffer on all cores and into fresh
memory, from the page cache and from the disk; `long-prompt`, what eight streams feel of a prompt of 1,900 tokens that
arrives. What the server costs beside the engine is `rectify bench overhead`.

    cargo build --release
    python3 benches/alone.py start
    python3 benches/alone.py neighbour --policy MODELS/w2     # of benches/peers/models.py
    python3 benches/alone.py votes --rate 1000 --seconds 10
    python3 benches/alone.py load --policy MODELS/w1
    python3 benches/alone.py long-prompt --policy MODELS/w2
"""

import argparse
import json
import mmap
import os
import pathlib
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent import futures

from served import bench, served

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROUNDS = 7
# Tokens that have a text in every model of benches/peers/models.py, some of which have more tokens than their tokenizer knows.
WITH_TEXT = {str(token): 100 for token in range(1000, 1200)}


def demo(args, data_dir):
    return served([args.rectify, "serve", "--data-dir", data_dir])


def start(args):
    seconds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as data_dir:
            begun = time.perf_counter()
            with demo(args, data_dir):
                seconds.append(time.perf_counter() - begun)
    print(json.dumps({"median_s": round(statistics.median(seconds), 4), "all_s": [round(s, 4) for s in seconds]}))


def bench_votes(args, url, rate):
    return bench(args.rectify, "votes", "--url", url, "--rate", rate, "--seconds", args.seconds)


def votes(args):
    with tempfile.TemporaryDirectory() as data_dir, demo(args, data_dir) as (url, _):
        report = {"votes": bench_votes(args, url, args.rate)}
        # Another program takes the store's lock for 200 ms, again and again; a few votes keep the store at work.
        stop = threading.Event()

        def hold():
            other = sqlite3.connect(pathlib.Path(data_dir) / "feedback.db", timeout=30, isolation_level=None)
            while not stop.is_set():
                other.execute("BEGIN IMMEDIATE")
                time.sleep(0.2)
                other.execute("COMMIT")
                time.sleep(0.05)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            report["slow_store"] = bench_votes(args, url, 20)
        finally:
            stop.set()
            holder.join()
    print(json.dumps(report, indent=1))


def generation(args):
    options = ["--policy", args.policy, "--dtype", "bfloat16", "--prompt-len", 256, "--gen-len", 128, "--n", 16]
    return bench(args.rectify, "generate", *options, "--repeats", 3)["tokens_per_s"]


def neighbour(args):
    alone = generation(args)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        beside = generation(args)
    finally:
        busy.kill()
    print(json.dumps({"alone_tokens_per_s": alone, "beside_tokens_per_s": beside, "share": beside / alone}))


def bench_load(args, *options):
    return bench(args.rectify, "load", "--policy", args.policy, *options)


def weights_of(policy):
    return [*policy.glob("*.safetensors")] if policy.is_dir() else [policy]


def evict(policy):
    """Takes the files of weights out of the page cache."""
    for path in weights_of(policy):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cat(policy):
    """Seconds that `cat` takes to read them."""
    begun = time.perf_counter()
    subprocess.run(["cat", *weights_of(policy)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def touch_memory(gib=4):
    """Touches memory and gives it back: a host that takes away what a machine has not used gives it again page by page, which
    would be measured with whatever comes first."""
    with mmap.mmap(-1, gib << 30) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[:: mmap.PAGESIZE] = b"\1" * (len(memory) // mmap.PAGESIZE)


def load(args):
    report = {}
    for name, options in {"as_stored": [], "int8": ["--quantize", "int8"]}.items():
        warm = [bench_load(args, *options) for _ in range(ROUNDS)]
        median = lambda key: round(statistics.median(run[key] for run in warm), 3)
        report[name] = {key: median(key) for key in ["read_s", "load_s", "ratio", "packed_bytes", "peak_ratio"]}
        # However the weights are held, the files are the same.
        parts = ["load"] if options else ["cat", "read", "copy", "load"]
        if not options:
            report[name]["copy_s"] = round(statistics.median(bench_load(args, "--only", "copy")["copy_s"] for _ in range(ROUNDS)), 3)
        cold = {part: [] for part in parts}
        for _ in range(ROUNDS):
            for part, seconds in cold.items():
                touch_memory()
                evict(args.policy)
                seconds.append(cat(args.policy) if part == "cat" else bench_load(args, *options, "--only", part)[f"{part}_s"])
        report[name] |= {f"cold_{part}_s": round(statistics.median(seconds), 3) for part, seconds in cold.items()}
        report[name]["cold_all_s"] = {part: [round(s, 3) for s in seconds] for part, seconds in cold.items()}
    print(json.dumps(report, indent=1))


def completion(url, prompt_len, max_tokens):
    """Streams an answer to a random prompt; the moments at which its tokens came."""
    prompt = [random.randrange(10, 400) for _ in range(prompt_len)]
    body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, "stream": True, "logit_bias": WITH_TEXT}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return [time.perf_counter() for line in answer if line.startswith(b'data: {"')]


def long_prompt(args):
    rows = []
    held = ["--policy", args.policy, "--dtype", "bfloat16"]
    with tempfile.TemporaryDirectory() as data_dir, futures.ThreadPoolExecutor(8) as pool:
        with served([args.rectify, "serve", "--data-dir", data_dir, *held]) as (url, _):
            for _ in range(args.rounds):
                streams = [pool.submit(completion, url, 32, args.tokens) for _ in range(8)]
                time.sleep(args.lead)
                sent = time.perf_counter()
                answered = completion(url, 1900, 1)[0]
                moments = [stream.result() for stream in streams]
                gaps = [(then, now - then) for times in moments for then, now in zip(times, times[1:])]
                # Just before it came: steps grow with the texts.
                ordinary = [gap for then, gap in gaps if sent - 0.5 < then < sent - 0.1]
                beside = [gap for then, gap in gaps if sent < then < answered]
                p99 = lambda values: statistics.quantiles(values, n=100)[98]
                row = {"ordinary_p50": statistics.median(ordinary), "ordinary_p99": p99(ordinary), "first_token_s": answered - sent}
                rows.append(row | {"beside_p50": statistics.median(beside), "beside_p99": p99(beside)})
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    ratios = {f"ratio_{part}": medians[f"beside_{part}"] / medians[f"ordinary_{part}"] for part in ("p50", "p99")}
    print(json.dumps({key: round(value, 4) for key, value in (medians | ratios).items()}))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", choices=["start", "neighbour", "votes", "load", "long-prompt"])
parser.add_argument("--rectify", type=pathlib.Path, default=ROOT / "target" / "release" / "rectify")
parser.add_argument("--policy", type=pathlib.Path, help="for all but `start` and `votes`")
parser.add_argument("--rate", type=int, default=1000, help="votes per second")
parser.add_argument("--seconds", type=int, default=10, help="of each phase of `votes`")
parser.add_argument("--rounds", type=int, default=5, help="of `long-prompt`")
parser.add_argument("--tokens", type=int, default=600, help="of each stream of `long-prompt`")
parser.add_argument("--lead", type=float, default=1.5, help="seconds before the long prompt")
args = parser.parse_args()
if args.what in ("neighbour", "load", "long-prompt") and args.policy is None:
    parser.error(f"{args.what} needs --policy")
{"start": start, "neighbour": neighbour, "votes": votes, "load": load, "long-prompt": long_prompt}[args.what](args)

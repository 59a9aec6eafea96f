"""Figures of one machine without peers: `start`, how long the demo takes from its start to its first answer at
`/health`; `neighbour`, what a busy loop beside it leaves of generation; `votes`, how long votes wait for their commit
beside live streams, and what the streams feel of them and of a store that another program holds; `load`, how long a
policy takes from its files into memory beside reading them once, from the page cache and from the disk; `server`, what
64 streams over HTTP cost beside the same requests to the engine without a server.

    cargo build --release
    python3 benches/alone.py start
    python3 benches/alone.py neighbour --policy MODELS/w2     # of benches/peers/models.py
    python3 benches/alone.py votes --rate 1000 --seconds 10
    python3 benches/alone.py load --policy MODELS/w1
    python3 benches/alone.py server --policy MODELS/w2
"""

import argparse
import json
import os
import pathlib
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from served import bench, served

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROUNDS = 7


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


def evict(folder):
    """Takes the files of weights out of the page cache."""
    for path in [*folder.glob("*.safetensors")] if folder.is_dir() else [folder]:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(args):
    report = {}
    for name, options in {"as_stored": [], "int8": ["--quantize", "int8"]}.items():
        warm = [bench_load(args, *options) for _ in range(ROUNDS)]
        median = lambda key: round(statistics.median(run[key] for run in warm), 3)
        report[name] = {key: median(key) for key in ["read_s", "load_s", "ratio", "packed_bytes", "peak_ratio"]}
        cold = {"read": [], "load": []}
        for _ in range(3):
            for part, seconds in cold.items():
                evict(args.policy)
                seconds.append(bench_load(args, *options, "--only", part)[f"{part}_s"])
        read, loaded = (statistics.median(seconds) for seconds in cold.values())
        report[name] |= {"cold_read_s": round(read, 3), "cold_load_s": round(loaded, 3), "cold_ratio": round(loaded / read, 3)}
    print(json.dumps(report, indent=1))


def cpu_seconds(server):
    """CPU time of a server's threads so far: those that compute, and all others."""
    ticks, seconds = os.sysconf("SC_CLK_TCK"), {"engine": 0.0, "others": 0.0}
    for stat in pathlib.Path(f"/proc/{server.pid}/task").glob("*/stat"):
        name, _, rest = stat.read_text().partition("(")[2].rpartition(") ")
        user, system = rest.split()[11:13]  # Fields 14 and 15 of proc(5).
        kind = "engine" if name.startswith(("rectify-engine", "kernels-")) else "others"
        seconds[kind] += (int(user) + int(system)) / ticks
    return seconds


def server(args):
    held = ["--policy", args.policy, "--dtype", "bfloat16"]
    rows = []
    for seed in range(args.rounds):
        # Short prompts and long answers: most of the time all of them stream.
        traffic = ["--requests", args.streams, "--rate", 0, "--prompt-len", "32-32", "--gen-len", "512-512", "--seed", seed]
        bare = bench(args.rectify, "serving", *held, *traffic)
        with tempfile.TemporaryDirectory() as data_dir:
            with served([args.rectify, "serve", "--data-dir", data_dir, *held]) as (url, process):
                before, client = cpu_seconds(process), resource.getrusage(resource.RUSAGE_CHILDREN)
                over_http = bench(args.rectify, "serving", "--url", url, *traffic)
                others = cpu_seconds(process)["others"] - before["others"]
                client = [now - then for now, then in zip(resource.getrusage(resource.RUSAGE_CHILDREN), client)]
        rows.append(
            {
                "bare_tokens_per_s": bare["tokens_per_s"],
                "http_tokens_per_s": over_http["tokens_per_s"],
                "slower": bare["tokens_per_s"] / over_http["tokens_per_s"] - 1,
                "bare_itl_s": bare["itl_s"]["mean"],
                "http_itl_s": over_http["itl_s"]["mean"],
                # Of all cores: what the server's own threads took from the engine's, and what the client took from both.
                "server_cpu_share": others / (over_http["duration_s"] * os.cpu_count()),
                "client_cpu_share": sum(client[:2]) / (over_http["duration_s"] * os.cpu_count()),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", choices=["start", "neighbour", "votes", "load", "server"])
parser.add_argument("--rectify", type=pathlib.Path, default=ROOT / "target" / "release" / "rectify")
parser.add_argument("--policy", type=pathlib.Path, help="for `neighbour`, `load` and `server`")
parser.add_argument("--rate", type=int, default=1000, help="votes per second")
parser.add_argument("--seconds", type=int, default=10, help="of each phase of `votes`")
parser.add_argument("--streams", type=int, default=64, help="of `server`")
parser.add_argument("--rounds", type=int, default=5, help="of `server`, in which both take turns")
args = parser.parse_args()
if args.what in ("neighbour", "load", "server") and args.policy is None:
    parser.error(f"{args.what} needs --policy")
{"start": start, "neighbour": neighbour, "votes": votes, "load": load, "server": server}[args.what](args)

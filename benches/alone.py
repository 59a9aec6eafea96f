"""Figures of one machine without peers: `start`, how long the demo takes from its start to its first answer at
`/health`; `neighbour`, what a busy loop beside it leaves of generation; `votes`, how long votes wait for their commit
beside live streams, and what the streams feel of them and of a store that another program holds; `load`, how long a
policy takes from its files into memory beside reading them once, from the page cache and from the disk.

    cargo build --release
    python3 benches/alone.py start
    python3 benches/alone.py neighbour --policy MODELS/w2     # of benches/peers/models.py
    python3 benches/alone.py votes --rate 1000 --seconds 10
    python3 benches/alone.py load --policy MODELS/w1
"""

import argparse
import json
import os
import pathlib
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROUNDS = 7


def serve(args, data_dir):
    """The demo on a free port; returns the process and its address, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [args.rectify, "serve", "--port", str(port), "--data-dir", data_dir]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
            return server, f"http://127.0.0.1:{port}"
        except (urllib.error.URLError, OSError):
            if server.poll() is not None:
                sys.exit(f"the server ended with {server.returncode}")
            time.sleep(0.002)


def start(args):
    seconds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as data_dir:
            begun = time.perf_counter()
            server, _ = serve(args, data_dir)
            seconds.append(time.perf_counter() - begun)
            server.terminate()
            server.wait()
    print(json.dumps({"median_s": round(statistics.median(seconds), 4), "all_s": [round(s, 4) for s in seconds]}))


def bench_votes(args, url, rate):
    command = [args.rectify, "bench", "votes", "--url", url, "--rate", str(rate), "--seconds", str(args.seconds), "--json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def votes(args):
    with tempfile.TemporaryDirectory() as data_dir:
        server, url = serve(args, data_dir)
        try:
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
        finally:
            server.terminate()
            server.wait()
    print(json.dumps(report, indent=1))


def generation(args):
    command = [args.rectify, "bench", "generate", "--policy", args.policy, "--dtype", "bfloat16", "--prompt-len", "256"]
    command += ["--gen-len", "128", "--n", "16", "--repeats", "3", "--json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["tokens_per_s"]


def neighbour(args):
    alone = generation(args)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        beside = generation(args)
    finally:
        busy.kill()
    print(json.dumps({"alone_tokens_per_s": alone, "beside_tokens_per_s": beside, "share": beside / alone}))


def bench_load(args, *options):
    command = [args.rectify, "bench", "load", "--policy", args.policy, *options, "--json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


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


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", choices=["start", "neighbour", "votes", "load"])
parser.add_argument("--rectify", type=pathlib.Path, default=ROOT / "target" / "release" / "rectify")
parser.add_argument("--policy", type=pathlib.Path, help="for `neighbour` and `load`")
parser.add_argument("--rate", type=int, default=1000, help="votes per second")
parser.add_argument("--seconds", type=int, default=10, help="of each phase of `votes`")
args = parser.parse_args()
if args.what in ("neighbour", "load") and args.policy is None:
    parser.error(f"{args.what} needs --policy")
{"start": start, "neighbour": neighbour, "votes": votes, "load": load}[args.what](args)

"""Two figures of one machine without peers: `start`, how long the demo takes from its start to its first answer at
`/health`, and `neighbour`, what a busy loop beside it leaves of generation.

    cargo build --release
    python3 benches/alone.py start
    python3 benches/alone.py neighbour --policy MODELS/w2     # of benches/peers/models.py
"""

import argparse
import json
import pathlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROUNDS = 7


def start(args):
    seconds = []
    for _ in range(ROUNDS):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        begun = time.perf_counter()
        command = [args.rectify, "serve", "--port", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.002)
        seconds.append(time.perf_counter() - begun)
        server.terminate()
        server.wait()
    print(json.dumps({"median_s": round(statistics.median(seconds), 4), "all_s": [round(s, 4) for s in seconds]}))


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


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", choices=["start", "neighbour"])
parser.add_argument("--rectify", type=pathlib.Path, default=ROOT / "target" / "release" / "rectify")
parser.add_argument("--policy", type=pathlib.Path, help="for `neighbour`")
args = parser.parse_args()
if args.what == "neighbour" and args.policy is None:
    parser.error("neighbour needs --policy")
{"start": start, "neighbour": neighbour}[args.what](args)

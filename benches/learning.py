"""What streams of ragged traffic feel of the learning loop on one machine, without peers: `swap` (W6), hot swaps between two
versions once a second; `shadow` (W7), training in the shadow of the server.

    cargo build --release
    python3 benches/learning.py swap --policy MODELS/w2       # of benches/peers/models.py
    python3 benches/learning.py shadow --policy MODELS/w2
"""

import argparse
import hashlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

from served import bench, served

ROOT = pathlib.Path(__file__).resolve().parent.parent


def serve(args, *options):
    # The same traffic comes twice: its prompts must not be cheaper the second time.
    return served([args.rectify, "serve", *options], {"RECTIFY_CACHE__PREFIX_CACHING": "false"})


def call(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, headers={"content-type": "application/json"})
    try:
        return json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        sys.exit(f"{path}: {error.code} {error.read().decode()}")


def metric(url, name):
    lines = urllib.request.urlopen(f"{url}/metrics").read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def traffic(args, url):
    """Ragged traffic (W3) as a report of `rectify bench serving`."""
    traffic = ["--requests", args.requests, "--rate", args.rate]
    return bench(args.rectify, "serving", "--url", url, "--model", "policy", *traffic)


def latency(report):
    return {key: round(1000 * report["itl_s"][key], 2) for key in ("p50", "p99", "max")}


def pairs(path, count):
    turn = lambda role, text: [{"role": role, "content": text}]
    lines = (
        {"prompt": turn("user", f"question {i}"), "chosen": turn("assistant", "yes " * 20), "rejected": turn("assistant", "no " * 20)}
        for i in range(count)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def version(args, work, number):
    """Trains an adapter for a moment and puts it into the registry of the data folder as a version."""
    folder = work / f"adapter-{number}"
    command = [args.rectify, "train", "dpo", "--policy", args.policy, "--data", work / "pairs.jsonl", "--output", folder]
    command += ["--use-peft", "--max-steps", "2", "--learning-rate", "1e-3", "--seed", str(number), "--progress", "never"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    target = work / "data" / "adapters" / args.policy.name / str(number)
    target.mkdir(parents=True)
    files = {name: (folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}
    for name, data in files.items():
        (target / name).write_bytes(data)
    hashes = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    whole = hashlib.sha256(files["adapter_config.json"] + files["adapter_model.safetensors"]).hexdigest()
    base = {"name": args.policy.name, "hash": ""}
    manifest = {"name": args.policy.name, "version": number, "created_at": 0, "content_hash": whole, "files": hashes, "base": base}
    (target / "manifest.json").write_text(json.dumps(manifest))


def swap(args):
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        pairs(work / "pairs.jsonl", 8)
        for number in (1, 2):
            version(args, work, number)
        with serve(args, "--policy", args.policy, "--data-dir", work / "data") as (url, _):
            call(url, f"/v1/adapters/{args.policy.name}/1/promote", {})
            time.sleep(2)
            rounds = [swap_round(args, url) for _ in range(args.rounds)]
            seconds = metric(url, "rectify_swap_seconds_sum") / max(1, metric(url, "rectify_swap_seconds_count"))
            print(json.dumps({"swap_us": round(1e6 * seconds, 1), "longest_gap_ratio": spread(rounds, "max")}))


def swap_round(args, url):
    """The same traffic without swaps and with one a second, one after the other."""
    ordinary, done = traffic(args, url), threading.Event()

    def swaps():
        number = 1
        while not done.wait(1.0):
            number = 3 - number
            call(url, f"/v1/adapters/{args.policy.name}/{number}/promote", {})

    swapping = threading.Thread(target=swaps)
    before = metric(url, "rectify_swaps_total")
    swapping.start()
    swapped = traffic(args, url)
    done.set()
    swapping.join()
    seen = {"swaps": metric(url, "rectify_swaps_total") - before, "failed": swapped["failed"]}
    return tell({**seen, "without_ms": latency(ordinary), "with_ms": latency(swapped)})


def tell(report):
    print(json.dumps(report), flush=True)
    return report


def spread(rounds, key):
    """Median, least and largest ratio of what streams feel with something and without it."""
    ratios = [one["with_ms"][key] / one["without_ms"][key] for one in rounds]
    return [round(ratio, 3) for ratio in (statistics.median(ratios), min(ratios), max(ratios))]


SUITE = "name: none\nprompts: {hello: {list: [{prompt: hello}]}}\nchecks: [{length: {prompts: hello}}]\n"


def shadow(args):
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "suite.yaml").write_text(SUITE)
        config = {
            "shadow": {"enabled": True, "automatic": False, "algorithm": "dpo"},
            "dpo": {"max_steps": 100000, "per_device_train_batch_size": 8, "save_steps": 1000},
            "quality": {"stop": {"min_accuracy": 0.0}, "dedup": {"keep": 1000}},
            "gate": {"suite": str(work / "suite.yaml")},
        }
        # JSON is YAML.
        (work / "config.yaml").write_text(json.dumps(config))
        options = ["--policy", args.policy, "--data-dir", work / "data", "--config", work / "config.yaml"]
        with serve(args, *options) as (url, _):
            for index in range(64):
                messages = [{"role": "user", "content": f"question {index} about the number {7 * index}"}]
                body = {"model": "policy", "messages": messages, "n": 2, "max_tokens": 64, "ignore_eos": True, "user": f"u-{index}"}
                answer = call(url, "/v1/chat/completions", body)
                vote = {"completion_id": answer["id"], "kind": "comparison", "value": {"better": index % 2, "worse": 1 - index % 2}}
                call(url, "/v1/feedback", vote)
            rounds = [shadow_round(args, url) for _ in range(args.rounds)]
            print(json.dumps({"p99_ratio": spread(rounds, "p99")}))


def shadow_round(args, url):
    """The same traffic without training and with it, one after the other."""
    alone = traffic(args, url)
    run = call(url, "/v1/training/runs", {})["id"]
    step, changes = metric(url, "rectify_train_step"), 0
    while changes < 3:
        state = call(url, f"/v1/training/runs/{run}")
        if state["state"] not in ("idle", "snapshot", "training"):
            sys.exit(f"the run is {state['state']}: {state}")
        time.sleep(0.1)
        last, step = step, metric(url, "rectify_train_step")
        changes += step != last
    begun, steps = time.perf_counter(), metric(url, "rectify_train_step")
    beside = traffic(args, url)
    seconds, steps = time.perf_counter() - begun, metric(url, "rectify_train_step") - steps
    call(url, f"/v1/training/runs/{run}/cancel", {})
    while call(url, f"/v1/training/runs/{run}")["state"] != "cancelled":
        time.sleep(0.1)
    seen = {"failed": alone["failed"] + beside["failed"], "steps": steps, "seconds": round(seconds, 1)}
    return tell({**seen, "without_ms": latency(alone), "with_ms": latency(beside)})


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", choices=["swap", "shadow"])
parser.add_argument("--rectify", type=pathlib.Path, default=ROOT / "target" / "release" / "rectify")
parser.add_argument("--policy", type=pathlib.Path, required=True)
parser.add_argument("--rate", type=float, default=4.0, help="requests per second")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--requests", type=int, default=64, help="of each measurement")
args = parser.parse_args()
args.policy = args.policy.resolve()
{"swap": swap, "shadow": shadow}[args.what](args)

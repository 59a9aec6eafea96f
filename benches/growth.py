"""Growth curves: how a step's time, the KV memory and the loop's own share grow with candidates, context and vocabulary, each
beside its limit. Draws `growth.svg` from the numbers of `raw.jsonl`.

    cargo build --release
    PEERS_ENV/bin/python benches/growth.py --models MODELS       # of benches/peers/install.sh and models.py

Every point is a `rectify bench generate` on random weights of the shape of W2; the limit is that of the machine, measured in the
same process. Writes `benches/runs/<date>-<machine>-growth/`.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches" / "peers"))
from models import W2, tokenizer
from record import begin, options, versions, write_csv, write_readme
from served import bench

CANDIDATES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
CONTEXTS = [64, 128, 256, 512, 1024, 1900]
VOCABULARIES = [8192, 16384, 32768, 65536, 131072]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options(parser)
    return parser.parse_args()


def point(args, policy, curve, x, prompt_len, n, gen_len):
    work = ["--prompt-len", prompt_len, "--gen-len", gen_len, "--n", n, "--repeats", args.repeats]
    report = bench(args.rectify, "generate", "--policy", policy, "--dtype", "bfloat16", *work)
    # The prompt takes the first step; its logits give the first tokens.
    decodes = report["gen_len"] - 1
    limit_s = report["generated_tokens"] / report["limit_tokens_per_s"]
    row = {"curve": curve, "x": x, "n": n, "prompt_len": prompt_len, "gen_len": gen_len}
    row |= {"step_ms": 1000 * report["decode_s"] / decodes, "prefill_ms": 1000 * report["prefill_s"]}
    row |= {"total_s": report["total_s"], "limit_s": limit_s, "tokens_per_s": report["tokens_per_s"]}
    row |= {"limit_tokens_per_s": report["limit_tokens_per_s"], "blocks": report["kv_blocks"]["peak_used"]}
    row |= {"unshared_blocks": report["kv_blocks"]["unshared"]}
    row |= {f"{part}_share": report[f"{part}_s"] / report["total_s"] for part in ("forward", "sampling", "rest")}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def vocabulary_model(folder, size):
    """Random weights of W2's shape with a vocabulary of `size`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**W2 | {"vocab_size": size})).to(torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def measure(args):
    policy = args.models / "w2"
    for n in CANDIDATES:
        yield point(args, policy, "candidates", n, 256, n, 64 if n <= 64 else 24)
    for length in CONTEXTS:
        yield point(args, policy, "context", length, length, 16, 64)
    with tempfile.TemporaryDirectory() as work:
        for size in VOCABULARIES:
            folder = pathlib.Path(work) / str(size)
            vocabulary_model(folder, size)
            yield point(args, folder, "vocabulary", size, 256, 16, 64)


def draw(rows, path):
    """Four panels; measured lines are solid, limits dashed."""
    of = lambda curve: [row for row in rows if row["curve"] == curve]
    figure, panels = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")

    def panel(axes, curve, title, label, series):
        points = of(curve)
        for name, value, style in series:
            axes.plot([row["x"] for row in points], [value(row) for row in points], style, label=name)
        axes.set(title=title, xlabel=label, xscale="log", yscale="log")
        axes.set_xscale("log", base=2)
        axes.grid(True, which="major", alpha=0.3)
        axes.legend()

    speed = lambda row: row["tokens_per_s"]
    limit = lambda row: row["limit_tokens_per_s"]
    tokens = [("tokens/s", speed, "o-"), ("limit of the machine", limit, "--")]
    panel(panels[0, 0], "candidates", "Batch: tokens per second, prompt 256", "candidates N", tokens)
    slope = max((row["step_ms"] / row["n"] for row in of("candidates")[-1:]), default=0)
    time = [("a step, ms", lambda row: row["step_ms"], "o-"), ("linear in rows", lambda row: slope * row["n"], "--")]
    loop = [("loop and drawing tokens, ms", lambda row: row["step_ms"] * (row["sampling_share"] + row["rest_share"]), "s-")]
    loop += [("3 % of a step", lambda row: 0.03 * row["step_ms"], ":")]
    panel(panels[0, 1], "candidates", "Batch: time of a step of decodes", "candidates N", time + loop)
    panel(panels[1, 0], "context", "Context: tokens per second, N = 16", "tokens of the prompt", tokens)
    panel(panels[1, 1], "vocabulary", "Vocabulary: tokens per second, N = 16", "tokens of the vocabulary", tokens)
    figure.savefig(path)


def draw_memory(rows, path):
    figure, axes = pyplot.subplots(figsize=(5.5, 4), layout="constrained")
    points = [row for row in rows if row["curve"] == "candidates"]
    n = [row["n"] for row in points]
    blocks = [-(-(row["prompt_len"] + row["gen_len"] - 1) // 16) for row in points]
    prompt = [row["prompt_len"] // 16 for row in points]
    least = [shared + count * (whole - shared) for shared, whole, count in zip(prompt, blocks, n)]
    axes.plot(n, [row["blocks"] for row in points], "o-", label="KV blocks")
    axes.plot(n, least, "--", label="the prompt's once, and N tails")
    axes.plot(n, [row["unshared_blocks"] for row in points], ":", label="without sharing")
    axes.set(title="Memory: KV blocks at most", xlabel="candidates N", yscale="log")
    axes.set_xscale("log", base=2)
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.savefig(path)


def main():
    args = arguments()
    run = begin(args, "-growth")
    rows = []
    with open(run.folder / "raw.jsonl", "w") as raw:
        for row in measure(args):
            rows.append(row)
            raw.write(json.dumps(row) + "\n")
            raw.flush()
    write_csv(run.folder / "raw.csv", list(rows[0]), rows)
    draw(rows, run.folder / "growth.svg")
    draw_memory(rows, run.folder / "memory.svg")
    text = (
        f"Random bf16 weights of the shape of W2 (`benches/peers/models.py`), end of text ignored; the median of {args.repeats} runs a point. Limits\n"
        "are those of the machine, measured with each point; the line of rows is through the last point."
    )
    points = (
        f"| {row['curve']} | {row['x']} | {row['tokens_per_s']:.0f} | {100 * row['tokens_per_s'] / row['limit_tokens_per_s']:.0f} %"
        f" | {row['step_ms']:.2f} | {100 * row['sampling_share']:.2f} % | {100 * row['rest_share']:.2f} % |"
        for row in rows
    )
    rest = (
        "Answers are of 64 tokens up to N = 64 and of 24 beyond, so blocks do not grow between 64 and 128.\n\n"
        "![Tokens per second and time of a step](growth.svg)\n\n"
        "![KV blocks](memory.svg)\n\n"
        "| curve | at | tokens/s | share of the limit | a step, ms | in drawing tokens | in the loop |\n|---|---|---|---|---|---|---|\n"
    )
    write_readme(run, "Growth curves", versions(args), text, rest + "\n".join(points))


if __name__ == "__main__":
    main()

"""What the torch peers of `train.py` share: which modules get an adapter, the arguments of whole steps, peak memory."""

import argparse
import pathlib

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def peak_rss():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def step_arguments(doc, steps):
    """Arguments of a peer that runs whole steps, `steps` unless they are given."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--bf16", action="store_true")
    return parser.parse_args()

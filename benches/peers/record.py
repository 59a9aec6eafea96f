"""Records a run: its folder, the machine it ran on, what it was made with, and the README beside its raw numbers."""

import csv
import datetime
import os
import pathlib
import platform
import subprocess
import sys
import typing

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Run(typing.NamedTuple):
    """Where and on what a run is recorded."""

    folder: pathlib.Path
    date: str
    machine: str
    load: float


def options(parser):
    """Adds the options that every recorded run has."""
    parser.add_argument("--rectify", type=pathlib.Path, default=ROOT / "target" / "release" / "rectify")
    parser.add_argument("--machine", default=None, help="a name for the folder; the default describes the processor")
    parser.add_argument("--busy", action="store_true", help="run although the machine is busy, and say so in the record")


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


def versions(args, packages=()):
    """Of rectify, of Python packages among the peers, and the commit."""
    found = {"rectify": lines_of([args.rectify, "--version"]).removeprefix("rectify ")}
    for package in packages:
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        found[package] = lines_of([args.peers / "bin" / "python", "-c", code])
    return found | {"commit": lines_of(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"])}


def lines_of(command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True).stdout.strip()


def write_csv(path, columns, rows):
    with open(path, "w", newline="") as out:
        writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_readme(run, title, made_with, text, rest):
    """Writes and prints the run's README: `text` says what was measured, `rest` is what came of it."""
    note = "; the machine was not idle" if run.load > 0.5 else ""
    script = pathlib.Path(sys.argv[0]).resolve().relative_to(ROOT)
    readme = (
        f"# {title}, {run.date}\n\n"
        f"{run.machine}; load before the run {run.load:.2f}{note}.\n"
        f"{', '.join(f'{name} {version}' for name, version in made_with.items())}.\n\n"
        f"{text} Made by\n\n"
        f"```sh\npython3 {script} {' '.join(map(shown, sys.argv[1:]))}\n```\n\n"
        f"{rest}\n"
    )
    (run.folder / "README.md").write_text(readme)
    print(readme)


def shown(word):
    """An argument as typed, with folders of this machine left as names."""
    return pathlib.Path(word).name if word.startswith(("/", ".", "~")) else word

"""What the compiler made of the tiles of products, for processors one does not have as well.

    cargo build --release
    python3 benches/loops.py target/release/rectify

Counts, for each instruction set, the inner loops that multiply and ask for memory in advance, and lists those that read vectors
from the stack or write them there: such a sum waits for memory in each step. For each its products, all of its instructions,
and these vectors. With `--all` every loop of products is listed, also where nothing is asked for in advance.
Needs objdump of binutils. Says nothing of speed: `cargo bench -p rectify-benches --bench kernels` does, where there is such a
processor.
"""

import argparse
import collections
import re
import subprocess

PRODUCTS = {
    "f32": r"vfn?madd\d+ps",
    "half precision": r"vfn?madd\d+ph",
    "pairs of bf16": "vdpbf16ps",
    "bytes": "vpdpbusd|vpmaddubsw|vpmaddwd",
}
FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(.*?)\s*(?:<.*)?$")
BACK = re.compile(r"^j\w+\s+([0-9a-f]+)$")
# Longer bodies are walks over blocks, not loops of one step.
LONGEST = 200


def functions(binary):
    """Instructions of each compiled operation, by its instruction set."""
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", binary]
    isa, body = None, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if name := FUNCTION.match(line):
                if body:
                    yield isa, body
                dispatched = re.search(r"dispatch::(avx\w+)$", name[1])
                isa, body = dispatched and dispatched[1], []
            elif isa and (instruction := INSTRUCTION.match(line)):
                body.append((int(instruction[1], 16), instruction[2]))
    if body:
        yield isa, body


def loops(body):
    """Runs of instructions that end in a jump to their first and hold no other such run."""
    places = {address: index for index, (address, _) in enumerate(body)}
    begin = -1
    for end, (address, text) in enumerate(body):
        jump = BACK.match(text)
        start = places.get(int(jump[1], 16)) if jump else None
        if start is not None and begin < start <= end and end - start < LONGEST:
            begin = start
            yield [text for _, text in body[start : end + 1]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--least", type=int, default=12, help="products of a loop that is printed")
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    counts, listed = collections.Counter(), collections.defaultdict(list)
    for isa, body in functions(args.binary):
        for loop in loops(body):
            if not args.all and not any("prefetch" in text for text in loop):
                continue
            on_stack = sum("(%rsp)" in text and bool(re.search("%[yz]mm", text)) for text in loop)
            for kind, pattern in PRODUCTS.items():
                products = sum(bool(re.match(pattern, text)) for text in loop)
                if products >= args.least:
                    counts[isa, kind] += 1
                    if args.all or on_stack:
                        listed[isa, kind].append(f"{products} of {len(loop)}, {on_stack}")
    print(f"| instruction set | products of | loops | {'all' if args.all else 'with vectors on the stack'} |\n|---|---|---|---|")
    for (isa, kind), count in sorted(counts.items()):
        print(f"| {isa} | {kind} | {count} | {'; '.join(sorted(listed[isa, kind])) or 'none'} |")


if __name__ == "__main__":
    main()

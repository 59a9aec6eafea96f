"""Writes preference pairs of given lengths for a tokenizer: pairs.py MODEL OUT [--pairs 64] [--tokens 280].

Half of the tokens of a sequence are the prompt's. What is written means nothing: speed does not depend on it.
"""

import argparse
import json
import pathlib
import random

from tokenizers import Tokenizer

WORDS = "the of value list file name path time data type class test code line read write key index result error".split()


def text(tokenizer, rng, tokens):
    """Words until there are `tokens` tokens."""
    words = []
    while len(tokenizer.encode(" ".join(words), add_special_tokens=False).ids) < tokens:
        words += rng.choices(WORDS, k=max(1, (tokens - len(words)) // 4))
    while len(tokenizer.encode(" ".join(words[:-1]), add_special_tokens=False).ids) >= tokens:
        words.pop()
    return " ".join(words)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=280)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    rng = random.Random(0)
    with open(args.out, "w") as out:
        for _ in range(args.pairs):
            # Lengths differ by a tenth, as those of real pairs do by more.
            length = lambda: round(args.tokens / 2 * rng.uniform(0.9, 1.1))
            prompt, chosen, rejected = (text(tokenizer, rng, length()) for _ in range(3))
            out.write(json.dumps({"prompt": prompt, "chosen": " " + chosen, "rejected": " " + rejected}) + "\n")


if __name__ == "__main__":
    main()

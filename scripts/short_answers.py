#!/usr/bin/env python3
"""Cuts preference rows with several responses to short texts, so that a study over real texts fits two cores.

usage: short_answers.py CHARS WORDS FILE.jsonl[.gz]... > OUT.jsonl

Rows have raw UltraFeedback's `instruction` and `completions`. Rows whose instruction is longer than CHARS characters are left
out. A response keeps its first sentences and lines, up to WORDS words; it is left out where these have fewer than three
words, or are those of another response. Rows with fewer than two responses left are left out. Counts go to stderr.
"""

import gzip
import json
import re
import sys

# A sentence with its end, or the rest of a line; the white space behind it belongs to it.
PIECE = re.compile(r"[^.!?\n]*(?:[.!?]+[\"')\]]*(?=\s|$)|\n+|[.!?]|$)\s*")
LEAST_WORDS = 3


def cut(text, most):
    """The first sentences and lines of a text, of at most so many words; empty where they have fewer than three."""
    kept, words = "", 0
    for piece in PIECE.findall(text):
        words += len(piece.split())
        if words > most:
            break
        kept += piece
    return kept.rstrip() if len(kept.split()) >= LEAST_WORDS else ""


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    chars, words = int(sys.argv[1]), int(sys.argv[2])
    read = kept = responses = 0
    for path in sys.argv[3:]:
        with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                read += 1
                if len(row["instruction"]) > chars:
                    continue
                short = {}
                for completion in row["completions"]:
                    text = cut(completion["response"], words)
                    if text:
                        short.setdefault(text, {**completion, "response": text})
                if len(short) < 2:
                    continue
                row["completions"] = list(short.values())
                row["models"] = [completion["model"] for completion in row["completions"]]
                print(json.dumps(row, ensure_ascii=False))
                kept += 1
                responses += len(short)
    print(f"{kept} of {read} rows, {responses} responses", file=sys.stderr)


if __name__ == "__main__":
    main()

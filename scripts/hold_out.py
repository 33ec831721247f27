#!/usr/bin/env python3
"""Splits a planted corpus' training rows once more, so that settings are chosen without its test prompts.

usage: hold_out.py FRACTION TRAIN.jsonl OUT

Writes OUT/train.jsonl and OUT/test.jsonl. The judgements of a prompt share its responses, so rows with the same responses
stay together; which part they go to is a hash of the responses.
"""

import hashlib
import json
import sys
from pathlib import Path


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    fraction, rows, out = float(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    with open(rows, encoding="utf-8") as lines, open(out / "train.jsonl", "w", encoding="utf-8") as train, open(
        out / "test.jsonl", "w", encoding="utf-8"
    ) as test:
        for line in lines:
            responses = sorted(completion["response"] for completion in json.loads(line)["completions"])
            digest = hashlib.blake2b("\0".join(responses).encode(), digest_size=8).digest()
            (test if int.from_bytes(digest, "big") < fraction * 2**64 else train).write(line)


if __name__ == "__main__":
    main()

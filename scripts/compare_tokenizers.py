#!/usr/bin/env python3
"""Compares the token ids of `lpc-pipe prepare` with those of transformers, every id of every pair.

usage: scripts/compare_tokenizers.py --program target/release/lpc-pipe --pairs FILE... [--tokenizers models/tokenizers]

TOKENIZERS is what scripts/fetch_tokenizers.sh made: one folder a tokenizer. Each is used with its own chat template, or
with one of tests/fixtures/tokenize/templates where it has none. The expected ids come from the rules of
tests/fixtures/tokenize/record.py: the conversation tokenized whole by transformers, split at the token where the prompt
ends. Needs pyarrow, polars and what tests/fixtures/tokenize/requirements.txt names. Ends with 1 if any id differs.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/fixtures/tokenize"))

import polars
import record
from transformers import PreTrainedTokenizerFast

TEMPLATES = {"llama2": ["llama2", "mistral-v1", "zephyr"], "gemma2": ["gemma"], "qwen2_5": ["own", "chatml"]}


def prepare(program, pairs, folder, template, out):
    wide = ["--max-length", "1000000", "--max-prompt-length", "1000000"]
    chosen = [] if template == "own" else ["--template", template_file(template)]
    command = [program, "prepare", "--input", *pairs, "--tokenizer", folder, "--out", out, *wide, *chosen, "--quiet"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else None


def template_file(name):
    return ROOT / "tests/fixtures/tokenize/templates" / f"{name}.jinja"


def rows(out):
    pairs = polars.concat([polars.read_parquet(p) for p in sorted((out / "pairs").glob("*.parquet"))])
    tokens = polars.concat([polars.read_ipc(p) for p in sorted((out / "tokens").glob("*.arrow"))])
    return pairs.join(tokens.select("id", "prompt_ids", "chosen_ids", "rejected_ids"), on="id", validate="1:1").to_dicts()


def compare(folder, template, found):
    # The generic class: tokenizer.json as it stands, as other programs read it too.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if template != "own":
        tokenizer.chat_template = template_file(template).read_text(encoding="utf-8")
    facts = record.facts_of(tokenizer)
    count = {"pairs": 0, "ids": 0, "forced": 0, "different": 0}
    for row in found:
        [chosen], [rejected] = row["chosen"], row["rejected"]
        expected = record.preference(tokenizer, row["prompt"], chosen["content"], rejected["content"], facts)
        count["pairs"] += 1
        if "error" in expected:
            print(f"  {row['id']}: {expected['error']}", file=sys.stderr)
            count["different"] += 1
            continue
        count["forced"] += sum(expected["forced"])
        for name in ["prompt_ids", "chosen_ids", "rejected_ids"]:
            count["ids"] += len(expected[name])
            if expected[name] != row[name]:
                at = next((i for i, (a, b) in enumerate(zip(expected[name], row[name])) if a != b), "the end")
                print(f"  {row['id']} {name} differ at {at}", file=sys.stderr)
                count["different"] += 1
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--pairs", required=True, nargs="+")
    parser.add_argument("--tokenizers", default=ROOT / "models/tokenizers", type=pathlib.Path)
    arguments = parser.parse_args()
    bad = 0
    for folder in sorted(path for path in arguments.tokenizers.iterdir() if (path / "tokenizer.json").exists()):
        for template in TEMPLATES.get(folder.name, ["own"]):
            with tempfile.TemporaryDirectory() as out:
                begin = time.monotonic()
                error = prepare(arguments.program, arguments.pairs, folder, template, out)
                seconds = time.monotonic() - begin
                if error:
                    print(f"{folder.name} with {template}: {error}")
                    bad += 1
                    continue
                count = compare(folder, template, rows(pathlib.Path(out)))
                bad += count["different"]
                said = ", ".join(f"{number} {name}" for name, number in count.items())
                print(f"{folder.name} with {template}: {said} (prepare {seconds:.1f} s)", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

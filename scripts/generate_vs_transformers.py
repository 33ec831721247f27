#!/usr/bin/env python3
"""Compares `lpc-pipe generate` with transformers: greedy answers token by token, and tokens a second.

    python3 scripts/generate_vs_transformers.py MODEL [--program target/release/lpc-pipe] [--tokens 128]
        [--dtype f32|bf16] [--batch 1 20] [--threads N]

MODEL is a Hugging Face folder, for example that of scripts/smollm2_folder.py. The prompts are those below. Both
answer them in batches of each size that is given, transformers with padding on the left. Texts must be those of
transformers' first batch size in float32, else the exit code is 1. In bfloat16 the two round in different places, and equal texts are counted.
Where a text differs, the gap between the two likeliest logits at the first different token is printed: rounding decides
ties and near ties alone.

Needs torch and transformers: tests/fixtures/parity/requirements.txt.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "What is the capital of France?",
    "Explain why the sky is blue to a child.",
    "Write a short poem about a lighthouse.",
    "List five uses of a paper clip.",
    "How do I boil an egg?",
    "Translate to German: The weather is nice today.",
    "What is 17 times 23? Show the steps.",
    "Give me three names for a small bakery.",
    "Why do cats purr?",
    "Write a Python function that reverses a list.",
    "Summarise the story of Romeo and Juliet in two sentences.",
    "What should I pack for a week in the mountains?",
    "Who wrote the play Hamlet, and when?",
    "Describe the taste of a lemon.",
    "How does a bicycle stay upright?",
    "Draft a polite e-mail that declines an invitation.",
    "What are the three states of matter?",
    "Name a food that is healthy, and say why.\nAnswer in one line.",
    "Is it safe to eat raw potatoes?",
    "Tell me a joke about a programmer \u2014 with an \u00e9clair in it.",
]


def ours(args, folder, batch):
    out = pathlib.Path(folder) / f"ours-{batch}.jsonl"
    prompts = pathlib.Path(folder) / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    command = [args.program, "generate", "--model", args.model, "--prompts", str(prompts), "--out", str(out), "--json"]
    command += ["--max-new-tokens", str(args.tokens), "--batch", str(batch), "--precision", args.dtype, "--quiet"]
    command += ["--threads", str(args.threads)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [json.loads(line)["output"] for line in out.read_text().splitlines()], told


def theirs(args, model, tokenizer, batch):
    """Texts, tokens (without the one that ends a text) and seconds."""
    chats = [[{"role": "user", "content": p}] for p in PROMPTS]
    texts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats]
    answers, count = [], 0
    start = time.perf_counter()
    for at in range(0, len(texts), batch):
        given = tokenizer(texts[at : at + batch], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            found = model.generate(
                **given, max_new_tokens=args.tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        for row in found[:, given["input_ids"].shape[1] :].tolist():
            ends = [i for i, t in enumerate(row) if t in (tokenizer.eos_token_id, tokenizer.pad_token_id)]
            row = row[: ends[0]] if ends else row
            count += len(row)
            answers.append(tokenizer.decode(row, skip_special_tokens=True))
    return answers, count, time.perf_counter() - start


def gap(model, tokenizer, prompt, ours, theirs):
    """Where two answers part, and how far apart their logits are there."""
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (chat, ours, theirs)]
    at = next((i for i, (a, b) in enumerate(zip(*ids[1:])) if a != b), min(map(len, ids[1:])))
    with torch.inference_mode():
        logits = model(torch.tensor([ids[0] + ids[2][:at]])).logits[0, -1].float()
    top = logits.topk(2).values
    return at, float(top[0] - top[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--program", default="target/release/lpc-pipe")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, len(PROMPTS)])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    dtype = torch.float32 if args.dtype == "f32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    wanted, speeds, equal = None, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for batch in args.batch:
            answers, count, seconds = theirs(args, model, tokenizer, batch)
            wanted = wanted or answers
            speeds["transformers", batch] = count / seconds
            texts, told = ours(args, folder, batch)
            speeds["lpc-pipe", batch] = told["tokens_per_s"]
            equal[batch] = sum(a == b for a, b in zip(texts, wanted))
            padded = sum(a == b for a, b in zip(answers, wanted))
            print(
                f"batch {batch}: {equal[batch]} of {len(PROMPTS)} texts equal (transformers to itself: {padded}); "
                f"tokens/s lpc-pipe {speeds['lpc-pipe', batch]:.1f}, transformers {speeds['transformers', batch]:.1f}, "
                f"ratio {speeds['lpc-pipe', batch] / speeds['transformers', batch]:.2f}",
                flush=True,
            )
            for prompt, a, b in zip(PROMPTS, texts, wanted):
                if a != b:
                    at, margin = gap(model, tokenizer, prompt, a, b)
                    print(f"  {prompt[:40]!r}: parts at token {at}, two likeliest logits {margin:.6f} apart")
    if args.dtype == "f32" and any(n < len(PROMPTS) for n in equal.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()

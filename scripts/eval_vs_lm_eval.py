#!/usr/bin/env python3
"""Compares `lpc-pipe eval` with lm-evaluation-harness, item by item, and the time that both take.

    python3 scripts/eval_vs_lm_eval.py MODEL TASK FILE [--limit 200] [--program target/release/lpc-pipe]
        [--batch-size 1] [--threads N]

MODEL is a Hugging Face folder; TASK one of arc_easy, arc_challenge, truthfulqa_mc1, truthfulqa_mc2, gsm8k; FILE its data as
AI2, the authors of TruthfulQA or OpenAI publish them. The harness' own definition of the task runs on the same rows, which
are written in the hub's layout; for gsm8k, examples are drawn from the problems themselves. Both compute in float32.

Every item's metrics must be equal, every choice's log-probability within 1e-3, and every generated text the same; else
the exit code is 1. Times are those of evaluation, without loading the model.

Needs `pip install "lm-eval[hf]" rouge_score sacrebleu`.
"""

import argparse
import gzip
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import lm_eval
import lm_eval.tasks
import pyarrow.parquet
import torch
from lm_eval.models.huggingface import HFLM

SPLIT = {"truthfulqa_mc1": "validation", "truthfulqa_mc2": "validation"}
HOME = {"arc_easy": "arc", "arc_challenge": "arc", "truthfulqa_mc1": "truthfulqa", "truthfulqa_mc2": "truthfulqa"}
METRICS = {
    "arc_easy": ["acc", "acc_norm"],
    "arc_challenge": ["acc", "acc_norm"],
    "truthfulqa_mc1": ["acc"],
    "truthfulqa_mc2": ["acc"],
    "gsm8k": ["exact_match"],
}


def rows(path):
    opened = gzip.open(path, "rt", encoding="utf-8") if str(path).endswith(".gz") else open(path, encoding="utf-8")
    with opened as file:
        text = file.read()
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]


def hub(task, row):
    """A row in the hub's layout."""
    if task.startswith("arc") and isinstance(row["question"], dict):
        choices = row["question"]["choices"]
        both = {key: [choice[key] for choice in choices] for key in ("text", "label")}
        return {"id": row["id"], "question": row["question"]["stem"], "choices": both, "answerKey": row["answerKey"]}
    if task.startswith("truthfulqa") and "choices" not in row["mc1_targets"]:
        listed = {
            key: {"choices": list(row[key]), "labels": list(row[key].values())} for key in ("mc1_targets", "mc2_targets")
        }
        return {"question": row["question"], **listed}
    return row


def theirs(args, folder):
    """The harness' samples in their order, and its seconds."""
    split = SPLIT.get(args.task, "test")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(hub(args.task, row)) + "\n" for row in rows(args.file)))
    home = pathlib.Path(lm_eval.tasks.__file__).parent / HOME.get(args.task, args.task)
    task = [f"include: {home / args.task}.yaml", f"task: own_{args.task}", "dataset_path: json", "dataset_name: null"]
    task += ["dataset_kwargs:", "  data_files:", f"    {split}: {data}"]
    task += [f"{name}_split: {split if name == split else 'null'}" for name in ("training", "validation", "test")]
    if args.task == "gsm8k":
        task += ["fewshot_split: test"]
    (folder / "own.yaml").write_text("\n".join(task) + "\n")
    model = HFLM(
        pretrained=args.model, dtype="float32", device="cpu", batch_size=args.batch_size, max_batch_size=args.batch_size
    )
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    start = time.perf_counter()
    found = lm_eval.simple_evaluate(
        model, tasks=[f"own_{args.task}"], limit=args.limit, task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    seconds = time.perf_counter() - start
    samples = found["samples"][f"own_{args.task}"]
    return sorted(samples, key=lambda s: s["doc_id"]), found["results"][f"own_{args.task}"], seconds


def ours(args, folder):
    out = folder / "ours"
    command = [args.program, "eval", "--model", args.model, "--task", args.task, "--data", args.file, "--json", "--quiet"]
    command += ["--limit", str(args.limit), "--out", str(out), "--threads", str(args.threads)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return pyarrow.parquet.read_table(out / "items.parquet").to_pylist(), told["results"][args.task]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("task", choices=sorted(METRICS))
    parser.add_argument("file")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--program", default="target/release/lpc-pipe")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    faults, largest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        items, results = ours(args, pathlib.Path(folder))
        samples, table, seconds = theirs(args, pathlib.Path(folder))
    filters = sorted({s["filter"] for s in samples})
    for name in filters:
        chosen = [s for s in samples if s["filter"] == name]
        if len(chosen) != len(items):
            faults.append(f"{len(items)} items, and {len(chosen)} of the harness")
        for item, sample in zip(items, chosen):
            for metric in METRICS[args.task]:
                column = metric if name == "none" else f"{metric},{name}"
                if abs(item[column] - sample[metric]) > (1e-4 if args.task == "truthfulqa_mc2" else 0):
                    faults.append(f"item {item['item']} {column}: {item[column]}, the harness {sample[metric]}")
            if args.task == "gsm8k":
                text = sample["resps"][0][0]
                if item["output"] != text:
                    faults.append(f"item {item['item']}: text {item['output']!r}, the harness {text!r}")
                continue
            wanted = [float(resp[0][0]) for resp in sample["resps"]]
            largest = max([largest] + [abs(a - b) for a, b in zip(item["scores"], wanted)])
            if len(wanted) != len(item["scores"]) or largest > 1e-3:
                faults.append(f"item {item['item']}: log-probabilities {item['scores']}, the harness {wanted}")
    for name in filters:
        for metric in METRICS[args.task]:
            column = metric if name == "none" else f"{metric},{name}"
            print(f"{args.task} {column}: {results[column]:.6f}, the harness {table[f'{metric},{name}']:.6f}")
    print(
        f"{len(items)} items, largest difference of a log-probability {largest:.2e}; seconds {results['seconds']:.1f}, "
        f"the harness {seconds:.1f}, ratio {seconds / results['seconds']:.1f}"
    )
    print("\n".join(faults[:20]) or "equal")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

"""Training speed and memory of `lpc-pipe train` beside TRL's DPOTrainer: one model, the same real pairs, one machine.

    python benches/train_vs_trl.py --model HF_FOLDER --pairs PAIRS.jsonl[.gz] --trl-script trl_dpo.py \
        [--trl-python PYTHON] [--program target/release/lpc-pipe] [--count 64] [--steps 0] [--trl-count 16] \
        [--only ours,trl,scaling] [--out results.json]

`--trl-script` takes MODEL PAIRS --pairs N --batch B --max-length L [--bf16] [--gc] [--precompute-ref] and prints one
JSON object with `median_step_s` last. Pairs whose prompt does not fit `--max-length` are left out for both sides, so
that both see the same ones. Medians over steps; the first step of each run is left out.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Steps of the whole model: those of the codes alone come first otherwise, and are quicker.
WHOLE = ["--set", "train.lpc.warmup=0"]

OURS = {
    "LPC-DPO, as typed": ["--latent", "lpc", *WHOLE],
    "DPO, bf16": ["--precision", "bf16", "--latent", "none"],
    "LPC-DPO, bf16, head only": ["--precision", "bf16", "--latent", "lpc", *WHOLE, "--tune", "head"],
    "LPC-DPO, bf16, recomputed": ["--precision", "bf16", "--latent", "lpc", *WHOLE, "--set", "train.recompute=true"],
    "LPC-DPO, f32": ["--precision", "f32", "--latent", "lpc", *WHOLE],
}
TRL = {
    "TRL DPO, bf16, reference precomputed": ["--bf16", "--precompute-ref"],
    "TRL DPO, f32, reference precomputed": ["--precompute-ref"],
    "TRL DPO, bf16": ["--bf16"],
    "TRL DPO, bf16, gradient checkpointing": ["--bf16", "--gc"],
}


def read(path, count):
    opened = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rt") as lines:
        return [json.loads(line) for _, line in zip(range(count), lines)]


def run(command, **more):
    """Runs a command; its stdout, seconds, and peak memory in MiB."""
    clock = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.PIPE, text=True, **more)
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{command}: exit {process.returncode}\n{errors[-2000:]}")
        out.seek(0)
        return out.read(), time.perf_counter() - clock, usage.ru_maxrss / 1024


def prepare(program, model, rows, out, length):
    source = Path(out).with_suffix(".jsonl")
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run([program, "--quiet", "prepare", "--input", source, "--tokenizer", model, "--out", out,
         "--max-length", length, "--test-fraction", 0])
    return Path(out)


def kept(program, model, rows, folder, length):
    """The rows whose pair survives: what does not fit is left out for both sides."""
    data = prepare(program, model, rows, folder / "probe", length)
    from pyarrow import parquet
    prompts = {t[-1]["content"] for t in parquet.read_table(data / "pairs/train.parquet")["prompt"].to_pylist()}
    return [row for row in rows if row["prompt"] in prompts]


def ours(program, model, data, out, batch, steps, flags):
    _, seconds, peak = run([program, "--quiet", "train", "--data", data, "--model", model, "--out", out, "--batch", batch,
                            "--lr", "1e-6", "--max-steps", steps, "--set", "train.save_model=false", *flags])
    metrics = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    metrics = [m for m in metrics if "loss" in m]
    full = metrics[1:] or metrics
    return {"pairs_per_s": statistics.median(m["perf/pairs_per_s"] for m in full),
            "tokens_per_s": statistics.median(m["perf/tokens_per_s"] for m in full),
            "step_s": [round(1 / m["perf/pairs_per_s"] * batch, 3) for m in metrics],
            "peak_mb": round(peak), "total_s": round(seconds, 1), "losses": [m["loss"] for m in metrics]}


def compare(args, folder, results):
    rows = kept(args.program, args.model, read(args.pairs, args.count), folder, args.max_length)
    data = prepare(args.program, args.model, rows, folder / "data", args.max_length)
    results["pairs"] = len(rows)
    if "ours" in args.only:
        for name, flags in OURS.items():
            # Whole batches only: a short last one would bend the median.
            steps = args.steps or len(rows) // args.batch
            results[name] = ours(args.program, args.model, data, folder / "run" / name, args.batch, steps, flags)
            show(name, results[name])
    if "trl" in args.only:
        source = folder / "same.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for i, (name, flags) in enumerate(TRL.items()):
            count = args.trl_count if i == 0 else max(args.trl_count // 2, 2 * args.batch)
            out, seconds, peak = run([args.trl_python, args.trl_script, args.model, source, "--pairs", count, "--batch",
                                      args.batch, "--max-length", args.max_length, *flags], cwd=folder)
            told = json.loads(out.strip().splitlines()[-1])
            results[name] = {"pairs_per_s": told["pairs_per_s"], "peak_mb": round(peak), "total_s": round(seconds, 1)}
            show(name, results[name])


def scaling(args, folder, results):
    """Step time and memory against length and batch: texts of the data, joined and cut to length."""
    text = " ".join(row["prompt"] for row in read(args.pairs, 400))
    words = text.split()

    def pairs(n, length):
        # About 1.4 tokens a word; the tokenizer cuts what is too long.
        third = max(8, int(length / 1.4 / 3))
        take = lambda i, k: " ".join(words[(i * 7919 + j) % len(words)] for j in range(k))
        return [{"prompt": take(3 * i, third), "chosen": take(3 * i + 1, 3 * third), "rejected": take(3 * i + 2, 3 * third)}
                for i in range(n)]

    for length, batch in args.cases:
        name = f"length {length}, batch {batch}"
        data = prepare(args.program, args.model, pairs(args.scaling_steps * batch, length), folder / f"d{length}-{batch}", length)
        found = ours(args.program, args.model, data, folder / f"r{length}-{batch}", batch, args.scaling_steps,
                     ["--precision", "bf16", "--latent", "lpc", *WHOLE])
        results[name] = found
        show(name, found)


def show(name, found):
    tokens = f"{found['tokens_per_s']:8.0f} tokens/s" if "tokens_per_s" in found else " " * 17
    print(f"{name:40} {found['pairs_per_s']:7.3f} pairs/s {tokens} {found['peak_mb']:7} MiB  {found['total_s']:7.1f} s in all",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--program", type=Path, default=Path("target/release/lpc-pipe"))
    parser.add_argument("--trl-script", type=Path)
    parser.add_argument("--trl-python", default=sys.executable)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--trl-count", type=int, default=16)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--scaling-steps", type=int, default=3)
    parser.add_argument("--cases", type=lambda s: [tuple(map(int, case.split("x"))) for case in s.split(",")],
                        default="128x1,256x1,512x1,1024x1,2048x1,256x2,256x4,256x8,256x16", help="LENGTHxBATCH,...")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--only", type=lambda s: s.split(","), default=["ours", "trl", "scaling"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    for path in ("model", "pairs", "program", "trl_script"):
        if getattr(args, path) is not None:
            setattr(args, path, getattr(args, path).absolute())
    results = {"machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
               "program": run([args.program, "--version"])[0].strip()}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if "ours" in args.only or "trl" in args.only:
            compare(args, folder, results)
        if "scaling" in args.only:
            scaling(args, folder, results)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

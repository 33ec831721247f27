#!/usr/bin/env python3
"""Time and peak memory of `lpc-pipe prepare` by number of rows and threads; whether the bytes stay the same.

    cargo build --release
    python3 benches/prepare_scale.py --tokenizer HF_FOLDER --work DIR
    python3 benches/prepare_scale.py --tokenizer HF_FOLDER --work DIR --rows 64000 --threads 1 2 4 --shards 4

Corpora are made by benches/prepare_corpus.py and kept in DIR/corpus-ROWS.jsonl (a million rows: 16 GB);
outputs are removed once they are compared. Peak memory is the larger of the system's own figure for the
process and of what was sampled. Arguments behind `--` go to every run: `-- --flip-rate 0.2`.

Needs numpy for the corpora, pyarrow for --shards.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys

from prepare_vs_hf import machine, measured

HERE = os.path.dirname(os.path.abspath(__file__))


def corpus(work, rows, seed):
    path = f"{work}/corpus-{rows}.jsonl"
    if not os.path.exists(path):
        maker = [sys.executable, f"{HERE}/prepare_corpus.py", "--rows", str(rows), "--seed", str(seed), "--out", path]
        subprocess.run(maker, check=True)
    with open(path, "rb") as file:  # into the page cache as far as it fits, for all alike
        for _ in iter(lambda: file.read(1 << 24), b""):
            pass
    return path


def digests(folder):
    """Of every data file of a prepared folder; the manifest holds times."""
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            if name.endswith((".parquet", ".arrow")):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, folder)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def row_digest(folders):
    """Of the rows of several prepared folders, one after the other: by file, their number and a hash."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hashes = {}
    for split in ("train", "test"):
        for kind in ("pairs", "tokens"):
            digest, rows = hashlib.sha256(), 0
            for folder in folders:
                if kind == "pairs":
                    batches = pq.ParquetFile(f"{folder}/pairs/{split}.parquet").iter_batches(4096)
                else:
                    reader = pa.ipc.open_file(pa.memory_map(f"{folder}/tokens/{split}.arrow"))
                    batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
                for batch in batches:
                    for row in batch.to_pylist():
                        digest.update(json.dumps(row, sort_keys=True).encode())
                        rows += 1
            hashes[f"{kind}/{split}"] = (rows, digest.hexdigest())
    return hashes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--work", required=True, help="folder for corpora and outputs")
    parser.add_argument("--binary", default="target/release/lpc-pipe")
    parser.add_argument("--rows", type=int, nargs="+", default=[64_000, 250_000, 1_000_000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shards", type=int, default=0, help="also make so many shards, merge them, and compare")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="", help="file for the numbers")
    parser.add_argument("extra", nargs="*", help="further arguments of prepare, behind --")
    args = parser.parse_args()

    os.makedirs(args.work, exist_ok=True)
    print(machine())
    print(f"{'rows':>10} {'threads':>8} {'wall s':>9} {'CPU s':>9} {'peak MiB':>9} {'rows/s':>10}  bytes")
    numbers, differ = [], False

    def prepare(source, out, *flags):
        shutil.rmtree(out, ignore_errors=True)
        command = [args.binary, "prepare", "--input", source, "--tokenizer", args.tokenizer, "--out", out, "--quiet"]
        return measured(command + list(flags) + args.extra, dict(os.environ, HF_HUB_OFFLINE="1"))

    for rows in args.rows:
        source, first = corpus(args.work, rows, args.seed), None
        whole = f"{args.work}/out-{rows}"
        for threads in args.threads:
            wall, cpu, peak = prepare(source, whole, "--threads", str(threads))
            found = digests(whole)
            first = first or found
            differ |= found != first
            told = "as before" if found == first else "DIFFERENT"
            print(f"{rows:10,} {threads:8} {wall:9.1f} {cpu:9.1f} {peak:9.0f} {rows / wall:10,.0f}  {told}", flush=True)
            numbers.append({"rows": rows, "threads": threads, "wall_s": wall, "cpu_s": cpu, "peak_mib": peak})
        if args.shards:
            parts = [f"{whole}-{i}" for i in range(1, args.shards + 1)]
            for i, part in enumerate(parts, 1):
                wall, cpu, peak = prepare(source, part, "--shard", f"{i}/{args.shards}")
                told = f"shard {i}/{args.shards}"
                print(f"{rows:10,} {'':8} {wall:9.1f} {cpu:9.1f} {peak:9.0f} {rows / wall:10,.0f}  {told}", flush=True)
            # In order, one after the other, their rows are those of the whole; merged, so are the bytes.
            in_order = row_digest([whole]) == row_digest(parts)
            merged = f"{whole}-merged"
            shutil.rmtree(merged, ignore_errors=True)
            command = [args.binary, "merge", *parts, "--out", merged, "--quiet"]
            wall, cpu, peak = measured(command, dict(os.environ))
            found = digests(merged)
            differ |= not in_order or found != first
            told = f"merged, {'as before' if found == first else 'DIFFERENT'}; rows {'in order' if in_order else 'DIFFER'}"
            print(f"{rows:10,} {'':8} {wall:9.1f} {cpu:9.1f} {peak:9.0f} {rows / wall:10,.0f}  {told}", flush=True)
            shutil.rmtree(merged)
            for part in parts:
                shutil.rmtree(part)
        shutil.rmtree(whole)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": machine(), "runs": numbers}, file, indent=2)
    if differ:
        sys.exit("error: outputs differ")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Raw preference rows to token batches: `lpc-pipe prepare` against datasets + transformers, on one file.

    cargo build --release
    python3 benches/prepare_corpus.py --rows 64000 --out corpus.jsonl
    python3 benches/prepare_vs_hf.py --input corpus.jsonl --tokenizer HF_FOLDER --binary target/release/lpc-pipe

Both read the same JSON lines, choose the best and the worst answer of each row, flip a fifth of the
labels, split off a tenth of the prompts, render the chat template, tokenize prompt and both responses,
cut by the same rule (src/tokenize/mod.rs), and write pairs as Parquet and tokens as Arrow. The ids are
then compared row by row.

The Python side is made as quick as its interfaces allow, and its best variant counts:

    procs     one batched `map` over as many processes as cores
    threads   one process, the tokenizer's own threads
    -trl      prompt, and prompt with each response, encoded whole, as TRL's trainers do it
    -tuned    prompt encoded once; of each response's text only what begins at the last special token

Wall time and CPU time are of the whole process tree, imports included; peak memory is the largest sum
of PSS over the tree (a page that several processes share counts once; pages of mapped files count).
`lpc-pipe` does besides: content ids, removal of duplicates, an order that does not depend on the
input's, BLAKE3 of all files, and fsync before each file appears.

Needs: datasets, transformers, numpy (tests/fixtures/parity/requirements.txt has the versions).
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time

MAX_LENGTH, MAX_PROMPT = 1024, 512
FLIP, TEST = 0.2, 0.1
VARIANTS = ["procs-trl", "procs-tuned", "threads-trl", "threads-tuned"]

# ---------------------------------------------------------------------------------- Python's side


def python_side(source, tokenizer_folder, out, variant, cores):
    """All of the work, in the way of the Python libraries; runs in a process of its own."""
    procs, tuned = variant.startswith("procs"), variant.endswith("tuned")
    import hashlib

    from datasets import Features, List, Value, load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>") if "<|im_end|>" in tokenizer.get_vocab() else tokenizer.eos_token_id
    text, number = Value("string"), Value("float64")
    messages, ids = List({"role": text, "content": text}), List(Value("int32"))
    features = Features(
        {"prompt_id": text, "source": text, "split": text, "prompt": messages, "chosen": messages, "rejected": messages}
        | {"score_chosen": number, "score_rejected": number, "margin": number}
        | {"chosen_model": text, "rejected_model": text, "flipped": Value("bool")}
        | {"prompt_ids": ids, "chosen_ids": ids, "rejected_ids": ids}
        | {"n_prompt": Value("int32"), "n_chosen": Value("int32"), "n_rejected": Value("int32"), "truncated": Value("bool")}
    )

    def encode(texts):
        return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]

    def share(digest, place):
        return int(digest[place : place + 8], 16) / 2**32

    def prepare(batch):
        out = {name: [] for name in features}
        for source, question, completions in zip(batch["source"], batch["instruction"], batch["completions"]):
            if source == "truthful_qa":
                continue
            scored = [c for c in completions if c["response"] and c["overall_score"] is not None]
            if len(scored) < 2:
                continue
            best = max(scored, key=lambda c: c["overall_score"])
            worst = min(scored, key=lambda c: c["overall_score"])
            if best["overall_score"] == worst["overall_score"] or best["response"] == worst["response"]:
                continue
            digest = hashlib.sha256(question.encode()).hexdigest()
            flipped = share(digest, 0) < FLIP
            chosen, rejected = (worst, best) if flipped else (best, worst)
            out["prompt_id"].append(digest)
            out["source"].append(source)
            out["split"].append("test" if share(digest, 8) < TEST else "train")
            out["prompt"].append([{"role": "user", "content": question}])
            out["chosen"].append([{"role": "assistant", "content": chosen["response"]}])
            out["rejected"].append([{"role": "assistant", "content": rejected["response"]}])
            out["score_chosen"].append(chosen["overall_score"])
            out["score_rejected"].append(rejected["overall_score"])
            out["margin"].append(chosen["overall_score"] - rejected["overall_score"])
            out["chosen_model"].append(chosen["model"])
            out["rejected_model"].append(rejected["model"])
            out["flipped"].append(flipped)
        if not out["prompt"]:
            return out
        render = tokenizer.apply_chat_template
        heads = render(out["prompt"], tokenize=False, add_generation_prompt=True)
        sides = [
            render([p + r for p, r in zip(out["prompt"], out[side])], tokenize=False) for side in ("chosen", "rejected")
        ]
        prompts = encode(heads)
        responses = [responses_of(heads, prompts, fulls) for fulls in sides]
        for prompt, chosen, rejected in zip(prompts, *responses):
            truncated = len(prompt) > MAX_PROMPT
            prompt = prompt[-MAX_PROMPT:]
            room = MAX_LENGTH - len(prompt)
            truncated = truncated or len(chosen) > room or len(rejected) > room
            chosen, rejected = chosen[:room], rejected[:room]
            out["prompt_ids"].append(prompt)
            out["chosen_ids"].append(chosen)
            out["rejected_ids"].append(rejected)
            out["n_prompt"].append(len(prompt))
            out["n_chosen"].append(len(chosen))
            out["n_rejected"].append(len(rejected))
            out["truncated"].append(truncated)
        return out

    header = "<|im_start|>assistant\n"
    n_header = len(encode([header])[0])

    def responses_of(heads, prompts, fulls):
        """Ids of the responses with their end of turn; a token across the boundary is split there."""
        if tuned and all(head.endswith(header) for head in heads):
            tails = encode([full[len(head) - len(header) :] for head, full in zip(heads, fulls)])
            begins, wanted = [n_header] * len(tails), [p[-n_header:] for p in prompts]
        else:
            tails = encode(fulls)
            begins, wanted = [len(p) for p in prompts], prompts
        found = []
        for head, full, tail, begin, want in zip(heads, fulls, tails, begins, wanted):
            ids = tail[begin:] if tail[:begin] == want else encode([full[len(head) :]])[0]
            last = len(ids) - 1 - ids[::-1].index(end)
            found.append(ids[: last + 1])
        return found

    data = load_dataset("json", data_files=source, split="train", cache_dir=f"{out}/cache")
    keep = data.select_columns(["source", "instruction", "completions"])
    done = keep.map(
        prepare,
        batched=True,
        batch_size=1000,
        num_proc=cores if procs else None,
        remove_columns=keep.column_names,
        features=features,
    )
    tokens = ["prompt_id", "prompt_ids", "chosen_ids", "rejected_ids", "n_prompt", "n_chosen", "n_rejected"]
    tokens += ["truncated", "flipped", "source"]
    pairs = [name for name in features if not name.endswith("_ids") and not name.startswith("n_")]
    for split in ("train", "test"):
        part = done.filter(lambda splits, split=split: [s == split for s in splits], batched=True, input_columns=["split"])
        part.select_columns(pairs).to_parquet(f"{out}/pairs/{split}.parquet")
        part.select_columns(tokens).save_to_disk(f"{out}/tokens/{split}")


# ------------------------------------------------------------------------------------- measuring


def tree(pid):
    """A process and its descendants."""
    found, open_ = [], [pid]
    while open_:
        pid = open_.pop()
        found.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    open_ += [int(child) for child in file.read().split()]
        except OSError:
            pass
    return found


def pss_kib(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def measured(command, env):
    """Wall seconds, CPU seconds and peak MiB of a command and all that it starts."""
    begin = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, over = [0], threading.Event()

    def watch():
        while not over.wait(0.1):
            peak[0] = max(peak[0], sum(map(pss_kib, tree(process.pid))))

    watcher, said = threading.Thread(target=watch), []
    reader = threading.Thread(target=lambda: said.append(process.stderr.read()))
    watcher.start()
    reader.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begin
    over.set()
    watcher.join()
    reader.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}\n{said[0].decode(errors='replace')[-4000:]}")
    # The largest single process is never above the tree, but a sample may miss its top.
    return wall, usage.ru_utime + usage.ru_stime, max(peak[0], usage.ru_maxrss) / 1024


# ------------------------------------------------------------------------------------- comparing


def our_rows(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in ("train", "test"):
        pairs = pq.read_table(f"{folder}/pairs/{split}.parquet").to_pylist()
        with pa.OSFile(f"{folder}/tokens/{split}.arrow") as file:
            tokens = {row["id"]: row for row in pa.ipc.open_file(file).read_all().to_pylist()}
        for pair in pairs:
            yield pair, tokens[pair["id"]]


def their_rows(folder):
    import datasets
    import pyarrow.parquet as pq

    for split in ("train", "test"):
        pairs = pq.read_table(f"{folder}/pairs/{split}.parquet").to_pylist()
        yield from zip(pairs, datasets.load_from_disk(f"{folder}/tokens/{split}"))


def by_clean_pair(rows):
    """(prompt, better text, worse text) -> ids of the three, and whether anything was cut."""
    found = {}
    for pair, token in rows:
        sides = ["rejected", "chosen"] if pair["flipped"] else ["chosen", "rejected"]
        key = (pair["prompt_id"], *(pair[side][0]["content"] for side in sides))
        found[key] = (token["prompt_ids"], *(token[f"{side}_ids"] for side in sides), token["truncated"])
    return found


def compare(ours, theirs):
    ours, theirs = by_clean_pair(our_rows(ours)), by_clean_pair(their_rows(theirs))
    same = [key for key in ours if key in theirs]
    # A prompt that is too long loses whole messages or lines here, and as many tokens as are too many there.
    cut = {key for key in same if len(theirs[key][0]) == MAX_PROMPT and theirs[key][3] and ours[key][3]}
    differ = [key for key in same if ours[key] != theirs[key] and key not in cut]
    print(f"\n{len(ours):,} pairs here, {len(theirs):,} there; {len(same):,} chose the same texts (ties are broken differently)")
    print(f"token ids and the mark of truncation agree on {len(same) - len(differ):,} of {len(same):,}")
    print(f"  of these, {len(cut):,} have a prompt that is too long, of which the mark alone is compared")
    for key in differ[:3]:
        print(f"  {key[0]}: lengths {[len(x) for x in ours[key][:3]]} and {[len(x) for x in theirs[key][:3]]}")
    if differ or not same:
        sys.exit("error: token ids differ" if differ else "error: no pair in common")


# ------------------------------------------------------------------------------------------ main


def machine():
    names = {}
    for path, key in (("/proc/cpuinfo", "model name"), ("/proc/meminfo", "MemTotal")):
        try:
            with open(path) as file:
                names[key] = next((line.split(":", 1)[1].strip() for line in file if line.startswith(key)), "?")
        except OSError:
            names[key] = "?"
    return f"{names['model name']}, {os.cpu_count()} cores, {names['MemTotal']}, {platform.system()} {platform.machine()}"


def main():
    if len(sys.argv) == 7 and sys.argv[1] == "--python-side":
        python_side(*sys.argv[2:6], int(sys.argv[6]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="raw rows, JSON lines (benches/prepare_corpus.py)")
    parser.add_argument("--tokenizer", required=True, help="Hugging Face folder with tokenizer.json and a ChatML template")
    parser.add_argument("--binary", default="target/release/lpc-pipe")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="processes there, threads here (default: all)")
    parser.add_argument("--variants", nargs="*", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; the quickest counts")
    parser.add_argument("--work", default="", help="folder for the outputs, removed at the end (default: a temporary one)")
    parser.add_argument("--json", default="", help="file for the numbers")
    args = parser.parse_args()

    if args.work:
        os.makedirs(args.work, exist_ok=True)
    work = tempfile.mkdtemp(prefix="prepare-vs-hf-", dir=args.work or None)
    with open(args.input, "rb") as file:  # into the page cache, for all alike
        rows = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 24), b""))
    env = dict(os.environ, HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", RAYON_NUM_THREADS=str(args.cores))
    results = {}

    def run(name, command, env, out):
        for _ in range(args.repeat):
            shutil.rmtree(out, ignore_errors=True)
            numbers = measured(command, env)
            results[name] = min(results.get(name, numbers), numbers)
        wall, cpu, peak = results[name]
        print(f"{name:16} {wall:9.1f} {cpu:9.1f} {peak:9.0f} {rows / wall:10,.0f}", flush=True)

    import datasets
    import tokenizers
    import transformers

    version = subprocess.run([args.binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    versions = f"datasets {datasets.__version__}, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"
    print(f"{machine()}\n{version}; Python {platform.python_version()}, {versions}")
    print(f"{args.input}: {rows:,} rows, {os.path.getsize(args.input) / 1e6:,.0f} MB; {args.cores} cores each\n")
    print(f"{'':16} {'wall s':>9} {'CPU s':>9} {'peak MiB':>9} {'rows/s':>10}")
    try:
        ours = f"{work}/ours"
        command = [args.binary, "prepare", "--input", args.input, "--tokenizer", args.tokenizer, "--out", ours]
        command += ["--pairs", "best-vs-worst", "--flip-rate", str(FLIP), "--test-fraction", str(TEST), "--quiet"]
        command += ["--max-length", str(MAX_LENGTH), "--max-prompt-length", str(MAX_PROMPT), "--threads", str(args.cores)]
        run("lpc-pipe", command, env, ours)
        if args.variants:
            imports = "import datasets, numpy, pyarrow, transformers; transformers.AutoTokenizer"
            run("(their imports)", [sys.executable, "-c", imports], env, f"{work}/none")
        for variant in args.variants:
            theirs = f"{work}/{variant}"
            parallel = "false" if variant.startswith("procs") else "true"
            command = [sys.executable, os.path.abspath(__file__), "--python-side"]
            command += [args.input, args.tokenizer, theirs, variant, str(args.cores)]
            run(variant, command, dict(env, TOKENIZERS_PARALLELISM=parallel, HF_HOME=f"{work}/home"), theirs)
        for variant in args.variants:
            compare(ours, f"{work}/{variant}")
        if args.variants:
            best = min(args.variants, key=lambda v: results[v][0])
            wall, cpu, peak = (a / b for a, b in zip(results[best], results["lpc-pipe"]))
            print(f"\nagainst {best}, the quickest there: {wall:.1f}x in wall time, {cpu:.1f}x in CPU time, {peak:.1f}x in memory")
        if args.json:
            numbers = {name: dict(zip(("wall_s", "cpu_s", "peak_mib"), values)) for name, values in results.items()}
            with open(args.json, "w") as file:
                json.dump({"rows": rows, "machine": machine(), "versions": [version, versions], "results": numbers}, file, indent=2)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()

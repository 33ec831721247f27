#!/usr/bin/env python3
"""Reads a prepared folder with the Python libraries that its users have, and trains on it with TRL.

    python3 scripts/readback.py PREPARED_FOLDER [--steps 2] [--no-trl]

Checked with `pyarrow`, `datasets`, `polars` and `pandas`, each where it is installed: every file loads,
types are the plain ones (`string`, `list`), rows and row counts are the manifest's, pairs and tokens
stand in the same order. Then TRL's DPOTrainer takes pairs/train.parquet as it is, with a small random
Llama and the folder's own tokenizer; its ids are compared with ours, and it trains for some steps.

What TRL does differently, and why that is no fault: its ids keep what the template writes behind the
end of turn (a newline in ChatML), it cuts prompt and response together at max_length, and where a token
would reach across the boundary of prompt and response it moves the boundary.

Needs what tests/fixtures/parity/requirements.txt lists, and `pip install polars pandas` for those two.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore", message=".*pin_memory.*")

SPLITS = ["train", "test"]
MESSAGES = [{"role": "string", "content": "string"}]
PAIRS = {
    **dict.fromkeys(["id", "prompt_id", "source", "split"], "string"),
    **dict.fromkeys(["prompt", "chosen", "rejected"], MESSAGES),
    **dict.fromkeys(["score_chosen", "score_rejected", "margin", "noise_p"], "double"),
    **dict.fromkeys(["chosen_model", "rejected_model", "pair_rule", "noise_kind"], "string"),
    "flipped": "bool",
}
TOKENS = {
    **dict.fromkeys(["prompt_ids", "chosen_ids", "rejected_ids"], ["uint32"]),
    **dict.fromkeys(["n_prompt", "n_chosen", "n_rejected"], "uint32"),
    **dict.fromkeys(["id", "source", "prompt_id", "noise_kind"], "string"),
    "noise_p": "double",
    **dict.fromkeys(["truncated", "flipped"], "bool"),
}
REJECTS = {"file": "string", "line": "uint64", **dict.fromkeys(["field", "reason", "detail"], "string")}

faults = []


def check(fine, message):
    if not fine:
        faults.append(message)
        print(f"  FAULT {message}")


def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def attempt(name, work, *args):
    """Does the work with a library where it is installed; what it throws is a fault of ours."""
    found = version(name)
    print(f"{name} {found}" if found else f"{name}: not installed, skipped")
    if not found:
        return None
    try:
        return work(*args)
    except Exception as error:
        check(False, f"{name}: {type(error).__name__}: {error}")
        return None


# ----------------------------------------------------------------------------------------- tables


def arrow_type(kind):
    import pyarrow as pa

    if kind == "string":
        return "string"
    if isinstance(kind, list):
        return [arrow_type(kind[0])]
    if isinstance(kind, dict):
        return {name: arrow_type(inner) for name, inner in kind.items()}
    return str(pa.type_for_alias(kind))


def shape(dtype):
    """An Arrow type as our tables write it; a view, a large list or a dictionary keeps its own name."""
    import pyarrow as pa

    if pa.types.is_list(dtype):
        return [shape(dtype.value_type)]
    if pa.types.is_struct(dtype):
        return {field.name: shape(field.type) for field in dtype}
    return str(dtype)


def check_schema(name, schema, wanted):
    found = {field.name: shape(field.type) for field in schema}
    for column, kind in wanted.items():
        expected = arrow_type(kind)
        check(found.get(column) == expected, f"{name}: {column} is {found.get(column)}, expected {expected}")


def with_pyarrow(folder, rows):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for split in SPLITS:
        pairs = pq.read_table(f"{folder}/pairs/{split}.parquet")
        with pa.memory_map(f"{folder}/tokens/{split}.arrow") as file:
            tokens = pa.ipc.open_file(file).read_all()
        check_schema(f"pairs/{split}", pairs.schema, PAIRS)
        check_schema(f"tokens/{split}", tokens.schema, TOKENS)
        check(pairs.num_rows == rows[f"pairs/{split}.parquet"], f"pairs/{split}: {pairs.num_rows} rows")
        check(tokens.num_rows == rows[f"tokens/{split}.arrow"], f"tokens/{split}: {tokens.num_rows} rows")
        check(pairs["id"].to_pylist() == tokens["id"].to_pylist(), f"{split}: pairs and tokens differ in their order")
        check(pairs["flipped"].to_pylist() == tokens["flipped"].to_pylist(), f"{split}: flips differ")
        for column in ("prompt", "chosen", "rejected"):
            lengths = pc.list_value_length(tokens[f"{column}_ids"]).cast("uint32")
            check(pc.all(pc.equal(lengths, tokens[f"n_{column}"])).as_py() in (True, None), f"{split}: n_{column}")
        # What users do with columns: kernels that have no implementation for every type.
        pc.unique(pairs["source"]), pc.sort_indices(pairs["id"]), pc.value_counts(pairs["pair_rule"])
        pairs.group_by("source").aggregate([("margin", "mean")])
    rejects = pq.read_table(f"{folder}/rejects.parquet")
    check_schema("rejects", rejects.schema, REJECTS)
    check(rejects.num_rows == rows["rejects.parquet"], f"rejects: {rejects.num_rows} rows")


def with_datasets(folder, rows, cache):
    import datasets

    files = {split: f"{folder}/pairs/{split}.parquet" for split in SPLITS if rows[f"pairs/{split}.parquet"]}
    pairs = datasets.load_dataset("parquet", data_files=files, cache_dir=cache)
    files = {split: f"{folder}/tokens/{split}.arrow" for split in files}
    tokens = datasets.load_dataset("arrow", data_files=files, cache_dir=cache)
    for split in files:
        check(pairs[split].num_rows == rows[f"pairs/{split}.parquet"], f"datasets: pairs/{split}: rows")
        check(tokens[split].num_rows == rows[f"tokens/{split}.arrow"], f"datasets: tokens/{split}: rows")
        features = pairs[split].features
        text = datasets.Value("string")
        check(features["id"] == text, f"datasets: id is {features['id']}")
        plain = datasets.List({"role": text, "content": text})
        check(features["prompt"] == plain, f"datasets: prompt is {features['prompt']}")
        ids = tokens[split].features["prompt_ids"]
        check(ids == datasets.List(datasets.Value("uint32")), f"datasets: prompt_ids is {ids}")
        # A set of the same layout from elsewhere, which has plain strings and lists, joins it.
        other = datasets.Dataset.from_dict({c: pairs[split][:1][c] for c in ("prompt", "chosen", "rejected")})
        joined = datasets.concatenate_datasets([pairs[split].select_columns(other.column_names), other])
        check(joined.num_rows == pairs[split].num_rows + 1, "datasets: joined")
        first = pairs[split].sort("id").filter(lambda row: len(row["prompt"]) > 0)[0]
        check(set(first["prompt"][0]) == {"role", "content"}, f"datasets: a message is {first['prompt'][0]}")
        tokens[split].with_format("torch" if version("torch") else "numpy")[0]["prompt_ids"]
    return pairs["train"]


def with_polars(folder, rows):
    import polars as pl

    for split in SPLITS:
        pairs = pl.read_parquet(f"{folder}/pairs/{split}.parquet")
        tokens = pl.read_ipc(f"{folder}/tokens/{split}.arrow")
        check(pairs.height == rows[f"pairs/{split}.parquet"], f"polars: pairs/{split}: {pairs.height} rows")
        check(tokens.height == rows[f"tokens/{split}.arrow"], f"polars: tokens/{split}: {tokens.height} rows")
        message = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
        for column in ("prompt", "chosen", "rejected"):
            check(pairs.schema[column] == message, f"polars: {column} is {pairs.schema[column]}")
            ids = tokens.schema[f"{column}_ids"]
            check(ids == pl.List(pl.UInt32), f"polars: {column}_ids is {ids}")
            lengths = tokens[f"{column}_ids"].list.len()
            check((lengths == tokens[f"n_{column}"]).all(), f"polars: n_{column}")
        lazy = pl.scan_parquet(f"{folder}/pairs/{split}.parquet").filter(pl.col("flipped")).select(pl.len()).collect()
        check(lazy.item() == pairs["flipped"].sum(), "polars: a lazy count differs")
    pl.read_parquet(f"{folder}/rejects.parquet")


def with_pandas(folder, rows):
    import pandas as pd

    for split in SPLITS:
        pairs = pd.read_parquet(f"{folder}/pairs/{split}.parquet")
        tokens = pd.read_feather(f"{folder}/tokens/{split}.arrow")
        check(len(pairs) == rows[f"pairs/{split}.parquet"], f"pandas: pairs/{split}: {len(pairs)} rows")
        check(len(tokens) == rows[f"tokens/{split}.arrow"], f"pandas: tokens/{split}: {len(tokens)} rows")
        joined = pairs.merge(tokens, on="id", suffixes=("", "_token"))
        check(len(joined) == len(pairs), f"pandas: {split}: {len(joined)} rows joined by id")
        pairs.groupby("source")["margin"].mean()


# -------------------------------------------------------------------------------------------- TRL


def with_trl(folder, train, steps):
    import pyarrow as pa
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed
    from transformers.utils import logging
    from trl import DPOConfig, DPOTrainer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/tokenizer")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with tempfile.TemporaryDirectory() as out:
        # The trainer opens a second copy, as the reference model.
        LlamaForCausalLM(config).save_pretrained(f"{out}/model")
        arguments = DPOConfig(
            output_dir=out,
            max_steps=steps,
            per_device_train_batch_size=2,
            max_length=None,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            bf16=False,
        )
        trainer = DPOTrainer(model=f"{out}/model", args=arguments, train_dataset=train, processing_class=tokenizer)
        theirs = trainer.train_dataset
        with pa.memory_map(f"{folder}/tokens/train.arrow") as file:
            ours = pa.ipc.open_file(file).read_all().to_pylist()
        check(len(theirs) == len(ours), f"TRL kept {len(theirs)} of {len(ours)} pairs")
        compare_ids(ours, theirs, tokenizer)
        result = trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"  trained {result.global_step} steps on the CPU, losses {losses}")
    check(result.global_step == steps and all(torch.isfinite(torch.tensor(losses))), "TRL did not train")


def compare_ids(ours, theirs, tokenizer):
    """Counts how TRL's ids stand to ours, and shows the first of each difference that has no known reason."""
    seen = {"equal": 0, "equal but for what follows the end of turn": 0, "cut by us": 0, "boundary moved by TRL": 0}
    other = []
    for mine, their in zip(ours, theirs):
        if mine["id"] != their["id"]:
            check(False, f"TRL: rows are in another order at {mine['id']}")
            return
        if mine["truncated"]:
            seen["cut by us"] += 1
            continue
        sides = [(mine[f"{side}_ids"], list(their[f"{side}_ids"])) for side in ("prompt", "chosen", "rejected")]
        if all(a == b for a, b in sides):
            seen["equal"] += 1
        elif sides[0][0] == sides[0][1] and all(b[: len(a)] == a and follows(b[len(a) :], tokenizer) for a, b in sides[1:]):
            seen["equal but for what follows the end of turn"] += 1
        elif len(sides[0][1]) < len(sides[0][0]):
            seen["boundary moved by TRL"] += 1
        else:
            other.append((mine["id"], sides))
    for what, n in seen.items():
        print(f"  ids of {n} of {len(ours)} pairs: {what}")
    for identity, sides in other[:3]:
        for name, (mine, their) in zip(("prompt", "chosen", "rejected"), sides):
            if mine != their:
                at = next((i for i, (a, b) in enumerate(zip(mine, their)) if a != b), min(len(mine), len(their)))
                ends = [tokenizer.decode(ids[max(0, at - 3) : at + 5]) for ids in (mine, their)]
                print(f"  {identity}: {name} differs at {at}: {ends[0]!r} here, {ends[1]!r} there")
    check(not other, f"TRL: ids of {len(other)} pairs differ without a known reason")


def follows(ids, tokenizer):
    """Whether ids may stand behind the end of turn: blanks, as templates write them."""
    return tokenizer.decode(ids).strip() == ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a folder that `lpc-pipe prepare` wrote")
    parser.add_argument("--steps", type=int, default=2, help="steps of DPO")
    parser.add_argument("--no-trl", action="store_true", help="tables only")
    args = parser.parse_args()
    with open(f"{args.folder}/manifest.json", encoding="utf-8") as file:
        manifest = json.load(file)
    rows = {output["path"]: output.get("rows") for output in manifest["outputs"]}
    print(f"{args.folder}: {manifest['tool']}, {rows['pairs/train.parquet']} + {rows['pairs/test.parquet']} pairs")
    with tempfile.TemporaryDirectory() as cache:
        attempt("pyarrow", with_pyarrow, args.folder, rows)
        train = attempt("datasets", with_datasets, args.folder, rows, cache)
        attempt("polars", with_polars, args.folder, rows)
        attempt("pandas", with_pandas, args.folder, rows)
        if not args.no_trl and train is not None:
            attempt("trl", with_trl, args.folder, train, args.steps)
    if faults:
        sys.exit(f"error: {len(faults)} faults")
    print("all fine")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Exchanges adapters and models with Python's PEFT and transformers, and compares every pair's log-probabilities.

    python3 scripts/peft_readback.py --program target/release/lpc-pipe [--work FOLDER]

1. An adapter that lpc-pipe trained, over a Hugging Face folder that it wrote: loaded by PEFT (by its own name of the
   base, and over a base at hand), merged by PEFT, and as `export` writes it.
2. Adapters that PEFT wrote, of several shapes: scored by lpc-pipe, and trained on with a learning rate of 0.
3. Features of PEFT that lpc-pipe does not know: refused by name.
4. A model of which the head alone was trained, and weights in several files: loaded by transformers.

Numbers are summed log-probabilities of responses, in nats; `per token` is their difference over the response's length.
Needs what tests/fixtures/parity/requirements.txt lists, and pyarrow.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore")

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()

PER_TOKEN = 1e-5
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
faults = []


def check(fine, message):
    if not fine:
        faults.append(message)
        print(f"  FAULT {message}")


class Ground:
    def __init__(self, program, work):
        self.program, self.work = program, work
        self.run("synth --out raw --rows 60 --factors 3")
        self.run("prepare --input raw --out data --test-fraction 0.25")
        # Weights far from their start, so that nothing is flat.
        self.run("train --data data --model tiny:128x3 --latent none --out base --max-steps 12 --batch 8 --lr 1e-2")
        self.base = str(work / "base/model")
        rows = []
        for split in ["train", "test"]:
            with pa.memory_map(str(work / f"data/tokens/{split}.arrow")) as source:
                rows += pa.ipc.open_file(source).read_all().to_pylist()
        self.rows = rows

    def run(self, line, code=0):
        done = subprocess.run([self.program, *line.split()], cwd=self.work, capture_output=True, text=True)
        if done.returncode != code:
            sys.exit(f"lpc-pipe {line}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stderr

    def score(self, model):
        self.run(f"score --data data --model {model} --out score.parquet")
        return self.table("score.parquet")

    def table(self, name):
        columns = pq.read_table(self.work / name, columns=["id", "logps_chosen", "logps_rejected"]).to_pylist()
        assert [c["id"] for c in columns] == [r["id"] for r in self.rows]
        return [(c["logps_chosen"], c["logps_rejected"]) for c in columns]

    def python(self, model):
        model.eval()
        out = []
        for row in self.rows:
            sides = []
            for side in ["chosen", "rejected"]:
                prompt, response = row["prompt_ids"], row[f"{side}_ids"]
                ids = torch.tensor([prompt + response])
                with torch.no_grad():
                    logps = torch.log_softmax(model(ids).logits[0].float(), -1)
                places = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
                sides.append(float(logps[places, torch.tensor(response)].double().sum()))
            out.append(tuple(sides))
        return out

    def compare(self, what, ours, theirs):
        most = total = 0.0
        for row, a, b in zip(self.rows, ours, theirs, strict=True):
            for x, y, n in zip(a, b, [row["n_chosen"], row["n_rejected"]], strict=True):
                most, total = max(most, abs(x - y) / n), max(total, abs(x - y))
        print(f"  {what}: {len(ours)} pairs, largest difference {total:.1e} nats, per token {most:.1e}")
        check(most < PER_TOKEN, f"{what}: {most:.1e} per token")


def differ(a, b):
    return max(abs(x - y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def ours_to_python(g):
    print("adapters of lpc-pipe in PEFT")
    g.run(
        "train --data data --model base/model --latent none --out lora --tune lora --lora-rank 4 --max-steps 8"
        " --batch 8 --lr 1e-2"
    )
    ours, base = g.table("lora/posteriors.parquet"), g.python(load(g.base))
    print(f"  the adapter moves log-probabilities by up to {differ(ours, base):.2f} nats")
    check(differ(ours, base) > 0.1, "the adapter does nothing")
    adapter = g.work / "lora/model"
    model = AutoPeftModelForCausalLM.from_pretrained(adapter)
    g.compare("trained, loaded by its own base", ours, g.python(model))
    g.compare("merged by lpc-pipe score", g.score("lora/model"), g.python(model))
    over = PeftModel.from_pretrained(load(g.base), adapter)
    g.compare("over a base at hand", ours, g.python(over))
    g.compare("merged by PEFT", ours, g.python(over.merge_and_unload()))
    check(len(AutoTokenizer.from_pretrained(adapter)) > 0, "no tokenizer beside the adapter")
    g.run("export --run lora --out hf --as hf")
    g.compare("export --as hf, in transformers", ours, g.python(load(g.work / "hf")))
    check(len(AutoTokenizer.from_pretrained(g.work / "hf")) > 0, "no tokenizer in the export")
    g.run("export --run lora --out peft --as peft")
    g.compare("export --as peft", ours, g.python(AutoPeftModelForCausalLM.from_pretrained(g.work / "peft")))
    g.run("export --run lora --out cut --as hf --set export.shard_mb=1")
    files = sorted(p.name for p in (g.work / "cut").glob("model*"))
    check(len(files) > 2, f"not cut: {files}")
    g.compare(f"export in {len(files) - 1} files and an index", ours, g.python(load(g.work / "cut")))
    # A base that has no name stands beside the adapter.
    g.run(
        "train --data data --model tiny:64x2 --latent none --out seeded --tune lora --max-steps 4 --batch 8 --lr 1e-2"
    )
    model = AutoPeftModelForCausalLM.from_pretrained(g.work / "seeded/model")
    g.compare("over a base made from the seed", g.table("seeded/posteriors.parquet"), g.python(model))
    # The latent part stands beside, and PEFT passes it by.
    g.run("train --data data --model base/model --out coded --tune lora --max-steps 4 --batch 8 --lr 1e-2 --codes 3 --set train.lpc.warmup=0")
    PeftModel.from_pretrained(load(g.base), g.work / "coded/model")


def filled(g, **options):
    model = get_peft_model(load(g.base), LoraConfig(task_type="CAUSAL_LM", **options))
    for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def python_to_ours(g):
    print("adapters of PEFT in lpc-pipe")
    torch.manual_seed(3)
    shapes = {
        "q-v": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        "all-linear": {"r": 4, "lora_alpha": 3, "target_modules": "all-linear", "lora_dropout": 0.1},
        "rslora": {"r": 4, "lora_alpha": 8, "target_modules": ALL, "use_rslora": True},
        "one-layer": {"r": 4, "lora_alpha": 8, "target_modules": ["o_proj"], "layers_to_transform": [1]},
        "regex": {"r": 2, "lora_alpha": 8, "target_modules": r".*\.mlp\.(up|down)_proj"},
    }
    base = g.python(load(g.base))
    for name, options in shapes.items():
        model = filled(g, **options)
        folder = g.work / f"python-{name}"
        model.save_pretrained(folder)
        theirs = g.python(model)
        check(differ(theirs, base) > 0.01, f"{name}: the adapter does nothing")
        g.compare(f"{name}, scored", g.score(folder.name), theirs)
        again = f"again-{name}"
        g.run(
            f"train --data data --model {folder.name} --latent none --out {again} --tune lora --max-steps 2"
            " --set train.lr=0.0"
        )
        model = AutoPeftModelForCausalLM.from_pretrained(g.work / again / "model")
        g.compare(f"{name}, trained on and back in PEFT", theirs, g.python(model))


def refused(g):
    print("features of PEFT that are refused")
    for key, options in {
        "use_dora": {"use_dora": True},
        "modules_to_save": {"modules_to_save": ["lm_head"]},
        "bias": {"bias": "lora_only"},
        "rank_pattern": {"rank_pattern": {"v_proj": 2}},
        "alpha_pattern": {"alpha_pattern": {"v_proj": 2}},
    }.items():
        folder = g.work / f"refused-{key}"
        filled(g, r=4, target_modules=["q_proj", "v_proj"], **options).save_pretrained(folder)
        said = g.run(f"score --data data --model {folder.name} --out x.parquet", code=3)
        print(f"  {said.splitlines()[0]}")
        check(f"`{key}`" in said, f"{key}: {said}")


def heads(g):
    print("a head of its own in transformers")
    g.run("train --data data --model base/model --latent none --out head --tune head --max-steps 6 --batch 8 --lr 1e-2")
    config = json.loads((g.work / "head/model/config.json").read_text())
    check(config["tie_word_embeddings"] is False, "the head is tied")
    model = load(g.work / "head/model")
    g.compare("--tune head", g.table("head/posteriors.parquet"), g.python(model))
    tied = model.get_input_embeddings().weight.equal(model.get_output_embeddings().weight)
    check(not tied, "the head is still the embedding")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", required=True)
    arguments.add_argument("--work")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(given.work or scratch).resolve()
        work.mkdir(parents=True, exist_ok=True)
        g = Ground(str(pathlib.Path(given.program).resolve()), work)
        for part in [ours_to_python, python_to_ours, refused, heads]:
            part(g)
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

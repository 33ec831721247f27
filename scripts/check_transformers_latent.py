#!/usr/bin/env python3
"""Holds the exported latent part against lpc-pipe: log-probabilities of responses, with real transformers.

usage: check_transformers_latent.py EXPORT DATA SCORES [ROWS=40 [PROGRAM]]

EXPORT is a folder of `lpc-pipe export --as hf` of a run with a latent, DATA the prepared folder, SCORES the file of `lpc-pipe score
--model EXPORT --data DATA`. For ROWS rows of the test split the sum of log-probabilities of both responses is computed by
transformers with the bias of EXPORT/lpc_transformers.py added to the logits, in batches with padding on the left. Prints the largest
difference, and the largest effect of the bias, without which nothing would have been shown. With PROGRAM, an lpc-pipe, ten prompts of the
test split are answered by `PROGRAM generate` and by transformers' own `generate` with the logits processor, greedily, 64 tokens, in one
batch, with the prior's codes and with code 0 alone: the texts must be equal. Ends with 1 where one differs, or above 2e-3
nats. Needs torch, transformers, safetensors and pyarrow.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.ipc
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BOUND = 2e-3


def answers(export, data, model, latent, program):
    """How many of the answers differ."""
    tokenizer = AutoTokenizer.from_pretrained(export, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = pq.read_table(data / "pairs/test.parquet").column("prompt").to_pylist()
    asked = list(dict.fromkeys(p[-1]["content"] if isinstance(p, list) else p for p in prompts))[:10]
    chats = [[{"role": "user", "content": text}] for text in asked]
    inputs = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True)
    inputs = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask")}
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked))
        for code in (None, 0) if latent.codes else (None,):
            out = Path(folder) / f"answers-{code}.jsonl"
            command = [program, "generate", "--model", str(export), "--prompts", str(file), "--out", str(out), "--quiet"]
            command += ["--max-new-tokens", "64", *([] if code is None else ["--code", str(code)])]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            ours = [json.loads(line)["output"] for line in out.read_text().splitlines()]
            with torch.no_grad():
                tokens = model.generate(
                    **inputs,
                    max_new_tokens=64,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                    logits_processor=[latent.processor(**inputs, code=code)],
                )
            theirs = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            differ = sum(a.strip() != b.strip() for a, b in zip(ours, theirs, strict=True))
            print(f"{'prior' if code is None else f'code {code}'}: {len(ours) - differ} of {len(ours)} greedy answers are equal; {ours[0][:60]!r}")
            found += differ
    return found


def main():
    if len(sys.argv) not in (4, 5, 6):
        sys.exit(__doc__)
    export, data, scores = map(Path, sys.argv[1:4])
    most = int(sys.argv[4]) if len(sys.argv) > 4 else 40
    sys.path.insert(0, str(export))
    from lpc_transformers import LatentPart

    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    latent = LatentPart(export, model)
    table = pyarrow.ipc.open_file(data / "tokens/test.arrow").read_all().slice(0, most).to_pydict()
    found = pq.read_table(scores).to_pydict()
    wanted = {i: (c, r) for i, c, r in zip(found["id"], found["logps_chosen"], found["logps_rejected"])}
    width = max(map(len, table["prompt_ids"]))
    prompts = torch.zeros(len(table["id"]), width, dtype=torch.long)
    mask = torch.zeros_like(prompts)
    for i, ids in enumerate(table["prompt_ids"]):
        prompts[i, width - len(ids) :] = torch.tensor(ids)
        mask[i, width - len(ids) :] = 1
    biases = latent.bias(prompts, mask)
    farthest = effect = 0.0
    for i, row in enumerate(table["id"]):
        for side, ids in enumerate((table["chosen_ids"][i], table["rejected_ids"][i])):
            tokens = torch.tensor([table["prompt_ids"][i] + ids])
            with torch.no_grad():
                logits = model(tokens).logits[0, len(table["prompt_ids"][i]) - 1 : -1]
            at = torch.arange(len(ids)), torch.tensor(ids)
            plain = torch.log_softmax(logits, -1)[at].sum().item()
            biased = torch.log_softmax(logits + biases[i], -1)[at].sum().item()
            farthest = max(farthest, abs(biased - wanted[row][side]))
            effect = max(effect, abs(biased - plain))
    print(f"{len(table['id'])} rows: largest difference {farthest:.2e} nats; the bias changes up to {effect:.2f} nats")
    different = answers(export, data, model, latent, sys.argv[5]) if len(sys.argv) == 6 else 0
    sys.exit(0 if farthest <= BOUND and effect > 10 * BOUND and different == 0 else 1)


if __name__ == "__main__":
    main()

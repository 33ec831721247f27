#!/usr/bin/env python3
"""Holds the exported latent part against lpc-pipe: log-probabilities of responses, with real transformers.

usage: check_transformers_latent.py EXPORT DATA SCORES [ROWS=40]

EXPORT is a folder of `lpc-pipe export --as hf` of a run with a latent, DATA the prepared folder, SCORES the file of `lpc-pipe score
--model EXPORT --data DATA`. For ROWS rows of the test split the sum of log-probabilities of both responses is computed by
transformers with the bias of EXPORT/lpc_transformers.py added to the logits, in batches with padding on the left. Prints the largest
difference, and the largest effect of the bias, without which nothing would have been shown. Ends with 1 above 2e-3 nats. Needs torch,
transformers, safetensors and pyarrow.
"""

import sys
from pathlib import Path

import pyarrow.ipc
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM

BOUND = 2e-3


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    export, data, scores = map(Path, sys.argv[1:4])
    most = int(sys.argv[4]) if len(sys.argv) == 5 else 40
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
    sys.exit(0 if farthest <= BOUND and effect > 10 * BOUND else 1)


if __name__ == "__main__":
    main()

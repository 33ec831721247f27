#!/usr/bin/env python3
"""What one bias on the vocabulary can tell of each planted preference over real texts (`lpc-pipe synth --over`).

usage: text_ceiling.py DATA MODEL CORPUS [CODE_TOKENS=4096]

Each preference gets a bias of its own, fitted to the training pairs that show it and no others: so this is the most that
codes with a perfect prior could reach, by three measures of a response y under a bias b:

  counts   sum_v b_v count_v(y), a bag-of-words reward
  surprise sum_v b_v (count_v(y) - expected_v(y)), with the counts that the model expected: the slope of the next at b = 0
  ratio    ln p_b(y) - ln p(y), the log-ratio that DPO trains, at beta 0.1 and 1

DATA holds the hidden states that `train --tune latent` kept (with CODE_TOKENS as its train.lpc.code_tokens), MODEL is the
`.gguf` file or the safetensors file of its output layer or tied embeddings, CORPUS the folder of `synth`. The weight of
the squared bias is chosen on every fifth training pair. Prints accuracies on the test pairs that show the preference.
Needs numpy, pyarrow, torch, safetensors, and gguf for such a file.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.ipc
import pyarrow.parquet as pq
import torch
from safetensors import safe_open

RATIO_TOKENS = 1024
PENALTIES = (1e-3, 1e-2, 3e-2)
STEPS = 80


def output_layer(path):
    """(V,H), as numbers."""
    if path.endswith(".gguf"):
        from gguf import GGUFReader, dequantize

        tensors = {t.name: t for t in GGUFReader(path).tensors}
        found = tensors.get("output.weight", tensors["token_embd.weight"])
        return torch.tensor(np.array(dequantize(found.data, found.tensor_type)))
    with safe_open(path, "pt") as file:
        names = file.keys()
        return file.get_tensor("lm_head.weight" if "lm_head.weight" in names else "model.embed_tokens.weight").float()


class Pairs:
    """Pairs of one split: where their hidden states begin, and what their prompts ask for."""

    def __init__(self, data, split, first, truth):
        table = pyarrow.ipc.open_file(data / f"tokens/{split}.arrow").read_all().to_pydict()
        self.chosen, self.rejected = table["chosen_ids"], table["rejected_ids"]
        lengths = [1 + len(c) + len(r) for c, r in zip(self.chosen, self.rejected)]
        self.first = first + np.concatenate([[0], np.cumsum(lengths)])
        self.shown, self.preference = (np.array([truth[p][i] for p in table["prompt_id"]]) for i in (0, 1))


class Features:
    """Counts, expected counts and probabilities of the tokens that take biases."""

    def __init__(self, states, weights, column_of, some):
        self.states, self.weights, self.column_of, self.some = states, weights, column_of, some

    def of(self, pairs, rows):
        width = len(self.weights)
        counts, surprise = torch.zeros(len(rows), width), torch.zeros(len(rows), width)
        probabilities, owner, sign = [], [], []
        for i, row in enumerate(rows):
            chosen, rejected = pairs.chosen[row], pairs.rejected[row]
            kept = self.states[pairs.first[row] : pairs.first[row + 1]]
            logits = kept[:, :-2] @ self.weights.T
            # Row 0 is the prompt's last token, which predicts the first token of both; the two numbers behind the
            # state of token t are the log-sum-exp of all other logits where t was predicted, and the logit of t.
            split, end = 1 + len(chosen), 1 + len(chosen) + len(rejected)
            for ids, before, at, side in (
                (chosen, list(range(split - 1)), range(1, split), 1.0),
                (rejected, [0, *range(split, end - 1)], range(split, end), -1.0),
            ):
                found = logits[before]
                total = torch.logaddexp(torch.logsumexp(found, -1), kept[list(at), -2])
                p = (found - total[:, None]).exp()
                columns = self.column_of[np.array(ids)]
                one = torch.zeros(width)
                one.index_add_(0, torch.tensor(columns[columns >= 0]), torch.ones(int((columns >= 0).sum())))
                counts[i] += side * one
                surprise[i] += side * (one - p.sum(0))
                probabilities.append(p[:, self.some])
                owner += [i] * len(ids)
                sign += [side] * len(ids)
        return counts, surprise, (torch.cat(probabilities), torch.tensor(owner), torch.tensor(sign))

    def ratio(self, bias, counts, parts):
        p, owner, sign = parts
        normaliser = torch.log1p(p @ torch.expm1(bias)) * sign
        return counts[:, self.some] @ bias - torch.zeros(len(counts)).index_add_(0, owner, normaliser)


def fit(margin, width, penalty, beta, take):
    """The bias that the pairs in `take` want."""
    # The larger beta, the smaller the biases that give the same reward.
    bias, rate = torch.zeros(width, requires_grad=True), min(0.1, 0.02 / beta)
    optimizer = torch.optim.Adam([bias], lr=rate)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / STEPS)
        loss = -torch.nn.functional.logsigmoid(beta * margin(bias)[take]).mean() + penalty * (beta * bias).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return bias.detach()


def right(margins):
    return (margins > 0).double().mean().item()


def best(margin, held_out, width, beta):
    """Test accuracy at the penalty that a fifth of the training pairs chose."""
    with torch.no_grad():
        n = len(margin(torch.zeros(width)))
    check = torch.arange(n) % 5 == 0
    chosen = max(PENALTIES, key=lambda x: right(margin(fit(margin, width, x, beta, ~check))[check]))
    return right(held_out(fit(margin, width, chosen, beta, torch.ones(n, dtype=torch.bool))))


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    data, model, corpus = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    most = int(sys.argv[4]) if len(sys.argv) == 5 else 4096
    found = pq.read_table(corpus / "truth/truth.parquet").to_pydict()
    truth = dict(zip(found["prompt_id"], zip(found["shown"], found["preference"])))
    names = json.loads((corpus / "manifest.json").read_text())["facts"]["preferences"]
    train = Pairs(data, "train", 0, truth)
    test = Pairs(data, "test", train.first[-1], truth)
    head = output_layer(model)
    kept = [p for p in sorted(data.glob("hidden/*.safetensors"))]
    if len(kept) != 1:
        sys.exit(f"{data}/hidden: expected one file of hidden states, found {len(kept)}")
    with safe_open(kept[0], "pt") as file:
        states = file.get_tensor("hidden_states")
    if states.shape != (test.first[-1], head.shape[1] + 2):
        sys.exit(f"{kept[0]}: {tuple(states.shape)} is not {(int(test.first[-1]), head.shape[1] + 2)}")
    texts = np.zeros(len(head), int)
    for ids in (*train.chosen, *train.rejected):
        texts[np.unique(ids)] += 1
    common = np.lexsort((np.arange(len(head)), -texts))[:most]
    tokens = np.sort(common[texts[common] > 0])
    column_of = np.full(len(head), -1)
    column_of[tokens] = np.arange(len(tokens))
    some = torch.tensor(np.sort(column_of[common[:RATIO_TOKENS]]))
    features = Features(states, head[torch.tensor(tokens)], column_of, some)
    print("| preference | pairs (train / test) | counts | surprise | ratio, beta 0.1 | ratio, beta 1 |\n|---|---|---|---|---|---|")
    total = np.zeros(5)
    for preference, name in enumerate(names):
        rows = [np.flatnonzero((x.preference == preference) & x.shown) for x in (train, test)]
        (counts, surprise, parts), (test_counts, test_surprise, test_parts) = (
            features.of(x, at) for x, at in zip((train, test), rows)
        )
        width = counts.shape[1]
        scores = [
            best(lambda b: counts @ b, lambda b: test_counts @ b, width, 1.0),
            best(lambda b: surprise @ b, lambda b: test_surprise @ b, width, 1.0),
        ]
        for beta in (0.1, 1.0):
            scores.append(
                best(
                    lambda b: features.ratio(b, counts, parts),
                    lambda b: features.ratio(b, test_counts, test_parts),
                    len(some),
                    beta,
                )
            )
        total += np.array([*scores, 1.0]) * len(rows[1])
        print(f"| {name} | {len(rows[0])} / {len(rows[1])} | " + " | ".join(f"{x:.2f}" for x in scores) + " |", flush=True)
    print(f"| all | | " + " | ".join(f"{x:.2f}" for x in total[:4] / total[4]) + " |")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The table of scripts/study.sh: accuracy, NMI of the prior's code, and paired differences, from its run folders.

usage: study_table.py OUT [BASELINE=dpo]

Accuracy is over test pairs against the clean labels, with the prior's z. Means over seeds have Student's 95 % interval, from
three seeds on. Differences are paired: the pairs of each seed are drawn again 2,000 times (bootstrap), seeds kept. Needs
numpy and pyarrow.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

# Two-sided 95 % quantiles of Student's t by degrees of freedom.
T = dict(enumerate([4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086], 2))
DRAWS = 2000


def nmi(a, b):
    a, b = (np.unique(x, return_inverse=True)[1] for x in (a, b))
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    rows, columns = joint.sum(1), joint.sum(0)
    entropy = lambda p: -(p[p > 0] * np.log(p[p > 0])).sum()
    information = entropy(rows) + entropy(columns) - entropy(joint.ravel())
    mean = (entropy(rows) + entropy(columns)) / 2
    return information / mean if mean > 0 else 0.0


def read(folder, seed, corpora):
    """Per test pair: right or wrong, the prior's code, and the truth of its prompt."""
    table = pq.read_table(folder / "posteriors.parquet").to_pydict()
    truth = corpora.setdefault(seed, None)
    if truth is None:
        found = pq.read_table(folder.parent / f"corpus-{seed}/truth/truth.parquet").to_pydict()
        truth = corpora[seed] = dict(zip(found["prompt_id"], zip(found["shown"], found["preference"])))
    test = [i for i, split in enumerate(table["split"]) if split == "test"]
    margin = np.array([-table["margin"][i] if table["flipped"][i] else table["margin"][i] for i in test])
    known = [truth[table["prompt_id"][i]] for i in test]
    return {
        "right": margin > 0,
        "shown": np.array([k[0] for k in known]),
        "preference": np.array([k[1] for k in known]),
        "code": np.array([table["prior_code"][i] for i in test]),
    }


def interval(values):
    mean = np.mean(values)
    if len(values) < 3:
        return f"{mean:.3f}"
    half = T[len(values) - 1] * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    out, baseline = Path(sys.argv[1]), (sys.argv[2:] or ["dpo"])[0]
    runs, corpora = {}, {}
    for found in sorted(out.glob("*-[0-9]*/posteriors.parquet")):
        name, seed = found.parent.name.rsplit("-", 1)
        if name != "sft":
            runs.setdefault(name, {})[int(seed)] = read(found.parent, int(seed), corpora)
    rng = np.random.default_rng(0)
    print(f"| run | seeds | accuracy | shown | hidden | NMI shown, least to most | minus {baseline}, points |")
    print("|---|---|---|---|---|---|---|")
    for name, seeds in runs.items():
        part = lambda rows: [r["right"][rows(r)].mean() for r in seeds.values()]
        codes = [nmi(r["code"][r["shown"]], r["preference"][r["shown"]]) for r in seeds.values()]
        both = [s for s in seeds if s in runs.get(baseline, {})]
        difference = ""
        if name != baseline and both:
            apart = [seeds[s]["right"].astype(float) - runs[baseline][s]["right"] for s in both]
            means = [np.mean([d[rng.integers(len(d), size=len(d))].mean() for d in apart]) for _ in range(DRAWS)]
            low, high = np.percentile(means, [2.5, 97.5])
            mean = np.mean([d.mean() for d in apart])
            difference = f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), {len(both)} seeds"
        everything = interval(part(lambda r: slice(None)))
        shown, hidden = (np.mean(part(lambda r, want=want: r["shown"] == want)) for want in (True, False))
        print(
            f"| {name} | {len(seeds)} | {everything} | {shown:.3f} | {hidden:.3f} "
            f"| {min(codes):.2f} to {max(codes):.2f} | {difference} |"
        )


if __name__ == "__main__":
    main()

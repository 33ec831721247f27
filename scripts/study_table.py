#!/usr/bin/env python3
"""The table of scripts/study.sh and study_over.sh: accuracy, NMI of the prior's code, paired differences, from run folders.

usage: study_table.py OUT [BASELINE=dpo] [NAME...]

Run folders are NAME-CORPUS or NAME-CORPUS-SEED, and OUT/corpus-CORPUS has the truth. NAME... are the rows, by default all but those of
choice. Accuracy is over test pairs against the clean labels, with the prior's z. Means over runs have Student's 95 %
interval, from three runs on. Differences are paired, means over the training seeds of each corpus: the prompts of each
corpus are drawn again 2,000 times with all their pairs and judgements (bootstrap), corpora and seeds kept. Needs numpy and
pyarrow.
"""

import re
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


def read(folder, corpus, corpora):
    """Per test pair: right or wrong, the prior's code, the prompt, and the truth of its prompt."""
    table = pq.read_table(folder / "posteriors.parquet").to_pydict()
    if corpus not in corpora:
        found = pq.read_table(folder.parent / f"corpus-{corpus}/truth/truth.parquet").to_pydict()
        # Judgements of a prompt over real texts have prompts of their own, but share its responses.
        prompts = [str(sorted(hashes)) for hashes in found["response_hashes"]]
        corpora[corpus] = dict(zip(found["prompt_id"], zip(found["shown"], found["preference"], prompts)))
    test = [i for i, split in enumerate(table["split"]) if split == "test"]
    margin = np.array([-table["margin"][i] if table["flipped"][i] else table["margin"][i] for i in test])
    known = [corpora[corpus][table["prompt_id"][i]] for i in test]
    return {
        "pair": [table["id"][i] for i in test],
        "right": margin > 0,
        "shown": np.array([k[0] for k in known]),
        "preference": np.array([k[1] for k in known]),
        "code": np.array([table["prior_code"][i] for i in test]),
        "prompt": np.unique([k[2] for k in known], return_inverse=True)[1],
    }


def interval(values):
    mean = np.mean(values)
    if len(values) < 3:
        return f"{mean:.3f}"
    half = T[len(values) - 1] * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"


def difference(run, baseline, rng):
    """Mean accuracy of a run minus that of a baseline over the corpora of both, in points, and its draws."""
    means, draws = [], []
    for corpus in sorted(run.keys() & baseline.keys()):
        seeds, others = list(run[corpus].values()), list(baseline[corpus].values())
        if any(one["pair"] != seeds[0]["pair"] for one in seeds + others):
            sys.exit(f"study_table.py: runs of corpus {corpus} do not have the same test pairs")
        apart = np.mean([one["right"] for one in seeds], 0) - np.mean([one["right"] for one in others], 0)
        prompts = seeds[0]["prompt"]
        sums, pairs = np.bincount(prompts, apart), np.bincount(prompts)
        drawn = rng.integers(len(sums), size=(DRAWS, len(sums)))
        means.append(apart.mean())
        draws.append(sums[drawn].sum(1) / pairs[drawn].sum(1))
    return 100 * np.mean(means), 100 * np.mean(draws, 0), len(means)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out, baseline, names = Path(sys.argv[1]), (sys.argv[2:] or ["dpo"])[0], sys.argv[3:]
    runs, corpora = {}, {}
    for found in sorted(out.glob("*-[0-9]*/posteriors.parquet")):
        name, corpus, seed = re.fullmatch(r"(.+?)-(\d+)(?:-(\d+))?", found.parent.name).groups()
        wanted = name in names or name == baseline if names else name != "sft" and not name.startswith("choice_")
        if wanted:
            runs.setdefault(name, {}).setdefault(corpus, {})[seed] = read(found.parent, corpus, corpora)
    rng = np.random.default_rng(0)
    print(f"| run | runs | accuracy | shown | hidden | NMI shown, least to most | minus {baseline}, points |")
    print("|---|---|---|---|---|---|---|")
    for name, by_corpus in runs.items():
        each = [run for seeds in by_corpus.values() for run in seeds.values()]
        codes = [nmi(run["code"][run["shown"]], run["preference"][run["shown"]]) for run in each]
        found = f"{min(codes):.2f} to {max(codes):.2f}" if any(run["code"].any() for run in each) else "–"
        apart = ""
        if name != baseline and by_corpus.keys() & runs.get(baseline, {}).keys():
            mean, drawn, count = difference(by_corpus, runs[baseline], rng)
            low, high = np.percentile(drawn, [2.5, 97.5])
            apart = f"{mean:+.1f} ({low:+.1f} to {high:+.1f}), {count} {'corpora' if count > 1 else 'corpus'}"
        everything = interval([run["right"].mean() for run in each])
        shown, hidden = (np.mean([run["right"][run["shown"] == want].mean() for run in each]) for want in (True, False))
        print(
            f"| {name} | {len(each)} | {everything} | {shown:.3f} | {hidden:.3f} | {found} | {apart} |"
        )


if __name__ == "__main__":
    main()

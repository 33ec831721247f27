#!/usr/bin/env bash
# Training again on what an audit cleaned, seed by seed: how much of the loss that flipped labels caused is won back.
#
# usage: scripts/study_again.sh [OUT=runs/study]
#
# OUT is the folder of scripts/study.sh, which makes corpora, flips of a fifth of the labels and warm starts: SEEDS (default "1 2 3 4
# 5") that are not there are made by it. LATENT is lpc (default) or none: what is trained before and after the audit; the audited run
# is always one with codes. Runs that are there already are kept. About eight minutes a seed on one core.
set -euo pipefail

out="${1:-runs/study}"
program="${LPC_PIPE:-target/release/lpc-pipe}"
seeds="${SEEDS:-1 2 3 4 5}"
latent="${LATENT:-lpc}"
here="$(dirname "$0")"

# train NAME DATA LATENT SEED POSTERIORS
train() {
    test -e "$out/$1/summary.json" && return 0
    local codes=()
    test "$3" = none || codes=(--codes 16)
    rm -rf "${out:?}/$1"
    "$program" train --data "$2" --model "$out/sft-$4/model" --latent "$3" "${codes[@]}" --objective dpo --batch 64 --lr 3e-3 \
        --epochs 2 --threads 1 --seed "$4" --quiet --posteriors "$5" --set train.save_model=false \
        --set train.checkpoint_every=0 --out "$out/$1"
}

for seed in $seeds; do
    SEEDS="$seed" RUNS=dpo "$here/study.sh" "$out"
    train "again-run-$seed" "$out/flips-$seed" lpc "$seed" all
    for action in drop flip; do
        cleaned="$out/cleaned-$action-$seed"
        test -e "$cleaned" && continue
        "$program" audit --run "$out/again-run-$seed" --out "$out/audit-$seed" --threads 1 --quiet --action "$action"
        mv "$out/audit-$seed/cleaned" "$cleaned"
    done
    train "again-$latent-flips-$seed" "$out/flips-$seed" "$latent" "$seed" test
    train "again-$latent-clean-$seed" "$out/data-$seed" "$latent" "$seed" test
    for action in drop flip; do
        train "again-$latent-$action-$seed" "$out/cleaned-$action-$seed" "$latent" "$seed" test
    done
done

python3 - "$out" "$latent" $seeds <<'PY'
import json, sys

out, latent, *seeds = sys.argv[1:]
kinds = ["flips", "drop", "flip", "clean"]
accuracy = {
    kind: [json.load(open(f"{out}/again-{latent}-{kind}-{seed}/summary.json"))["eval_accuracy"] for seed in seeds]
    for kind in kinds
}
print("| seed | flipped | dropped | turned round | no flips | won back by dropping, turning |")
print("|---|---|---|---|---|---|")
rows = [(seed, [accuracy[kind][i] for kind in kinds]) for i, seed in enumerate(seeds)]
rows.append(("mean", [sum(accuracy[kind]) / len(seeds) for kind in kinds]))
for name, (flips, drop, flip, clean) in rows:
    share = lambda x: f"{(x - flips) / (clean - flips):.0%}" if clean > flips else "–"
    print(f"| {name} | {flips:.3f} | {drop:.3f} | {flip:.3f} | {clean:.3f} | {share(drop)}, {share(flip)} |")
PY

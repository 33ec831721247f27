#!/usr/bin/env bash
# The study on planted data: corpus with known factors, warm start, sweep of label noise, codes against the truth.
#
# usage: scripts/study.sh [ROWS=4000]     (writes runs/study; LPC_PIPE=program to use a built one)
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${1:-4000}
out=runs/study
read -ra lpc_pipe <<<"${LPC_PIPE:-cargo run --release --quiet --}"

[ -f $out/corpus/manifest.json ] || "${lpc_pipe[@]}" synth --rows "$rows" --out $out/corpus
[ -f $out/data/manifest.json ] || "${lpc_pipe[@]}" prepare --input $out/corpus/corpus.jsonl --out $out/data
"${lpc_pipe[@]}" train --data $out/data --model tiny --objective sft --lr 4e-3 --batch 32 --epochs 3 \
    --out $out/sft --resume
"${lpc_pipe[@]}" noise-sweep --config pipelines/planted-study.toml
for run in $out/sweep/cells/*lpc*; do
    echo "$run"
    "${lpc_pipe[@]}" report "$run" --truth $out/corpus
done

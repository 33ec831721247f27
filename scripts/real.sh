#!/usr/bin/env bash
# A real model on real preference data, without any hub: prepare, DPO and LPC-DPO, posteriors by source, reports.
#
# usage: scripts/real.sh PAIRS.jsonl[.gz|.zst] NAME [OUT]
#   PAIRS  raw UltraFeedback, binarized or TRL rows
#   NAME   names the run folders below OUT (default runs/real)
# Settings by environment: SHARD=1/3 (part of the prompts), MAX_LENGTH=256, MAX_PROMPT=128, TEST_FRACTION=0.3, LR=5e-6,
# SEED=0, MODEL=path, LPC_PIPE=program (a built one instead of cargo run)
set -euo pipefail
cd "$(dirname "$0")/.."

pairs=${1:?usage: scripts/real.sh PAIRS NAME [OUT]}
name=${2:?usage: scripts/real.sh PAIRS NAME [OUT]}
out=${3:-runs/real}
model=${MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
read -ra lpc_pipe <<<"${LPC_PIPE:-cargo run --release --quiet --}"

[ -f "$model" ] || scripts/fetch_smollm2.sh "$(dirname "$model")"

if [ ! -f "$out/$name/data/manifest.json" ]; then
    "${lpc_pipe[@]}" prepare --input "$pairs" --tokenizer "$model" --out "$out/$name/data" \
        --max-length "${MAX_LENGTH:-256}" --max-prompt-length "${MAX_PROMPT:-128}" \
        --test-fraction "${TEST_FRACTION:-0.3}" ${SHARD:+--shard "$SHARD"}
fi

for latent in none lpc; do
    run="$out/$name/dpo-$latent"
    "${lpc_pipe[@]}" train --data "$out/$name/data" --model "$model" --out "$run" --latent "$latent" \
        --batch 4 --accumulate 2 --lr "${LR:-5e-6}" --seed "${SEED:-0}" --set train.save_model=false --resume
    "${lpc_pipe[@]}" report "$run"
done

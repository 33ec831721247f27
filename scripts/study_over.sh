#!/usr/bin/env bash
# The study over real texts that docs/results.md reports: codes, LoRA DPO, and both together, with settings chosen on training
# prompts.
#
# usage: scripts/study_over.sh TEXTS.jsonl [OUT=runs/over]
#
# TEXTS are raw UltraFeedback rows with several responses (scripts/short_answers.py cuts long ones). MODEL is a model of
# scripts/fetch_smollm2.sh. CORPUS (default 1) is the seed of the planted preferences. RUNS picks runs; those that are there are
# kept. A run of `choice` trains on a part of the training prompts and is scored on the others; the rest are of the table, for
# the training seeds SEEDS (default "1 2 3"). About two hours on 2 cores, nearly all of it LoRA.
set -euo pipefail

texts="${1:?usage: scripts/study_over.sh TEXTS.jsonl [OUT]}"
out="${2:-runs/over}"
program="${LPC_PIPE:-target/release/lpc-pipe}"
python="${PYTHON:-python3}"
model="${MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}"
corpus="${CORPUS:-1}"
seeds="${SEEDS:-1 2 3}"
runs="${RUNS:-codes_2048_0.2_0.05_24_32 mlp_1024_0.2_0.05_24 bias_1024_0.1_1_12 lora_2e-4_0.1_6 joint_2e-4_0.1_6}"
here="$(dirname "${BASH_SOURCE[0]}")"
mkdir -p "$out"

planted="$out/corpus-$corpus"
test -e "$planted/manifest.json" ||
    "$program" synth --over "$texts" --judgements 8 --set synth.test_fraction=0.3 --seed "$corpus" --out "$planted" --quiet
test -e "$out/held-$corpus/test.jsonl" || "$python" "$here/hold_out.py" 0.3 "$planted/train.jsonl" "$out/held-$corpus"
for part in data choice; do
    case "$part" in
        data) input="$planted" ;;
        choice) input="$out/held-$corpus" ;;
    esac
    test -e "$out/$part-$corpus/manifest.json" ||
        "$program" prepare --input "$input" --tokenizer "$model" --pairs best-vs-worst --max-length 256 \
            --max-prompt-length 160 --out "$out/$part-$corpus" --quiet
done

# A run's name holds its settings: lora_RATE_BETA_EPOCHS; joint_RATE_BETA_EPOCHS, codes and adapters together (joint-mlp: a
# network in place of codes), to which the number of codes (32) and the passes of codes alone before all else (24) may be
# added; or codes, mlp or bias_TOKENS_CODE-RATE_BETA_EPOCHS, to which the number of codes (16), the prior's tokens (512) and
# the weight decay (0.1) may be added; after `choice_` where it is one of choice.
run() {
    local name="$1" seed="$2" part=data kind a b c d e f g
    local folder="$out/$name-$corpus-$seed"
    test -e "$folder/summary.json" && return 0
    [[ "$name" == choice_* ]] && part=choice
    IFS=_ read -r kind a b c d e f g <<< "${name#choice_}"
    case "$kind" in
        lora) set -- --tune lora --latent none --lr "$a" --beta "$b" --epochs "$c" --batch 16 --accumulate 2 ;;
        joint*)
            local latent="${kind#joint}"
            latent="${latent#-}"
            set -- --tune lora --latent "${latent:-lpc}" --lr "$a" --beta "$b" --epochs "$c" --batch 16 --accumulate 2 --codes "${d:-32}" \
                --set train.lpc.warmup="${e:-24}" --set train.lpc.code_tokens=2048 --set train.lpc.code_lr=0.2 \
                --set train.lpc.weight_decay=0.1 --set train.lpc.prior_tokens=512
            ;;
        codes | mlp | bias)
            set -- --tune latent --latent "${kind/codes/lpc}" --beta "$c" --epochs "$d" --batch 32 \
                --set train.lpc.code_tokens="$a" --set train.lpc.code_lr="$b" --set train.lpc.weight_decay="${g:-0.1}"
            [[ "$kind" == codes ]] && set -- "$@" --codes "${e:-16}"
            [[ "$kind" == bias ]] || set -- "$@" --set train.lpc.prior_tokens="${f:-512}"
            ;;
        *)
            echo "study_over.sh: not a run: $name" >&2
            exit 2
            ;;
    esac
    "$program" train --data "$out/$part-$corpus" --model "$model" --objective dpo --precision bf16 --seed "$seed" \
        --out "$folder" --posteriors test --resume --quiet "$@"
}

for seed in $seeds; do
    for name in $runs; do
        run "$name" "$seed"
    done
done

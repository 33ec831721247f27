#!/usr/bin/env bash
# A GPU build against the CPU, and its speed: training, gradients, resuming and scoring on built-in data, then tokens a
# second and memory on random models of the shapes of SmolLM2-135M and Llama-3-8B, beside a plain PyTorch step.
#
# usage: scripts/check_gpu.sh PROGRAM OUT
#
# PROGRAM is lpc-pipe built with `--features cuda` (scripts/build_cuda.sh). OUT gets a folder for every run; OUT/summary.txt
# has the tables. Ends with 1 where something does not agree. Parts that fail or take too long do not end the others.
# All of it takes under six minutes on an H100.
# Environment:
#   DEVICE   cuda, or another device of --device (default: cuda); with cpu the composed operations run on the CPU, which
#            tries this script out on a machine without a GPU
#   PYTHON   Python 3; the parts below that need PyTorch and transformers are left out where it has none (default: python3)
#   PARTS    which parts (default: "device runs gradients resume score small large")
#   LARGE_WAYS  batches of the large model, each with whether layers are computed again (default: 1:false)
#   SECONDS_LARGE, SECONDS_SMALL  time limits of the timed parts (default: 150 and 130)
set -uo pipefail

program=$(realpath "${1:?usage: scripts/check_gpu.sh PROGRAM OUT}")
out=$(realpath -m "${2:?usage: scripts/check_gpu.sh PROGRAM OUT}")
here=$(cd "$(dirname "$0")" && pwd)
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
read -ra parts <<< "${PARTS:-device runs gradients resume score small large}"
mkdir -p "$out"
summary=$out/summary.txt
: > "$summary"
failed=0
began=$(date +%s.%N)

on_device=(--device "$device")
[[ $device != cpu ]] || on_device+=(--set train.kernels=composed)

say() {
    printf '%s\n' "$*" | tee -a "$summary"
}

# Seconds since the start.
clock() {
    awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'
}

# check NAME COMMAND...: the command's output goes to the summary; a failure is counted.
check() {
    local name=$1
    shift
    if ! "$@" 2>> "$out/errors.txt" | tee -a "$summary"; then
        say "FAILED: $name (see errors.txt)"
        failed=1
    fi
}

# one RUN FOLDER ARGUMENTS...: trains into it; what it says goes beside it.
one() {
    local run=$1
    shift
    rm -rf "$run"
    timeout "${LIMIT:-60}" "$program" train --data "$data" --out "$run" "$@" > "$run.log" 2>&1
    local rc=$?
    [[ $rc -eq 0 ]] || printf '%s ended with %s:\n%s\n' "$run" "$rc" "$(tail -n 5 "$run.log")" >> "$out/errors.txt"
    return $rc
}

has() {
    local part
    for part in "${parts[@]}"; do [[ $part != "$1" ]] || return 0; done
    return 1
}

data=$out/data
if ! { "$program" synth --out "$out/raw" --rows 240 --factors 3 --quiet &&
    "$program" prepare --input "$out/raw" --out "$data" --test-fraction 0.2 --flip-rate 0.2 --quiet; } > "$out/data.log" 2>&1; then
    say "FAILED: no data"
    tail -n 5 "$out/data.log"
    exit 1
fi
common=(--model tiny:64x2 --batch 8 --epochs 2 --seed 7 --quiet --set train.checkpoint_every=0)

# name | arguments; settings without an effect are refused, so each has only its own.
codes="--latent lpc --codes 4"
combinations=(
    "full none dpo|--tune full --latent none --objective dpo"
    "full codes dpo|--tune full $codes --objective dpo"
    "full codes ipo|--tune full $codes --objective ipo"
    "full none simpo|--tune full --latent none --objective simpo"
    "full codes in hidden space dpo|--tune full $codes --set train.lpc.code_space=hidden"
    "full the paper's latent dpo|--tune full $codes --set train.lpc.preset=paper"
    "full exact sums dpo|--tune full $codes --set train.lpc.preset=paper --set train.lpc.exact=true"
    "full prior below the last layer|--tune full $codes --set train.lpc.prior_input=states --set train.lpc.prompt_layer=1"
    "full mlp dpo|--tune full --latent mlp --codes 4 --objective dpo"
    "full bias simpo|--tune full --latent bias --objective simpo"
    "lora codes dpo|--tune lora $codes --objective dpo"
    "lora none ipo|--tune lora --latent none --objective ipo"
    "head codes dpo|--tune head $codes --objective dpo"
    "latent codes dpo|--tune latent $codes --objective dpo"
)
# Passes in which the latent part is trained alone, where there is one and it is not always alone.
alone() {
    [[ $1 == *"--latent none"* || $1 == *"--tune latent"* ]] || printf -- '--set train.lpc.warmup=%s' "$2"
}

slug() {
    tr -c 'a-z0-9\n' '-' <<< "$1"
}

if has device; then
    say "== device"
    [[ $device != cuda ]] || nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader >> "$summary" 2>&1
    # Also brings the kernels from their portable form to this GPU's, which the driver keeps.
    # Without --quiet, which keeps the device's name to itself.
    if LIMIT=120 one "$out/first" --model tiny:64x2 --batch 8 --max-steps 2 --latent none "${on_device[@]}"; then
        grep -h -i "computing on" "$out/first.log" | tail -n 1 | tee -a "$summary"
        [[ $device == cpu ]] || grep -qi "computing on" "$out/first.log" || { say "FAILED: the program does not name the device"; failed=1; }
    else
        say "FAILED: the first run"
        tail -n 5 "$out/first.log" | tee -a "$summary"
        failed=1
    fi
    say "   $(clock) s"
fi

if has runs; then
    say "== twenty steps, $device against the CPU's kernels, float32 and bf16"
    running=0
    for line in "${combinations[@]}"; do
        name=${line%%|*}
        read -ra arguments <<< "${line#*|}"
        # Each run has its own copy of the data: caches of one must not serve the other.
        (
            folder=$out/$(slug "$name")
            mkdir -p "$folder"
            cp -r "$data" "$folder/data-cpu"
            cp -r "$data" "$folder/data-gpu"
            read -ra warm <<< "$(alone "$line" 0.2)"
            twenty=("${common[@]}" --max-steps 20 "${arguments[@]}" "${warm[@]}" --threads 2)
            [[ $line == *"--tune latent"* ]] || twenty+=(--lr 1e-3 --set train.warmup=0.2)
            data=$folder/data-cpu one "$folder/cpu" "${twenty[@]}" --device cpu --set train.kernels=fused
            data=$folder/data-gpu one "$folder/gpu" "${twenty[@]}" "${on_device[@]}"
            data=$folder/data-gpu one "$folder/half" "${twenty[@]}" "${on_device[@]}" --precision bf16
        ) &
        running=$((running + 1))
        [[ $((running % ${JOBS:-7})) -ne 0 ]] || wait
    done
    wait
    for line in "${combinations[@]}"; do printf '%s|%s\n' "${line%%|*}" "$(slug "${line%%|*}")"; done > "$out/combinations.txt"
    check "twenty steps" "$python" "$here/check_gpu.py" runs "$out"
    say "   $(clock) s"
fi

if has gradients; then
    say "== gradients after three steps, read from AdamW's first moments, $device against the CPU's kernels"
    for line in "${combinations[@]}"; do
        name=${line%%|*}
        read -ra arguments <<< "${line#*|}"
        (
            folder=$out/$(slug "$name")
            mkdir -p "$folder"
            read -ra warm <<< "$(alone "$line" 0)"
            short=("${common[@]}" --max-steps 3 "${arguments[@]}" "${warm[@]}" --threads 2 --keep-optimizer --set train.clip=0
                --posteriors test --set train.save_model=false)
            [[ $line == *"--tune latent"* ]] || short+=(--lr 1e-4 --set train.warmup=0)
            [[ -d $folder/data-cpu ]] || { cp -r "$data" "$folder/data-cpu"; cp -r "$data" "$folder/data-gpu"; }
            data=$folder/data-cpu one "$folder/cpu-3" "${short[@]}" --device cpu --set train.kernels=fused
            data=$folder/data-gpu one "$folder/gpu-3" "${short[@]}" "${on_device[@]}"
        ) &
        running=$((${running:-0} + 1))
        [[ $((running % ${JOBS:-7})) -ne 0 ]] || wait
    done
    wait
    for line in "${combinations[@]}"; do printf '%s|%s\n' "${line%%|*}" "$(slug "${line%%|*}")"; done > "$out/combinations.txt"
    check gradients "$python" "$here/check_gpu.py" gradients "$out"
    say "   $(clock) s"
fi

if has resume; then
    say "== stopped after 8 of 20 steps and resumed, against never stopped, on $device"
    for precision in f32 bf16; do
        ways=("${common[@]}" --lr 1e-3 --latent lpc --codes 4 --set train.lpc.warmup=0.2 "${on_device[@]}" --precision "$precision")
        one "$out/whole-$precision" "${ways[@]}" --max-steps 20
        one "$out/stopped-$precision" "${ways[@]}" --max-steps 8 --keep-optimizer
        timeout 60 "$program" train --data "$data" --out "$out/stopped-$precision" "${ways[@]}" --max-steps 20 --resume > "$out/resumed-$precision.log" 2>&1 ||
            tail -n 5 "$out/resumed-$precision.log" >> "$out/errors.txt"
        check "resume, $precision" "$python" "$here/check_gpu.py" same "$out/stopped-$precision" "$out/whole-$precision"
    done
    say "   $(clock) s"
fi

if has score; then
    say "== the model trained on $device, scored on the CPU"
    run=$out/$(slug "full codes dpo")/gpu
    if timeout 60 "$program" score --data "$data" --model "$run/model" --out "$out/scores.parquet" > "$out/score.log" 2>&1; then
        check score "$python" "$here/check_gpu.py" scores "$out/scores.parquet" "$run/posteriors.parquet"
    else
        say "FAILED: score"
        tail -n 3 "$out/score.log" | tee -a "$summary"
        failed=1
    fi
    say "   $(clock) s"
fi

# Highest use of GPU memory while COMMAND runs, MiB, to FILE.
watched() {
    local file=$1
    shift
    if [[ $device == cuda ]]; then
        nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 100 > "$file" 2> /dev/null &
        local watcher=$!
        "$@"
        local rc=$?
        kill "$watcher" 2> /dev/null
        wait "$watcher" 2> /dev/null
        return $rc
    fi
    "$@"
}

# timed NAME LIMIT ARGUMENTS...: one line for the table of speeds.
timed() {
    local name=$1 limit=$2
    shift 2
    if LIMIT=$limit watched "$out/$name.mib" one "$out/$name" --posteriors test --set train.save_model=false \
        --set train.checkpoint_every=0 --lr 1e-6 "${on_device[@]}" "$@"; then
        check "$name" "$python" "$here/check_gpu.py" speed "$name" "$out/$name" "$out/$name.mib"
    else
        say "$name: FAILED: $(tail -n 2 "$out/$name.log" | tr '\n' ' ')"
        failed=1
    fi
}

torch_timed() {
    local name=$1 limit=$2
    shift 2
    watched "$out/$name.mib" timeout "$limit" "$python" "$here/check_gpu.py" torch "$name" "$@" >> "$summary" 2> "$out/$name.err" || {
        say "$name: FAILED: $(tail -n 1 "$out/$name.err")"
    }
}

latent_of() {
    printf -- '--latent %s' "$1"
    [[ $1 == none ]] || printf -- ' --set train.lpc.warmup=0'
}

long_data() {
    [[ -d $out/long/data ]] && return
    mkdir -p "$out/long"
    "$python" "$here/check_gpu.py" texts "$out/long/pairs.jsonl" &&
        "$program" prepare --input "$out/long/pairs.jsonl" --out "$out/long/data" --max-length 512 --max-prompt-length 300 --test-fraction 0.03 --quiet > "$out/long.log" 2>&1
}

if has small; then
    say "== SmolLM2-135M's shape, random weights, full fine-tuning, pairs of 2 x 512 tokens"
    until=$(($(date +%s) + ${SECONDS_SMALL:-130}))
    shape=${SMALL_SHAPE:-smollm2}
    if long_data && timeout 60 "$python" "$here/check_gpu.py" model "$shape" "$out/small" 2> "$out/small.err"; then
        data=$out/long/data
        for batch in ${BATCHES:-4 16}; do
            for latent in none lpc; do
                left=$((until - $(date +%s)))
                [[ $left -gt 5 ]] || { say "no time left"; break 2; }
                timed "small-$latent-$batch" "$((left < 45 ? left : 45))" --model "$out/small" --batch "$batch" \
                    --epochs 20 --max-steps "${STEPS:-10}" --precision bf16 $(latent_of "$latent")
            done
            torch_timed "small-torch-$batch" 60 "$out/small" "$batch" full
        done
    else
        say "FAILED: no model or no data: $(tail -n 1 "$out/small.err" "$out/long.log" 2> /dev/null | tr '\n' ' ')"
        failed=1
    fi
    say "   $(clock) s"
fi

if has large; then
    say "== Llama-3-8B's shape, random weights, LoRA of rank 16, 2 x 512 tokens a pair"
    shape=${LARGE_SHAPE:-llama3-8b}
    if long_data && timeout 90 "$python" "$here/check_gpu.py" model "$shape" "$out/large" 2> "$out/large.err"; then
        data=$out/long/data
        say "   model written: $(clock) s"
        # Pairs in a pass, and whether layers are computed again in the backward pass.
        for way in ${LARGE_WAYS:-1:false}; do
            batch=${way%:*}
            timed "large-none-$batch" "${SECONDS_LARGE:-150}" --model "$out/large" --tune lora --batch "$batch" --epochs 20 \
                --max-steps "${STEPS:-10}" --latent none --precision bf16 --set train.lora.rank=16 --set "train.recompute=${way#*:}"
            say "   $(clock) s"
            torch_timed "large-torch-$batch" 90 "$out/large" "$batch" lora
        done
    else
        say "FAILED: no model or no data: $(tail -n 1 "$out/large.err" | tr '\n' ' ')"
        failed=1
    fi
    rm -rf "$out/large"
    say "   $(clock) s"
fi

say "== $([[ $failed -eq 0 ]] && echo all agrees || echo SOMETHING FAILED), $(clock) s"
exit "$failed"

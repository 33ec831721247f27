#!/usr/bin/env bash
# Training over MPI against training in one process, on built-in data.
#
# usage: scripts/check_mpi.sh PROGRAM [RANKS...]
#
# PROGRAM is lpc-pipe built with `--features mpi`. For every number of ranks (default: 2 3): the same losses as one
# process with their batches together, to 1e-6; the same bits when run again; one rank interrupted stops all, and all
# go on to the same bits; a fault at every rank ends with its exit code. Says what was measured. For root, with iproute2 and
# Open MPI: two ranks in two network namespaces, which speak by TCP over a cable between them, have the same bits too.
set -euo pipefail

program=$(realpath "$1")
shift
[[ $# -gt 0 ]] || set -- 2 3

work=$(mktemp -d)
spaces=()
clean() {
    for space in "${spaces[@]}"; do ip netns delete "$space"; done
    rm -rf "$work"
}
trap clean EXIT
cd "$work"

launch=(mpirun)
if mpirun --version | grep -q "Open MPI"; then
    launch+=(--oversubscribe --bind-to none)
    [[ $(id -u) -ne 0 ]] || launch+=(--allow-run-as-root)
fi

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# Losses of a run, one a line.
losses() {
    sed -n 's/.*"loss":\([-0-9.e]*\).*/\1/p' "$1/metrics.jsonl"
}

same() {
    local file
    for file in model/model.safetensors model/lpc_model.safetensors posteriors.parquet; do
        cmp "$1/$file" "$2/$file" || fail "$1 and $2 differ in $file"
    done
}

"$program" synth --out raw --rows 150 --factors 3 --quiet > synth.txt
"$program" prepare --input raw --out data --test-fraction 0.2 --flip-rate 0.2 --quiet > prepared.txt
train=(train --model tiny:64x2 --codes 4 --epochs 2 --lr 1e-3 --threads 1 --quiet --json
    --set train.lpc.balance=0.1 --set train.checkpoint_every=5)

for ranks in "$@"; do
    # Twelve pairs a step; the last step of an epoch has fewer.
    "$program" "${train[@]}" --data data --out "one-$ranks" --batch $((4 * ranks)) > one.json
    rm -rf data/reference
    "${launch[@]}" -n "$ranks" "$program" "${train[@]}" --data data --out "many-$ranks" --batch 4 > many.json
    [[ $(wc -l < many.json) -eq 1 ]] || fail "$ranks ranks printed $(wc -l < many.json) results"
    difference=$(paste <(losses "one-$ranks") <(losses "many-$ranks") | awk '
        NF != 2 { print "unequal"; exit }
        { d = $1 - $2; if (d < 0) d = -d; if (d > worst) worst = d; n++ }
        END { if (n) printf "%.3g %d", worst, n }')
    read -r worst steps <<< "$difference"
    awk -v d="$worst" 'BEGIN { exit !(d + 0 < 1e-6 && d != "unequal") }' || fail "$ranks ranks: losses differ by $worst"
    "${launch[@]}" -n "$ranks" "$program" "${train[@]}" --data data --out "again-$ranks" --batch 4 > /dev/null
    same "many-$ranks" "again-$ranks"

    # Interrupt the last rank once some steps are done.
    "${launch[@]}" -n "$ranks" "$program" "${train[@]}" --data data --out "stopped-$ranks" --batch 4 > /dev/null 2> stopped.txt &
    launcher=$!
    while kill -0 "$launcher" 2> /dev/null; do
        if [[ -s stopped-$ranks/metrics.jsonl ]]; then
            child=$(tr ' ' '\n' < "/proc/$launcher/task/$launcher/children" | grep . | tail -1)
            kill -INT "$child"
            break
        fi
        sleep 0.02
    done
    code=0
    wait "$launcher" || code=$?
    how="finished before it could be interrupted"
    if [[ $code -ne 0 ]]; then
        [[ $code -eq 1 ]] || fail "$ranks ranks: an interrupted run ended with $code: $(cat stopped.txt)"
        [[ $(grep -c '^error: interrupted after step' stopped.txt) -eq 1 ]] || fail "$(cat stopped.txt)"
        how=$(grep '^error: ' stopped.txt)
        "${launch[@]}" -n "$ranks" "$program" "${train[@]}" --data data --out "stopped-$ranks" --batch 4 --resume > /dev/null
    fi
    same "many-$ranks" "stopped-$ranks"

    code=0
    "${launch[@]}" -n "$ranks" "$program" "${train[@]}" --data nowhere --out no --batch 4 > no.txt 2>&1 || code=$?
    [[ $code -eq 3 && $(grep -c '^error: ' no.txt) -eq 1 ]] || fail "missing data ended with $code: $(cat no.txt)"
    printf '%s ranks: largest difference of the loss over %s steps %s; %s, and went on to the same bits\n' \
        "$ranks" "$steps" "$worst" "${how#error: }"
done

# Two machines, as far as one can play them: each namespace has a host name and one end of a cable.
if [[ $(id -u) -ne 0 ]] || ! command -v ip > /dev/null || ! mpirun --version | grep -q "Open MPI"; then
    echo "two network namespaces: left out; they need root, iproute2 and Open MPI"
    exit
fi
[[ -d many-2 ]] || fail "two network namespaces are compared with 2 ranks, which were not asked for"
first=lpc-$$-1 second=lpc-$$-2 # names of interfaces have 15 letters at most
for at in 1 2; do
    ip netns add "lpc-$$-$at"
    spaces+=("lpc-$$-$at")
done
ip link add "$first" netns "$first" type veth peer name "$second" netns "$second"
for at in 1 2; do
    space=lpc-$$-$at
    ip -n "$space" address add "10.77.0.$at/24" dev "$space"
    ip -n "$space" link set lo up
    ip -n "$space" link set "$space" up
done
# What mpirun starts on another machine, by address.
cat > agent << AGENT
#!/bin/sh
address=\$1
shift
exec ip netns exec "lpc-$$-\${address##*.}" unshare --uts sh -c "hostname machine-\${address##*.}; \$*"
AGENT
chmod +x agent
cable=(--mca btl "tcp,self" --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24)
ip netns exec "$first" unshare --uts sh -c 'hostname machine-1; exec "$@"' machine-1 \
    "${launch[@]}" --mca plm_rsh_agent "$work/agent" "${cable[@]}" --host 10.77.0.1:1,10.77.0.2:1 -n 2 \
    "$program" "${train[@]}" --data data --out apart --batch 4 > /dev/null
same many-2 apart
sent=$(ip netns exec "$second" cat "/sys/class/net/$second/statistics/tx_bytes")
[[ $sent -gt 1000000 ]] || fail "the second machine sent $sent bytes: the ranks did not speak by the cable"
echo "two network namespaces: the same bits as on one machine; the second sent $((sent >> 20)) MiB"

#!/usr/bin/env bash
# A sweep and a preparation as jobs of a real Slurm on this machine, against the same in one process.
#
# usage: scripts/check_slurm.sh PROGRAM [time-limit]
#
# PROGRAM is lpc-pipe. Needs root and the packages slurm-wlm and munge. Starts munged, slurmctld and slurmd on one node in a
# temporary folder, and ends them. An array of six cells: one fails, because somebody else's files are where it writes; one is
# warned and requeued while it trains, by `scancel --signal`, or with `time-limit` by its time limit of a minute (takes about two
# minutes more). Then a preparation in three shards and their merge. Says what was seen.
set -euo pipefail

program=$(realpath "$1")
how=${2:-signal}
for needed in munged slurmctld slurmd sbatch scontrol scancel squeue; do
    if ! command -v "$needed" > /dev/null; then
        printf 'FAILED: %s is not installed: apt-get install slurm-wlm munge\n' "$needed" >&2
        exit 1
    fi
done
if [[ $(id -u) -ne 0 ]]; then
    printf 'FAILED: needs root, as which slurmctld and slurmd run here\n' >&2
    exit 1
fi

work=$(mktemp -d)
daemons=()
tear_down() {
    local code=$?
    # By their ids; slurmctld first, so that it sends nothing more.
    for pid in "${daemons[@]}"; do kill "$pid" 2> /dev/null || true; done
    for pid in "${daemons[@]}"; do wait "$pid" 2> /dev/null || true; done
    if [[ $code -ne 0 ]]; then
        tail -n 20 "$work"/*.log "$work"/sweep/launch/logs/*.log 2> /dev/null >&2 || true
    fi
    rm -rf "$work"
    exit "$code"
}
trap tear_down EXIT
cd "$work"

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# within SECONDS WHAT COMMAND...: waits until the command succeeds.
within() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [[ $SECONDS -lt $end ]] || fail "$what"
        sleep 0.2
    done
}

# One node. A requeued job waits until its credential has expired, hence the short one.
host=$(hostname -s)
chmod 755 .
mkdir state spool
cat > slurm.conf << EOF
ClusterName=check
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=4
PartitionName=main Nodes=$host Default=YES State=UP
EOF
export SLURM_CONF=$work/slurm.conf
head -c 1024 /dev/urandom > munge.key
chmod 400 munge.key
munged --foreground --force --key-file="$work/munge.key" --socket="$work/munge.socket" --pid-file="$work/munge.pid" \
    --seed-file="$work/munge.seed" --log-file="$work/munged.log" > munged.out 2>&1 &
munge_pid=$!
within 20 "munged did not start" test -S munge.socket
slurmctld -D > slurmctld.log 2>&1 &
daemons+=($!)
slurmd -D > slurmd.log 2>&1 &
daemons+=($! "$munge_pid")
idle() { [[ $(sinfo --noheader --format=%T 2> /dev/null) == idle ]]; }
within 40 "the node did not come up" idle

# The sweep in one process.
cat > sweep.toml << 'EOF'
seed = 1
[prepare]
input = ["raw"]
[prepare.pairs]
test_fraction = 0.25
[train]
model = "tiny:32x1"
batch = 8
epochs = 16
checkpoint_every = 1000
[sweep]
noise_p = [0.2]
latent = ["none", "bias", "gaussian", "mlp", "lpc-hard", "lpc"]
codes = [64]
seeds = [1]
[slurm]
cpus = 1
time = "10"
EOF
cells=6
failing=dpo-bias-uniform-0.2-s1
slow=dpo-lpc-k64-uniform-0.2-s1
if [[ $how == time-limit ]]; then
    # The last cell takes minutes; it is warned some seconds after its start.
    sed -i -e 's/^time = .*/time = "1"\nsignal_seconds = 50/' -e 's/codes = .*/codes = [2048]/' sweep.toml
    slow=dpo-lpc-k2048-uniform-0.2-s1
fi
"$program" synth --out raw --rows 120 --factors 3 --seed 5 --quiet > synth.txt
"$program" noise-sweep --config sweep.toml --out local --quiet > local.txt

# The same as an array.
mkdir -p "sweep/cells/$failing"
echo '{"tool": "of somebody else"}' > "sweep/cells/$failing/manifest.json"
begun=$SECONDS
"$program" noise-sweep --config sweep.toml --out sweep --launcher slurm --json --quiet > launched.json
id() { sed -n "s/.*\"$1\":\"\([0-9]*\)\".*/\1/p" "$2"; }
array=$(id cell launched.json)
collect=$(id collect launched.json)
[[ -n $array && -n $collect ]] || fail "$(cat launched.json)"
if "$program" noise-sweep --config sweep.toml --out sweep --launcher slurm --quiet > twice.txt 2>&1; then
    fail "launched twice: $(cat twice.txt)"
fi
grep -q "earlier launch into this folder wait or run: .*$array" twice.txt || fail "$(cat twice.txt)"
if [[ $how == signal ]]; then
    at_work() { [[ $(wc -l < "sweep/cells/$slow/metrics.jsonl") -ge 3 ]]; }
    within 120 "the last cell did not train" at_work 2> /dev/null
    scancel --signal=USR1 --batch "${array}_$cells"
fi
no_jobs() { [[ -z $(squeue --noheader) ]]; }
within 420 "the jobs did not end: $(squeue)" no_jobs
took=$((SECONDS - begun))
restarts=$(grep -c '^warned by SIGUSR1' "sweep/launch/logs/cell-${array}_$cells.log" || true)
[[ $restarts -ge 1 ]] || fail "the last cell was not warned: $(cat "sweep/launch/logs/cell-${array}_$cells.log")"
grep -q "interrupted after step" "sweep/launch/logs/cell-${array}_$cells.log" || fail "the last cell had no checkpoint"
# The last job waited for the requeued cell too.
grep -q "^1 of 6 cells failed" "sweep/launch/logs/collect-$collect.log" || fail "$(cat "sweep/launch/logs/collect-$collect.log")"
! grep -q "no result yet" "sweep/launch/logs/collect-$collect.log" || fail "collected before all cells had ended"
[[ -f sweep/cells/$slow/cell.json ]] || fail "the requeued cell did not finish"
[[ ! -f sweep/cells/$failing/cell.json ]] || fail "the cell among somebody else's files finished"
[[ -f sweep/report.html ]] || fail "nothing was collected"

# One cell has failed, the others have the rows of the sweep in one process.
"$program" noise-sweep collect --out sweep --json --quiet > collected.json
grep -q "\"failed\":{\"$failing\":\"failed: [^}]*\"},\"missing\":{}}" collected.json || fail "$(cat collected.json)"
grep -q '"cells_reused":5' collected.json || fail "$(cat collected.json)"
for folder in local/cells/*/; do
    name=$(basename "$folder")
    [[ $name == "$failing" ]] || cmp "$folder/posteriors.parquet" "sweep/cells/$name/posteriors.parquet" || fail "$name"
done
# Without the sabotage the rest is one more launch of one task, and all tables are those of one process.
rm -r "sweep/cells/$failing"
"$program" noise-sweep --config sweep.toml --out sweep --launcher slurm --json --quiet > again.json
grep -q '"tasks":1' again.json || fail "$(cat again.json)"
within 120 "the second launch did not end" no_jobs
cmp local/curves.parquet sweep/curves.parquet || fail "the curves differ"
rows() { "$program" noise-sweep --config sweep.toml --out "$1" --json --quiet | sed 's/"train_seconds":[0-9.e-]*//g; s/"folder":"[^"]*"//'; }
[[ $(rows local) == "$(rows sweep)" ]] || fail "the tables differ"
printf '6 cells as an array in %s s: %s failed and was noted, %s was warned %s times, requeued and finished; tables as in one process\n' \
    "$took" "$failing" "$slow" "$restarts"

# A preparation in shards.
prepare=(prepare --input raw --test-fraction 0.25 --flip-rate 0.2 --seed 3 --quiet)
"$program" "${prepare[@]}" --out whole > whole.txt
"$program" "${prepare[@]}" --out parts --launcher slurm --shards 3 --set slurm.cpus=1 > parts.txt
within 120 "the shards were not prepared: $(squeue)" no_jobs
for file in pairs/train.parquet pairs/test.parquet tokens/train.arrow tokens/test.arrow rejects.parquet; do
    cmp "whole/$file" "parts/$file" || fail "$file of the merged shards differs"
done
printf '3 shards as an array and their merge: the bytes of an unsharded preparation\n'

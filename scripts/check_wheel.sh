#!/usr/bin/env bash
# Builds the wheel, installs it into an empty virtual environment without any index, and runs the program from there.
#
# usage: scripts/check_wheel.sh [OUT=target/wheel]
#
# Prints the wheel's name and size (at most 60 MB) and the time of `lpc-pipe demo` from it. Needs Rust and
# Python 3.9 or newer with venv; maturin is installed from the package index into a virtual environment of its own.
# Environment:
#   DEMO        0 leaves `lpc-pipe demo` out (default: 1)
#   WHEEL_MB    the most MB that the wheel may have (default: 60)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/target/wheel}
most=${WHEEL_MB:-60}
mkdir -p "$out"
out=$(cd "$out" && pwd)

fail() {
    printf 'check_wheel.sh: %s\n' "$*" >&2
    exit 1
}

[[ -x $out/tools/bin/maturin ]] || {
    python3 -m venv "$out/tools" || fail "python3 -m venv failed (Debian: install python3-venv)"
    "$out/tools/bin/pip" install --quiet --disable-pip-version-check 'maturin>=1.9,<2' || fail "no maturin"
}
rm -rf "$out/dist" "$out/empty" "$out/work"
begin=$SECONDS
(cd "$root" && "$out/tools/bin/maturin" build --release --locked --out "$out/dist") || fail "maturin build failed"
wheels=("$out"/dist/*.whl)
[[ ${#wheels[@]} -eq 1 && -e ${wheels[0]} ]] || fail "expected one wheel in $out/dist"
bytes=$(wc -c < "${wheels[0]}")
printf '%s: %d.%d MB, built in %d s\n' "$(basename "${wheels[0]}")" "$((bytes / 1000000))" "$((bytes / 100000 % 10))" "$((SECONDS - begin))"
((bytes <= most * 1000000)) || fail "more than $most MB"

python3 -m venv "$out/empty"
"$out/empty/bin/pip" install --quiet --disable-pip-version-check --no-index "${wheels[0]}" || fail "pip install failed"
# What is on the path is the program of the wheel, and nothing of the checkout is read.
mkdir -p "$out/work"
cd "$out/work"
export PATH="$out/empty/bin:/usr/bin:/bin"
[[ $(command -v lpc-pipe) == "$out/empty/bin/lpc-pipe" ]] || fail "lpc-pipe is not on the path"
lpc-pipe --version
lpc-pipe recipes > /dev/null || fail "lpc-pipe recipes failed"
if [[ ${DEMO:-1} != 0 ]]; then
    begin=$SECONDS
    lpc-pipe demo --quiet > demo.txt || fail "lpc-pipe demo failed: see $out/work"
    [[ -s runs/demo/lpc-dpo/report.html ]] || fail "the demo wrote no report"
    printf 'demo from the wheel: %d s\n' "$((SECONDS - begin))"
fi

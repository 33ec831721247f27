#!/usr/bin/env bash
# The program with `--features cuda`, with NVIDIA's compiler and libraries from the Python package index.
#
# usage: scripts/build_cuda.sh [CARGO ARGUMENTS...]
#
# Wants Rust, Python 3 with venv, a C and C++ compiler, and no GPU, driver or CUDA toolkit. It makes a virtual
# environment outside the checkout (2 GB; kept and used again), puts the compiler's packages in it, adds the link names
# that those lack, and runs `cargo build --release --features cuda`. Environment:
#   LPC_CUDA_ENV        the virtual environment (default: ~/.cache/lpc-pipe-cuda)
#   CUDA_COMPUTE_CAP    the kind of GPU (default: 90, which serves Hopper alone; 80 serves Ampere and newer ones)
#   LPC_CUDA_QUANTIZED  1 also compiles candle's kernels for quantised matrices. They are most of the build's time, and
#                       lpc-pipe calls none of them (it reads quantised models by widening them); by default they are
#                       replaced by functions that end the program.
#
# The program looks for libcublas, libcublasLt, libcurand, libcudart and libnvrtc along LD_LIBRARY_PATH, and for the
# driver's libcuda.so.1, each time it starts, for CPU work too. The folders to name are printed at the end.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
env=${LPC_CUDA_ENV:-${XDG_CACHE_HOME:-$HOME/.cache}/lpc-pipe-cuda}
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
# CUDA 13.0: a driver of the 580 line compiles no newer intermediate code.
packages=(
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35
)

fail() {
    printf 'build_cuda.sh: %s\n' "$*" >&2
    exit 1
}

command -v cargo > /dev/null || fail "no cargo: install Rust (https://rustup.rs)"
command -v python3 > /dev/null || fail "no python3"
command -v cc > /dev/null || fail "no C compiler (cc)"
command -v c++ > /dev/null || fail "no C++ compiler (c++)"

if [[ ! -x $env/bin/python ]]; then
    printf 'making a virtual environment at %s\n' "$env"
    python3 -m venv "$env" || fail "python3 -m venv failed (Debian: install python3-venv)"
fi
printf 'installing %s\n' "${packages[*]}"
"$env/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" || fail "pip install failed"
cuda=$("$env/bin/python" -c 'import nvidia.cu13; print(list(nvidia.cu13.__path__)[0])') || fail "no nvidia/cu13 in $env"
[[ -x $cuda/bin/nvcc ]] || fail "no nvcc in $cuda/bin"

# The packages have libNAME.so.VERSION alone; the linker asks for libNAME.so.
for name in cublas cublasLt curand cudart nvrtc; do
    file=$(find "$cuda/lib" -maxdepth 1 -name "lib$name.so.*" -print -quit)
    [[ -n $file ]] || fail "no lib$name in $cuda/lib"
    ln -sf "$(basename "$file")" "$cuda/lib/lib$name.so"
done

# The driver's library is on no package index. A stand-in with the names in cuda.h links the program; started with it,
# a program finds no GPU (every function returns CUDA_ERROR_NO_DEVICE).
stubs=$cuda/lib/stubs
mkdir -p "$stubs"
names=$({
    cat "$cuda/include/cuda.h"
    cc -E -x c "$cuda/include/cuda.h"
} | grep -oE '\bcu[A-Z][A-Za-z0-9_]*' | sort -u)
for name in $names; do printf 'int %s(void) { return 100; }\n' "$name"; done |
    cc -shared -fPIC -w -x c -Wl,-soname,libcuda.so.1 -o "$stubs/libcuda.so" - || fail "no stand-in for libcuda"
ln -sf libcuda.so "$stubs/libcuda.so.1"

export CUDA_HOME=$cuda PATH=$cuda/bin:$PATH
if [[ ${LPC_CUDA_QUANTIZED:-0} != 1 ]]; then
    fetched=$(cd "$root" && cargo metadata --format-version 1 --features cuda 2> /dev/null) || fail "cargo metadata failed"
    kernels=$("$env/bin/python" -c 'import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "candle-kernels"))' <<< "$fetched")
    # Beside bin: the build looks for headers in the folder above this one.
    spare=$cuda/spare
    mkdir -p "$spare"
    {
        printf '#include <stdlib.h>\n'
        grep -oE 'pub fn [a-z0-9_A-Z]+' "$(dirname "$kernels")/src/ffi.rs" | sed 's/pub fn \(.*\)/void \1(void) { abort(); }/'
    } > "$spare/quantized.c"
    printf '' > "$spare/empty.c"
    cat > "$spare/nvcc" << 'WRAPPER'
#!/usr/bin/env bash
here=$(cd "$(dirname "$0")" && pwd)
out= last=
for arg; do
    [[ $last != -o ]] || out=$arg
    last=$arg
done
case $last in
    */moe/moe_gguf.cu | moe/moe_gguf.cu) exec cc -c -fPIC -w -o "$out" "$here/quantized.c" ;;
    */moe/*.cu | */mmvq_gguf.cu | */mmq_gguf/*.cu) exec cc -c -fPIC -o "$out" "$here/empty.c" ;;
    *) exec "$here/../bin/nvcc" "$@" ;;
esac
WRAPPER
    chmod +x "$spare/nvcc"
    export NVCC=$spare/nvcc
fi
printf 'CUDA_HOME=%s, %s, for GPUs from %s on\n' "$cuda" "$(nvcc --version | sed -n 's/.*release/release/p')" "$CUDA_COMPUTE_CAP"
cd "$root"
cargo build --release --features cuda "$@" || fail "cargo build failed"
printf '%s\n' "built ${CARGO_TARGET_DIR:-target}/release/lpc-pipe; start it with LD_LIBRARY_PATH=$cuda/lib" \
    "without an NVIDIA driver (then it has the CPU alone): LD_LIBRARY_PATH=$cuda/lib:$stubs"

#!/bin/sh
# Compile FlashAttention for the locked torch and install it into $PREFIX; images/README.md names the variables that
# come in.
#
# It is published as sources only, and its build wants torch and nvcc around it: both are in the build lock, nvcc from
# the same CUDA as torch. Left to itself it would take a ready wheel from its publisher's pages instead, unchecked.
set -eu

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

command -v g++ >/dev/null || fail "nvcc needs g++: install it (Debian: g++)"
toolkit="$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13"
[ -x "$toolkit/bin/nvcc" ] || fail "the build lock holds no nvcc"

# One tree as torch's build tools expect it. The libraries of the wheels carry their version in their names only.
cuda="$PWD/cuda"
rm -rf "$cuda" wheels
mkdir -p "$cuda/lib64"
ln -s "$toolkit/bin" "$toolkit/nvvm" "$toolkit/include" "$cuda/"
for library in "$toolkit"/lib/*.so.*; do
    ln -sf "$library" "$cuda/lib64/$(basename "$library" | sed 's/\.so\..*/.so/')"
done

export CUDA_HOME="$cuda" MAX_JOBS="$JOBS" NVCC_THREADS=1
export FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS="$OPT_FLASH_ARCHITECTURES"
if command -v ccache >/dev/null; then
    export PYTORCH_NVCC="ccache $cuda/bin/nvcc"
fi
"$PYTHON" -m pip wheel -v --no-deps --no-build-isolation --no-index -w wheels "$SRC/flash-attn"
"$PYTHON" -m pip --python "$PREFIX/bin/python" install --no-deps --no-index wheels/flash_attn-*.whl

#!/bin/sh
# Compile llama.cpp's tools for NVIDIA's cards into $PREFIX; images/README.md names the variables that come in.
#
# The backends are modules in $PREFIX/lib/llama.cpp: a tool that needs no card (quantize, split) starts on a
# machine without a driver. libcudart and libcublas come from the lock's wheels and are found by rpath.
#
# The compiler is of the flavour's CUDA, whose major decides which cards can be served (13 dropped 7.0):
#   cuda    from the wheels of the build lock
#   cuda12  this machine's toolkit 12.4, else Debian's: the wheels of CUDA 12 carry no nvcc
set -eu

source="$SRC/llama-cpp-python/vendor/llama.cpp"
tools="llama-quantize llama-imatrix llama-perplexity llama-bench llama-server llama-cli llama-completion
       llama-gguf-split llama-tokenize"
build="$PWD/build"
cuda="$PWD/cuda"
modules="$PREFIX/lib/llama.cpp"
mkdir -p "$build"

fail() {
    echo "build-cuda.sh: $*" >&2
    exit 1
}

command -v g++ >/dev/null || fail "nvcc needs g++: install it (Debian: g++)"
[ "$(uname -m)" = x86_64 ] || fail "flavour $FLAVOUR is for x86-64"

# site-packages/nvidia of an environment.
wheels() {
    "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib") + "/nvidia")'
}
locked=$(wheels "$PREFIX/bin/python")
tool_wheels=$(wheels "$PYTHON")

# Debian's compiler, by its digest, from the mirror that this machine's apt knows. It is unpacked, not installed.
debian_toolkit() {
    version="12.4.131~12.4.1-2"
    digest=cd5fe85aee38d108b315f408a688641478f2402622a10c677478eb7a6c4e5319
    root="$PWD/debian"
    [ ! -d "$root/tree" ] || return 0
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        fail "no CUDA 12 compiler: install NVIDIA's CUDA toolkit 12.4 so that its nvcc is on PATH"
    fi
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\).*/\2/p' |
        grep '/debian/*$' | head -n 1) || true
    [ -n "$mirror" ] || fail "no CUDA 12 compiler, and apt knows no Debian mirror: install NVIDIA's CUDA toolkit 12.4"
    mkdir -p "$root/lists/partial" "$root/cache/archives/partial"
    # The archive's signature adds nothing to the digest of the one file that is taken from it.
    echo "deb [trusted=yes] $mirror trixie non-free" >"$root/sources.list"
    echo "Dir::Etc::SourceList \"$root/sources.list\"; Dir::Etc::SourceParts \"/dev/null\";
          Dir::State::Lists \"$root/lists\"; Dir::Cache \"$root/cache\"; APT::Sandbox::User \"\";" >"$root/apt.conf"
    (cd "$root" && export APT_CONFIG="$root/apt.conf" &&
        apt-get update -qq && apt-get download -qq "nvidia-cuda-toolkit=$version") ||
        fail "cannot fetch Debian's nvidia-cuda-toolkit $version from $mirror"
    archive=$(ls "$root"/nvidia-cuda-toolkit_*.deb)
    got=$(sha256sum "$archive" | cut -d ' ' -f 1)
    [ "$got" = "$digest" ] || fail "nvidia-cuda-toolkit $version: expected sha256:$digest, got sha256:$got"
    dpkg-deb -x "$archive" "$root/unpacked"
    rm -f "$archive"
    mv "$root/unpacked" "$root/tree"
}

# A toolkit of this machine that fits the libraries of the lock: the folder above its bin.
own_toolkit() {
    for nvcc in "$(command -v nvcc || true)" /usr/local/cuda-12*/bin/nvcc /usr/local/cuda/bin/nvcc; do
        if [ -x "$nvcc" ] && "$nvcc" --version | grep -q 'release 12\.4,'; then
            top=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
            if [ -x "$top/nvvm/bin/cicc" ]; then
                echo "$top"
                return
            fi
        fi
    done
}

# One tree as nvcc and cmake expect it: compiler, headers, and the libraries of the lock to link with.
rm -rf "$cuda"
mkdir -p "$cuda/lib/stubs" "$cuda/include"
case "$FLAVOUR" in
    cuda)
        toolkit="$tool_wheels/cu13"
        cp -R "$toolkit/bin" "$toolkit/nvvm" "$toolkit/include" "$cuda/"
        cp -R "$locked/cu13/include" "$cuda/"
        cp "$locked"/cu13/lib/*.a "$cuda/lib/"
        runtime="-DCMAKE_CUDA_FLAGS="
        libraries="$locked/cu13/lib" ;;
    cuda12)
        toolkit=$(own_toolkit)
        if [ -n "$toolkit" ]; then
            cp -R "$toolkit/bin" "$toolkit/nvvm" "$cuda/"
        else
            debian_toolkit
            toolkit="$PWD/debian/tree/usr/lib/nvidia-cuda-toolkit"
            mkdir -p "$cuda/bin" "$cuda/nvvm/bin"
            for program in bin2c cudafe++ fatbinary nvlink ptxas; do
                cp "$PWD/debian/tree/usr/bin/$program" "$cuda/bin/"
            done
            cp -R "$toolkit/bin/nvcc" "$toolkit/bin/crt" "$cuda/bin/"
            cp "$toolkit/bin/cicc" "$cuda/nvvm/bin/"
            cp -R "$toolkit/libdevice" "$cuda/nvvm/"
            # Debian scatters these over /usr; here they lie as NVIDIA lays them.
            cat >"$cuda/bin/nvcc.profile" <<'END'
TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(TOP)/lib/stubs" "-L$(TOP)/lib"
END
        fi
        for part in "$tool_wheels/cuda_nvcc" "$tool_wheels/cuda_cccl" "$locked/cuda_runtime" "$locked/cublas"; do
            cp -R "$part/include/." "$cuda/include/"
        done
        # The wheel has the shared runtime only; the library of device code that is linked apart stays unused.
        ar rcs "$cuda/lib/libcudadevrt.a"
        runtime="-DCMAKE_CUDA_FLAGS=-cudart=shared"
        libraries="$locked/cuda_runtime/lib:$locked/cublas/lib" ;;
    *) fail "flavour $FLAVOUR is not known here" ;;
esac
ln -s lib "$cuda/lib64"
for folder in $(echo "$libraries" | tr : ' '); do
    for library in "$folder"/*.so.*; do
        ln -s "$library" "$cuda/lib/"
        ln -sf "$library" "$cuda/lib/$(basename "$library" | sed 's/\.so\..*/.so/')"
    done
done
# The driver's library is the host's. What is linked with here only has its name and symbols.
grep -rhoE '\bcu(Get|Mem|Device|Ctx|Init)[A-Za-z]*\b' "$source/ggml/src/ggml-cuda" | sort -u |
    sed 's/.*/int &(void) { return 1; }/' >"$PWD/stub.c"
gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$cuda/lib/stubs/libcuda.so" "$PWD/stub.c"

set -- -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DGGML_CCACHE=ON -DGGML_OPENMP=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_NUMBER=0 -DLLAMA_BUILD_COMMIT=0c1e57098 -DBUILD_SHARED_LIBS=ON \
    -DGGML_BACKEND_DL=ON -DGGML_BACKEND_DIR="$modules" \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH="$modules:$libraries" \
    -DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF -DCUDAToolkit_ROOT="$cuda" \
    -DCMAKE_CUDA_RUNTIME_LIBRARY=Shared "$runtime" \
    -DCMAKE_CUDA_COMPILER="$cuda/bin/nvcc" -DCMAKE_CUDA_ARCHITECTURES="$OPT_ARCHITECTURES"

case "$OPT_CPU" in
    native) set -- "$@" -DGGML_NATIVE=ON ;;
    variants) set -- "$@" -DGGML_CPU_ALL_VARIANTS=ON ;;
    *) set -- "$@" -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON ;;
esac

# nvcc 12 takes no g++ newer than 13.
if [ "$FLAVOUR" = cuda12 ] && [ "$(g++ -dumpversion | cut -d . -f 1)" -gt 13 ]; then
    host=$(command -v g++-13 || command -v g++-12) || fail "CUDA 12 needs g++ 13 or 12 beside the newer one"
    set -- "$@" -DCMAKE_CUDA_HOST_COMPILER="$host"
fi

cmake -S "$source" -B "$build" "$@"
# shellcheck disable=SC2086 # one word per tool
ninja -C "$build" -j "$JOBS" $tools ggml-cpu ggml-cuda

mkdir -p "$PREFIX/bin" "$modules"
for tool in $tools; do
    cp "$build/bin/$tool" "$PREFIX/bin/$tool.new"
    strip "$PREFIX/bin/$tool.new" 2>/dev/null || true
    mv -f "$PREFIX/bin/$tool.new" "$PREFIX/bin/$tool"
done
find "$build/bin" \( -name '*.so' -o -name '*.so.*' \) -exec cp -a {} "$modules/" \;

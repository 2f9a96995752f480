#!/bin/sh
# Compile llama.cpp's tools into $PREFIX/bin; images/README.md names the variables that come in.
# A folder that a killed run left behind is built on: ninja redoes what is unfinished.
set -eu

source="$SRC/llama-cpp-python/vendor/llama.cpp"
tools="llama-quantize llama-imatrix llama-perplexity llama-bench llama-server llama-cli llama-completion
       llama-gguf-split llama-tokenize llama-export-lora"
build="$PWD/build"
mkdir -p "$build"

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

# One configuration for every platform: nothing is downloaded, nothing is built that is not used.
set -- -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DGGML_CCACHE=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_NUMBER=0 -DLLAMA_BUILD_COMMIT=0c1e57098 -DBUILD_SHARED_LIBS=OFF

# The CPUs that the result runs on.
arch=$(uname -m)
case "$OPT_CPU/$arch" in
    native/*) set -- "$@" -DGGML_NATIVE=ON ;;
    variants/*)
        # Backends become modules that are loaded at start. export-lora calls the CPU backend directly, so
        # it cannot be built this way.
        tools=$(echo "$tools" | sed 's/llama-export-lora//')
        set -- "$@" -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DBUILD_SHARED_LIBS=ON \
            -DGGML_BACKEND_DIR="$PREFIX/lib/llama.cpp" -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON \
            -DCMAKE_INSTALL_RPATH="$PREFIX/lib/llama.cpp" ;;
    baseline/x86_64)
        if [ -r /proc/cpuinfo ] && ! grep -q -m1 '\bavx2\b' /proc/cpuinfo; then
            fail "this CPU has no AVX2; set the image's build option cpu to native or variants"
        fi
        set -- "$@" -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON ;;
    baseline/aarch64 | baseline/arm64) set -- "$@" -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod ;;
    *) fail "no baseline is known for $arch; set the image's build option cpu to native" ;;
esac

case "$FLAVOUR" in
    apple)
        xcrun --show-sdk-path >/dev/null 2>&1 ||
            fail "Apple's command line tools are missing (Metal needs their SDK): xcode-select --install"
        export MACOSX_DEPLOYMENT_TARGET=14.0
        set -- "$@" -DGGML_METAL=ON -DGGML_METAL_EMBED_LIBRARY=ON -DGGML_OPENMP=OFF ;;
    cpu) set -- "$@" -DGGML_OPENMP="$OPT_OPENMP" ;;
    *) fail "flavour $FLAVOUR is not known here" ;;
esac

# The system's compiler, else the one that the compiler lock brought.
if ! command -v c++ >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
    zig=$("$PYTHON" -c 'import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))' 2>/dev/null) ||
        fail "no C++ compiler: install one (Debian: g++; macOS: xcode-select --install)"
    [ "$FLAVOUR" = cpu ] || fail "flavour $FLAVOUR needs the system's own compiler"
    export ZIG_GLOBAL_CACHE_DIR="$PWD/zig-cache" ZIG_LOCAL_CACHE_DIR="$PWD/zig-cache"
    # A named target means its lowest CPU (zig's default is this very machine) and an old glibc.
    target="-target $arch-linux-gnu.2.28"
    [ "$OPT_CPU" = native ] && target=""
    for name in cc c++ ar ranlib; do
        flags=""
        case $name in cc | c++) flags=$target ;; esac
        printf '#!/bin/sh\nexec "%s" %s %s "$@"\n' "$zig" "$name" "$flags" >"$PWD/zig-$name"
        chmod +x "$PWD/zig-$name"
    done
    set -- "$@" -DCMAKE_C_COMPILER="$PWD/zig-cc" -DCMAKE_CXX_COMPILER="$PWD/zig-c++" \
        -DCMAKE_AR="$PWD/zig-ar" -DCMAKE_RANLIB="$PWD/zig-ranlib" -DGGML_OPENMP=OFF
fi

cmake -S "$source" -B "$build" "$@"
# shellcheck disable=SC2086 # one word per tool
ninja -C "$build" -j "$JOBS" $tools

mkdir -p "$PREFIX/bin"
for tool in $tools; do
    cp "$build/bin/$tool" "$PREFIX/bin/$tool.new"
    strip "$PREFIX/bin/$tool.new" 2>/dev/null || true
    mv -f "$PREFIX/bin/$tool.new" "$PREFIX/bin/$tool"
done
if [ "$OPT_CPU" = variants ]; then
    mkdir -p "$PREFIX/lib/llama.cpp"
    find "$build/bin" \( -name '*.so' -o -name '*.so.*' -o -name '*.dylib' \) -exec cp -a {} "$PREFIX/lib/llama.cpp/" \;
fi

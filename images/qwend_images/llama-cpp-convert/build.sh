#!/bin/sh
# Lay llama.cpp's converters under $PREFIX/share/llama.cpp and their commands in $PREFIX/bin.
# They find their own gguf package and model classes beside them.
set -eu

source="$SRC/llama-cpp-python/vendor/llama.cpp"
share="$PREFIX/share/llama.cpp"

rm -rf "$share"
mkdir -p "$share/gguf-py" "$PREFIX/bin"
cp -R "$source/LICENSE" "$source/conversion" "$source"/convert_*_to_gguf.py "$share/"
cp -R "$source/gguf-py/gguf" "$share/gguf-py/"
for name in convert_hf_to_gguf convert_lora_to_gguf; do
    printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$PREFIX/bin/python" "$share/$name.py" >"$PREFIX/bin/$name"
    chmod +x "$PREFIX/bin/$name"
done

#!/bin/sh
# Finds a Python and has it make an environment of the checkout: bootstrap.sh ENVIRONMENT LOCK STAMP
set -eu

case $(uname -s) in MINGW* | MSYS* | CYGWIN*)
    echo "qwend: Windows itself is not supported; it works in WSL2 (wsl --install)" >&2
    exit 3
    ;;
esac
for python in ${QWEND_PYTHON:+"$QWEND_PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        exec "$python" -I "${0%.sh}.py" "$@"
    fi
done
echo "qwend: it needs Python 3.11 or newer and found none (QWEND_PYTHON=/path/to/python3 names one)" >&2
exit 3

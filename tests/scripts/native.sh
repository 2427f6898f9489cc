#!/usr/bin/env bash
# Runs a command with what the native engines are built with: native.sh cargo build --release
# llama.cpp is compiled from the source in its crate, which takes cmake, a C++ compiler and libclang (bindgen reads the C
# headers with it). Where all three are there, the command runs as it is. What is missing is installed once: with apt-get as root,
# otherwise cmake and libclang as Python packages into <target>/weft-tools/native, which only commands run through here use.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in /*) ;; *) target="$root/$target" ;; esac
tools="$target/weft-tools"
venv="$tools/native"
pins="cmake==4.1.3
libclang==18.1.1"

say() { echo "native: $*" >&2; }
fail() { echo "native: $*" >&2; exit 1; }

has_cmake() { [ -n "${CMAKE:-}" ] || command -v cmake >/dev/null 2>&1; }
has_compiler() { [ -n "${CXX:-}" ] || command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1; }

# The library in the places where bindgen looks, and clang's own headers, which some packages leave out.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return
    find_file 'libclang*.so*' "$(llvm-config --libdir 2>/dev/null || true)" /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/lib /usr/local/lib &&
        find_file stdbool.h /usr/lib/llvm-*/lib/clang/*/include /usr/lib/clang/*/include /usr/lib64/clang/*/include /usr/local/lib/clang/*/include
}

# Whether one of the folders has a file of that pattern: find_file PATTERN FOLDER ...
find_file() {
    local pattern="$1" folder
    shift
    for folder in "$@"; do
        # Not the library of clang's C++ interface, libclang-cpp.so.
        [ -n "$folder" ] && compgen -G "$folder/$pattern" | grep -qv -- '-cpp\.so' && return
    done
    return 1
}

missing() {
    has_cmake || echo cmake
    has_compiler || echo g++
    has_libclang || echo libclang-dev
}

install_packages() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    say "installing $* with apt-get"
    mkdir -p "$tools"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$tools/native.log" 2>&1 ||
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >>"$tools/native.log" 2>&1
}

ensure_venv() {
    [ -f "$venv/pins" ] && [ "$(cat "$venv/pins")" = "$pins" ] && return
    say "installing cmake and libclang into $venv (about 55 MB to fetch)"
    mkdir -p "$tools"
    rm -rf "$venv"
    python3 -m venv "$venv" >"$tools/native.log" 2>&1 &&
        printf '%s\n' "$pins" >"$venv/requirements.txt" &&
        "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --only-binary=:all: \
            -r "$venv/requirements.txt" >>"$tools/native.log" 2>&1 || return 1
    printf '%s' "$pins" >"$venv/pins"
}

# The package holds the library without clang's own headers: the C compiler's serve.
use_venv() {
    has_compiler || return 1
    ensure_venv || return 1
    has_cmake || export CMAKE="$venv/bin/cmake"
    has_libclang && return
    LIBCLANG_PATH="$(echo "$venv"/lib/python3*/site-packages/clang/native)"
    local headers
    headers="$("${CC:-cc}" -print-file-name=include)"
    export LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS="${BINDGEN_EXTRA_CLANG_ARGS:-} -isystem $headers"
}

wanted="$(missing)"
if [ -n "$wanted" ]; then
    # shellcheck disable=SC2086 # a list of names
    install_packages $wanted || use_venv ||
        fail "building llama.cpp needs $(echo $wanted): on Debian and Ubuntu, apt-get install cmake g++ libclang-dev; see $tools/native.log"
fi
[ "$#" = 0 ] || exec "$@"

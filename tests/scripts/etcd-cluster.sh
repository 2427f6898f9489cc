#!/usr/bin/env bash
# Starts an etcd cluster on free ports of loopback, and removes it again:
#   etcd-cluster.sh start 1|3 DIR    prints its endpoints, separated by commas, once every member serves
#   etcd-cluster.sh stop DIR         ends the members by their pid files and removes DIR
# The binary is what etcd.sh finds. Everything but the endpoints goes to stderr.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() { echo "etcd-cluster: $*" >&2; exit 1; }
usage() { fail "usage: etcd-cluster.sh start 1|3 DIR | stop DIR"; }

# Ports below those that the system hands out, so that nobody is given one between this look and etcd's bind.
free_port() {
    local port
    while :; do
        port=$((15000 + RANDOM % 15000))
        [[ " ${ports[*]:-} " == *" $port "* ]] && continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { ports+=("$port"); return; }
    done
}

# A pid file may outlive its process, and the number may be another process's by then.
is_member() { [ -n "$1" ] && grep -qaF -- "$2" "/proc/$1/cmdline" 2>/dev/null; }

launch() {
    local etcd="$1" dir="$2" index="$3" cluster="$4"
    local client="http://127.0.0.1:${ports[2 * index]}" peer="http://127.0.0.1:${ports[2 * index + 1]}"
    "$etcd" --name "member-$index" --data-dir "$dir/member-$index" \
        --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "$cluster" \
        </dev/null >"$dir/member-$index.log" 2>&1 &
    echo $! >"$dir/member-$index.pid"
}

await_ready() {
    local dir="$1" index="$2" pid log tries
    pid="$(cat "$dir/member-$index.pid")" log="$dir/member-$index.log"
    for ((tries = 0; tries < 600; tries++)); do
        grep -q "ready to serve client requests" "$log" 2>/dev/null && return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$log" >&2
    return 1
}

start() {
    local members="$1" dir="$2" etcd index cluster="" endpoints=""
    [ ! -e "$dir" ] || [ -z "$(ls -A "$dir")" ] || fail "$dir is not empty"
    etcd="$("$here/etcd.sh")"
    mkdir -p "$dir"
    dir="$(cd "$dir" && pwd)"
    ports=()
    for ((index = 0; index < members; index++)); do
        free_port
        free_port
        endpoints+="${endpoints:+,}http://127.0.0.1:${ports[2 * index]}"
        cluster+="${cluster:+,}member-$index=http://127.0.0.1:${ports[2 * index + 1]}"
    done
    for ((index = 0; index < members; index++)); do launch "$etcd" "$dir" "$index" "$cluster"; done
    for ((index = 0; index < members; index++)); do
        await_ready "$dir" "$index" || { stop "$dir"; fail "member $index did not become ready"; }
    done
    echo "$endpoints"
}

stop() {
    local dir file pid tries
    dir="$(cd "$1" 2>/dev/null && pwd)" || fail "there is no $1"
    ls "$dir"/member-*.pid >/dev/null 2>&1 || fail "$dir holds no cluster of this script"
    for file in "$dir"/member-*.pid; do
        pid="$(cat "$file")"
        is_member "$pid" "$dir/member-" || continue
        kill "$pid" 2>/dev/null || true
        for ((tries = 0; tries < 100; tries++)); do is_member "$pid" "$dir/member-" && sleep 0.1 || break; done
        ! is_member "$pid" "$dir/member-" || kill -KILL "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
}

case "${1:-}" in
start) [ $# = 3 ] && { [ "$2" = 1 ] || [ "$2" = 3 ]; } || usage; start "$2" "$3" ;;
stop) [ $# = 2 ] || usage; stop "$2" ;;
*) usage ;;
esac

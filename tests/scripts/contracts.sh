#!/usr/bin/env bash
# Lints the contracts under proto/ and refuses changes that break clients. The baseline is the last commit when proto/
# has uncommitted changes, else the commit before the one that last changed it: so the newest change is always compared
# with what went before, in a working tree and in a fresh clone alike.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in /*) ;; *) target="$root/$target" ;; esac
buf="$target/weft-tools/bin/buf"
cd "$root"

"$buf" lint
echo "contracts: lint passed"

skip() { echo "contracts: no comparison with an earlier version: $*"; exit 0; }

git rev-parse --verify --quiet HEAD >/dev/null || skip "there is no commit yet"
if [ -n "$(git status --porcelain -- proto)" ]; then
    baseline="$(git rev-parse HEAD)"
else
    changed="$(git log -1 --format=%H -- proto)"
    baseline="$(git rev-parse --verify --quiet "$changed^")" || skip "proto/ is as its first commit left it"
fi
git cat-file -e "$baseline:proto" 2>/dev/null || skip "commit $baseline has no contracts"

before="$(mktemp -d)"
trap 'rm -rf "$before"' EXIT
git archive "$baseline" proto | tar -x -C "$before"
"$buf" breaking --against "$before/proto"
echo "contracts: nothing breaks clients of $(git log -1 --format='%h %s' "$baseline")"

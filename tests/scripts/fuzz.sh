#!/usr/bin/env bash
# Runs the fuzz targets of tests/fuzz on the stable toolchain: fuzz.sh RUNS [TARGET ...]
# libFuzzer comes with the crate libfuzzer-sys (a C++ compiler builds it); the compiler's own pass counts edges and compares. What is
# found lies under <target>/fuzz/artifacts, the corpus beside it grows from run to run. With a nightly toolchain and cargo-fuzz,
# `cargo +nightly fuzz run --fuzz-dir tests/fuzz frame` runs the same targets under AddressSanitizer.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in /*) ;; *) target="$root/$target" ;; esac
work="$target/fuzz"
runs="${1:-1000000}"
shift || true
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(frame message headers)

# The same versions as in what ships; libFuzzer's own crates are added to them.
cp "$root/Cargo.lock" "$root/tests/fuzz/Cargo.lock"
host="$(rustc -vV | sed -n 's/^host: //p')"
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
# Named, so that the flags are for the target's crates only and not for build scripts.
CARGO_TARGET_DIR="$work" cargo build --release --target "$host" --manifest-path "$root/tests/fuzz/Cargo.toml"

bin="$work/$host/release"
"$bin/seeds" "$work/seeds"
for name in "${targets[@]}"; do
    mkdir -p "$work/corpus/$name" "$work/artifacts/$name"
    echo "fuzz: $name, $runs runs"
    "$bin/$name" "$work/corpus/$name" "$work/seeds/$name" -runs="$runs" -max_len=4096 -rss_limit_mb=2048 -timeout=10 \
        -artifact_prefix="$work/artifacts/$name/" -print_final_stats=1 -verbosity=1
done
